//! What crosses the border: failures, panics, pointers, structs with a size, buffers.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::error::{diffusion_error, diffusion_status};
use super::names::field;
use llama_diffusion::Error;
use llama_diffusion::internal::ErrorKind;

/// A failure that is returned to C.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: diffusion_status,
    pub(super) message: String,
}

pub(super) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(super) fn new(status: diffusion_status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(super) fn argument(name: &str, problem: impl Display) -> Self {
        Self::new(
            diffusion_status::InvalidArgument,
            format!("{name}: {problem}"),
        )
    }

    fn null(name: &str) -> Self {
        Self::argument(name, "must not be NULL")
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        Self::new(
            diffusion_status::Panic,
            format!("bug in llama-diffusion: {what}"),
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Io => diffusion_status::Io,
            ErrorKind::BadModel => diffusion_status::BadModel,
            ErrorKind::InvalidParameter => diffusion_status::InvalidArgument,
            ErrorKind::ContextFull => diffusion_status::ContextFull,
            ErrorKind::OutOfMemory => diffusion_status::OutOfMemory,
            ErrorKind::Backend => diffusion_status::Backend,
            ErrorKind::Tokenizer => diffusion_status::Tokenizer,
            ErrorKind::ChatTemplate => diffusion_status::ChatTemplate,
            ErrorKind::Cancelled => diffusion_status::Cancelled,
        };
        Self::new(status, error.message_with(field))
    }
}

/// Runs the body of an exported function. A failure or panic becomes a status and, if the caller
/// asks for one, an error object.
pub(super) fn guard(
    error: *mut *mut diffusion_error,
    body: impl FnOnce() -> Result,
) -> diffusion_status {
    // What a panic may leave incomplete is protected by a lock that it poisons.
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Failure::panic(payload.as_ref())));
    let Err(failure) = result else {
        return diffusion_status::Ok;
    };
    if !error.is_null() {
        let object = Box::new(diffusion_error::new(failure.status, &failure.message));
        // SAFETY: the caller's variable, by the rules of the header.
        unsafe { error.write(Box::into_raw(object)) };
    }
    failure.status
}

/// Frees something that C owned. A panic can only be reported to the log.
pub(super) fn release(body: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        let failure = Failure::panic(payload.as_ref());
        let _ = catch_unwind(|| tracing::error!("{}", failure.message));
    }
}

/// # Safety
/// `pointer` is NULL or points to a `T` that is valid and unchanged for `'a`.
pub(super) unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::null(name))
}

/// Where a result goes.
pub(super) fn output<T>(pointer: *mut T, name: &str) -> Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| Failure::null(name))
}

/// An array, which may be NULL if it is empty.
///
/// # Safety
/// `pointer` is NULL or points to `count` values that are valid and unchanged for `'a`.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Failure::null(name));
    }
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Failure::argument(
            name,
            format_args!("{count} is not a length"),
        ));
    }
    // SAFETY: as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// UTF-8 of a given length.
///
/// # Safety
/// As [`slice`].
pub(super) unsafe fn text<'a>(
    pointer: *const c_char,
    length: usize,
    name: &str,
) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    utf8(unsafe { slice(pointer.cast(), length, name) }?, name)
}

/// UTF-8 that ends at a zero byte.
///
/// # Safety
/// `pointer` is NULL or points to a terminated string that is valid and unchanged for `'a`.
pub(super) unsafe fn c_str<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    unsafe { optional_c_str(pointer, name) }?.ok_or_else(|| Failure::null(name))
}

/// As [`c_str`], with `None` for NULL.
///
/// # Safety
/// As [`c_str`].
pub(super) unsafe fn optional_c_str<'a>(
    pointer: *const c_char,
    name: &str,
) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    utf8(unsafe { CStr::from_ptr(pointer) }.to_bytes(), name).map(Some)
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        Failure::argument(
            name,
            format_args!("the byte at offset {offset} is not UTF-8"),
        )
    })
}

/// Rejects a capacity that is too small, after writing the required one to `count`.
///
/// # Safety
/// `count` can be written.
pub(super) unsafe fn require(needed: usize, capacity: usize, count: NonNull<usize>) -> Result {
    if needed <= capacity {
        return Ok(());
    }
    // SAFETY: as the caller promises.
    unsafe { count.write(needed) };
    let message = format!("capacity: is {capacity}, but {needed} are needed");
    Err(Failure::new(diffusion_status::BufferTooSmall, message))
}

/// Copies values into the caller's array if they fit, and their count.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` values; `count` can be written.
pub(super) unsafe fn fill<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    count: NonNull<usize>,
) -> Result {
    // SAFETY: as the caller promises.
    unsafe {
        require(values.len(), capacity, count)?;
        if !values.is_empty() {
            let to = output(buffer, "buffer")?;
            std::ptr::copy_nonoverlapping(values.as_ptr(), to.as_ptr(), values.len());
        }
        count.write(values.len());
    }
    Ok(())
}

/// As [`fill`] for text, with a terminating zero byte that is counted.
///
/// # Safety
/// As [`fill`].
pub(super) unsafe fn fill_text(
    mut text: Vec<u8>,
    buffer: *mut c_char,
    capacity: usize,
    size: NonNull<usize>,
) -> Result {
    text.push(0);
    // SAFETY: as the caller promises.
    unsafe { fill(&text, buffer.cast(), capacity, size) }
}

/// A struct whose size identifies its version: its first field is `struct_size`, later versions
/// only append fields, and there is no padding that could hide an appended field.
///
/// # Safety
/// The type is `repr(C)` and its first field is a `usize`; all bytes of a `Self` that C may have
/// written are valid.
pub(super) unsafe trait Versioned: Copy {
    /// Name in C.
    const NAME: &'static str;
    /// Size of its first version, the smallest that is valid: the end of that version's last field,
    /// whatever was appended since.
    const FIRST_SIZE: usize;

    fn check_size(size: usize) -> Result {
        let known = Self::FIRST_SIZE..=size_of::<Self>();
        if known.contains(&size) {
            return Ok(());
        }
        let wanted = match (known.start(), known.end()) {
            (first, last) if first == last => last.to_string(),
            (first, last) => format!("from {first} to {last}"),
        };
        let (name, hint) = (
            Self::NAME,
            "set it to the size of the struct; a library older than the header knows less",
        );
        Err(Failure::new(
            diffusion_status::StructSize,
            format!("{name}.struct_size: is {size}, but must be {wanted}: {hint}"),
        ))
    }
}

/// Reads a struct of any known version; missing fields come from `default`, as do all of them for
/// NULL.
///
/// # Safety
/// `pointer` is NULL or points to a struct whose first field is the size of what follows.
pub(super) unsafe fn read<T: Versioned>(pointer: *const T, default: T) -> Result<T> {
    if pointer.is_null() {
        return Ok(default);
    }
    let mut value = default;
    // SAFETY: the size comes first, and that many bytes may be read.
    unsafe {
        let size = pointer.cast::<usize>().read();
        T::check_size(size)?;
        let to = (&raw mut value).cast::<u8>();
        std::ptr::copy_nonoverlapping(pointer.cast(), to, size);
    }
    Ok(value)
}

/// Where a struct of a known version goes.
pub(super) struct StructOutput<T> {
    pointer: NonNull<T>,
    size: usize,
}

impl<T: Versioned> StructOutput<T> {
    /// # Safety
    /// `pointer` is NULL or points to `size` writable bytes.
    pub(super) unsafe fn with_size(pointer: *mut T, size: usize, name: &str) -> Result<Self> {
        let pointer = output(pointer, name)?;
        T::check_size(size)?;
        Ok(Self { pointer, size })
    }

    /// # Safety
    /// `pointer` is NULL or points to a struct whose first field is its size.
    pub(super) unsafe fn new(pointer: *mut T, name: &str) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe {
            let size = output(pointer, name)?.cast::<usize>().read();
            Self::with_size(pointer, size, name)
        }
    }

    /// Writes the part of `value` that the caller's version has, and the size of that version.
    pub(super) fn write(self, value: &T) {
        let from = std::ptr::from_ref(value).cast::<u8>();
        let to = self.pointer.cast::<u8>();
        // SAFETY: `size` bytes may be written, and `value` has at least as many.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to.as_ptr(), self.size);
            to.cast::<usize>().write(self.size);
        }
    }
}
