//! Streams the data of one tensor from file to file, a slab of rows at a time.

use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::ggml::convert::{from_f32, is_finite, to_f32};
use crate::gguf::FileTensor;
use crate::gguf::TensorType;
use crate::parallel;

/// Elements that a thread converts between two writes: enough work to be worth a thread, and small
/// compared to the tensors of any model that takes long.
const SLAB: usize = 1 << 21;
/// Elements that a thread holds in F32 at a time, which fit its cache.
const PIECE: usize = 1 << 15;

/// Why a tensor could not be written.
pub(super) enum WriteError {
    /// The output failed.
    Output(io::Error),
    /// Anything else, including cancellation by the caller.
    Other(Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// A tensor and its conversion.
#[derive(Clone, Copy)]
pub(super) struct Conversion<'a> {
    /// The old file, for messages.
    pub(super) path: &'a Path,
    pub(super) tensor: FileTensor<'a>,
    pub(super) ty: TensorType,
    /// Importances of the columns, matrix by matrix.
    pub(super) importance: Option<&'a [f32]>,
}

impl Conversion<'_> {
    /// Writes the tensor's data in the new type. Every row is converted separately, so the number
    /// of threads does not affect the result. `done` is called with the number of bytes of the old
    /// data that have been processed.
    pub(super) fn run(
        &self,
        threads: usize,
        out: &mut dyn Write,
        done: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<(), WriteError> {
        let FileTensor { info, data } = self.tensor;
        let rows: usize = info.shape[1..].iter().product();
        let [from, to] = self.row_bytes()?;
        if data.is_empty() {
            return Ok(());
        }
        let part = (SLAB / info.shape[0]).max(1);
        let mut buffer = Vec::new();
        let mut first = 0;
        while first < rows {
            let slab = rows.min(first + part * threads) - first;
            if self.ty == info.ty {
                let rows = &data[first * from..(first + slab) * from];
                if !is_finite(info.ty, rows) {
                    let problem = "hold a number that is not finite";
                    return Err(self.error(first, first + slab, problem.into()).into());
                }
                out.write_all(rows)?;
            } else {
                buffer.resize(slab * to, 0);
                self.convert_slab(first, slab.div_ceil(threads), &mut buffer)?;
                out.write_all(&buffer)?;
            }
            first += slab;
            done(first * from)?;
        }
        Ok(())
    }

    /// Bytes of a row, old and new.
    fn row_bytes(&self) -> Result<[usize; 2]> {
        let FileTensor { info, .. } = self.tensor;
        let bytes = [info.ty, self.ty].map(|ty| ty.row_bytes(info.shape[0]));
        match bytes {
            [Some(from), Some(to)] => Ok([from, to]),
            _ => Err(Error::Ggml(format!(
                "tensor '{}': {} cannot hold rows of {}",
                info.name, self.ty, info.shape[0]
            ))),
        }
    }

    /// Fills `out` with rows from `first` on, each thread with `part` of them.
    fn convert_slab(&self, first: usize, part: usize, out: &mut [u8]) -> Result<()> {
        let [_, to] = self.row_bytes()?;
        let parts = out.chunks_mut(part * to).enumerate();
        let threads = parts.len();
        parallel::map(parts, threads, |(i, out)| {
            self.convert_rows(first + i * part, out)
        })
        .into_iter()
        .collect()
    }

    /// Fills `out` with rows from `first` on.
    fn convert_rows(&self, first: usize, out: &mut [u8]) -> Result<()> {
        let FileTensor { info, data } = self.tensor;
        let [columns, rows_of_matrix, ..] = info.shape;
        let [from, to] = self.row_bytes()?;
        let mut numbers = Vec::new();
        let (mut row, end) = (first, first + out.len() / to);
        while row < end {
            // The columns of each expert have their own importances.
            let matrix = row / rows_of_matrix;
            let next = ((matrix + 1) * rows_of_matrix)
                .min(row + (PIECE / columns).max(1))
                .min(end);
            numbers.resize((next - row) * columns, 0.0);
            to_f32(info.ty, &data[row * from..next * from], &mut numbers)?;
            if !numbers.iter().all(|x| x.is_finite()) {
                return Err(self.error(row, next, "hold a number that is not finite".into()));
            }
            let importance = self
                .importance
                .and_then(|all| all.get(matrix * columns..(matrix + 1) * columns));
            let out = &mut out[(row - first) * to..(next - first) * to];
            from_f32(self.ty, &numbers, columns, importance, out)?;
            if !is_finite(self.ty, out) {
                let problem = format!("hold a number that is too large for {}", self.ty);
                return Err(self.error(row, next, problem));
            }
            row = next;
        }
        Ok(())
    }

    fn error(&self, row: usize, next: usize, problem: String) -> Error {
        Error::Tensor {
            path: self.path.to_owned(),
            tensor: self.tensor.info.name.clone(),
            problem: format!("rows {row} to {} {problem}", next - 1),
        }
    }
}
