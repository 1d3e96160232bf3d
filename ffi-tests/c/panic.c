/*
 * A panic inside the library becomes a status. Needs a library compiled with
 * --cfg llama_diffusion_test_panic. Argument: the demo model.
 */
#include "check.h"

/* The next call that reaches a tokenizer or a context panics. */
void diffusion_test_panic_next(void);

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context *context, *other;
    diffusion_params params;
    diffusion_result result, before;
    token_list prompt, answer;
    int32_t token = 5;
    size_t count = 12345;
    char *text = NULL;

    CHECK(argc == 2);
    model = load_model(argv[1]);
    context = new_context(model);
    other = new_context(model);
    params = default_params(model);
    prompt = norway(model);

    diffusion_test_panic_next();
    FAILS(diffusion_tokenize(model, "a", 1, false, false, &token, 1, &count, &error),
          DIFFUSION_STATUS_PANIC, "bug in llama-diffusion: forced by a test");
    CHECK(count == 12345 && token == 5);
    /* Nothing of a model changes, so that a panic leaves nothing half done. */
    CALL(diffusion_tokenize(model, "a", 1, false, false, &token, 1, &count, &error));

    memset(&result, 7, sizeof result);
    result.struct_size = sizeof result;
    before = result;
    token = 5;
    count = 12345;
    memset(&answer, 7, sizeof answer);
    diffusion_test_panic_next();
    FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, answer.items, CAPACITY,
                             &count, &result, &error),
          DIFFUSION_STATUS_PANIC, "bug in llama-diffusion: forced by a test");
    CHECK(count == 12345 && answer.items[0] == 0x07070707);
    CHECK(memcmp(&result, &before, sizeof result) == 0);

    /* The context is poisoned, and only it. */
    FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, answer.items, CAPACITY,
                             &count, &result, &error),
          DIFFUSION_STATUS_POISONED, "free the context");
    FAILS(diffusion_generate_text(context, "a", 1, &params, &text, NULL, &error),
          DIFFUSION_STATUS_POISONED, "free the context");
    FAILS(diffusion_context_reset(context, &error), DIFFUSION_STATUS_POISONED, "free the context");
    FAILS(diffusion_context_cached(context, &count, &error), DIFFUSION_STATUS_POISONED,
          "free the context");
    CHECK(count == 12345 && text == NULL);
    generate(other, &prompt, &params, &result);

    diffusion_context_free(other);
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
