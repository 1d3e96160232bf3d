//! How weights and activations are stored.

use crate::gguf::TensorType;

/// Elements of a block of the K types.
pub(super) const BLOCK: usize = 256;
/// Elements of a group: the blocks of the other quantized types; a block of Q4_K or Q5_K has a
/// minimum for each.
pub(super) const GROUP: usize = 32;
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

    /// Elements that are decoded together: whole blocks and groups.
    pub(super) fn part(self) -> usize {
        self.ty().block_len().max(GROUP)
    }

    /// Bytes of `k` elements, which are whole blocks.
    pub(super) fn bytes(self, k: usize) -> usize {
        k / self.ty().block_len() * self.block_bytes()
    }
}
