//! Decoded rows of weights, with a lane of a vector for each row of a strip.

use super::super::format::GROUP;
use super::super::instructions::STRIP;
use super::super::scratch;

/// Vectors of a panel, so that it remains in the innermost cache with the activations that it is
/// multiplied with.
const VECTORS: usize = 256;
/// Elements of a row that a panel holds at a time, if they have 16 bits.
pub(super) const PAIRS: usize = 2 * VECTORS;
/// The same for 8 bits.
pub(super) const QUADS: usize = 4 * VECTORS;

/// A part of [`STRIP`] rows.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// Elements that follow each other: two of I16 or BF16, or four of U8.
    pub(super) values: [[i32; STRIP]; VECTORS],
    /// Of each group of integers, or of each half of one.
    pub(super) scales: [[f32; STRIP]; 2 * QUADS / GROUP],
    /// What is subtracted from the elements of a group.
    pub(super) minima: [[f32; STRIP]; QUADS / GROUP],
}

// SAFETY: integers and floats.
unsafe impl scratch::Panel for Panel {}
