/*
 * Wrong on purpose: the checkers that the other tests run under must find this.
 * Arguments: "leak", "use-after-free", "overflow", "undefined" or "nothing", and a model.
 */
#include <limits.h>

#include "check.h"

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context *context;
    size_t count = 0;
    CHECK(argc == 3);
    model = load_model(argv[2]);
    context = new_context(model);
    if (strcmp(argv[1], "leak") == 0) {
        diffusion_error *error = NULL;
        CHECK(diffusion_context_reset(NULL, &error) != DIFFUSION_STATUS_OK);
        error = NULL;
    } else if (strcmp(argv[1], "use-after-free") == 0) {
        diffusion_error *error = NULL;
        CHECK(diffusion_context_reset(NULL, &error) != DIFFUSION_STATUS_OK);
        {
            const char *message = diffusion_error_message(error);
            volatile char first;
            diffusion_error_free(error);
            first = message[0];
            (void)first;
        }
    } else if (strcmp(argv[1], "overflow") == 0) {
        int32_t *tokens = malloc(2 * sizeof *tokens);
        static const char text[] = "What is the capital of Norway?";
        CHECK(tokens != NULL);
        /* Says that there is more room than there is. */
        CALL(diffusion_tokenize(model, text, strlen(text), false, false, tokens, 64, &count,
                                &error));
        fprintf(stderr, "%d\n", (int)tokens[2]);
        free(tokens);
    } else if (strcmp(argv[1], "undefined") == 0) {
        fprintf(stderr, "%d\n", INT_MAX + argc);
    } else {
        CHECK(strcmp(argv[1], "nothing") == 0);
    }
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
