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
/// sequences.
pub(crate) struct PassInputs {
    /// I32 `[T]`.
    pub(crate) tokens: Tensor,
    /// I32 `[T]`: absolute positions.
    pub(crate) positions: Tensor,
    /// One entry per sequence, in the order of their tokens.
    pub(crate) sequences: Vec<SequenceInputs>,
}

/// What a sequence takes of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) tokens: usize,
    pub(crate) keys: KeyCounts,
}

/// The inputs of a pass for one sequence.
pub(crate) struct SequenceInputs {
    /// Its first token among those of the pass.
    pub(crate) first: usize,
    pub(crate) tokens: usize,
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
    /// Inputs for this extent of each sequence.
    pub(crate) fn new(context: &Context, extents: &[Extent]) -> Result<Self> {
        let cache = |tokens: usize, keys: usize, rows: &str, mask: &str| -> Result<CacheInputs> {
            Ok(CacheInputs {
                rows: context.tensor(TensorType::I64, &[tokens], rows)?,
                mask: context.tensor(TensorType::F16, &[keys, tokens], mask)?,
                keys,
            })
        };
        let all = extents.iter().map(|extent| extent.tokens).sum();
        let mut end = 0;
        let sequence = |Extent { tokens, keys }: &Extent| -> Result<SequenceInputs> {
            end += tokens;
            Ok(SequenceInputs {
                first: end - tokens,
                tokens: *tokens,
                full: cache(*tokens, keys.full, "rows_full", "mask_full")?,
                sliding: cache(*tokens, keys.sliding, "rows_sliding", "mask_sliding")?,
            })
        };
        Ok(Self {
            tokens: context.tensor(TensorType::I32, &[all], "tokens")?,
            positions: context.tensor(TensorType::I32, &[all], "positions")?,
            sequences: extents.iter().map(sequence).collect::<Result<_>>()?,
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
