/*
 * A context with several threads, used before a fork, answers in the child as in the parent.
 * Argument: the demo model.
 */
#define _POSIX_C_SOURCE 200809L
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context_params context_params;
    diffusion_context *context = NULL;
    diffusion_params params;
    diffusion_result result;
    token_list prompt, before, after;
    pid_t child;
    int status = -1;
    CHECK(argc == 2);
    model = load_model(argv[1]);
    CALL(diffusion_context_params_init(&context_params, sizeof context_params, &error));
    context_params.threads = 3;
    CALL(diffusion_context_new(model, &context_params, &context, &error));
    params = default_params(model);
    params.seed = 1;
    prompt = norway(model);
    before = generate(context, &prompt, &params, &result);

    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(120); /* ends a child that hangs */
    }
    CALL(diffusion_context_reset(context, &error));
    after = generate(context, &prompt, &params, &result);
    CHECK(same(&before, &after));
    if (child == 0) {
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
