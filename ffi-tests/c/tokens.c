/* Prints the answer to a prompt, token by token. Arguments: model, seed, maximum number of tokens, prompt. */
#include "check.h"

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context *context;
    diffusion_params params;
    diffusion_result result;
    token_list prompt, answer;
    size_t i;
    CHECK(argc > 4 && argc - 4 <= CAPACITY);
    model = load_model(argv[1]);
    context = new_context(model);
    params = default_params(model);
    params.seed = strtoull(argv[2], NULL, 10);
    params.max_tokens = strtoull(argv[3], NULL, 10);
    prompt.count = (size_t)argc - 4;
    for (i = 0; i < prompt.count; i++)
        prompt.items[i] = (int32_t)strtol(argv[i + 4], NULL, 10);
    answer = generate(context, &prompt, &params, &result);
    for (i = 0; i < answer.count; i++)
        printf("%d\n", (int)answer.items[i]);
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
