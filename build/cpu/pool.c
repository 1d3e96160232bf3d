/* Compiled in place of ggml's ggml-cpu.c, which it includes. vendor/README.md says why. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "threads.h"

/* Weak, so that calls within ggml-cpu.c, too, reach the definition in threads.c. */
__attribute__((weak)) void ggml_barrier(struct ggml_threadpool * pool);

/* ggml aborts if a thread cannot be started. Here the pool gets smaller instead, which
 * ggml_graph_compute and ggml_threadpool_free take into account. While they wait for the first graph,
 * workers sleep (poll = 0) rather than keep a core from the thread that starts the others. */
#define pthread_create(thread, attributes, run, worker)                                          \
    ((worker)->threadpool->poll = 0,                                                             \
     llama_diffusion_start_worker(thread, run, worker, (worker)->ith, &(worker)->threadpool->n_threads), 0)

#include "ggml-cpu.c"

struct barrier llama_diffusion_barrier(struct ggml_threadpool * pool) {
    return (struct barrier) {
        .n_threads = atomic_load_explicit(&pool->n_graph, memory_order_relaxed) & GGML_THREADPOOL_N_THREADS_MASK,
        .arrived   = &pool->n_barrier,
        .passed    = &pool->n_barrier_passed,
    };
}
