//! The product of self-conditioning where the processor multiplies BF16.

use super::instructions::Instructions;
use super::scratch::Scratch;

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
    /// The results: sums to which the mixtures of these rows are added.
    pub(crate) out: &'a [*mut f32],
}

impl Rows<'_> {
    /// Rows that are mixed together.
    pub(crate) const MOST: usize = 256;
}

/// Memory of a thread that mixes.
pub(crate) struct Buffers {
    pub(super) scratch: Box<Scratch>,
    /// Weights in BF16.
    pub(super) rounded: Vec<u16>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            scratch: Scratch::new(),
            rounded: Vec::new(),
        }
    }
}

/// Adds the mixture of some rows to each result. Weights and rows are rounded to BF16, as those of
/// the reference are, and products are summed in F32.
///
/// Safety: the processor has the instructions; the pointers are valid, one of each kind for each
/// result, to as many weights as there are rows and to as many sums as there are columns.
pub(crate) type Mix = unsafe fn(&Rows<'_>, &mut Buffers);

/// How this processor mixes: with BF16 if it multiplies that.
pub(crate) fn mixing() -> &'static Option<Mix> {
    let best = Instructions::of_this_processor().first();
    best.map_or(&None, |best| &best.mix)
}
