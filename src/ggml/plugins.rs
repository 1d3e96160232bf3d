//! The backends that are linked in, and those that are loaded as plug-ins.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::error::{Error, Result};
use crate::parameter::Parameter;
use crate::sys;

/// Finds the backends. Those linked in register themselves; plug-ins are loaded from the directory
/// of this code. ggml's own search would look in the directory of the program, which may be a host
/// that knows nothing of plug-ins, and would load files from the current directory, such as that of
/// a downloaded model. It is not used, except for the one file that the user may name in
/// `GGML_BACKEND_PATH`.
///
/// # Errors
/// The processor cannot run them.
pub(super) fn register() -> Result<()> {
    super::processor::check()?;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        super::log::capture();
        if cfg!(feature = "dynamic-backends")
            && let Some(dir) = own_file().as_deref().and_then(Path::parent)
            && let Ok(dir) = c_path(dir)
        {
            // SAFETY: a terminated string.
            unsafe { sys::ggml_backend_load_all_from_path(dir.as_ptr()) };
        }
    });
    Ok(())
}

/// The file that contains this code: the program or, as far as Linux reports it, a shared library
/// loaded into another program.
fn own_file() -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        return std::env::current_exe().ok();
    }
    // `dladdr` would return the name that a program was called by, which may be relative to another
    // directory.
    let here = own_file as *const () as usize;
    let maps = fs::read("/proc/self/maps").ok()?;
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        // START-END PERMISSIONS OFFSET DEVICE INODE PATH
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let mapped = address(start)?..address(end)?;
        let path = &rest[rest.find('/')?..];
        mapped.contains(&here).then(|| PathBuf::from(path))
    })
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::parameter(Parameter::BackendDirectory, "the path contains a zero byte"))
}

/// Loads plug-in backends from a directory, in addition to those already found. They must come from
/// the same build as this crate, one with the feature `dynamic-backends`: others contain another
/// ggml.
pub fn load_backends(dir: &Path) -> Result<()> {
    let text = c_path(dir)?;
    if !dir.is_dir() {
        return Err(Error::parameter(
            Parameter::BackendDirectory,
            format!("{} is not a directory", dir.display()),
        ));
    }
    if !cfg!(feature = "dynamic-backends") {
        return Err(Error::parameter(
            Parameter::BackendDirectory,
            "this build has its backends linked in and takes no plug-ins: they need one with the \
             feature `dynamic-backends`",
        ));
    }
    register()?;
    // SAFETY: a terminated string.
    unsafe { sys::ggml_backend_load_all_from_path(text.as_ptr()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plug_ins_are_searched_next_to_the_file_of_this_code() {
        assert_eq!(own_file(), std::env::current_exe().ok());
    }

    #[cfg(not(feature = "dynamic-backends"))]
    #[test]
    fn plug_ins_are_refused_where_the_backends_are_linked_in() {
        let refused = load_backends(Path::new(".")).unwrap_err().to_string();
        assert!(refused.contains("`dynamic-backends`"), "{refused}");
    }
}
