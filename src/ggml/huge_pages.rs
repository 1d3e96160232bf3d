//! Huge pages for host memory: with pages of 4 KiB the processor waits for their addresses, not for the
//! weights.

use std::ptr::NonNull;

use crate::sys;

/// Asks for huge pages in a buffer in host memory. Others are left alone.
pub(super) fn advise_buffer(buffer: NonNull<sys::ggml_backend_buffer>) {
    let raw = buffer.as_ptr();
    // SAFETY: the caller's buffer is live.
    unsafe {
        if sys::ggml_backend_buffer_is_host(raw) {
            let base = sys::ggml_backend_buffer_get_base(raw);
            advise(base.cast(), sys::ggml_backend_buffer_get_size(raw));
        }
    }
}

/// Bytes of a huge page, on x86-64 and on most other processors.
#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

/// Asks the system to back anonymous memory with huge pages, where it leaves that to programs
/// (`/sys/kernel/mm/transparent_hugepage/enabled` is `madvise`). Mapped files have those of the file
/// system's cache.
#[cfg(target_os = "linux")]
fn advise(base: *mut u8, bytes: usize) {
    let before = base.align_offset(PAGE);
    let whole = bytes.saturating_sub(before) / PAGE * PAGE;
    if base.is_null() || whole == 0 {
        return;
    }
    let start = base.wrapping_add(before);
    // SAFETY: whole pages of a live allocation, whose contents stay as they are.
    if unsafe { libc::madvise(start.cast(), whole, libc::MADV_HUGEPAGE) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!("memory keeps small pages: {error}");
    }
}

/// Other systems choose for themselves.
#[cfg(not(target_os = "linux"))]
fn advise(_base: *mut u8, _bytes: usize) {}
