//! Writes a quantized file, which replaces an existing one only when it is complete.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

use super::plan::Plan;
use super::stream::{Conversion, WriteError};
use crate::error::{Error, Result};
use crate::parallel;
use crate::temporary::Tracked;

impl Plan {
    /// Writes the file to `output`, which is replaced only when everything is written: a run that
    /// is stopped leaves nothing. Memory is used for some rows of one tensor at a time.
    ///
    /// `progress` is called with the fraction done (0 to 1), and may cancel.
    ///
    /// # Errors
    /// `output` is the model itself or not a regular file, or cannot be written; a tensor holds a
    /// number that is not finite; [`Error::Cancelled`] if `progress` cancelled.
    pub fn write(
        &self,
        output: &Path,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_output(output)?;
        let directory = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Otherwise the error would name the temporary file.
        fs::metadata(directory).map_err(Error::io(directory))?;
        let file = temporary_file(directory).map_err(Error::io(directory))?;
        let _tracked = Tracked::new(file.path());
        let failed = |failure| match failure {
            WriteError::Output(source) => self.output_error(output, source),
            WriteError::Other(error) => error,
        };
        self.write_to(BufWriter::new(file.as_file()), progress)
            .map_err(failed)?;
        file.as_file()
            .sync_all()
            .and_then(|()| Ok(file.persist(output)?))
            .map_err(|source| self.output_error(output, source))?;
        Ok(())
    }

    fn write_to<W: Write>(
        &self,
        out: W,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<(), WriteError> {
        let threads = self.params.threads.unwrap_or_else(parallel::cores);
        let total = self.bytes().0.max(1);
        let mut data = self.writer.clone().begin(out)?;
        let mut converted = 0;
        for ((part, tensor), planned) in self.file.tensors().zip(self.tensors()) {
            let importance = match &self.params.importance {
                Some(all) if planned.to != planned.from => {
                    all.weights(&planned.name, &planned.shape)?
                }
                _ => None,
            };
            let conversion = Conversion {
                path: self.file.parts()[part].path(),
                tensor,
                ty: planned.to,
                importance,
            };
            let (gguf, start) = (&self.file.parts()[part], tensor.info.range.start);
            let mut released = start;
            let mut done = |bytes: usize| {
                // The pages of the old file count as memory of this process.
                gguf.release(released..start + bytes);
                released = start + bytes;
                match progress((converted + bytes) as f32 / total as f32) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(Error::Cancelled),
                }
            };
            data.write_with(|out| conversion.run(threads, out, &mut done))?;
            converted += tensor.data.len();
        }
        data.finish()?;
        Ok(())
    }

    fn check_output(&self, output: &Path) -> Result<()> {
        let Ok(metadata) = fs::metadata(output) else {
            return Ok(()); // Not there yet; what else may be wrong shows when it is written.
        };
        let refused = |problem: &str| {
            Err(Error::File {
                path: output.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if metadata.is_dir() {
            return refused("is a directory: give the name of a file");
        }
        if !metadata.is_file() {
            return refused("is not a regular file: give the name of one");
        }
        let path = fs::canonicalize(output).map_err(Error::io(output))?;
        for part in self.file.parts() {
            if fs::canonicalize(part.path()).is_ok_and(|input| input == path) {
                return refused("is the model itself: give another name");
            }
        }
        Ok(())
    }

    fn output_error(&self, output: &Path, source: io::Error) -> Error {
        let source = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => io::Error::new(
                source.kind(),
                format!(
                    "{source}: the file needs {} MiB",
                    self.bytes().1.div_ceil(1 << 20)
                ),
            ),
            _ => source,
        };
        Error::io(output)(source)
    }
}

/// A file in the directory of the output, so that it can be renamed to it. Deleted when dropped.
fn temporary_file(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".quantize-").suffix(".tmp");
    // Permissions as for any new file, from the user's mask, not those of temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory)
}

#[cfg(test)]
mod tests {
    use super::super::{FileType, QuantizeParams};
    use super::*;
    use crate::gguf::TensorType;
    use crate::synthetic::{Geometry, WeightTypes, write_synthetic};

    /// Fails after this number of bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let n = data.len().min(self.0);
            self.0 -= n;
            match n {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(n),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_reported_with_the_size_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let types = WeightTypes::Uniform(TensorType::F32);
        write_synthetic(&path, &Geometry::tiny(), types, 1).unwrap();
        let plan = Plan::new(&path, QuantizeParams::new(FileType::Q8_0)).unwrap();
        let size = plan.bytes().1;
        for room in [0, 1000, size / 2, size] {
            let failure = plan.write_to(Full(room), &mut |_| ControlFlow::Continue(()));
            let Err(WriteError::Output(source)) = failure else {
                panic!("{room} bytes were enough");
            };
            let message = plan.output_error(Path::new("out.gguf"), source).to_string();
            assert!(message.starts_with("out.gguf: "), "{message}");
            assert!(message.ends_with("the file needs 1 MiB"), "{message}");
        }
    }
}
