//! How many threads of the CPU backend can compute at the same time.

use crate::parallel::cores;

/// As many of `threads` as the affinity mask of the calling thread has cores. More could never run
/// at the same time, and each operation would wait for all of them. A quota of CPU time takes none
/// away: threads beyond it do run at the same time, though not all the time.
pub(crate) fn within_affinity(threads: usize) -> usize {
    let used = threads.min(affinity());
    if used < threads {
        tracing::warn!(
            "using {used} of {threads} threads: this process may use {used} {} (affinity mask)",
            plural(used)
        );
    }
    let quota = cores();
    if used > quota {
        tracing::warn!(
            "{used} threads, but a quota of CPU time leaves this process {quota} whole {}: fewer \
             threads may be faster",
            plural(quota)
        );
    }
    used
}

fn plural(cores: usize) -> &'static str {
    if cores == 1 { "core" } else { "cores" }
}

/// Cores of the calling thread's affinity mask, which it passes on to the threads that it starts.
#[cfg(target_os = "linux")]
fn affinity() -> usize {
    // SAFETY: zeroes are an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes at most this number of bytes; 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    match status {
        // SAFETY: only reads the set.
        0 => usize::try_from(unsafe { libc::CPU_COUNT(&set) })
            .unwrap_or(1)
            .max(1),
        // More processors than such a set can hold.
        _ => cores(),
    }
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> usize {
    cores()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_threads_than_cores_compute() {
        assert!(affinity() >= cores());
        assert_eq!(within_affinity(1), 1);
        assert_eq!(within_affinity(affinity() + 1), affinity());
    }
}
