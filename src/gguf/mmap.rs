//! A file mapped into memory, read-only.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of a file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapping(Mmap);

impl Mapping {
    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// The file does not exist, there is no permission, or it is not a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Checked before opening: opening a FIFO would block.
        let metadata = fs::metadata(path).map_err(Error::io(path))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() {
                "is a directory"
            } else {
                "is not a regular file"
            };
            return Err(Error::Gguf {
                path: path.to_owned(),
                problem: format!("{what}: give the path of a GGUF file"),
            });
        }
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the mapping is read-only, so nothing in this process writes to it. Another
        // process that truncates or rewrites a model file while it is in use breaks every program
        // that maps it; this cannot be avoided. What is read as text or lengths is checked again at
        // each use.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self(map))
    }

    /// Locks the pages of `range` in memory until the file is unmapped.
    ///
    /// # Errors
    /// The system does not allow it.
    pub(crate) fn lock(&self, range: Range<usize>) -> io::Result<()> {
        let bytes = self.0.get(range).ok_or(io::ErrorKind::InvalidInput)?;
        #[cfg(unix)]
        {
            // SAFETY: the pages belong to the mapping; the system rounds to whole ones.
            match unsafe { libc::mlock(bytes.as_ptr().cast(), bytes.len()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
        #[cfg(not(unix))]
        {
            let _ = bytes;
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Lets the system drop the pages of `range`, because their contents were copied elsewhere. A
    /// later read fetches them from the file again. Does nothing on systems without such a call.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            // SAFETY: DONTNEED would lose changes to a private mapping, but this one is read-only:
            // its pages equal those of the file and come back from there.
            let dropped = unsafe {
                self.0.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            if let Err(error) = dropped {
                tracing::debug!("madvise failed, mapped pages stay resident: {error}");
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
