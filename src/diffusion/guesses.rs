//! The next steps of a run, guessed by a copy of it.

use super::Token;
use super::event::CanvasStatus;
use super::random::NoiseSource;
use super::run::Run;
use super::step::{Draws, Guess, Lookahead, StepInput};
use crate::error::Result;

/// Guesses at the steps of a run. The randomness of a step is that which the run will use.
pub(super) struct Guesses<'a> {
    run: &'a dyn Run,
    noise: &'a dyn NoiseSource,
    /// Made for the first guess.
    copy: Option<Box<dyn Run>>,
}

impl<'a> Guesses<'a> {
    pub(super) fn new(run: &'a dyn Run, noise: &'a dyn NoiseSource) -> Self {
        Self {
            run,
            noise,
            copy: None,
        }
    }
}

impl Guess for Guesses<'_> {
    fn canvas(&self) -> &[Token] {
        match &self.copy {
            Some(copy) => copy.draft().canvas,
            None => self.run.draft().canvas,
        }
    }

    fn lookahead(&self) -> Lookahead {
        self.run.lookahead()
    }

    fn advance(
        &mut self,
        draw: &mut dyn FnMut(&StepInput<'_>, &mut Draws) -> Result<()>,
    ) -> Result<bool> {
        if self.copy.is_none() {
            self.copy = self.run.copied();
        }
        let Some(copy) = &mut self.copy else {
            return Ok(false);
        };
        let (input, draws) = copy.begin_step(self.noise)?;
        draw(&input, draws)?;
        copy.end_step(self.noise)?;
        Ok(copy.status() == CanvasStatus::Running)
    }
}
