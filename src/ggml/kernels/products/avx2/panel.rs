//! Decoded rows of weights.

use super::super::format::GROUP;
use super::super::scratch;

/// Rows of a panel.
pub(super) const ROWS: usize = 4;
/// Elements of a row that a panel holds at a time, so that it remains in the innermost cache with
/// the activations that it is multiplied with.
pub(super) const FLOATS: usize = 768;
/// The same for integers.
pub(super) const INTEGERS: usize = 1024;

/// A part of [`ROWS`] rows.
#[repr(C, align(64))]
pub(super) struct Panel {
    pub(super) floats: [[f32; FLOATS]; ROWS],
    pub(super) integers: [[i16; INTEGERS]; ROWS],
    /// One per block for K types, whose integers are multiplied by the scales of groups already;
    /// else one per group.
    pub(super) scales: [[f32; INTEGERS / GROUP]; ROWS],
    /// What is subtracted from the elements of a group.
    pub(super) minima: [[f32; INTEGERS / GROUP]; ROWS],
}

// SAFETY: integers and floats.
unsafe impl scratch::Panel for Panel {}
