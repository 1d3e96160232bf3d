/* A conversation: what is cached is not encoded again. Argument: the demo model. */
#include "check.h"

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context *context, *fresh;
    diffusion_params params;
    diffusion_result result;
    token_list prompt, longer, answer, expected;
    size_t cached = 0, first_prompt;

    CHECK(argc == 2);
    model = load_model(argv[1]);
    /* In an F16 cache a rounding that depends on how many tokens a pass has may decide an unsure draw. */
    context = new_context_of(model, DIFFUSION_KV_TYPE_F32);
    params = default_params(model);
    params.max_tokens = 65;
    params.max_steps = 2;
    prompt = chat(model,
                  "[{\"role\": \"user\", \"content\": \"Tell a story about Grace and a white owl.\"}]");
    first_prompt = prompt.count;
    answer = generate(context, &prompt, &params, &result);
    CHECK(result.reused == 0);
    CALL(diffusion_context_cached(context, &cached, &error));
    /* All canvases but the last are kept. */
    CHECK(result.blocks >= 2);
    CHECK(cached == first_prompt + (result.blocks - 1) * diffusion_model_canvas_length(model));

    /* The next turn: prompt and answer, and something new. */
    longer = prompt;
    memcpy(longer.items + longer.count, answer.items, answer.count * sizeof *answer.items);
    longer.count += answer.count;
    prompt = norway(model);
    memcpy(longer.items + longer.count, prompt.items, prompt.count * sizeof *prompt.items);
    longer.count += prompt.count;
    answer = generate(context, &longer, &params, &result);
    CHECK(result.reused == cached);

    /* As if it had been read at once. */
    fresh = new_context_of(model, DIFFUSION_KV_TYPE_F32);
    expected = generate(fresh, &longer, &params, &result);
    CHECK(result.reused == 0 && same(&answer, &expected));

    /* The same again keeps everything; another beginning and a reset keep nothing. */
    generate(context, &longer, &params, &result);
    CHECK(result.reused == longer.count);
    longer.items[0]++;
    generate(context, &longer, &params, &result);
    CHECK(result.reused == 0);
    CALL(diffusion_context_reset(context, &error));
    CALL(diffusion_context_cached(context, &cached, &error));
    CHECK(cached == 0);
    generate(context, &longer, &params, &result);
    CHECK(result.reused == 0);

    diffusion_context_free(fresh);
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
