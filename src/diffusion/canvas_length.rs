//! How long a canvas may be, for a model that was trained with one length.

use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// Lengths of canvases below the trained one are multiples of this.
pub const CANVAS_UNIT: usize = 16;

/// Checks the length of a canvas: that of the training, or a multiple of [`CANVAS_UNIT`] below it.
///
/// # Errors
/// [`Error::InvalidParameter`] if it is another length.
pub fn check_canvas_length(len: usize, trained: usize) -> Result<()> {
    if len == trained || len > 0 && len < trained && len.is_multiple_of(CANVAS_UNIT) {
        return Ok(());
    }
    let below = match trained > CANVAS_UNIT {
        true => format!(", or a multiple of {CANVAS_UNIT} below it"),
        false => String::new(),
    };
    Err(Error::parameter(
        Parameter::Canvas,
        format!(
            "has {len} tokens, but this model was trained with canvases of {trained}: use \
             {trained}{below}"
        ),
    ))
}

/// Tokens of the shortest canvas that holds `tokens`; the trained length if none does.
pub fn shortest_canvas(tokens: usize, trained: usize) -> usize {
    let units = tokens.max(1).div_ceil(CANVAS_UNIT);
    trained.min(units.saturating_mul(CANVAS_UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_the_unit_below_the_trained_length_are_canvases() {
        let legal = |trained: usize| -> Vec<usize> {
            let lengths = 0..=2 * trained;
            let is_legal = |len: &usize| check_canvas_length(*len, trained).is_ok();
            lengths.filter(is_legal).collect()
        };
        assert_eq!(legal(64), [16, 32, 48, 64]);
        // Any trained length is one.
        assert_eq!(legal(40), [16, 32, 40]);
        assert_eq!(legal(16), [16]);
        assert_eq!(legal(7), [7]);
    }

    #[test]
    fn a_refusal_says_what_would_work() {
        let problem = |len, trained| check_canvas_length(len, trained).unwrap_err().to_string();
        assert_eq!(
            problem(80, 64),
            "canvas: has 80 tokens, but this model was trained with canvases of 64: use 64, or a \
             multiple of 16 below it"
        );
        assert_eq!(
            problem(16, 8),
            "canvas: has 16 tokens, but this model was trained with canvases of 8: use 8"
        );
        assert_eq!(
            problem(32, 16),
            "canvas: has 32 tokens, but this model was trained with canvases of 16: use 16"
        );
    }

    #[test]
    fn the_shortest_canvas_holds_the_tokens_if_one_does() {
        for (tokens, trained, expected) in [
            (0, 64, 16),
            (1, 64, 16),
            (16, 64, 16),
            (17, 64, 32),
            (50, 64, 64),
            (65, 64, 64),
            (33, 40, 40),
            (usize::MAX, 64, 64),
            (3, 8, 8),
        ] {
            let shortest = shortest_canvas(tokens, trained);
            assert_eq!(shortest, expected, "{tokens} of {trained}");
            check_canvas_length(shortest, trained).unwrap();
        }
    }
}
