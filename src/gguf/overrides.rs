//! Metadata that the user gives instead of the file's.

use std::fmt;

use super::keys;
use super::reader::Gguf;
use super::value::Value;
use super::writer::Encoded;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// A value that the user gives to a metadata key.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// For a key of any integer type; the value must be in its range.
    Integer(i64),
    /// For a key of type f32 or f64.
    Float(f64),
    /// For a key of type bool.
    Bool(bool),
    /// For a key of type str.
    Text(String),
}

impl fmt::Display for MetadataValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Bool(is) => write!(f, "{is}"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// A metadata key with the value to use instead of the file's.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataOverride {
    /// The key, as written in the file; it need not be there.
    pub key: String,
    /// The value.
    pub value: MetadataValue,
}

/// Maximum length of keys and texts in libllama, which reads the same file for the vocabulary.
const MAX_OVERRIDE_BYTES: usize = 127;

/// Keys that describe the layout and the contents of the file.
const LAYOUT: [&str; 5] = [
    keys::ALIGNMENT,
    keys::GENERAL_ARCHITECTURE,
    keys::SPLIT_COUNT,
    keys::SPLIT_NO,
    keys::SPLIT_TENSORS,
];

impl MetadataOverride {
    /// The value in the type that the file has for this key, or, if the file does not have it, in
    /// the usual type of such keys.
    ///
    /// # Errors
    /// The key cannot be overridden, or the value has another type.
    pub(crate) fn encode(&self, gguf: &Gguf) -> Result<Encoded> {
        let wrong = |problem: String| {
            Error::parameter(Parameter::Metadata, format!("'{}': {problem}", self.key))
        };
        let too_long = |text: &str| text.len() > MAX_OVERRIDE_BYTES;
        if LAYOUT.contains(&self.key.as_str()) {
            return Err(wrong(
                "this key says how the file is to be read, and stays as it is".into(),
            ));
        }
        if self.key.is_empty()
            || too_long(&self.key)
            || matches!(&self.value, MetadataValue::Text(t) if too_long(t))
        {
            return Err(wrong(format!(
                "keys have 1 to {MAX_OVERRIDE_BYTES} bytes, texts at most as many"
            )));
        }
        let old = gguf.value(&self.key);
        let encoded = match (&self.value, old) {
            (MetadataValue::Integer(n), Some(Value::U8(_))) => {
                u8::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::I8(_))) => {
                i8::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::U16(_))) => {
                u16::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::I16(_))) => {
                i16::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::U32(_)) | None) => {
                u32::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::I32(_))) => {
                i32::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::U64(_))) => {
                u64::try_from(*n).ok().map(Into::into)
            }
            (MetadataValue::Integer(n), Some(Value::I64(_))) => Some((*n).into()),
            (MetadataValue::Float(x), Some(Value::F32(_)) | None) => Some((*x as f32).into()),
            (MetadataValue::Float(x), Some(Value::F64(_))) => Some((*x).into()),
            (MetadataValue::Bool(is), Some(Value::Bool(_)) | None) => Some((*is).into()),
            (MetadataValue::Text(text), Some(Value::Str(_)) | None) => Some(text.as_str().into()),
            _ => None,
        };
        encoded.ok_or_else(|| {
            let kind = old.map_or("u32".to_owned(), |value| value.value_type().to_string());
            wrong(format!("{} is no {kind}, the type of this key", self.value))
        })
    }
}
