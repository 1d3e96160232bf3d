//! Messages of ggml, passed on to `tracing`.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::io::Write as _;
use std::ops::{AddAssign, Sub};
use std::sync::Once;

use crate::sys;

/// From now on, sends ggml's log to `tracing` (target `ggml`), and ggml's message before an abort
/// to the standard error.
pub fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callbacks are plain functions without state.
        unsafe {
            sys::ggml_set_abort_callback(Some(last_words));
            sys::ggml_log_set(Some(forward), std::ptr::null_mut());
        }
    });
}

/// What backends did with captured graphs. CUDA's backend reports it only in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captures {
    /// Graphs that were the same a second time: captured, and replayed from then on.
    pub(crate) made: usize,
    /// Captures dropped because the graph had changed.
    pub(crate) dropped: usize,
}

impl AddAssign for Captures {
    fn add_assign(&mut self, more: Self) {
        self.made += more.made;
        self.dropped += more.dropped;
    }
}

impl Sub for Captures {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            made: self.made - before.made,
            dropped: self.dropped - before.dropped,
        }
    }
}

thread_local! {
    static CAPTURES: Cell<Captures> = const { Cell::new(Captures { made: 0, dropped: 0 }) };
}

/// What backends reported on this thread since it started.
pub(crate) fn captures() -> Captures {
    CAPTURES.get()
}

/// Counts a message about captured graphs, by the words of ggml-cuda.cu.
fn count_captures(text: &str) {
    let told = |words| usize::from(text.contains(words));
    let mut captures = CAPTURES.get();
    captures += Captures {
        made: told("CUDA graph warmup complete"),
        dropped: told("CUDA graph warmup reset"),
    };
    CAPTURES.set(captures);
}

/// Without this, ggml starts a debugger for a backtrace, which writes to the standard output.
///
/// # Safety
/// Called by ggml with a terminated string.
unsafe extern "C" fn last_words(message: *const c_char) {
    // SAFETY: by the contract of the callback.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // Not to `tracing`: there may be no subscriber, and the process ends now.
    let _ = writeln!(std::io::stderr(), "ggml: {message}");
}

/// ggml's warning that a pool has fewer threads than the graph asks for. It only appears if the
/// system refused to start them (build/cpu/pool.c), and comes with each graph; one is enough.
fn is_about_refused_threads(text: &str) -> bool {
    text.starts_with("cplan requested more threads")
}

fn warn_of_refused_threads(text: &str) {
    static ONCE: Once = Once::new();
    let numbers: Vec<&str> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|number| !number.is_empty())
        .collect();
    ONCE.call_once(|| {
        tracing::warn!(
            target: "ggml",
            "the system refuses to start {} threads: a limit of processes or of memory; {} compute",
            numbers.first().unwrap_or(&"more"),
            numbers.get(1).unwrap_or(&"fewer"),
        );
    });
}

/// Passes a message on, also of libllama.
///
/// # Safety
/// Called by ggml or libllama with a terminated string.
pub(crate) unsafe extern "C" fn forward(
    level: sys::ggml_log_level,
    text: *const c_char,
    _: *mut c_void,
) {
    // SAFETY: by the contract of the callback.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    count_captures(text);
    // Progress dots and continuations of a line say nothing on their own.
    if text.is_empty() || text == "." {
        return;
    }
    if is_about_refused_threads(text) {
        return warn_of_refused_threads(text);
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "ggml", "{text}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "ggml", "{text}"),
        // What a loader reports as information is detail for the user of a program built on it.
        _ => tracing::debug!(target: "ggml", "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_about_captured_graphs_are_counted() {
        let before = captures();
        for text in [
            c"ggml_backend_cuda_graph_compute: CUDA graph warmup complete\n",
            c"ggml_backend_cuda_graph_compute: CUDA graph warmup reset\n",
            c"ggml_backend_cuda_graph_compute: CUDA graph warmup complete\n",
            c"something else\n",
        ] {
            // SAFETY: a terminated string.
            unsafe {
                forward(
                    sys::GGML_LOG_LEVEL_DEBUG,
                    text.as_ptr(),
                    std::ptr::null_mut(),
                );
            }
        }
        let counted = captures() - before;
        assert_eq!((counted.made, counted.dropped), (2, 1));
    }
}
