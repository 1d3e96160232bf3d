/*
 * Cancel from another thread, two contexts on one model in two threads, one context in two
 * threads. Argument: the demo model.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <semaphore.h>

#include "check.h"

#define JOIN(thread) CHECK(pthread_join(thread, NULL) == 0)

typedef struct work {
    diffusion_model *model;
    diffusion_context *context;
    uint64_t seed;
    token_list answer;
} work;

static void *run(void *argument) {
    work *own = argument;
    const token_list prompt = norway(own->model);
    diffusion_params params = default_params(own->model);
    diffusion_result result;
    int i;
    params.seed = own->seed;
    params.max_steps = 2;
    for (i = 0; i < 2; i++) {
        own->answer = generate(own->context, &prompt, &params, &result);
        CALL(diffusion_context_reset(own->context, &error));
    }
    return NULL;
}

static void two_contexts(diffusion_model *model) {
    work both[2], alone;
    pthread_t threads[2];
    int i;
    for (i = 0; i < 2; i++) {
        both[i].model = model;
        both[i].context = new_context(model);
        both[i].seed = (uint64_t)i;
        CHECK(pthread_create(&threads[i], NULL, run, &both[i]) == 0);
    }
    for (i = 0; i < 2; i++) {
        JOIN(threads[i]);
        alone = both[i];
        run(&alone);
        CHECK(same(&alone.answer, &both[i].answer));
        diffusion_context_free(both[i].context);
    }
}

typedef struct gate {
    sem_t inside, go_on;
    const diffusion_context *context;
    int steps;
} gate;

/* Waits in the first step until another thread has done its part. */
static bool wait_inside(const diffusion_draft *draft, void *user_data) {
    gate *gate = user_data;
    (void)draft;
    if (gate->steps++ == 0) {
        CHECK(sem_post(&gate->inside) == 0);
        CHECK(sem_wait(&gate->go_on) == 0);
    }
    return true;
}

static void *cancel(void *argument) {
    gate *gate = argument;
    CHECK(sem_wait(&gate->inside) == 0);
    diffusion_context_cancel(gate->context);
    CHECK(sem_post(&gate->go_on) == 0);
    return NULL;
}

static void cancel_from_another(diffusion_model *model, gate *gate) {
    diffusion_context *context = new_context(model);
    const token_list prompt = norway(model);
    diffusion_params params = default_params(model);
    diffusion_result result;
    int32_t tokens[CAPACITY];
    size_t count = 12345;
    pthread_t thread;

    gate->context = context;
    gate->steps = 0;
    params.max_steps = 2;
    params.on_step = wait_inside;
    params.user_data = gate;
    CHECK(pthread_create(&thread, NULL, cancel, gate) == 0);
    FAILS(diffusion_generate(context, prompt.items, prompt.count, &params, tokens, CAPACITY, &count,
                             NULL, &error),
          DIFFUSION_STATUS_CANCELLED, "cancelled after 1 steps, 0 canvases finished");
    CHECK(count == 12345);
    JOIN(thread);
    /* While nothing runs it has no effect, also not later. */
    diffusion_context_cancel(context);
    params.on_step = NULL;
    generate(context, &prompt, &params, &result);
    diffusion_context_free(context);
}

static void *generate_inside(void *argument) {
    work *own = argument;
    const token_list prompt = norway(own->model);
    diffusion_params params = default_params(own->model);
    diffusion_result result;
    params.max_steps = 2;
    params.on_step = wait_inside;
    params.user_data = (void *)(uintptr_t)own->seed;
    own->answer = generate(own->context, &prompt, &params, &result);
    return NULL;
}

static void one_context_in_two(diffusion_model *model, gate *gate) {
    work own;
    int32_t token = 5;
    size_t count = 12345;
    pthread_t thread;
    own.model = model;
    own.context = new_context(model);
    own.seed = (uint64_t)(uintptr_t)gate;
    gate->steps = 0;
    CHECK(pthread_create(&thread, NULL, generate_inside, &own) == 0);
    CHECK(sem_wait(&gate->inside) == 0);
    FAILS(diffusion_generate(own.context, &token, 1, NULL, &token, 1, &count, NULL, &error),
          DIFFUSION_STATUS_BUSY, "context: another call is using it");
    FAILS(diffusion_context_reset(own.context, &error), DIFFUSION_STATUS_BUSY, "context: ");
    CHECK(count == 12345 && token == 5);
    CHECK(sem_post(&gate->go_on) == 0);
    JOIN(thread);
    CHECK(own.answer.count > 0);
    /* Then the other thread may. */
    CALL(diffusion_context_cached(own.context, &count, &error));
    CHECK(count > 0);
    diffusion_context_free(own.context);
}

enum { RUSHES = 3 };

typedef struct rush {
    diffusion_context *context;
    const token_list *prompt;
    diffusion_params params;
    int done, busy;
} rush;

static void *rush_in(void *argument) {
    rush *own = argument;
    int32_t tokens[CAPACITY];
    size_t count, i;
    for (i = 0; i < RUSHES; i++) {
        switch (diffusion_generate(own->context, own->prompt->items, own->prompt->count, &own->params,
                                   tokens, CAPACITY, &count, NULL, NULL)) {
        case DIFFUSION_STATUS_OK:
            own->done++;
            break;
        case DIFFUSION_STATUS_BUSY:
            own->busy++;
            break;
        default:
            CHECK(!"neither done nor busy");
        }
    }
    return NULL;
}

/* Without any order between the threads: each call gets the context or BUSY. */
static void scramble(diffusion_model *model) {
    const token_list prompt = norway(model);
    rush both[2];
    pthread_t thread;
    both[0].context = both[1].context = new_context(model);
    both[0].prompt = both[1].prompt = &prompt;
    both[0].params = default_params(model);
    both[0].params.max_steps = 2;
    both[1].params = both[0].params;
    both[0].done = both[1].done = both[0].busy = both[1].busy = 0;
    CHECK(pthread_create(&thread, NULL, rush_in, &both[0]) == 0);
    rush_in(&both[1]);
    JOIN(thread);
    CHECK(both[0].done + both[0].busy == RUSHES && both[1].done + both[1].busy == RUSHES);
    CHECK(both[0].done + both[1].done >= 1);
    diffusion_context_free(both[0].context);
}

int main(int argc, char **argv) {
    diffusion_model *model;
    gate gate;
    CHECK(argc == 2);
    CHECK(sem_init(&gate.inside, 0, 0) == 0 && sem_init(&gate.go_on, 0, 0) == 0);
    model = load_model(argv[1]);
    two_contexts(model);
    cancel_from_another(model, &gate);
    one_context_in_two(model, &gate);
    scramble(model);
    diffusion_model_free(model);
    return 0;
}
