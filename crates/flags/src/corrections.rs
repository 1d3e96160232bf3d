//! What an answer corrected of itself, in words. Steps, canvases and positions count from 1.

use std::fmt::Display;

use llama_diffusion::diffusion::{Correction, Corrections};

/// In which steps, with their numbers: `2: 5, 4: 1`.
pub fn by_step(corrections: &Corrections) -> String {
    let steps = (1..).zip(&corrections.by_step);
    let steps = steps.filter(|(_, count)| **count > 0);
    let steps: Vec<_> = steps
        .map(|(step, count)| format!("{step}: {count}"))
        .collect();
    steps.join(", ")
}

/// Where one was, with the names of its tokens.
pub fn place(correction: &Correction, from: impl Display, to: impl Display) -> String {
    format!(
        "canvas {}, step {}, position {}, {from} to {to}",
        correction.block + 1,
        correction.step + 1,
        correction.position + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_without_corrections_are_left_out() {
        assert_eq!(by_step(&Corrections::default()), "");
        let corrections = Corrections {
            positions: 2,
            by_step: vec![0, 5, 0, 1],
            last: None,
        };
        assert_eq!(by_step(&corrections), "2: 5, 4: 1");
    }

    #[test]
    fn places_count_from_1() {
        let correction = Correction {
            block: 1,
            position: 6,
            step: 3,
            from: 5,
            to: 0,
        };
        let expected = "canvas 2, step 4, position 7, token 5 to 0";
        assert_eq!(place(&correction, "token 5", 0), expected);
    }
}
