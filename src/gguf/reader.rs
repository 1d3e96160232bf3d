//! Reading GGUF files.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::{Contents, Slot, TensorInfo};
use super::mmap::Mapping;
use super::value::{Array, FromValue, Value, decode};
use super::writer;
use crate::error::{Error, Result};

/// A tensor of the file with its data.
#[derive(Clone, Copy, Debug)]
pub struct FileTensor<'a> {
    /// Name, type and shape.
    pub info: &'a TensorInfo,
    /// The elements, as stored in the file; empty if they are [generated](Gguf::generated).
    pub data: &'a [u8],
}

/// Generates the data of tensors that are not in a file.
pub trait TensorData: fmt::Debug + Send + Sync {
    /// All data of a tensor, with the length of its range.
    fn make(&self, tensor: &TensorInfo) -> Vec<u8>;
}

#[derive(Debug)]
enum Bytes {
    Mapped(Arc<Mapping>),
    Owned(Vec<u8>),
    /// What would come before the data in a file.
    Head(Vec<u8>, Arc<dyn TensorData>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping,
            Self::Owned(vec) | Self::Head(vec, _) => vec,
        }
    }
}

/// A GGUF file, checked.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    contents: Contents,
}

impl Gguf {
    /// Maps the file at `path` and checks its structure. Tensor data is not touched.
    ///
    /// # Errors
    /// No such file, a directory, an empty file, not a GGUF, an unsupported version, or a header,
    /// metadata or tensor table that is truncated or malformed; tensor data that ends beyond the
    /// end of the file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(path, Bytes::Mapped(Arc::new(Mapping::open(path)?)))
    }

    /// Checks a file that is already in memory; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        Self::new(path, Bytes::Owned(bytes))
    }

    /// A file that has only the part before the data; `data` generates the rest on request.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn generated(path: &Path, head: Vec<u8>, data: Arc<dyn TensorData>) -> Result<Self> {
        Self::new(path, Bytes::Head(head, data))
    }

    fn new(path: &Path, bytes: Bytes) -> Result<Self> {
        let size = match &bytes {
            Bytes::Head(..) => usize::MAX,
            Bytes::Mapped(_) | Bytes::Owned(_) => bytes.as_slice().len(),
        };
        let contents = Contents::parse(bytes.as_slice(), size).map_err(|problem| Error::Gguf {
            path: path.to_owned(),
            problem,
        })?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            contents,
        })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file, without generated data.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The tensors' data starts at multiples of this within the data section, which itself starts
    /// at a multiple of it in the file. A power of two.
    pub fn alignment(&self) -> usize {
        self.contents.alignment
    }

    /// All metadata, in the order of the file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let mut slots: Vec<_> = self.contents.metadata.iter().collect();
        slots.sort_unstable_by_key(|(_, slot)| match slot {
            Slot::Scalar(_, range) | Slot::Array(_, _, range) => range.start,
            Slot::Overridden(..) => usize::MAX,
        });
        let slots = slots.into_iter();
        slots.filter_map(|(key, slot)| Some((key.as_str(), self.decode(slot)?)))
    }

    /// The value of `key`, if it is there.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.decode(self.contents.metadata.get(key)?)
    }

    /// Replaces the value of `key`. Arrays are not supported.
    pub(crate) fn override_value(&mut self, key: &str, value: writer::Encoded) {
        let (ty, bytes) = value.into_scalar();
        self.contents
            .metadata
            .insert(key.to_owned(), Slot::Overridden(ty, bytes));
    }

    fn decode<'a>(&'a self, slot: &'a Slot) -> Option<Value<'a>> {
        match slot {
            Slot::Scalar(ty, range) => decode(*ty, self.bytes().get(range.clone())?),
            Slot::Overridden(ty, bytes) => decode(*ty, bytes),
            Slot::Array(element_type, len, range) => Some(Value::Array(Array {
                element_type: *element_type,
                len: *len,
                bytes: self.bytes().get(range.clone())?,
            })),
        }
    }

    /// The value of `key` as a `T`, or `None` if the key is missing.
    ///
    /// # Errors
    /// The value is of another type or out of range.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.metadata_error(key, format!("is {value}, expected {}", T::EXPECTED))),
        }
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// The key is missing, or the value is of another type or out of range.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.get(key)?.ok_or_else(|| {
            self.metadata_error(key, format!("is missing, expected {}", T::EXPECTED))
        })
    }

    /// The tensors, in the order of their data.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = FileTensor<'_>> {
        self.contents
            .tensors
            .iter()
            .map(|info| self.with_data(info))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<FileTensor<'_>> {
        let index = *self.contents.by_name.get(name)?;
        Some(self.with_data(self.contents.tensors.get(index)?))
    }

    fn with_data<'a>(&'a self, info: &'a TensorInfo) -> FileTensor<'a> {
        FileTensor {
            info,
            data: self.bytes().get(info.range.clone()).unwrap_or_default(),
        }
    }

    /// The data of a tensor of this file, from any source.
    pub fn data(&self, info: &TensorInfo) -> Cow<'_, [u8]> {
        match &self.bytes {
            Bytes::Head(_, data) => Cow::Owned(data.make(info)),
            Bytes::Mapped(_) | Bytes::Owned(_) => {
                Cow::Borrowed(self.bytes().get(info.range.clone()).unwrap_or_default())
            }
        }
    }

    /// The mapping of [`bytes`](Self::bytes), unless the file was parsed from memory.
    pub(crate) fn mapping(&self) -> Option<&Arc<Mapping>> {
        match &self.bytes {
            Bytes::Mapped(mapping) => Some(mapping),
            Bytes::Owned(_) | Bytes::Head(..) => None,
        }
    }

    /// Lets the system drop the pages of `range`, because their contents were copied elsewhere.
    /// They are fetched from the file if they are read again.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(mapping) = &self.bytes {
            mapping.release(range);
        }
    }

    /// An [`Error::Unsupported`] about this file's architecture.
    pub(crate) fn unsupported(&self, architecture: &str, problem: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            architecture: architecture.to_owned(),
            problem: problem.into(),
        }
    }

    /// An [`Error::Metadata`] about `key` of this file.
    pub(crate) fn metadata_error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Metadata {
            path: self.path.clone(),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}
