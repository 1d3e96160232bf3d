//! How weights and activations are stored.

use crate::gguf::TensorType;

/// Elements of a block: those that share a scale of quantized activations, and the blocks of the K
/// types.
pub(super) const BLOCK: usize = 256;
/// Elements of a group: the blocks of the other quantized types; a block of Q4_K or Q5_K has a
/// minimum for each.
pub(super) const GROUP: usize = 32;
/// The greatest quantized activation: the sum of 32 products with a weight of Q6_K, at most
/// 32 · 128, remains below 2^31.
pub(super) const GREATEST: i16 = 16_383;
/// The greatest integer that stands for a float, of weights and of activations: the sum of 32
/// products remains below 2^31.
pub(super) const GREATEST_OF_GROUP: i16 = 8191;

/// A type of weights that the kernels multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names are those of ggml")]
pub(super) enum Format {
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q5_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Format {
    pub(super) fn of(ty: TensorType) -> Option<Self> {
        Some(match ty {
            TensorType::F16 => Self::F16,
            TensorType::BF16 => Self::BF16,
            TensorType::Q8_0 => Self::Q8_0,
            TensorType::Q4_0 => Self::Q4_0,
            TensorType::Q5_0 => Self::Q5_0,
            TensorType::Q4_K => Self::Q4_K,
            TensorType::Q5_K => Self::Q5_K,
            TensorType::Q6_K => Self::Q6_K,
            _ => return None,
        })
    }

    fn ty(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::BF16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4_0 => TensorType::Q4_0,
            Self::Q5_0 => TensorType::Q5_0,
            Self::Q4_K => TensorType::Q4_K,
            Self::Q5_K => TensorType::Q5_K,
            Self::Q6_K => TensorType::Q6_K,
        }
    }

    /// Whether its elements are floats.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    pub(super) fn block_bytes(self) -> usize {
        self.ty().block_bytes()
    }

    /// Bytes of `k` elements, which are whole blocks.
    pub(super) fn bytes(self, k: usize) -> usize {
        k / self.ty().block_len() * self.block_bytes()
    }
}

/// A quantized row of activations: scales of blocks (F32), sums of groups (F32, times the scale),
/// values (I16). Each part begins at a multiple of 32 bytes.
pub(super) struct QuantizedRow {
    /// Offset of the sums in bytes.
    pub(super) sums: usize,
    /// Offset of the values in bytes.
    pub(super) values: usize,
    /// Size in bytes.
    pub(super) bytes: usize,
}

impl QuantizedRow {
    /// Of `k` elements, which are whole groups.
    pub(super) fn new(k: usize) -> Self {
        let sums = 4 * k.div_ceil(BLOCK).next_multiple_of(8);
        let values = sums + 4 * (k / GROUP).next_multiple_of(8);
        Self {
            sums,
            values,
            bytes: values + 2 * k,
        }
    }

    /// The part of a row from element `first` on, which begins a block.
    ///
    /// # Safety
    /// `row` is a quantized row of this size, and has the element.
    pub(super) unsafe fn part(&self, row: *const u8, first: usize) -> QuantizedPart {
        // SAFETY: by the contract of this function.
        unsafe {
            QuantizedPart {
                scales: row.cast::<f32>().add(first / BLOCK),
                sums: row.add(self.sums).cast::<f32>().add(first / GROUP),
                values: row.add(self.values).cast::<i16>().add(first),
            }
        }
    }
}

/// A row of integers with a scale (F32) for each group: the scales, then the integers (I16), from a
/// multiple of 32 bytes on.
pub(super) struct GroupedRow {
    /// Offset of the integers in bytes.
    pub(super) values: usize,
    /// Size in bytes.
    pub(super) bytes: usize,
}

impl GroupedRow {
    /// Of `k` elements, which are whole groups.
    pub(super) const fn new(k: usize) -> Self {
        let values = 4 * (k / GROUP).next_multiple_of(8);
        Self {
            values,
            bytes: values + 2 * k,
        }
    }

    /// The part of a row from element `first` on, which begins a group.
    ///
    /// # Safety
    /// `row` is a row of this size, and has the element.
    pub(super) unsafe fn part(&self, row: *const u8, first: usize) -> GroupedPart {
        // SAFETY: by the contract of this function.
        unsafe {
            GroupedPart {
                scales: row.cast::<f32>().add(first / GROUP),
                values: row.add(self.values).cast::<i16>().add(first),
            }
        }
    }
}

/// A part of a [`GroupedRow`].
#[derive(Clone, Copy)]
pub(super) struct GroupedPart {
    /// One for each group.
    pub(super) scales: *const f32,
    pub(super) values: *const i16,
}

/// A part of a quantized row.
#[derive(Clone, Copy)]
pub(super) struct QuantizedPart {
    /// One for each block.
    pub(super) scales: *const f32,
    /// Sums of the groups.
    pub(super) sums: *const f32,
    pub(super) values: *const i16,
}
