/*
 * Creates a context, generates and frees both again and again, and watches the memory in use. Of what
 * malloc has handed out, at most 10 KiB more were in use after 10,000 cycles than before: that is
 * what its caches hold. The resident memory, which also has mappings, grows as malloc's pools find
 * their shape, by up to 3 MiB. Arguments: a small model, how many cycles.
 */
#define _DEFAULT_SOURCE
#include <unistd.h>
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 33)
#include <malloc.h>
#define MALLOC_COUNTS
#endif
#endif

#include "check.h"

enum { WARM_UP = 5000, LIMIT_IN_USE_BYTES = 32768, MODEL_EVERY = 100 };

/* Bytes that malloc has handed out; 0 where the C library does not count them. */
#ifdef MALLOC_COUNTS
enum { LIMIT_RESIDENT_KIB = 8192 };
static long in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return (long)(info.uordblks + info.hblkhd);
}
#else
enum { LIMIT_RESIDENT_KIB = 2048 };
static long in_use(void) { return 0; }
#endif

static long resident_kib(void) {
    long resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%*s %ld", &resident) == 1);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
    diffusion_model *model;
    long before = 0, before_in_use = 0, growth, growth_in_use;
    int cycles, i;
    CHECK(argc == 3);
    cycles = atoi(argv[2]);
    CHECK(cycles > 0);
    model = load_model(argv[1]);
    for (i = 0; i < WARM_UP + cycles; i++) {
        token_list prompt;
        diffusion_context *context;
        diffusion_params params;
        diffusion_result result;
        if (i == WARM_UP) {
            before = resident_kib();
            before_in_use = in_use();
        }
        if (i % MODEL_EVERY == 0) {
            diffusion_model_free(model);
            model = load_model(argv[1]);
        }
        context = new_context(model);
        params = default_params(model);
        params.max_steps = 2;
        params.max_tokens = 20;
        prompt.count = 2;
        prompt.items[0] = 5;
        prompt.items[1] = 6 + i % 200;
        generate(context, &prompt, &params, &result);
        diffusion_context_free(context);
        /* Failures must not leak, either. */
        FAILS(diffusion_model_load("/no/such/file", NULL, &model, &error), DIFFUSION_STATUS_IO, "");
    }
    growth = resident_kib() - before;
    growth_in_use = in_use() - before_in_use;
    printf("%d cycles: the resident memory grew by %ld KiB, that in use by %ld bytes\n", cycles,
           growth, growth_in_use);
    diffusion_model_free(model);
    CHECK(growth_in_use <= LIMIT_IN_USE_BYTES);
    CHECK(growth <= LIMIT_RESIDENT_KIB);
    return 0;
}
