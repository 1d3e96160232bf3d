//! Decoded rows of weights, with a lane of a vector for each row of a strip.

use super::super::format::GROUP;
use super::super::instructions::STRIP;
use super::super::scratch;

/// Elements of a row that a panel holds at a time, so that it remains in the innermost cache with the
/// activations that it is multiplied with.
pub(super) const ELEMENTS: usize = 512;

/// A part of [`STRIP`] rows.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// Pairs of elements that follow each other: of I16 or of BF16.
    pub(super) values: [[i32; STRIP]; ELEMENTS / 2],
    /// Of each group of integers.
    pub(super) scales: [[f32; STRIP]; ELEMENTS / GROUP],
    /// What is subtracted from the elements of a group.
    pub(super) minima: [[f32; STRIP]; ELEMENTS / GROUP],
}

// SAFETY: integers and floats.
unsafe impl scratch::Panel for Panel {}
