//! Versions and plug-in backends.

use std::ffi::c_char;
use std::path::Path;

use super::border::{c_str, guard};
use super::error::{diffusion_error, diffusion_status};

/// Major version of the header.
pub const DIFFUSION_VERSION_MAJOR: u32 = 0;
/// Minor version of the header.
pub const DIFFUSION_VERSION_MINOR: u32 = 1;
/// Patch version of the header.
pub const DIFFUSION_VERSION_PATCH: u32 = 0;
/// Changes when programs must be recompiled; the library's SONAME ends with it.
pub const DIFFUSION_ABI_VERSION: u32 = 0;

/// Version of the library, such as "0.1.0". Valid as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The library's own `DIFFUSION_ABI_VERSION`. A program works with the library if it equals the
/// header's.
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_abi_version() -> u32 {
    DIFFUSION_ABI_VERSION
}

/// Loads backends for other devices, plug-ins of ggml, from a directory. Models that are loaded
/// afterwards may use them. Must not be called while another thread lists devices or loads a model.
///
/// Plug-ins must come from the same build as this library, with the feature `dynamic-backends`;
/// such a library loads the plug-ins next to it by itself.
///
/// `directory`: path in UTF-8, terminated by a zero byte.
///
/// Errors: `INVALID_ARGUMENT` if it is not a directory, or if this library has its backends linked
/// in. Files that are not backends, or not for this machine, are skipped with a message in the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_load_backends(
    directory: *const c_char,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let directory = unsafe { c_str(directory, "directory") }?;
        Ok(llama_diffusion::load_backends(Path::new(directory))?)
    })
}
