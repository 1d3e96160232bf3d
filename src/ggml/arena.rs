//! The memory in which tensors are described.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use crate::sys;

/// The memory of a context: descriptions of tensors and graphs, and the buffers that hold the data
/// of those tensors that have a permanent one.
pub(super) struct Arena {
    pub(super) raw: NonNull<sys::ggml_context>,
    /// What the tensors of this arena point to: it must live as long as any handle to them.
    pub(super) keep: Mutex<Keep>,
}

#[derive(Default)]
pub(super) struct Keep {
    pub(super) buffers: Vec<Arc<Buffer>>,
    /// Arenas whose tensors are operands or view sources of this arena's tensors.
    pub(super) arenas: Vec<Arc<Arena>>,
}

// SAFETY: tensor descriptions are written only through a `Context`, which is not `Sync`, and by
// the scheduler that owns the graph; through an `Arena` handle they are only read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the arena owns `raw`; every tensor handle keeps the arena alive.
        unsafe { sys::ggml_free(self.raw.as_ptr()) }
    }
}
