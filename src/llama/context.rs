//! The memory that a model runs in.

use std::ptr::NonNull;
use std::sync::Arc;

use super::batch::Batch;
use super::model::Model;
use crate::sys;

/// A context, freed once.
pub(super) struct Context {
    context: NonNull<sys::llama_context>,
    /// Freed after the context, which refers to it.
    model: Arc<Model>,
}

// SAFETY: libllama's contexts are not bound to a thread; `&mut self` keeps uses apart.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

impl Context {
    /// Makes a context with libllama's default parameters, changed by `set`, which must not add
    /// pointers. `None` if libllama fails.
    pub(super) fn new(
        model: Arc<Model>,
        set: impl FnOnce(&mut sys::llama_context_params),
    ) -> Option<Self> {
        // SAFETY: a live model, and parameters that start from libllama's defaults.
        let context = unsafe {
            let mut params = sys::llama_context_default_params();
            set(&mut params);
            sys::llama_init_from_model(model.as_ptr(), params)
        };
        let context = NonNull::new(context)?;
        Some(Self { context, model })
    }

    /// The pointer for libllama, valid while `self` lives.
    pub(super) fn as_ptr(&self) -> *mut sys::llama_context {
        self.context.as_ptr()
    }

    /// The model that runs here.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Decodes a batch and waits for it. The status of libllama, 0 if it succeeded.
    pub(super) fn decode(&mut self, batch: &mut Batch) -> i32 {
        // SAFETY: a live context; the arrays of the batch have an entry per token and outlive the
        // call.
        unsafe {
            let status = sys::llama_decode(self.as_ptr(), batch.raw());
            sys::llama_synchronize(self.as_ptr());
            status
        }
    }
}
