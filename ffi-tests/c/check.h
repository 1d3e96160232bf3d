/* What the C tests share: checks that print and end the program, a loaded model, token lists. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llama_diffusion.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

/* CALL(f(arguments, &error)): must succeed. */
#define CALL(call)                                                                                \
    do {                                                                                          \
        diffusion_error *error = NULL;                                                            \
        const diffusion_status status = (call);                                                   \
        if (status != DIFFUSION_STATUS_OK) {                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, diffusion_status_name(status), \
                    diffusion_error_message(error));                                              \
            exit(1);                                                                              \
        }                                                                                         \
        CHECK(error == NULL);                                                                     \
    } while (0)

/* FAILS(f(arguments, &error), STATUS, "part of the message"): must fail so. */
#define FAILS(call, expected, part)                                                          \
    do {                                                                                     \
        diffusion_error *error = NULL;                                                       \
        const diffusion_status status = (call);                                              \
        if (status != (expected) || error == NULL ||                                         \
            diffusion_error_status(error) != (expected) ||                                   \
            strstr(diffusion_error_message(error), (part)) == NULL) {                        \
            fprintf(stderr, "%s:%d: %s: %s\n  instead of %s: %s\n", __FILE__, __LINE__,      \
                    diffusion_status_name(status), diffusion_error_message(error),           \
                    diffusion_status_name(expected), (part));                                \
            exit(1);                                                                         \
        }                                                                                    \
        diffusion_error_free(error);                                                         \
    } while (0)

static inline diffusion_model *load_model(const char *path) {
    diffusion_model *model = NULL;
    CALL(diffusion_model_load(path, NULL, &model, &error));
    CHECK(model != NULL);
    return model;
}

/* A context with one thread, so that the tests share the machine. */
static inline diffusion_context *new_context_of(diffusion_model *model, diffusion_kv_type kv_type) {
    diffusion_context_params params;
    diffusion_context *context = NULL;
    CALL(diffusion_context_params_init(&params, sizeof params, &error));
    params.threads = 1;
    params.kv_type = kv_type;
    CALL(diffusion_context_new(model, &params, &context, &error));
    CHECK(context != NULL);
    return context;
}

static inline diffusion_context *new_context(diffusion_model *model) {
    return new_context_of(model, DIFFUSION_KV_TYPE_F16);
}

static inline diffusion_params default_params(const diffusion_model *model) {
    diffusion_params params;
    CALL(diffusion_params_init(model, &params, sizeof params, &error));
    CHECK(params.struct_size == sizeof params);
    return params;
}

enum { CAPACITY = 512 };

typedef struct token_list {
    int32_t items[CAPACITY];
    size_t count;
} token_list;

static inline token_list chat(const diffusion_model *model, const char *messages) {
    token_list prompt;
    CALL(diffusion_apply_chat_template(model, messages, NULL, prompt.items, CAPACITY,
                                       &prompt.count, &error));
    CHECK(prompt.count > 0);
    return prompt;
}

static inline token_list norway(const diffusion_model *model) {
    return chat(model,
                "[{\"role\": \"user\", \"content\": \"What is the capital of Norway?\"}]");
}

static inline token_list generate(diffusion_context *context, const token_list *prompt,
                                  const diffusion_params *params, diffusion_result *result) {
    token_list answer;
    result->struct_size = sizeof *result;
    CALL(diffusion_generate(context, prompt->items, prompt->count, params, answer.items,
                            CAPACITY, &answer.count, result, &error));
    CHECK(answer.count == result->tokens);
    return answer;
}

static inline int same(const token_list *a, const token_list *b) {
    return a->count == b->count && memcmp(a->items, b->items, a->count * sizeof *a->items) == 0;
}

#endif
