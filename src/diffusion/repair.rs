//! The repair of a finished canvas: what a check doubts is denoised again, and the rest is fixed.

use super::canvas::CanvasRun;
use super::continued::Continued;
use super::event::{CanvasStatus, Draft, FinishedCanvas};
use super::params::{AcceptanceRule, DiffusionParams};
use super::random::NoiseSource;
use super::run::{Blank, EndTokens, Run};
use super::step::{Draws, StepInput};
use super::template::{Slot, Template};
use crate::error::Result;

/// Maximum number of denoising steps of a repair.
const STEPS: u32 = 8;

/// The repairs of round r draw from the noise of the canvases from r times this on, so that none
/// repeats the draws of the canvas itself.
const NOISE_APART: u32 = 1 << 24;

/// A canvas of which only doubted tokens are free.
pub(super) struct Repair {
    run: CanvasRun,
    /// The canvas in the answer, and its steps so far: drafts count from there.
    block: u32,
    steps: u32,
}

impl Repair {
    /// Repair number `round`, from 1, of a canvas with the template `known`. `None` if nothing that
    /// is doubted may change.
    ///
    /// # Errors
    /// The errors of `noise`.
    fn new(
        params: &DiffusionParams,
        known: &Template,
        canvas: &FinishedCanvas,
        doubted: &[bool],
        round: u32,
        noise: &dyn NoiseSource,
    ) -> Result<Option<Self>> {
        let template = template(known, canvas, doubted);
        let len = canvas.tokens.len();
        if (0..len).all(|position| template.is_fixed(position)) {
            return Ok(None);
        }
        let params = DiffusionParams {
            max_steps: STEPS,
            acceptance: AcceptanceRule::Bounded,
            templates: Vec::new(),
            ..params.clone()
        };
        let block = canvas.block + round * NOISE_APART;
        Ok(Some(Self {
            run: CanvasRun::with_template(&params, template, block, len, noise)?,
            block: canvas.block,
            steps: canvas.steps,
        }))
    }
}

impl Repair {
    /// Repair number `round` of a canvas that began as the template `known` and as `blank`, within the
    /// constraint of `params`. `None` if nothing that is doubted may change.
    ///
    /// # Errors
    /// The errors of `noise`.
    pub(super) fn begin(
        params: &DiffusionParams,
        known: &Template,
        canvas: &FinishedCanvas,
        doubted: &[bool],
        round: u32,
        blank: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Option<Box<dyn Run>>> {
        let Some(repair) = Self::new(params, known, canvas, doubted, round, noise)? else {
            return Ok(None);
        };
        let constraint = Continued::of(params.constraint.as_ref(), blank)?;
        Ok(Some(Box::new(Self {
            run: repair.run.following(constraint),
            ..repair
        })))
    }
}

/// Frees what is doubted and one neighbour on each side, as far as `known` leaves it open.
fn template(known: &Template, canvas: &FinishedCanvas, doubted: &[bool]) -> Template {
    let is_doubted = |position: usize| doubted.get(position).copied().unwrap_or(false);
    let mut template = Template::new();
    for (position, &token) in canvas.tokens.iter().enumerate() {
        let near = position.saturating_sub(1)..=position + 1;
        let slot = known.slots().get(position).copied().unwrap_or_default();
        match slot {
            Slot::Free if near.clone().any(is_doubted) => template.free(),
            Slot::Within(set) if near.clone().any(is_doubted) => {
                template.within(known.sets()[set].clone())
            }
            _ => template.fixed(&[token]),
        };
    }
    template
}

impl Run for Repair {
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, &'a mut Draws)> {
        self.run.begin_step(noise)
    }

    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        self.run.end_step(noise)
    }

    fn status(&self) -> CanvasStatus {
        self.run.status()
    }

    fn draft(&self) -> Draft<'_> {
        let draft = self.run.draft();
        Draft {
            block: self.block,
            step: self.steps + draft.step,
            max_steps: self.steps + draft.max_steps,
            ..draft
        }
    }

    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas {
        let repaired = self.run.finish(end);
        FinishedCanvas {
            block: self.block,
            steps: self.steps + repaired.steps,
            ..repaired
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{CounterNoise, Token, TokenSet};

    fn canvas(tokens: &[Token]) -> FinishedCanvas {
        FinishedCanvas {
            block: 2,
            steps: 7,
            converged: true,
            tokens: tokens.to_vec(),
            answer: Vec::new(),
            generated: 0,
            ended: false,
        }
    }

    #[test]
    fn doubted_tokens_and_their_neighbours_are_free_unless_they_were_fixed() {
        let set: TokenSet = [5, 6].into_iter().collect();
        let mut known = Template::new();
        known.fixed(&[11]).free().within(set.clone());
        let canvas = canvas(&[11, 12, 5, 14, 15, 16]);
        let slots = |doubted: [bool; 6]| template(&known, &canvas, &doubted).slots().to_vec();
        use Slot::{Fixed, Free, Within};
        let [f, t] = [false, true];
        assert_eq!(
            slots([f, t, f, f, f, f]),
            [Fixed(11), Free, Within(0), Fixed(14), Fixed(15), Fixed(16)]
        );
        assert_eq!(
            slots([f, f, f, f, f, t]),
            [Fixed(11), Fixed(12), Fixed(5), Fixed(14), Free, Free]
        );
        assert_eq!(template(&known, &canvas, &[t, f, f]).sets(), []);
    }

    #[test]
    fn a_repair_continues_the_steps_of_its_canvas_with_noise_of_its_own() {
        let noise = CounterNoise::new(1, 100).unwrap();
        let params = DiffusionParams::default();
        let (canvas, doubted) = (canvas(&[1, 2, 3, 4]), [false, false, true, false]);
        let known = Template::new();
        let repair = |round| {
            let repair = Repair::new(&params, &known, &canvas, &doubted, round, &noise);
            repair.unwrap().unwrap()
        };
        let tokens = |round| repair(round).draft().canvas.to_vec();
        assert_eq!(tokens(1)[0], 1);
        assert_ne!(tokens(1), tokens(2));
        let mut repair = repair(1);
        let (input, draws) = repair.begin_step(&noise).unwrap();
        assert_eq!(input.free, [false, true, true, true]);
        draws.argmax.copy_from_slice(&[1, 7, 8, 9]);
        repair.end_step(&noise).unwrap();
        let draft = repair.draft();
        assert_eq!((draft.block, draft.step, draft.max_steps), (2, 7, 15));
        let repaired = repair.finish(&EndTokens::default());
        assert_eq!((repaired.block, repaired.steps), (2, 8));
        assert_eq!(repaired.tokens, [1, 7, 8, 9]);
        let mut fixed = Template::new();
        fixed.fixed(&[1, 2, 3, 4]);
        let none = Repair::new(&params, &fixed, &canvas, &doubted, 1, &noise);
        assert!(none.unwrap().is_none());
    }
}
