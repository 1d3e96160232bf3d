//! Importance matrices: for each column of a matrix, the mean square of the activations that it is
//! multiplied by. llama.cpp's `llama-imatrix` collects them, in two formats:
//!
//! * GGUF: tensors `NAME.in_sum2` `[columns, matrices]`, sums of squares, and `NAME.counts`
//!   `[1, matrices]`, numbers of tokens; one matrix, or one for each expert.
//! * the older one, often called `imatrix.dat`: a count of entries, then for each entry its name, a
//!   number of calls and the sums.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::ggml::convert::to_f32;
use crate::gguf::TensorType;
use crate::gguf::{Array, Gguf};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// Longer than any name in GGUF can be.
const MAX_NAME_BYTES: usize = 1 << 10;

/// The importances of the columns of a model's matrices.
#[derive(Clone, Debug)]
pub struct ImportanceMatrix {
    path: PathBuf,
    entries: HashMap<String, Vec<f32>>,
    chunks: Option<u32>,
    dataset: Option<String>,
}

impl ImportanceMatrix {
    /// Reads a file of either format.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or malformed, has no entries, or has an entry that is
    /// not finite or below zero.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let this = if bytes.starts_with(b"GGUF") {
            Self::from_gguf(&Gguf::parse(path, bytes)?)?
        } else {
            Self::from_legacy(path, &bytes).map_err(|problem| Error::Gguf {
                path: path.to_owned(),
                problem: format!("neither a GGUF file nor an importance matrix: {problem}"),
            })?
        };
        if this.entries.is_empty() {
            return Err(Error::Gguf {
                path: path.to_owned(),
                problem: format!("not an importance matrix: there are no tensors named …{SUMS}"),
            });
        }
        for (name, values) in &this.entries {
            if values
                .iter()
                .any(|value| !value.is_finite() || *value < 0.0)
            {
                return Err(this.error(name, "has an importance that is not finite or negative"));
            }
        }
        Ok(this)
    }

    fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let error = |name: &str, problem: String| Error::Tensor {
            path: gguf.path().to_owned(),
            tensor: name.to_owned(),
            problem,
        };
        let numbers = |name: String| -> Result<Vec<f32>> {
            let tensor = gguf
                .tensor(&name)
                .ok_or_else(|| error(&name, "is missing".into()))?;
            if tensor.info.ty != TensorType::F32 {
                let problem = format!("has type {}, expected f32", tensor.info.ty);
                return Err(error(&name, problem));
            }
            let mut values = vec![0.0; tensor.data.len() / 4];
            to_f32(TensorType::F32, tensor.data, &mut values)?;
            Ok(values)
        };
        let names = gguf
            .tensors()
            .filter_map(|tensor| tensor.info.name.strip_suffix(SUMS));
        let mut entries = HashMap::new();
        for name in names {
            let mut values = numbers(format!("{name}{SUMS}"))?;
            let counts = numbers(format!("{name}{COUNTS}"))?;
            if values.is_empty() || counts.is_empty() || !values.len().is_multiple_of(counts.len())
            {
                let problem = format!(
                    "{} counts do not divide {} sums",
                    counts.len(),
                    values.len()
                );
                return Err(error(name, problem));
            }
            let columns = values.len() / counts.len();
            for (values, count) in values.chunks_exact_mut(columns).zip(counts) {
                // An expert that was never chosen: all its columns have the same weight.
                let used = count > 0.0;
                let mean = |sum: f32| if used { sum / count } else { 1.0 };
                values.iter_mut().for_each(|value| *value = mean(*value));
            }
            entries.insert(name.to_owned(), values);
        }
        let dataset = gguf.get::<Array<'_>>("imatrix.datasets")?;
        let dataset = dataset.and_then(|names| names.strings().next());
        Ok(Self {
            path: gguf.path().to_owned(),
            entries,
            chunks: gguf.get("imatrix.chunk_count")?,
            dataset: dataset.map(|name| String::from_utf8_lossy(name).into_owned()),
        })
    }

    fn from_legacy(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        let mut take = |n: usize| -> Result<&[u8], String> {
            let (taken, left) = rest
                .split_at_checked(n)
                .ok_or_else(|| format!("truncated, {n} more bytes are needed"))?;
            rest = left;
            Ok(taken)
        };
        fn number(bytes: &[u8]) -> Result<usize, String> {
            let bytes = bytes.try_into().map_err(|_| "truncated".to_owned())?;
            let value = i32::from_le_bytes(bytes);
            usize::try_from(value).map_err(|_| format!("a count of {value}"))
        }
        let mut entries = HashMap::new();
        for _ in 0..number(take(4)?)? {
            let len = number(take(4)?)?;
            if len > MAX_NAME_BYTES {
                return Err(format!("a name of {len} bytes"));
            }
            let name = String::from_utf8(take(len)?.to_vec());
            let name = name.map_err(|_| "a name that is not UTF-8".to_owned())?;
            let calls = number(take(4)?)?.max(1) as f32;
            let len = number(take(4)?)?;
            let mut values = vec![0.0; len.min(bytes.len())];
            to_f32(TensorType::F32, take(len.saturating_mul(4))?, &mut values)
                .map_err(|error| error.to_string())?;
            values.iter_mut().for_each(|value| *value /= calls);
            entries.insert(name, values);
        }
        // The following fields were added later: older files end here.
        let chunks = take(4).and_then(number).ok();
        let dataset = take(4).and_then(number).and_then(take).ok();
        Ok(Self {
            path: path.to_owned(),
            entries,
            chunks: chunks.map(|chunks| chunks as u32),
            dataset: dataset.map(|name| String::from_utf8_lossy(name).into_owned()),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entries: one for each matrix, or stack of experts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Chunks of text that it was computed from, if the file says so.
    pub fn chunks(&self) -> Option<u32> {
        self.chunks
    }

    /// The name of the text that it was computed from, if the file says so.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// Importances of the columns of a tensor `[columns, rows, matrices]`, matrix by matrix, if
    /// there are any.
    ///
    /// # Errors
    /// The entry of the tensor has another size.
    pub fn weights(&self, name: &str, shape: &[usize; 4]) -> Result<Option<&[f32]>> {
        let Some(values) = self.entries.get(name) else {
            return Ok(None);
        };
        let (columns, matrices) = (shape[0], shape[2]);
        if Some(values.len()) != columns.checked_mul(matrices) {
            let problem = format!(
                "has {} importances, but the model's tensor has {columns} columns in {matrices} \
                 matrices: this importance matrix is of another model",
                values.len()
            );
            return Err(self.error(name, problem));
        }
        Ok(Some(values))
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            problem: problem.into(),
        }
    }
}
