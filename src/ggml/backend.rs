//! Backends: streams of work on devices.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device::Device;
use super::guard::guarded;
use crate::error::{Error, Result};
use crate::sys;

/// A stream of work on a device.
pub(crate) struct Backend {
    pub(super) raw: NonNull<sys::ggml_backend>,
    device: Device,
    is_broken: AtomicBool,
}

// SAFETY: work is submitted only by executors and uploaders, and those that share a backend have
// one owner and hence one thread at a time.
unsafe impl Send for Backend {}
// SAFETY: as above: a shared reference submits nothing without its owner.
unsafe impl Sync for Backend {}

impl Drop for Backend {
    fn drop(&mut self) {
        let what = format!("releasing the device {}", self.device.name());
        // SAFETY: owned.
        if let Err(error) = guarded(&what, || unsafe {
            sys::ggml_backend_free(self.raw.as_ptr())
        }) {
            tracing::warn!("{error}");
        }
    }
}

impl Backend {
    /// The device it runs on.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// The device is lost.
    pub(super) fn synchronize(&self) -> Result<()> {
        let what = format!("waiting for the device {}", self.device.name());
        // SAFETY: a live backend.
        guarded(&what, || unsafe {
            sys::ggml_backend_synchronize(self.raw.as_ptr());
        })
    }

    /// Records that a computation failed midway: no other one may follow it.
    pub(super) fn break_down(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Whether a computation failed midway.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }
}

impl Device {
    /// A new backend; the CPU's computes with `threads` threads.
    pub(crate) fn backend(&self, threads: usize) -> Result<Backend> {
        let what = "it could not be started";
        // SAFETY: a live device; null parameters are the default.
        let raw = guarded(what, || unsafe {
            sys::ggml_backend_dev_init(self.as_ptr(), std::ptr::null())
        })?;
        let backend = Backend {
            raw: NonNull::new(raw).ok_or_else(|| Error::device(self.name(), what))?,
            device: *self,
            is_broken: AtomicBool::new(false),
        };
        // The procedure is looked up by name because a CPU plug-in is not linked.
        if let Some(set) = self.procedure(c"ggml_backend_set_n_threads") {
            // SAFETY: ggml documents this name with this signature.
            unsafe {
                let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) = std::mem::transmute(set);
                set(
                    backend.raw.as_ptr(),
                    i32::try_from(threads).unwrap_or(i32::MAX),
                );
            }
        }
        Ok(backend)
    }
}
