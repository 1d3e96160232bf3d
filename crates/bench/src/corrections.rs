//! What an answer corrected of itself, as columns. Steps, canvases and positions count from 1.

use llama_diffusion::diffusion::Corrections;

/// In which steps, with their numbers: `2: 5, 4: 1`.
pub fn by_step(corrections: &Corrections) -> String {
    let steps = (1..).zip(&corrections.by_step);
    let steps = steps.filter(|(_, count)| **count > 0);
    let steps: Vec<_> = steps
        .map(|(step, count)| format!("{step}: {count}"))
        .collect();
    steps.join(", ")
}

/// The last one; `None` if there was none.
pub fn last(corrections: &Corrections) -> Option<String> {
    let last = corrections.last?;
    Some(format!(
        "canvas {}, step {}, position {}, token {} to {}",
        last.block + 1,
        last.step + 1,
        last.position + 1,
        last.from,
        last.to
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_diffusion::diffusion::Correction;

    #[test]
    fn steps_without_corrections_are_left_out() {
        let none = Corrections::default();
        assert_eq!((by_step(&none), last(&none)), (String::new(), None));
        let corrections = Corrections {
            positions: 2,
            by_step: vec![0, 5, 0, 1],
            last: Some(Correction {
                block: 1,
                position: 6,
                step: 3,
                from: 5,
                to: 0,
            }),
        };
        assert_eq!(by_step(&corrections), "2: 5, 4: 1");
        let expected = "canvas 2, step 4, position 7, token 5 to 0";
        assert_eq!(last(&corrections).as_deref(), Some(expected));
    }
}
