/*
 * Creates a context, generates and frees both again and again, and watches the resident memory. In
 * the warm-up malloc finds its shape: it takes up to 3 MB from the 2,000th to the 4,000th cycle, and
 * then a tenth of that in 10,000. Arguments: a small model, how many cycles.
 */
#define _DEFAULT_SOURCE
#include <unistd.h>

#include "check.h"

enum { WARM_UP = 5000, LIMIT_KIB = 2048, MODEL_EVERY = 100 };

static long resident_kib(void) {
    long resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%*s %ld", &resident) == 1);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
    diffusion_model *model;
    long before = 0, growth;
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
        if (i == WARM_UP)
            before = resident_kib();
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
    printf("%d cycles: the resident memory grew by %ld KiB\n", cycles, growth);
    diffusion_model_free(model);
    CHECK(growth <= LIMIT_KIB);
    return 0;
}
