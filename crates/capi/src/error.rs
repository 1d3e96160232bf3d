//! Status codes and error objects.

use std::ffi::{CStr, CString, c_char};

/// What a function returns.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_status {
    /// Success.
    Ok = 0,
    /// An argument is invalid: a NULL pointer where none is allowed, text that is not UTF-8, a
    /// number out of range. The message names the argument.
    InvalidArgument = 1,
    /// This version of the library does not know the `struct_size` of a struct.
    StructSize = 2,
    /// The operating system refused an operation on a file.
    Io = 3,
    /// The model file is malformed, or of a kind that this library cannot run.
    BadModel = 4,
    /// Prompt and answer do not fit the context.
    ContextFull = 5,
    /// A buffer could not be allocated.
    OutOfMemory = 6,
    /// A device failed.
    Backend = 7,
    /// The model has no usable tokenizer, or a text or token cannot be converted.
    Tokenizer = 8,
    /// The chat template is malformed or rejected the messages.
    ChatTemplate = 9,
    /// A callback or `diffusion_context_cancel` cancelled the call.
    Cancelled = 10,
    /// The output does not fit. The required count was written.
    BufferTooSmall = 11,
    /// Nothing has that name or index.
    NotFound = 12,
    /// Another call is using the context.
    Busy = 13,
    /// An earlier call on this context ended with `DIFFUSION_STATUS_PANIC`: only
    /// `diffusion_context_free` may be called.
    Poisoned = 14,
    /// A bug in this library. Please report the message.
    Panic = 15,
}

impl diffusion_status {
    fn name(status: i32) -> &'static CStr {
        match status {
            s if s == Self::Ok as i32 => c"ok",
            s if s == Self::InvalidArgument as i32 => c"invalid argument",
            s if s == Self::StructSize as i32 => c"unknown struct size",
            s if s == Self::Io as i32 => c"input/output error",
            s if s == Self::BadModel as i32 => c"bad model file",
            s if s == Self::ContextFull as i32 => c"context full",
            s if s == Self::OutOfMemory as i32 => c"out of memory",
            s if s == Self::Backend as i32 => c"device error",
            s if s == Self::Tokenizer as i32 => c"tokenizer error",
            s if s == Self::ChatTemplate as i32 => c"chat template error",
            s if s == Self::Cancelled as i32 => c"cancelled",
            s if s == Self::BufferTooSmall as i32 => c"buffer too small",
            s if s == Self::NotFound as i32 => c"not found",
            s if s == Self::Busy as i32 => c"context is busy",
            s if s == Self::Poisoned as i32 => c"context is poisoned",
            s if s == Self::Panic as i32 => c"internal error",
            _ => c"unknown status",
        }
    }
}

/// What went wrong: a status and a message. Owned by the caller, who frees it with
/// `diffusion_error_free`. Immutable: any thread may read it.
pub struct diffusion_error {
    status: diffusion_status,
    message: CString,
}

impl diffusion_error {
    pub(super) fn new(status: diffusion_status, message: &str) -> Self {
        Self {
            status,
            message: c_text(message),
        }
    }
}

/// A C string; an embedded zero byte, which would end it, becomes U+FFFD.
pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// A short English description of a status. Never NULL, even for a number that is not a status;
/// valid as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_status_name(status: i32) -> *const c_char {
    diffusion_status::name(status).as_ptr()
}

/// The status that the failed function returned; `DIFFUSION_STATUS_OK` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_status(error: *const diffusion_error) -> diffusion_status {
    // SAFETY: NULL or a live object, by the rules of the header.
    unsafe { error.as_ref() }.map_or(diffusion_status::Ok, |error| error.status)
}

/// The message in UTF-8: what went wrong, where, and what to do about it. Valid as long as the
/// error; the empty string for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_message(error: *const diffusion_error) -> *const c_char {
    // SAFETY: NULL or a live object, by the rules of the header.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error object. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_error_free(error: *mut diffusion_error) {
    if !error.is_null() {
        // SAFETY: made by Box::into_raw, given back once.
        drop(unsafe { Box::from_raw(error) });
    }
}
