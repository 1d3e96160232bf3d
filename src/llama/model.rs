//! A model that libllama has loaded, freed once.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use super::log;
use crate::error::{Error, Result};
use crate::ggml::processor;
use crate::sys;

/// A loaded model.
pub(super) struct Model(NonNull<sys::llama_model>);

// SAFETY: a loaded model is only read; libllama lets contexts on several threads share it, and
// documents the functions of its vocabulary as thread-safe.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: owned; contexts keep the model alive.
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

/// Prepares libllama.
///
/// # Errors
/// The processor lacks instructions of this build.
pub(super) fn start() -> Result<()> {
    processor::check()?;
    log::capture();
    // SAFETY: takes no arguments, and may be called again.
    unsafe { sys::llama_backend_init() };
    Ok(())
}

/// A path as libllama needs it.
///
/// # Errors
/// It contains a zero byte.
pub(super) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Ggml(format!("{}: the path contains a zero byte", path.display())))
}

impl Model {
    /// Loads a file with libllama's default parameters, changed by `set`. `None` if libllama
    /// rejects it; its reason is in the log.
    ///
    /// # Errors
    /// As [`start`] and [`c_path`].
    ///
    /// # Safety
    /// What `set` lets the parameters point to must outlive the call, and lists must end as
    /// libllama requires.
    pub(super) unsafe fn load(
        path: &Path,
        set: impl FnOnce(&mut sys::llama_model_params),
    ) -> Result<Option<Self>> {
        start()?;
        let name = c_path(path)?;
        // SAFETY: takes no arguments.
        let mut params = unsafe { sys::llama_model_default_params() };
        set(&mut params);
        // SAFETY: a terminated path; the rest is the caller's promise.
        let model = unsafe { sys::llama_model_load_from_file(name.as_ptr(), params) };
        Ok(NonNull::new(model).map(Self))
    }

    /// The pointer for libllama, valid while `self` lives.
    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.0.as_ptr()
    }

    /// The vocabulary, which lives as long as the model.
    pub(super) fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: a live model, of which the vocabulary is a part.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Tokens of the vocabulary: the number of logits per position.
    pub(super) fn vocab_size(&self) -> usize {
        // SAFETY: a live vocabulary.
        let count = unsafe { sys::llama_vocab_n_tokens(self.vocab()) };
        usize::try_from(count).unwrap_or_default()
    }
}
