//! The inputs of a pass that the host uploads.

use super::super::hparams::LayerKind;
use crate::error::Result;
use crate::ggml::context::Context;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;

/// Where one kind of layer writes and reads its cache during a pass.
pub(crate) struct CacheInputs {
    /// I64 `[T]`: the slot of each token.
    pub(crate) rows: Tensor,
    /// F16 `[keys, T]`: 0 where a token sees a key, else negative infinity.
    pub(crate) mask: Tensor,
    /// Slots that the pass looks at, from the first on.
    pub(crate) keys: usize,
}

/// The inputs of a pass. The tensors have memory of their own on the model's first device, so that
/// the host uploads nothing again while their contents stay the same. (For layers on other devices
/// ggml's scheduler copies them from there in every pass.) T is the number of tokens of all
/// sequences, T / sequences for each.
pub(crate) struct PassInputs {
    /// I32 `[T]`.
    pub(crate) tokens: Tensor,
    /// I32 `[T]`: absolute positions.
    pub(crate) positions: Tensor,
    /// One entry per sequence, in the order of their tokens.
    pub(crate) sequences: Vec<SequenceInputs>,
}

/// The inputs of a pass for one sequence.
pub(crate) struct SequenceInputs {
    pub(crate) full: CacheInputs,
    pub(crate) sliding: CacheInputs,
}

/// Keys that a pass over one sequence reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyCounts {
    pub(crate) full: usize,
    pub(crate) sliding: usize,
}

impl PassInputs {
    /// Inputs for `tokens` tokens of each sequence.
    pub(crate) fn new(context: &Context, tokens: usize, sequences: &[KeyCounts]) -> Result<Self> {
        let cache = |keys: usize, rows: &str, mask: &str| -> Result<CacheInputs> {
            Ok(CacheInputs {
                rows: context.tensor(TensorType::I64, &[tokens], rows)?,
                mask: context.tensor(TensorType::F16, &[keys, tokens], mask)?,
                keys,
            })
        };
        let all = tokens * sequences.len();
        let sequence = |keys: &KeyCounts| -> Result<SequenceInputs> {
            Ok(SequenceInputs {
                full: cache(keys.full, "rows_full", "mask_full")?,
                sliding: cache(keys.sliding, "rows_sliding", "mask_sliding")?,
            })
        };
        Ok(Self {
            tokens: context.tensor(TensorType::I32, &[all], "tokens")?,
            positions: context.tensor(TensorType::I32, &[all], "positions")?,
            sequences: sequences.iter().map(sequence).collect::<Result<_>>()?,
        })
    }

    /// How many tensors [`PassInputs::new`] makes.
    pub(crate) fn tensors(sequences: usize) -> usize {
        2 + 4 * sequences
    }
}

impl SequenceInputs {
    pub(super) fn cache(&self, kind: LayerKind) -> &CacheInputs {
        match kind {
            LayerKind::Full => &self.full,
            LayerKind::Sliding => &self.sliding,
        }
    }
}
