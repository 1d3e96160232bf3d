//! Writing GGUF files, version 3.

use std::io::{self, Write};

use super::contents::{DEFAULT_ALIGNMENT, MAGIC, VERSIONS, show_shape};
use super::cursor::{At, Cursor};
use super::keys;
use super::tensor_type::TensorType;
use super::value::{Array, Value, ValueType};

/// A metadata value that is written to a file. It comes `From` the Rust types that a value can
/// have, and from a [`Value`] of another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    ty: ValueType,
    bytes: Vec<u8>,
}

macro_rules! encoded_from_scalars {
    ($($rust:ty => $variant:ident),*) => {
        $(impl From<$rust> for Encoded {
            fn from(value: $rust) -> Self {
                Self { ty: ValueType::$variant, bytes: value.to_le_bytes().to_vec() }
            }
        })*
    };
}

encoded_from_scalars!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32);
encoded_from_scalars!(u64 => U64, i64 => I64, f64 => F64);

impl From<bool> for Encoded {
    fn from(value: bool) -> Self {
        Self {
            ty: ValueType::Bool,
            bytes: vec![value.into()],
        }
    }
}

impl From<&str> for Encoded {
    fn from(value: &str) -> Self {
        let mut bytes = Vec::new();
        push_string(&mut bytes, value.as_bytes());
        Self {
            ty: ValueType::Str,
            bytes,
        }
    }
}

impl From<Value<'_>> for Encoded {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::U8(value) => value.into(),
            Value::I8(value) => value.into(),
            Value::U16(value) => value.into(),
            Value::I16(value) => value.into(),
            Value::U32(value) => value.into(),
            Value::I32(value) => value.into(),
            Value::F32(value) => value.into(),
            Value::Bool(value) => value.into(),
            Value::Str(value) => value.into(),
            Value::U64(value) => value.into(),
            Value::I64(value) => value.into(),
            Value::F64(value) => value.into(),
            Value::Array(Array {
                element_type,
                len,
                bytes,
            }) => Self::array(element_type, len, bytes),
        }
    }
}

impl<T: Into<Self>> FromIterator<T> for Encoded {
    /// An array. All elements have the type of the first; an empty one is an array of `u32`.
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let (mut element_type, mut len, mut bytes) = (ValueType::U32, 0, Vec::new());
        for element in elements {
            let element: Self = element.into();
            element_type = element.ty;
            bytes.extend(element.bytes);
            len += 1;
        }
        Self::array(element_type, len, &bytes)
    }
}

impl Encoded {
    /// Type and bytes of a value that is not an array; of strings without their length.
    pub(super) fn into_scalar(self) -> (ValueType, Vec<u8>) {
        let mut bytes = self.bytes;
        if self.ty == ValueType::Str {
            bytes.drain(..size_of::<u64>());
        }
        (self.ty, bytes)
    }

    fn array(element_type: ValueType, len: usize, elements: &[u8]) -> Self {
        let mut bytes = (element_type as u32).to_le_bytes().to_vec();
        bytes.extend((len as u64).to_le_bytes());
        bytes.extend(elements);
        Self {
            ty: ValueType::Array,
            bytes,
        }
    }
}

fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// Collects metadata and tensor descriptions, then writes them and streams the data of the tensors,
/// one at a time.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Encoded)>,
    tensors: Vec<(String, Vec<usize>, TensorType)>,
}

impl GgufWriter {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of `key`, replacing an earlier one.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Encoded>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Removes `key`; returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.metadata.len();
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.len() < before
    }

    /// Announces a tensor with its shape in ggml's order (row length first).
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        ty: TensorType,
    ) -> &mut Self {
        self.tensors.push((name.into(), shape.to_vec(), ty));
        self
    }

    /// Writes everything up to the tensor data, which then goes through the returned
    /// [`DataWriter`].
    ///
    /// # Errors
    /// A tensor whose rows are not a whole number of blocks, or an error of `out`.
    pub fn begin<W: Write>(self, mut out: W) -> io::Result<DataWriter<W>> {
        let alignment = match self.metadata.iter().find(|(key, _)| key == keys::ALIGNMENT) {
            Some((
                _,
                Encoded {
                    ty: ValueType::U32,
                    bytes,
                },
            )) => Cursor::new(bytes).u32(At::Header).ok(),
            _ => None,
        };
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT).max(1) as usize;

        let mut head = MAGIC.to_vec();
        head.extend(VERSIONS.end().to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            push_string(&mut head, key.as_bytes());
            head.extend((value.ty as u32).to_le_bytes());
            head.extend(&value.bytes);
        }
        let mut sizes = Vec::new();
        let mut offset = 0;
        for (name, shape, ty) in self.tensors {
            let (&row, rest) = shape.split_first().unwrap_or((&1, &[]));
            let size = ty
                .row_bytes(row)
                .and_then(|bytes| {
                    rest.iter()
                        .try_fold(bytes, |bytes, &extent| bytes.checked_mul(extent))
                })
                .ok_or_else(|| {
                    invalid(format!(
                        "tensor '{name}': {ty} cannot hold {}",
                        show_shape(&shape)
                    ))
                })?;
            push_string(&mut head, name.as_bytes());
            head.extend((shape.len() as u32).to_le_bytes());
            for &extent in &shape {
                head.extend((extent as u64).to_le_bytes());
            }
            head.extend(ty.id().to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += size.next_multiple_of(alignment);
            sizes.push((name, size));
        }
        head.resize(head.len().next_multiple_of(alignment), 0);
        out.write_all(&head)?;
        Ok(DataWriter {
            out,
            alignment,
            pending: sizes.into_iter(),
        })
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// Takes the data of the tensors in the order in which they were announced.
#[derive(Debug)]
pub struct DataWriter<W> {
    out: W,
    alignment: usize,
    pending: std::vec::IntoIter<(String, usize)>,
}

impl DataWriter<Vec<u8>> {
    /// What was written so far, without the data of tensors that is still missing.
    pub(crate) fn into_head(self) -> Vec<u8> {
        self.out
    }
}

impl<W: Write> DataWriter<W> {
    /// Writes the data of the next tensor.
    ///
    /// # Errors
    /// All tensors are written, `data` does not have the size of the tensor, or the output fails.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_with(|out| out.write_all(data))
    }

    /// Lets `fill` write the data of the next tensor, in any number of pieces.
    ///
    /// # Errors
    /// All tensors are written, `fill` wrote more or less than the size of the tensor, or `fill` or
    /// the output fails.
    pub fn write_with<E: From<io::Error>>(
        &mut self,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let (name, size) = self
            .pending
            .next()
            .ok_or_else(|| invalid("all announced tensors are written".into()))?;
        let mut counted = Counted {
            out: &mut self.out,
            written: 0,
        };
        fill(&mut counted)?;
        let written = counted.written;
        if written != size {
            return Err(invalid(format!(
                "tensor '{name}' has {size} bytes, but {written} were written"
            ))
            .into());
        }
        let padding = vec![0; size.next_multiple_of(self.alignment) - size];
        Ok(self.out.write_all(&padding)?)
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    /// A tensor is missing, or the output fails.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some((name, _)) = self.pending.next() {
            return Err(invalid(format!("the data of tensor '{name}' is missing")));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

struct Counted<'a, W> {
    out: &'a mut W,
    written: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.out.write(data)?;
        self.written += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
