/* Replaces how ggml's CPU backend starts threads and lets them wait, where it does not use OpenMP. */
#include "threads.h"

#include <limits.h>
#include <stdint.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

void llama_diffusion_start_worker(pthread_t * thread, void * (*run)(void *), void * worker, int index, int * n_threads) {
    /* After a refusal, no other thread: indices have no gaps. */
    if (index < *n_threads && pthread_create(thread, NULL, run, worker) != 0) {
        *n_threads = index;
    }
}

/* The barrier between the operations of a graph: a thread loops for as long as that pays, then sleeps.
 * ggml's own barrier only loops: once a thread has to wait for a core, the others keep theirs busy with
 * waiting for it, and a step takes up to a thousand times as long. */

/* Bounds of how long a thread loops before it sleeps, in nanoseconds. Where each thread has a core, the
 * upper one covers nearly all waits, so that none pays for waking up. */
enum { SHORTEST = 2000, LONGEST = 200000 };

/* The present limit, of all pools: it doubles after a wait that ended in the loop and halves after one
 * that did not, because then looping takes time from threads that have work. */
static atomic_int limit = LONGEST;

static atomic_int sleepers; /* of all pools */

/* Sleeps until woken, but not if all have met already. May return early. No state but the number itself,
 * so that a forked child finds nothing locked. */
static void sleep_while(atomic_int * passed, int before) {
#ifdef __linux__
    syscall(SYS_futex, passed, FUTEX_WAIT_PRIVATE, before, NULL, NULL, 0);
#else
    (void) passed, (void) before;
    nanosleep(&(struct timespec) { .tv_nsec = 50000 }, NULL);
#endif
}

static void wake_all(atomic_int * passed) {
#ifdef __linux__
    syscall(SYS_futex, passed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void) passed; /* they look by themselves */
#endif
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* yield does nothing on most cores */
#endif
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t) time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Loops until all have met, or for too long: then returns 0. */
static int loop(atomic_int * passed, int before) {
    const int     allowed = atomic_load_explicit(&limit, memory_order_relaxed);
    const int64_t start   = now();
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(passed, memory_order_acquire) != before) {
                if (allowed < LONGEST) {
                    atomic_store_explicit(&limit, 2 * allowed < LONGEST ? 2 * allowed : LONGEST, memory_order_relaxed);
                }
                return 1;
            }
            relax();
        }
    } while (now() - start < allowed);
    atomic_store_explicit(&limit, allowed / 2 > SHORTEST ? allowed / 2 : SHORTEST, memory_order_relaxed);
    return 0;
}

void ggml_barrier(struct ggml_threadpool * pool) {
    const struct barrier barrier = llama_diffusion_barrier(pool);
    if (barrier.n_threads == 1) {
        return;
    }
    const int before = atomic_load_explicit(barrier.passed, memory_order_relaxed);
    if (atomic_fetch_add(barrier.arrived, 1) == barrier.n_threads - 1) {
        atomic_store_explicit(barrier.arrived, 0, memory_order_relaxed);
        /* Sequentially consistent, as all of sleepers: either this sees the sleeper, or the sleeper sees
         * that all have met. */
        atomic_fetch_add(barrier.passed, 1);
        if (atomic_load(&sleepers) > 0) {
            wake_all(barrier.passed);
        }
        return;
    }
    if (loop(barrier.passed, before)) {
        return;
    }
    atomic_fetch_add(&sleepers, 1);
    while (atomic_load(barrier.passed) == before) {
        sleep_while(barrier.passed, before);
    }
    atomic_fetch_sub(&sleepers, 1);
}
