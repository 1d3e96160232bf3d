//! Decoded rows of weights, with a lane of a vector for each row of a strip.

use super::super::format::GROUP;
use super::super::instructions::STRIP;
use super::super::scratch;

/// Vectors of a panel, so that it remains in the innermost cache with the activations that it is
/// multiplied with.
const VECTORS: usize = 256;
/// Floats of a row that a panel holds at a time.
pub(super) const FLOATS: usize = VECTORS;
/// Elements in pairs that it holds: integers, and BF16 that remains BF16.
pub(super) const PAIRED: usize = 2 * VECTORS;

/// A part of [`STRIP`] rows.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// F32, or pairs of elements that follow each other: of I16 or of BF16.
    pub(super) values: [[i32; STRIP]; VECTORS],
    /// Of each group of integers.
    pub(super) scales: [[f32; STRIP]; PAIRED / GROUP],
    /// What is subtracted from the elements of a group.
    pub(super) minima: [[f32; STRIP]; PAIRED / GROUP],
}

// SAFETY: integers and floats.
unsafe impl scratch::Panel for Panel {}
