//! libllama's messages, passed on to `tracing` with those of ggml.

use std::sync::Once;

use crate::ggml::log;
use crate::sys;

/// Sends what ggml and libllama log to `tracing` from now on.
pub(super) fn capture() {
    static ONCE: Once = Once::new();
    log::capture();
    ONCE.call_once(|| {
        // SAFETY: the callback is a plain function without state.
        unsafe { sys::llama_log_set(Some(log::forward), std::ptr::null_mut()) };
    });
}
