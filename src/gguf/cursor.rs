//! Reads the parts of a GGUF file one after another, and reports where one is truncated.

use std::fmt;

/// ggml's bound on strings.
const MAX_STRING_BYTES: u64 = 1 << 30;

/// What is being read, for messages.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Header,
    /// The key with this index.
    Key(u64),
    /// The value of this key.
    Value(&'a str),
    /// The name of the tensor with this index.
    TensorName(u64),
    /// Shape, type and offset of this tensor.
    Tensor(&'a str),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::Key(index) => write!(f, "the metadata, at the key of number {index}"),
            Self::Value(key) => write!(f, "the metadata, in the value of key '{key}'"),
            Self::TensorName(index) => {
                write!(f, "the tensor table, at the tensor of number {index}")
            }
            Self::Tensor(name) => write!(f, "the tensor table, at tensor '{name}'"),
        }
    }
}

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn take(&mut self, n: u64, at: At<'_>) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.position..];
        let taken = usize::try_from(n).ok().and_then(|n| left.get(..n)).ok_or_else(|| {
            format!(
                "truncated in {at}: {n} bytes are needed at offset {}, but the file ends after {}",
                self.position,
                left.len()
            )
        })?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self, at: At<'_>) -> Result<u32, String> {
        Ok(self.integer(4, at)? as u32)
    }

    pub(super) fn u64(&mut self, at: At<'_>) -> Result<u64, String> {
        self.integer(8, at)
    }

    /// A little-endian integer of this number of bytes, at most 8.
    fn integer(&mut self, size: u64, at: At<'_>) -> Result<u64, String> {
        let bytes = self.take(size, at)?.iter().rev();
        Ok(bytes.fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// The bytes of a string, preceded by its length.
    pub(super) fn string(&mut self, at: At<'_>) -> Result<&'a [u8], String> {
        let len = self.u64(at)?;
        if len > MAX_STRING_BYTES {
            return Err(format!(
                "malformed in {at}: a string of {len} bytes, but GGUF strings hold at most {MAX_STRING_BYTES}"
            ));
        }
        self.take(len, at)
    }

    /// A key or a name. For ggml, which keeps C strings, a zero byte would end it early.
    pub(super) fn name(&mut self, at: At<'_>) -> Result<&'a str, String> {
        let bytes = self.string(at)?;
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name),
            Ok(_) => Err(format!(
                "malformed in {at}: the name is empty or contains a zero byte"
            )),
            Err(_) => Err(format!("malformed in {at}: the name is not UTF-8")),
        }
    }
}
