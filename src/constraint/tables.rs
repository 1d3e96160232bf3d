//! A step's distribution as the lattice takes it, and what the lattice makes of it.

use super::error::{ConstraintError, Result};

/// A step's distribution, by classes of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassTables {
    /// Number of classes.
    pub classes: usize,
    /// `[positions × classes]`: the natural logarithm of the probability of all tokens of the class; -∞ if none
    /// of them is allowed at the position.
    pub log_sum: Vec<f32>,
    /// `[positions × classes]`: the same of its most likely token.
    pub log_max: Vec<f32>,
    /// `[positions]`: the same of the most likely of all tokens.
    pub log_row_max: Vec<f32>,
}

/// A step's distribution, projected onto the canvases of a language.
///
/// The probability of token t at position i, given the language, is p(i, t) · (multiplier of its class +
/// probability of the tail).
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// The most likely canvas: the class at each position; `None` in the tail. The most likely token of each
    /// class makes it a canvas.
    pub best: Vec<Option<u16>>,
    /// A canvas drawn from the distribution given the language.
    pub sampled: Vec<Option<u16>>,
    /// What is left of each position's uniform number after the class was chosen by it, in [0, 1): it draws
    /// the token within the class.
    pub remainder: Vec<f32>,
    /// `[positions × classes]`: the natural logarithm of the multiplier; -∞ if no canvas has a token of the class
    /// there before the tail.
    pub log_multipliers: Vec<f32>,
    /// `[positions]`: the probability that the position belongs to the tail.
    pub tail: Vec<f32>,
    /// The natural logarithm of the probability of the language.
    pub log_z: f64,
}

impl ClassTables {
    /// Checks that everything is a number or -∞.
    pub(super) fn check(&self, classes: usize, positions: usize) -> Result<()> {
        assert_eq!(self.classes, classes, "classes of the tables");
        assert_eq!(self.log_sum.len(), positions * classes, "sums");
        assert_eq!(self.log_max.len(), positions * classes, "maxima");
        assert_eq!(self.log_row_max.len(), positions, "maxima of rows");
        let bad = |log: &f32| log.is_nan() || *log == f32::INFINITY;
        let of_classes = self.log_sum.iter().position(bad);
        let of_classes = of_classes.or_else(|| self.log_max.iter().position(bad));
        let position = of_classes.map(|index| index / classes);
        match position.or_else(|| self.log_row_max.iter().position(bad)) {
            Some(position) => Err(ConstraintError::NotFinite { position }),
            None => Ok(()),
        }
    }
}
