//! Self-correction: tokens that a step accepted and a later one replaced.

use super::Token;
use super::event::{CanvasStatus, Draft};

/// One token that replaced an accepted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Position in the canvas, from 0.
    pub position: usize,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// What was accepted.
    pub from: Token,
    /// What replaced it.
    pub to: Token,
}

/// What an answer took back of what its steps had accepted.
///
/// A correction is a position whose token was accepted in some step, and where a later step accepts
/// another token, or the finished canvas has another one. The last step counts for both: it accepts
/// tokens that were drawn, and its most likely tokens are the finished canvas. Noise in between is
/// no correction, nor is the padding after an end token. Fixed positions are never corrected, and
/// neither are those of masked diffusion, which keeps what it has unmasked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corrections {
    /// Positions that were corrected at least once, of all canvases.
    pub positions: usize,
    /// Corrections by the index of their step in its canvas; steps after the last entry had none.
    pub by_step: Vec<usize>,
    /// The latest one; of several in one step that of the last position.
    pub last: Option<Correction>,
}

impl Corrections {
    /// The number of corrections. A position can have several.
    pub fn total(&self) -> usize {
        self.by_step.iter().sum()
    }

    /// Adds those of what follows, whose first canvas is number `block`.
    pub(crate) fn append(&mut self, next: Self, block: u32) {
        self.positions += next.positions;
        let len = self.by_step.len().max(next.by_step.len());
        self.by_step.resize(len, 0);
        for (sum, count) in self.by_step.iter_mut().zip(next.by_step) {
            *sum += count;
        }
        let renumbered = |last: Correction| Correction {
            block: block + last.block,
            ..last
        };
        self.last = next.last.map(renumbered).or(self.last);
    }

    fn add(&mut self, correction: Correction) {
        let step = correction.step as usize;
        if self.by_step.len() <= step {
            self.by_step.resize(step + 1, 0);
        }
        self.by_step[step] += 1;
        self.last = Some(correction);
    }
}

/// Counts corrections in the drafts of an answer, in their order: while it is generated, or from a
/// recording.
#[derive(Debug, Clone, Default)]
pub struct CorrectionCounter {
    corrections: Corrections,
    block: Option<u32>,
    /// The token that was accepted last, one entry per position of the canvas.
    held: Vec<Option<Token>>,
    corrected: Vec<bool>,
}

impl CorrectionCounter {
    /// What was found.
    pub fn finish(self) -> Corrections {
        self.corrections
    }

    /// Takes the next draft.
    pub fn observe(&mut self, draft: &Draft<'_>) {
        if self.block != Some(draft.block) {
            self.block = Some(draft.block);
            self.held = vec![None; draft.canvas.len()];
            self.corrected = vec![false; draft.canvas.len()];
        }
        for (position, accepted) in draft.accepted.iter().enumerate() {
            if *accepted {
                self.hold(draft, position, draft.canvas[position]);
            }
        }
        if draft.status != CanvasStatus::Running {
            for (position, token) in draft.argmax.iter().enumerate() {
                if self.held[position].is_some() {
                    self.hold(draft, position, *token);
                }
            }
        }
    }

    fn hold(&mut self, draft: &Draft<'_>, position: usize, token: Token) {
        let before = self.held[position].replace(token);
        let Some(from) = before.filter(|before| *before != token) else {
            return;
        };
        self.corrections.positions += usize::from(!self.corrected[position]);
        self.corrected[position] = true;
        self.corrections.add(Correction {
            block: draft.block,
            position,
            step: draft.step,
            from,
            to: token,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions that are not accepted hold noise.
    const NOISE: Token = 99;

    /// A step: what it accepts, and the most likely tokens.
    struct Step<'a>(u32, &'a [Option<Token>], &'a [Token]);

    /// The last draft of a canvas.
    fn draft<'a>(
        block: u32,
        step: u32,
        canvas: &'a [Token],
        accepted: &'a [bool],
        argmax: &'a [Token],
    ) -> Draft<'a> {
        Draft {
            block,
            step,
            max_steps: 48,
            temperature: 0.5,
            argmax,
            sampled: canvas,
            entropy: &[],
            probability: &[],
            accepted,
            canvas,
            mean_entropy: 0.0,
            stable: false,
            status: CanvasStatus::Converged,
        }
    }

    fn count(block: u32, steps: &[Step<'_>], counter: &mut CorrectionCounter) {
        let last = steps.len() - 1;
        for (index, Step(step, accepts, argmax)) in steps.iter().enumerate() {
            let canvas: Vec<Token> = accepts.iter().map(|a| a.unwrap_or(NOISE)).collect();
            let accepted: Vec<bool> = accepts.iter().map(Option::is_some).collect();
            counter.observe(&Draft {
                status: match index == last {
                    true => CanvasStatus::Converged,
                    false => CanvasStatus::Running,
                },
                ..draft(block, *step, &canvas, &accepted, argmax)
            });
        }
    }

    fn corrections(steps: &[Step<'_>]) -> Corrections {
        let mut counter = CorrectionCounter::default();
        count(0, steps, &mut counter);
        counter.finish()
    }

    #[test]
    fn noise_between_equal_tokens_is_no_correction() {
        let found = corrections(&[
            Step(0, &[Some(1), None], &[1, 5]),
            Step(1, &[None, None], &[7, 5]),
            Step(2, &[Some(1), Some(2)], &[1, 2]),
        ]);
        assert_eq!(found, Corrections::default());
    }

    #[test]
    fn another_accepted_token_counts_in_its_step_even_after_noise() {
        let found = corrections(&[
            Step(0, &[Some(1), Some(2)], &[1, 2]),
            Step(1, &[None, Some(3)], &[1, 3]),
            Step(2, &[Some(4), Some(2)], &[4, 2]),
        ]);
        assert_eq!((found.positions, found.total()), (2, 3));
        assert_eq!(found.by_step, [0, 1, 2]);
        let last = Correction {
            block: 0,
            position: 1,
            step: 2,
            from: 3,
            to: 2,
        };
        assert_eq!(found.last, Some(last));
    }

    #[test]
    fn the_finished_canvas_is_the_argmax_of_the_last_step() {
        let found = corrections(&[
            Step(0, &[Some(1), None, None], &[8, 8, 8]),
            // Accepted and not finished with; not accepted now; never accepted.
            Step(3, &[None, Some(2), None], &[6, 5, 9]),
        ]);
        assert_eq!((found.positions, found.total()), (2, 2));
        assert_eq!(found.by_step, [0, 0, 0, 2]);
        assert_eq!(found.last.map(|last| (last.from, last.to)), Some((2, 5)));
    }

    #[test]
    fn canvases_are_counted_together_and_start_without_memory() {
        let mut counter = CorrectionCounter::default();
        count(
            0,
            &[Step(0, &[Some(1)], &[1]), Step(1, &[Some(2)], &[2])],
            &mut counter,
        );
        count(
            1,
            &[Step(0, &[Some(3)], &[3]), Step(1, &[Some(4)], &[4])],
            &mut counter,
        );
        let found = counter.finish();
        assert_eq!(
            (found.positions, found.by_step.as_slice()),
            (2, &[0, 2][..])
        );
        assert_eq!(found.last.map(|last| (last.block, last.from)), Some((1, 3)));
    }

    #[test]
    fn an_interrupted_canvas_has_no_finished_tokens() {
        let mut counter = CorrectionCounter::default();
        counter.observe(&Draft {
            status: CanvasStatus::Running,
            ..draft(0, 0, &[1], &[true], &[5])
        });
        assert_eq!(counter.clone().finish(), Corrections::default());
        counter.observe(&draft(0, 0, &[1], &[true], &[5]));
        assert_eq!(counter.finish().total(), 1);
    }
}
