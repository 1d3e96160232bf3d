//! The rows of activations that a strip is multiplied with.

use super::instructions::Instructions;
use super::matrices::input_row;
use super::scratch::Line;
use crate::sys;

/// Rows of activations, next to each other where the product reads them faster so.
#[derive(Default)]
pub(super) struct Inputs {
    rows: Vec<*const u8>,
    copies: Vec<Line>,
}

impl Inputs {
    /// Those of `x` with these numbers, in place of any before.
    ///
    /// # Safety
    /// `x` is contiguous, in host memory, and has these rows.
    pub(super) unsafe fn choose(
        &mut self,
        instructions: &Instructions,
        x: &sys::ggml_tensor,
        numbers: impl Iterator<Item = usize>,
    ) -> &[*const u8] {
        self.rows.clear();
        self.rows.extend(numbers.map(|row| input_row(x, row)));
        if instructions.wants_neighbours {
            let lines = x.nb[1].div_ceil(size_of::<Line>());
            self.copies.resize(self.rows.len() * lines, Line::default());
            for (row, copy) in self
                .rows
                .iter_mut()
                .zip(self.copies.chunks_exact_mut(lines))
            {
                let to = copy.as_mut_ptr().cast::<u8>();
                // SAFETY: by the contract of this function; the copy has room for the row.
                unsafe { to.copy_from_nonoverlapping(*row, x.nb[1]) };
                *row = to;
            }
        }
        &self.rows
    }

    pub(super) fn rows(&self) -> &[*const u8] {
        &self.rows
    }
}
