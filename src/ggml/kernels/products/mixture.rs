//! The product of self-conditioning, where the processor has instructions for it.

use super::instructions::Instructions;
use super::scratch::Scratch;
use crate::gguf::TensorType;

/// Some rows of a table, and what they are mixed to.
pub(crate) struct Rows<'a> {
    /// 1 to [`Self::MOST`].
    pub(crate) count: usize,
    /// Numbers of each row.
    pub(crate) columns: usize,
    /// The first row.
    pub(crate) numbers: *const f32,
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    /// For each result its weights of the rows.
    pub(crate) weights: &'a [*const f32],
    /// The results: sums to which the mixtures of these rows are added, each as far from the one
    /// before it.
    pub(crate) out: &'a [*mut f32],
}

impl Rows<'_> {
    /// Rows that are mixed together.
    pub(crate) const MOST: usize = 256;
}

/// Adds the mixture of some rows to each result, summed in F32.
///
/// Safety: the processor has the instructions; the pointers are valid, one of each kind for each
/// result, to as many weights as there are rows and to as many sums as there are columns.
pub(crate) type Mix = unsafe fn(&Rows<'_>, &mut Scratch);

/// How this processor mixes rows of a type: in BF16, to which the reference rounds as well, unless
/// the type has more bits; or as integers, in groups of 32 rows, with an error below 2^-12 of the
/// greatest weight of a group times the greatest number.
pub(crate) fn mixing(ty: TensorType) -> &'static Option<Mix> {
    let Some(best) = Instructions::of_this_processor().first() else {
        return &None;
    };
    match (ty, &best.mix_bf16) {
        // Such models are references, whose results stay the same to the last bit.
        (TensorType::F32, _) => &None,
        (TensorType::F16, _) | (_, None) => &best.mix_integers,
        (_, rounded) => rounded,
    }
}
