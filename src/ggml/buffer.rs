//! Memory on devices.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::device::{BufferType, Device};
use super::huge_pages;
use crate::error::{Error, Result};
use crate::gguf::Mapping;
use crate::sys;

/// Whether tensors get memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// They do.
    Real,
    /// They only get a placement: graphs that read them can be measured, but not computed.
    Measured,
}

/// Memory on a device.
pub(crate) struct Buffer {
    pub(super) raw: NonNull<sys::ggml_backend_buffer>,
    /// The size in bytes, if this only marks a placement.
    stands_for: Option<usize>,
    /// The file whose pages the buffer uses.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: a buffer is a handle; its contents are written by its one owner (weights while loading,
// caches and inputs by their session).
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: owned; every tensor in it keeps the buffer alive through its arena.
        unsafe { sys::ggml_backend_buffer_free(self.raw.as_ptr()) }
    }
}

impl Buffer {
    /// Takes ownership of requested memory; null means that there is none.
    pub(super) fn taken(
        raw: *mut sys::ggml_backend_buffer,
        memory: BufferType,
        bytes: usize,
        what: &str,
        advice: &str,
    ) -> Result<Self> {
        let Some(raw) = NonNull::new(raw) else {
            memory.check()?;
            return Err(Error::OutOfMemory {
                what: what.into(),
                device: memory.name(),
                bytes,
                advice: advice.into(),
            });
        };
        huge_pages::advise_buffer(raw);
        Ok(Self {
            raw,
            stands_for: None,
            _mapping: None,
        })
    }

    /// An empty buffer that stands for `bytes` bytes.
    pub(super) fn stand_in(memory: BufferType, bytes: usize) -> Result<Self> {
        // SAFETY: a live description; ggml makes a buffer of no bytes without asking the backend.
        let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(memory.as_ptr(), 0) };
        Ok(Self {
            raw: NonNull::new(raw).ok_or_else(|| Error::Ggml("no empty buffer".into()))?,
            stands_for: Some(bytes),
            _mapping: None,
        })
    }

    /// Marks the contents as weights: operations then run on the device of their weights.
    pub(crate) fn mark_weights(&self) {
        // SAFETY: a live buffer.
        unsafe {
            sys::ggml_backend_buffer_set_usage(
                self.raw.as_ptr(),
                sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS,
            );
        }
    }

    /// Locks a buffer in host memory until it is freed. Other buffers are left alone.
    ///
    /// # Errors
    /// The system does not allow it.
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: a live buffer.
        if !unsafe { sys::ggml_backend_buffer_is_host(self.raw.as_ptr()) } {
            return Ok(());
        }
        #[cfg(unix)]
        {
            // SAFETY: a live buffer; locking changes nothing of its contents.
            let refused = unsafe {
                libc::mlock(
                    sys::ggml_backend_buffer_get_base(self.raw.as_ptr()),
                    self.size(),
                )
            };
            if refused == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        }
        #[cfg(not(unix))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The first byte, of a buffer in host memory.
    pub(super) fn base(&self) -> *mut u8 {
        // SAFETY: a live buffer.
        unsafe { sys::ggml_backend_buffer_get_base(self.raw.as_ptr()) }.cast()
    }

    /// Size in bytes, also of a buffer that only marks a placement.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: a live buffer.
        self.stands_for
            .unwrap_or_else(|| unsafe { sys::ggml_backend_buffer_get_size(self.raw.as_ptr()) })
    }
}

impl BufferType {
    /// A buffer of `bytes` bytes.
    pub(super) fn allocate(&self, bytes: usize, what: &str, advice: &str) -> Result<Buffer> {
        // SAFETY: a live description.
        let raw = unsafe { sys::ggml_backend_buft_alloc_buffer(self.as_ptr(), bytes) };
        Buffer::taken(raw, *self, bytes, what, advice)
    }
}

impl Device {
    /// A buffer over a mapped file, without a copy.
    pub(crate) fn map(&self, mapping: &Arc<Mapping>, largest_tensor: usize) -> Result<Arc<Buffer>> {
        let bytes: &[u8] = mapping.as_ref();
        // SAFETY: the buffer keeps the mapping alive; it is used for weights, which are only read.
        let raw = unsafe {
            sys::ggml_backend_dev_buffer_from_host_ptr(
                self.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                largest_tensor,
            )
        };
        let raw = NonNull::new(raw)
            .ok_or_else(|| Error::Ggml(format!("{} cannot use a mapped file", self.name())))?;
        Ok(Arc::new(Buffer {
            raw,
            stands_for: None,
            _mapping: Some(Arc::clone(mapping)),
        }))
    }
}
