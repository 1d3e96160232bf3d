//! What a GGUF file lists before its data: the position of each metadata value, and the tensors.

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::{At, Cursor};
use super::keys::ALIGNMENT;
use super::tensor_type::TensorType;
use super::value::{Value, ValueType, decode};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// Versions 2 and 3 differ only in that 3 allows big-endian files, which are not supported here
/// anyway.
pub(super) const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// ggml's bound on arrays.
const MAX_ARRAY_LEN: u64 = 1 << 30;
/// ggml's name buffer holds 63 bytes and a terminating zero.
const MAX_NAME_BYTES: usize = 63;
/// ggml tensors have four dimensions; those that a file leaves out are 1.
const MAX_DIMS: usize = 4;

/// A tensor of the file, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name: not empty, at most 63 bytes, without zero bytes.
    pub name: String,
    /// The type of the elements.
    pub ty: TensorType,
    /// Elements in each dimension in ggml's order (rows first); the dimensions that the file leaves
    /// out are 1.
    pub shape: [usize; MAX_DIMS],
    /// The position of the data in the file, in bytes.
    pub range: Range<usize>,
}

/// A shape as messages show it: `[2816, 128]`, without trailing ones.
pub(crate) fn show_shape(shape: &[usize]) -> String {
    let ones = shape.iter().rev().take_while(|&&n| n == 1).count();
    format!("{:?}", &shape[..(shape.len() - ones).max(1)])
}

/// The position of a value in the file.
#[derive(Debug)]
pub(super) enum Slot {
    Scalar(ValueType, Range<usize>),
    Array(ValueType, usize, Range<usize>),
    /// A value that replaces the file's.
    Overridden(ValueType, Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Contents {
    pub(super) alignment: usize,
    pub(super) metadata: HashMap<String, Slot>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) by_name: HashMap<String, usize>,
}

impl Cursor<'_> {
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
    /// `size` is that of the file; `bytes` may contain only what comes before the data.
    pub(super) fn parse(bytes: &[u8], size: usize) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        check_format(&mut cursor, bytes)?;
        let n_tensors = cursor.u64(At::Header)?;
        let n_keys = cursor.u64(At::Header)?;
        let metadata = read_metadata(&mut cursor, n_keys)?;
        let alignment = alignment_of(&metadata, bytes)?;
        let (mut tensors, by_name) = read_tensors(&mut cursor, n_tensors, alignment)?;
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

/// Reads the magic number and the version.
fn check_format(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        return Err(format!(
            "not a GGUF file: it starts with \"{}\" instead of \"GGUF\"",
            magic.escape_ascii()
        ));
    }
    cursor.take(MAGIC.len() as u64, At::Header)?;
    let version = cursor.u32(At::Header)?;
    if VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(if VERSIONS.contains(&version.swap_bytes()) {
        "a big-endian GGUF file: convert the model again as little-endian".into()
    } else {
        format!("GGUF version {version} is not supported (2 and 3 are): convert the model again")
    })
}

fn read_metadata(cursor: &mut Cursor<'_>, n_keys: u64) -> Result<HashMap<String, Slot>, String> {
    let mut metadata = HashMap::new();
    for index in 0..n_keys {
        let key = cursor.name(At::Key(index))?;
        let slot = cursor.slot(key)?;
        if metadata.insert(key.to_owned(), slot).is_some() {
            return Err(format!("metadata key '{key}' is there twice"));
        }
    }
    Ok(metadata)
}

fn alignment_of(metadata: &HashMap<String, Slot>, bytes: &[u8]) -> Result<u32, String> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Slot::Scalar(ty @ ValueType::U32, range)) => {
            match decode(*ty, &bytes[range.clone()]) {
                Some(Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment),
                _ => Err(format!("metadata key '{ALIGNMENT}' is not a power of two")),
            }
        }
        Some(_) => Err(format!("metadata key '{ALIGNMENT}' is not of type u32")),
    }
}

/// The tensors, and the index of each by its name. Their ranges are relative to the data section,
/// which starts after the table.
fn read_tensors(
    cursor: &mut Cursor<'_>,
    n_tensors: u64,
    alignment: u32,
) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), String> {
    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut by_name = HashMap::new();
    let mut expected_offset = 0;
    for index in 0..n_tensors {
        let (info, padded_bytes) = read_tensor_info(cursor, index, expected_offset, alignment)?;
        expected_offset = padded_bytes;
        if by_name.insert(info.name.clone(), tensors.len()).is_some() {
            return Err(format!("tensor '{}' is there twice", info.name));
        }
        tensors.push(info);
    }
    Ok((tensors, by_name))
}

fn read_shape(cursor: &mut Cursor<'_>, name: &str) -> Result<[usize; MAX_DIMS], String> {
    let at = At::Tensor(name);
    let n_dims = cursor.u32(at)? as usize;
    if n_dims > MAX_DIMS {
        return Err(format!(
            "tensor '{name}': {n_dims} dimensions, at most {MAX_DIMS} are possible"
        ));
    }
    let mut shape = [1_usize; MAX_DIMS];
    for extent in &mut shape[..n_dims] {
        *extent = match cursor.u64(at)?.try_into() {
            Ok(extent) => extent,
            Err(_) => return Err(format!("tensor '{name}': a dimension is too large")),
        };
    }
    Ok(shape)
}

/// Bytes of a tensor's data, unless that overflows.
fn data_bytes(ty: TensorType, shape: &[usize; MAX_DIMS]) -> Option<usize> {
    // ggml counts elements in an i64, and pads sizes; both have to fit. ggml accepts a dimension of
    // 0, which may hide one that is too large.
    shape.iter().try_fold(1_i64, |n, &extent| {
        n.checked_mul(extent.max(1).try_into().ok()?)
    })?;
    let rows = shape[1..].iter().product();
    ty.row_bytes(shape[0])?.checked_mul(rows)
}

/// One entry of the tensor table, with its range relative to the data section, and the offset that
/// the next entry must have: ggml accepts only files without gaps.
fn read_tensor_info(
    cursor: &mut Cursor<'_>,
    index: u64,
    expected_offset: usize,
    alignment: u32,
) -> Result<(TensorInfo, usize), String> {
    let name = cursor.name(At::TensorName(index))?;
    let at = At::Tensor(name);
    let malformed = |problem: String| format!("tensor '{name}': {problem}");
    if name.len() > MAX_NAME_BYTES {
        return Err(malformed(format!(
            "the name is longer than {MAX_NAME_BYTES} bytes"
        )));
    }
    let shape = read_shape(cursor, name)?;
    let type_id = cursor.u32(at)?;
    let ty = TensorType::from_id(type_id)
        .ok_or_else(|| malformed(format!("the type id {type_id} is unknown or was withdrawn")))?;
    if !shape[0].is_multiple_of(ty.block_len()) {
        return Err(malformed(format!(
            "rows of {} elements are not a whole number of {ty} blocks of {}",
            shape[0],
            ty.block_len()
        )));
    }
    let offset = cursor.u64(at)?;
    if usize::try_from(offset) != Ok(expected_offset) {
        return Err(malformed(format!(
            "its data is at offset {offset} of the data section, expected {expected_offset}"
        )));
    }
    let end = data_bytes(ty, &shape).and_then(|size| expected_offset.checked_add(size));
    let padded_end = end.and_then(|end| end.checked_next_multiple_of(alignment as usize));
    let (Some(end), Some(padded_end)) = (end, padded_end) else {
        return Err(malformed(format!(
            "a shape of {} is too large",
            show_shape(&shape)
        )));
    };
    let info = TensorInfo {
        name: name.to_owned(),
        ty,
        shape,
        range: expected_offset..end,
    };
    Ok((info, padded_end))
}
