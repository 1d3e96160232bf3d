//! Work shared among short-lived threads.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::ggml::headroom;
use crate::parameter::Parameter;

/// More than any machine has; ggml's limit is 512.
const MAX_THREADS: usize = 512;
/// The stack of a thread, and what the standard library and the allocator map for one: it panics if
/// only its stack has memory.
const THREAD_BYTES: usize = 4 << 20;

/// Rejects a number of threads that ggml would abort on.
pub(crate) fn check_threads(threads: usize, parameter: Parameter) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        return Ok(());
    }
    Err(Error::parameter(
        parameter,
        format!("use 1 to {MAX_THREADS}"),
    ))
}

/// Cores that this process may use: those of its affinity mask, limited by its quota of CPU time.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `work` on every item, on at most `threads` threads including the caller's. Results are in
/// the order of the items. Each thread takes the next item when it has finished one, so if the
/// system refuses more threads, or has no memory for them, the existing ones do all of the work.
pub(crate) fn map<T, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let waiting = Mutex::new(items.into_iter().enumerate());
    let next = || {
        waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let run = || -> Vec<(usize, R)> {
        std::iter::from_fn(|| next().map(|(i, item)| (i, work(item)))).collect()
    };
    let mut done = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .take_while(|_| headroom::check("a thread", THREAD_BYTES).is_ok())
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        let mut done = run();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn results_are_in_order_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 7] {
            let squares = map(0..20, threads, |i: usize| i * i);
            assert_eq!(squares, (0..20).map(|i| i * i).collect::<Vec<_>>());
        }
        assert!(map(0..0, 3, |i: usize| i).is_empty());
    }

    #[test]
    fn items_are_worked_on_at_the_same_time() {
        let all = Barrier::new(3); // passes nobody before three wait
        map(0..3, 3, |_| all.wait());
    }

    #[test]
    #[should_panic(expected = "from an item")]
    fn a_panic_is_passed_on() {
        map(0..8, 2, |i| assert!(i != 7, "from an item"));
    }
}
