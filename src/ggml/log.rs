//! Messages of ggml and llama.cpp, passed on to `tracing`.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use crate::sys;

/// Sends what ggml and llama.cpp log to `tracing` from now on (target `ggml`).
pub(crate) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function without state.
        unsafe {
            sys::ggml_log_set(Some(forward), std::ptr::null_mut());
            sys::llama_log_set(Some(forward), std::ptr::null_mut());
        }
    });
}

/// # Safety
/// Called by ggml with a terminated string.
unsafe extern "C" fn forward(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    // SAFETY: by the contract of the callback.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    // Progress dots and continuations of a line say nothing on their own.
    if text.is_empty() || text == "." {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "ggml", "{text}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "ggml", "{text}"),
        // What a loader thinks worth telling is detail to the user of a program built on it.
        _ => tracing::debug!(target: "ggml", "{text}"),
    }
}
