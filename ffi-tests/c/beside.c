/* The static library in a program with a ggml of its own, in which tensors have another size (GGML_MAX_NAME): a call
 * that ended in the other's functions would go wrong. Linked with tokens.c or tokens.cpp, whose main is tokens_main;
 * compiled as C and as C++. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml-cpu.h>
#include <ggml.h>

int tokens_main(int argc, char **argv);

/* The sum of n products 2 · 3, by the program's own ggml; a name of 100 bytes needs its larger tensors. */
static void compute(int64_t n) {
    struct ggml_init_params params = {1 << 20, NULL, false};
    struct ggml_context *context = ggml_init(params);
    struct ggml_tensor *a = ggml_new_tensor_1d(context, GGML_TYPE_F32, n);
    struct ggml_tensor *b = ggml_new_tensor_1d(context, GGML_TYPE_F32, n);
    struct ggml_tensor *product = ggml_mul_mat(context, a, b);
    struct ggml_cgraph *graph = ggml_new_graph(context);
    char name[101];
    memset(name, 'x', 100);
    name[100] = 0;
    ggml_set_name(product, name);
    ggml_set_f32(a, 2);
    ggml_set_f32(b, 3);
    ggml_build_forward_expand(graph, product);
    if (ggml_graph_compute_with_ctx(context, graph, 2) != GGML_STATUS_SUCCESS ||
        ggml_get_f32_1d(product, 0) != (float)(6 * n) || strlen(ggml_get_name(product)) != 100) {
        fprintf(stderr, "the program's own ggml computes wrongly\n");
        exit(1);
    }
    ggml_free(context);
}

int main(int argc, char **argv) {
    int status;
    compute(32);
    status = tokens_main(argc, argv);
    compute(64);
    return status;
}
