//! How long tests of limits take.

use std::time::{Duration, Instant};

/// Does some work. Returns how long this thread had a processor for it, because what else runs does not matter;
/// where the system does not count that, how long it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let (start, before) = (Instant::now(), processor_time());
    let result = work();
    let took = match (before, processor_time()) {
        (Some(before), Some(after)) => after.saturating_sub(before),
        _ => start.elapsed(),
    };
    (took, result)
}

/// Time that this thread has had a processor. Linux counts it.
fn processor_time() -> Option<Duration> {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = counted.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
