//! GGUF files: a strict reader, and a writer in [`writer`].
//!
//! The reader is the gate in front of everything else, ggml's own C++ parser included: libllama
//! opens the same file for its vocabulary and some malformed files abort it. What is accepted here
//! is a subset of what ggml accepts, and nothing here trusts a length, an offset or a count of the
//! file before it was compared with the file's size.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mmap::Mapping;
use super::types::TensorType;
use crate::error::{Error, Result};

pub mod writer;

const MAGIC: &[u8; 4] = b"GGUF";
/// Versions 2 and 3 differ only in that 3 allows big-endian files, which nobody here can read
/// anyway.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u32 = 32;
/// ggml's bounds on strings and arrays.
const MAX_STRING_BYTES: u64 = 1 << 30;
const MAX_ARRAY_LEN: u64 = 1 << 30;
/// ggml's name buffer holds 63 bytes and a terminating zero.
const MAX_NAME_BYTES: usize = 63;
/// ggml tensors have four dimensions; those that a file leaves out are 1.
const MAX_DIMS: usize = 4;

macro_rules! value_types {
    ($($variant:ident = $id:literal, $name:literal, $size:expr;)*) => {
        /// The type of a metadata value, with its id in the file as the discriminant.
        #[allow(missing_docs, reason = "the names explain themselves")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum ValueType {
            $($variant = $id,)*
        }

        impl ValueType {
            fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Bytes of a value; `None` for strings and arrays.
            const fn size(self) -> Option<usize> {
                match self {
                    $(Self::$variant => $size,)*
                }
            }

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

value_types! {
    U8 = 0, "u8", Some(1);
    I8 = 1, "i8", Some(1);
    U16 = 2, "u16", Some(2);
    I16 = 3, "i16", Some(2);
    U32 = 4, "u32", Some(4);
    I32 = 5, "i32", Some(4);
    F32 = 6, "f32", Some(4);
    Bool = 7, "bool", Some(1);
    Str = 8, "str", None;
    Array = 9, "array", None;
    U64 = 10, "u64", Some(8);
    I64 = 11, "i64", Some(8);
    F64 = 12, "f64", Some(8);
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value, borrowed from the file.
#[allow(missing_docs, reason = "the names explain themselves")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value<'_> {
    /// The type of the value.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value of any integer type; `None` for the others.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }
}

/// Type and value, as error messages and listings show them.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        match *self {
            Self::F32(value) => write!(f, "f32 {value}"),
            Self::F64(value) => write!(f, "f64 {value}"),
            Self::Bool(value) => write!(f, "bool {value}"),
            Self::Str(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "str {:?}…", &text[..end]),
                None => write!(f, "str {text:?}"),
            },
            Self::Array(array) => write!(f, "array of {} {}", array.len(), array.element_type()),
            _ => write!(
                f,
                "{} {}",
                self.value_type(),
                self.integer().unwrap_or_default()
            ),
        }
    }
}

/// An array of the metadata. Its elements stay in the file until they are asked for: the merges of
/// a tokenizer are half a million strings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element_type: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub const fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// The number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of an array of anything but strings (of which this yields none).
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let element_type = self.element_type;
        // Strings have no size; a chunk longer than the bytes yields nothing.
        let size = element_type.size().unwrap_or(usize::MAX);
        self.bytes
            .chunks_exact(size)
            .filter_map(move |bytes| decode(element_type, bytes))
    }

    /// The elements as a vector; `None` if one of them is no `T`. Strings are had from
    /// [`Array::strings`] only.
    pub fn to_vec<T: FromValue<'a>>(&self) -> Option<Vec<T>> {
        let values: Vec<T> = self.values().map(T::from_value).collect::<Option<_>>()?;
        (values.len() == self.len).then_some(values)
    }

    /// The elements of an array of strings (none of any other), as bytes: tokens need not be UTF-8.
    pub fn strings(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut cursor = Cursor::new(match self.element_type {
            ValueType::Str => self.bytes,
            _ => &[],
        });
        std::iter::from_fn(move || cursor.string(At::Header).ok())
    }
}

/// A Rust type in which a metadata value can be had.
pub trait FromValue<'a>: Sized {
    /// What a value must be, for error messages.
    const EXPECTED: &'static str;

    /// The value, if it has a fitting type and lies in the range of `Self`.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

impl<'a> FromValue<'a> for Value<'a> {
    const EXPECTED: &'static str = "a value";

    fn from_value(value: Value<'a>) -> Option<Self> {
        Some(value)
    }
}

/// Any integer type of the file whose value fits: writers do not agree on signedness and width.
impl FromValue<'_> for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit integer";

    fn from_value(value: Value<'_>) -> Option<Self> {
        value.integer()?.try_into().ok()
    }
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a floating-point number";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as Self),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a boolean";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Str(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    const EXPECTED: &'static str = "an array";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// A tensor of the file: everything but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name: not empty, at most 63 bytes, no zero byte.
    pub name: String,
    /// The type of the elements.
    pub ty: TensorType,
    /// Elements in each dimension in ggml's order (rows first); the dimensions that the file leaves
    /// out are 1.
    pub shape: [usize; MAX_DIMS],
    /// Where the data lies in the file, in bytes.
    pub range: Range<usize>,
}

/// A shape as messages show it: `[2816, 128]`, without the ones at its end.
pub(crate) fn show_shape(shape: &[usize]) -> String {
    let ones = shape.iter().rev().take_while(|&&n| n == 1).count();
    format!("{:?}", &shape[..(shape.len() - ones).max(1)])
}

/// A tensor of the file with its data.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, type and shape.
    pub info: &'a TensorInfo,
    /// The elements, as the file has them; empty if they are [generated](Gguf::generated).
    pub data: &'a [u8],
}

/// Makes the data of tensors that no file holds.
pub trait TensorData: fmt::Debug + Send + Sync {
    /// All data of a tensor: as many bytes as its range has.
    fn make(&self, tensor: &TensorInfo) -> Vec<u8>;
}

#[derive(Debug)]
enum Bytes {
    Mapped(Arc<Mapping>),
    Owned(Vec<u8>),
    /// What a file would have before its data.
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

/// Where a value lies in the file.
#[derive(Debug)]
enum Slot {
    Scalar(ValueType, Range<usize>),
    Array(ValueType, usize, Range<usize>),
    /// It is another one than the file's.
    Overridden(ValueType, Vec<u8>),
}

/// A GGUF file, checked.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    contents: Contents,
}

#[derive(Debug)]
struct Contents {
    alignment: usize,
    metadata: HashMap<String, Slot>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
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

    /// A file of which there is only the part before the data; `data` makes the rest when it is
    /// asked for.
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

    /// The whole file, without data that is generated.
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

    /// Takes another value for `key` than the file's. No array.
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
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.contents
            .tensors
            .iter()
            .map(|info| self.with_data(info))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let index = *self.contents.by_name.get(name)?;
        Some(self.with_data(self.contents.tensors.get(index)?))
    }

    fn with_data<'a>(&'a self, info: &'a TensorInfo) -> Tensor<'a> {
        Tensor {
            info,
            data: self.bytes().get(info.range.clone()).unwrap_or_default(),
        }
    }

    /// The data of a tensor of this file, wherever it comes from.
    pub fn data(&self, info: &TensorInfo) -> Cow<'_, [u8]> {
        match &self.bytes {
            Bytes::Head(_, data) => Cow::Owned(data.make(info)),
            Bytes::Mapped(_) | Bytes::Owned(_) => {
                Cow::Borrowed(self.bytes().get(info.range.clone()).unwrap_or_default())
            }
        }
    }

    /// The mapping behind [`bytes`](Self::bytes), unless the file was parsed from memory.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        match &self.bytes {
            Bytes::Mapped(mapping) => Some(mapping),
            Bytes::Owned(_) | Bytes::Head(..) => None,
        }
    }

    /// Lets the system drop the pages of `range`, because their contents were copied elsewhere.
    /// They come back from the file if they are read again.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(mapping) = &self.bytes {
            mapping.release(range);
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

/// A scalar from exactly its bytes; strings without their length.
fn decode(ty: ValueType, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
        // ggml takes any byte but zero for true.
        ValueType::Bool => Value::Bool(bytes != [0]),
        ValueType::Str => Value::Str(std::str::from_utf8(bytes).ok()?),
        ValueType::Array => return None,
        ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
    })
}

/// What is being read, for messages.
#[derive(Clone, Copy)]
enum At<'a> {
    Header,
    /// The key of this number.
    Key(u64),
    /// The value of this key.
    Value(&'a str),
    /// The name of the tensor of this number.
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

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn take(&mut self, n: u64, at: At<'_>) -> Result<&'a [u8], String> {
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

    fn u32(&mut self, at: At<'_>) -> Result<u32, String> {
        let bytes = self.take(4, at)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    fn u64(&mut self, at: At<'_>) -> Result<u64, String> {
        let bytes = self.take(8, at)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// The bytes of a string, which its length precedes.
    fn string(&mut self, at: At<'_>) -> Result<&'a [u8], String> {
        let len = self.u64(at)?;
        if len > MAX_STRING_BYTES {
            return Err(format!(
                "malformed in {at}: a string of {len} bytes, but GGUF strings hold at most {MAX_STRING_BYTES}"
            ));
        }
        self.take(len, at)
    }

    /// A key or a name. A zero byte would end it early for ggml, which keeps C strings.
    fn name(&mut self, at: At<'_>) -> Result<&'a str, String> {
        let bytes = self.string(at)?;
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name),
            Ok(_) => Err(format!(
                "malformed in {at}: the name is empty or contains a zero byte"
            )),
            Err(_) => Err(format!("malformed in {at}: the name is not UTF-8")),
        }
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, String> {
        let id = self.u32(At::Value(key))?;
        ValueType::from_id(id)
            .ok_or_else(|| format!("metadata key '{key}': unknown value type {id}"))
    }

    fn slot(&mut self, key: &str) -> Result<Slot, String> {
        let at = At::Value(key);
        let ty = self.value_type(key)?;
        if ty == ValueType::Array {
            return self.array(key);
        }
        let bytes = match ty.size() {
            Some(size) => self.take(size as u64, at)?,
            None => self.string(at)?,
        };
        if ty == ValueType::Str && std::str::from_utf8(bytes).is_err() {
            return Err(format!("metadata key '{key}': the string is not UTF-8"));
        }
        Ok(Slot::Scalar(ty, self.position - bytes.len()..self.position))
    }

    fn array(&mut self, key: &str) -> Result<Slot, String> {
        let at = At::Value(key);
        let element_type = self.value_type(key)?;
        let len = self.u64(at)?;
        if len > MAX_ARRAY_LEN {
            return Err(format!(
                "malformed in {at}: an array of {len} elements, but GGUF arrays hold at most {MAX_ARRAY_LEN}"
            ));
        }
        let start = self.position;
        match (element_type, element_type.size()) {
            (_, Some(size)) => {
                self.take(len * size as u64, at)?;
            }
            (ValueType::Str, None) => {
                for _ in 0..len {
                    self.string(at)?;
                }
            }
            (_, None) => {
                return Err(format!(
                    "metadata key '{key}': arrays of arrays are not supported"
                ));
            }
        }
        // At most 2^30, as checked above.
        Ok(Slot::Array(
            element_type,
            len as usize,
            start..self.position,
        ))
    }
}

impl Contents {
    /// `size` is that of the file, of which `bytes` may be only what comes before the data.
    fn parse(bytes: &[u8], size: usize) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("the file is empty".into());
        }
        let mut cursor = Cursor::new(bytes);
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(format!(
                "not a GGUF file: it starts with \"{}\" instead of \"GGUF\"",
                magic.escape_ascii()
            ));
        }
        cursor.take(MAGIC.len() as u64, At::Header)?;
        let version = cursor.u32(At::Header)?;
        if !VERSIONS.contains(&version) {
            return Err(if VERSIONS.contains(&version.swap_bytes()) {
                "a big-endian GGUF file: convert the model again as little-endian".into()
            } else {
                format!(
                    "GGUF version {version} is not supported (2 and 3 are): convert the model again"
                )
            });
        }
        let n_tensors = cursor.u64(At::Header)?;
        let n_keys = cursor.u64(At::Header)?;

        let mut metadata = HashMap::new();
        for index in 0..n_keys {
            let key = cursor.name(At::Key(index))?;
            let slot = cursor.slot(key)?;
            if metadata.insert(key.to_owned(), slot).is_some() {
                return Err(format!("metadata key '{key}' is there twice"));
            }
        }
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some(Slot::Scalar(ty @ ValueType::U32, range)) => {
                match decode(*ty, &bytes[range.clone()]) {
                    Some(Value::U32(alignment)) if alignment.is_power_of_two() => alignment,
                    _ => return Err(format!("metadata key '{ALIGNMENT_KEY}' is no power of two")),
                }
            }
            Some(_) => return Err(format!("metadata key '{ALIGNMENT_KEY}' is not of type u32")),
        };

        // Offsets count from the data section, which starts after the table: kept relative until
        // that is known.
        let mut tensors: Vec<TensorInfo> = Vec::new();
        let mut by_name = HashMap::new();
        let mut expected_offset = 0;
        for index in 0..n_tensors {
            let (info, padded_bytes) =
                read_tensor_info(&mut cursor, index, expected_offset, alignment)?;
            expected_offset = padded_bytes;
            if by_name.insert(info.name.clone(), tensors.len()).is_some() {
                return Err(format!("tensor '{}' is there twice", info.name));
            }
            tensors.push(info);
        }
        let data_start = cursor.position.next_multiple_of(alignment as usize);
        for info in &mut tensors {
            let [start, end] =
                [info.range.start, info.range.end].map(|offset| data_start.saturating_add(offset));
            if end > size {
                return Err(format!(
                    "truncated in the tensor data: tensor '{}' ends at byte {end}, but the file has {size}",
                    info.name
                ));
            }
            info.range = start..end;
        }
        Ok(Self {
            alignment: alignment as usize,
            metadata,
            tensors,
            by_name,
        })
    }
}

/// One entry of the tensor table, with its range relative to the data section, and the offset that
/// the next entry must have: ggml takes only files without gaps.
fn read_tensor_info(
    cursor: &mut Cursor<'_>,
    index: u64,
    expected_offset: usize,
    alignment: u32,
) -> Result<(TensorInfo, usize), String> {
    let name = cursor.name(At::TensorName(index))?;
    let at = At::Tensor(name);
    let malformed = |problem: Cow<'_, str>| format!("tensor '{name}': {problem}");
    if name.len() > MAX_NAME_BYTES {
        return Err(malformed(
            format!("the name is longer than {MAX_NAME_BYTES} bytes").into(),
        ));
    }
    let n_dims = cursor.u32(at)? as usize;
    if n_dims > MAX_DIMS {
        return Err(malformed(
            format!("{n_dims} dimensions, at most {MAX_DIMS} are possible").into(),
        ));
    }
    let mut shape = [1_usize; MAX_DIMS];
    for extent in &mut shape[..n_dims] {
        *extent = match cursor.u64(at)?.try_into() {
            Ok(0) => return Err(malformed("a dimension is 0".into())),
            Ok(extent) => extent,
            Err(_) => return Err(malformed("a dimension is too large".into())),
        };
    }
    let type_id = cursor.u32(at)?;
    let ty = TensorType::from_id(type_id).ok_or_else(|| {
        malformed(format!("the type id {type_id} is unknown or was withdrawn").into())
    })?;
    if !shape[0].is_multiple_of(ty.block_len()) {
        return Err(malformed(
            format!(
                "rows of {} elements are no whole number of {ty} blocks of {}",
                shape[0],
                ty.block_len()
            )
            .into(),
        ));
    }
    // ggml counts elements in an i64, and pads sizes; both have to fit.
    let elements = shape
        .iter()
        .try_fold(1_i64, |n, &extent| n.checked_mul(extent.try_into().ok()?));
    let size = elements.and_then(|_| {
        let rows = shape[1..].iter().product();
        ty.row_bytes(shape[0])?.checked_mul(rows)
    });
    let offset = cursor.u64(at)?;
    if usize::try_from(offset) != Ok(expected_offset) {
        return Err(malformed(
            format!(
                "its data is at offset {offset} of the data section, expected {expected_offset}"
            )
            .into(),
        ));
    }
    let end = size.and_then(|size| expected_offset.checked_add(size));
    let padded_end = end.and_then(|end| end.checked_next_multiple_of(alignment as usize));
    let (Some(end), Some(padded_end)) = (end, padded_end) else {
        return Err(malformed(
            format!("a shape of {} is too large", show_shape(&shape)).into(),
        ));
    };
    let info = TensorInfo {
        name: name.to_owned(),
        ty,
        shape,
        range: expected_offset..end,
    };
    Ok((info, padded_end))
}
