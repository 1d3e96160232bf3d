//! Values of the metadata: their types, and the Rust types that they convert to.

use std::fmt;

use super::cursor::{At, Cursor};

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
            pub(super) fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Bytes of a value; `None` for strings and arrays.
            pub(super) const fn size(self) -> Option<usize> {
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

/// An array of the metadata. Its elements are read from the file on request: the merges of a
/// tokenizer are half a million strings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) element_type: ValueType,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
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

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements of an array of anything but strings (for which it yields none).
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let element_type = self.element_type;
        // Strings have no size; a chunk longer than the bytes yields nothing.
        let size = element_type.size().unwrap_or(usize::MAX);
        self.bytes
            .chunks_exact(size)
            .filter_map(move |bytes| decode(element_type, bytes))
    }

    /// The elements as a vector; `None` if one of them is not a `T`. For strings use
    /// [`Array::strings`].
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

/// A Rust type that a metadata value converts to.
pub trait FromValue<'a>: Sized {
    /// A description of the required type, for error messages.
    const EXPECTED: &'static str;

    /// The value, if it has a suitable type and is in the range of `Self`.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

impl<'a> FromValue<'a> for Value<'a> {
    const EXPECTED: &'static str = "a value";

    fn from_value(value: Value<'a>) -> Option<Self> {
        Some(value)
    }
}

/// Any integer type of the file whose value fits: writers disagree on signedness and width.
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

/// A scalar from exactly its bytes; a string without its length.
pub(super) fn decode(ty: ValueType, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
        // ggml treats any byte but zero as true.
        ValueType::Bool => Value::Bool(bytes != [0]),
        ValueType::Str => Value::Str(std::str::from_utf8(bytes).ok()?),
        ValueType::Array => return None,
        ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
    })
}
