/* The threads of ggml's CPU backend without OpenMP. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

struct ggml_threadpool;

/* Where the threads of a pool meet. */
struct barrier {
    int          n_threads;
    atomic_int * arrived; /* threads that wait */
    atomic_int * passed;  /* how often all have met */
};

struct barrier llama_diffusion_barrier(struct ggml_threadpool * pool);

/* Starts the thread of this index, or sets *n_threads to the index if the system refuses. */
void llama_diffusion_start_worker(pthread_t * thread, void * (*run)(void *), void * worker, int index, int * n_threads);
