//! The rows of activations that a strip is multiplied with.

use super::format::Format;
use super::instructions::Instructions;
use super::matrices::input_row;
use super::scratch::Line;
use crate::sys;

/// Rows of activations, copied to be equally far apart where the product needs that.
#[derive(Default)]
pub(super) struct Inputs {
    rows: Vec<*const u8>,
    copies: Vec<Line>,
}

impl Inputs {
    /// Those of `x` with these numbers, for weights of a format, in place of any before.
    ///
    /// # Safety
    /// `x` is contiguous, in host memory, and has these rows.
    pub(super) unsafe fn choose(
        &mut self,
        instructions: &Instructions,
        format: Format,
        x: &sys::ggml_tensor,
        numbers: impl Iterator<Item = usize>,
    ) -> &[*const u8] {
        self.rows.clear();
        self.rows.extend(numbers.map(|row| input_row(x, row)));
        if (instructions.wants_contiguous)(format) {
            // Odd: rows a power of two apart would share places in the cache.
            let lines = x.nb[1].div_ceil(size_of::<Line>()) | 1;
            self.copies.resize(self.rows.len() * lines, Line::default());
            // All rows are read by the address of the first.
            let first = self.copies.as_mut_ptr();
            for (i, row) in self.rows.iter_mut().enumerate() {
                // SAFETY: by the contract of this function; there is room for each row.
                unsafe {
                    let copy = first.add(i * lines).cast::<u8>();
                    copy.copy_from_nonoverlapping(*row, x.nb[1]);
                    *row = copy;
                }
            }
        }
        &self.rows
    }

    pub(super) fn rows(&self) -> &[*const u8] {
        &self.rows
    }
}
