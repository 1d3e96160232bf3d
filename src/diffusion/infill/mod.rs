//! Infilling: a canvas holds the end of what comes before a gap, the gap, and what comes after it. How
//! long the gap is, the tokens after it decide: where they are likely, the gap ends.

mod lengths;
mod run;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Token;
use super::canvas_length::check_canvas_length;
use super::continued::check_constraint;
use super::params::DiffusionParams;
use super::random::NoiseSource;
use super::run::{Blank, Budget, EndTokens, Recipe, Run};
use super::step::{DrawFeatures, Limits};
use super::template::Template;
use crate::constraint::Constraint;
use crate::error::{Error, Result};
use crate::parameter::Parameter;
use run::GapRun;

/// Maximum number of tokens after a gap that its length is scored by.
pub(super) const SCORED: usize = 8;

/// What surrounds a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    language: Constraint,
    around: usize,
    after: Vec<Token>,
    end: Option<Token>,
}

impl Gap {
    /// A gap in texts of `language`, such as
    /// [those around a gap](crate::constraint::ByteAutomaton::around_gap): the end of what comes before,
    /// the gap and the beginning of what comes after, which [fill](crate::constraint::TokenAutomaton::filling)
    /// their positions. Tokens may lie across both edges of the gap; without them, `around` tokens are not
    /// the gap's. The tokens `after` them are fixed. Then comes the token `end`, if the text ends there.
    pub fn new(language: Constraint, around: usize, after: Vec<Token>, end: Option<Token>) -> Self {
        Self {
            language,
            around,
            after,
            end,
        }
    }

    /// Whether an answer holds the whole gap, to the beginning of what comes after.
    pub fn is_closed_by(&self, answer: &[Token]) -> bool {
        let automaton = self.language.automaton();
        let next = |state, token: &Token| automaton.next(state, *token);
        let state = answer.iter().try_fold(automaton.start(), next);
        state.is_some_and(|state| automaton.accepts(state))
    }

    /// Tokens around the gap, see [`new`](Self::new).
    pub fn around(&self) -> usize {
        self.around
    }

    /// Minimum number of tokens of a text of the language.
    fn min_tokens(&self) -> usize {
        let automaton = self.language.automaton();
        automaton.min_tokens(automaton.start())
    }

    /// What is fixed after the language: up to `room` tokens, with padding after the end of the text.
    fn fixed(&self, room: usize, end: &EndTokens) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.after.iter().copied().chain(self.end).collect();
        if let Some(pad) = end.pad.filter(|_| self.end.is_some()) {
            tokens.resize(room.max(tokens.len()), pad);
        }
        tokens.truncate(room);
        tokens
    }

    /// Tokens that the length of the gap is scored by.
    fn scored(&self) -> usize {
        (self.after.len() + usize::from(self.end.is_some())).min(SCORED)
    }
}

/// How well a length of the gap fits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthScore {
    /// Tokens of the gap.
    pub tokens: usize,
    /// Mean log-probability, in nats, of the tokens after the gap.
    pub logprob: f32,
}

/// What is known about the gap of an answer so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GapReport {
    /// The lengths that were compared on the latest canvas, the likeliest first; empty if the length was
    /// given.
    pub lengths: Vec<LengthScore>,
    /// Whether the time was up before the last canvas was finished.
    pub timed_out: bool,
    /// Whether the gap had to end on its last canvas although none of the lengths fits.
    pub doubtful: bool,
}

#[derive(Debug, Default)]
struct Progress {
    /// When the first canvas began.
    started: Option<Instant>,
    report: GapReport,
}

/// Parameters of an answer that fills a gap. The answer's tokens are those of the gap's language: with the
/// ends of what comes before and after.
///
/// Clones are the same answer: they share the [report](Self::report).
#[derive(Debug, Clone)]
pub struct Infill {
    params: DiffusionParams,
    gap: Gap,
    length: Option<usize>,
    time: Option<Duration>,
    progress: Arc<Mutex<Progress>>,
}

impl Infill {
    /// For `gap`, by `params`: its steps, temperatures, canvases and seed;
    /// [`max_tokens`](DiffusionParams::max_tokens) is the maximum length of the gap. `gap_length` is the
    /// number of its tokens; `None` finds it.
    pub fn new(params: DiffusionParams, gap: Gap, gap_length: Option<usize>) -> Self {
        Self {
            params,
            gap,
            length: gap_length,
            time: None,
            progress: Arc::default(),
        }
    }

    /// Ends the answer this long after its first canvas has begun, with the best draft so far; at least one
    /// step fills the gap.
    #[must_use]
    pub fn within(mut self, time: Option<Duration>) -> Self {
        self.time = time;
        self
    }

    /// The parameters of its canvases.
    pub fn params(&self) -> &DiffusionParams {
        &self.params
    }

    /// What is known about the gap.
    pub fn report(&self) -> GapReport {
        self.progress().report.clone()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Each change leaves it complete.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the time is up.
    fn deadline(&self) -> Option<Instant> {
        let started = *self.progress().started.get_or_insert_with(Instant::now);
        self.time.and_then(|time| started.checked_add(time))
    }

    /// Checks that the gap fits a canvas of `canvas` tokens.
    fn check_room(&self, canvas: usize) -> Result<()> {
        let (least, scored) = (self.gap.min_tokens(), self.gap.scored().min(1));
        if least + scored > canvas {
            let problem = format!(
                "the text around the gap takes {} tokens, but a canvas has {canvas}: use a longer canvas",
                least + scored
            );
            return Err(Error::parameter(Parameter::Canvas, problem));
        }
        if scored == 0 && self.length.is_none() {
            let problem = "nothing follows the gap, not even an end token: give its length";
            return Err(Error::parameter(Parameter::GapLength, problem));
        }
        if let (Some(length), Some(max)) = (self.length, self.params.max_tokens)
            && length > max
        {
            let problem = format!("is {length}, but `max_tokens` is {max}");
            return Err(Error::parameter(Parameter::GapLength, problem));
        }
        Ok(())
    }
}

impl Recipe for Infill {
    fn validate(&self, limits: &Limits) -> Result<()> {
        self.params.validate()?;
        let refuse = |parameter, problem: &str| Err(Error::parameter(parameter, problem));
        let Some(trained) = limits.canvas else {
            let problem =
                "this model is of a masked family, which cannot fill gaps: use a canvas model";
            return refuse(Parameter::Recipe, problem);
        };
        if self.params.constraint.is_some() {
            return refuse(Parameter::Constraint, "a gap cannot follow one: omit it");
        }
        if self.params.scoring.is_some() {
            return refuse(Parameter::Recipe, "gaps are not scored: omit `min_logprob`");
        }
        if !self.params.templates.is_empty() {
            return refuse(Parameter::Template, "a gap has its own: omit it");
        }
        limits.draws.check(&DrawFeatures {
            fixed_positions: true,
            averages: true,
            languages: true,
            scores: true,
            ..DrawFeatures::default()
        })?;
        let mut after = Template::new();
        after.fixed(
            &self
                .gap
                .fixed(self.gap.after.len() + 1, &EndTokens::default()),
        );
        after.check(None, limits.vocab)?;
        let canvas = self.params.canvas.unwrap_or(trained);
        check_canvas_length(canvas, trained)?;
        self.check_room(canvas)
    }

    fn canvas_len(&self, prompt: usize, limits: &Limits) -> Result<usize> {
        self.params.canvas_len(prompt, limits)
    }

    fn check_budget(&self, budget: Budget) -> Result<()> {
        let more_canvases = "raise `max_canvases`";
        match self.length {
            Some(length) if length.saturating_add(self.gap.around) > budget.tokens => {
                let advice = budget.advice(more_canvases);
                let problem =
                    format!("is {length}, but there is no room for as many tokens: {advice}");
                Err(Error::parameter(Parameter::GapLength, problem))
            }
            _ => check_constraint(Some(&self.gap.language), budget, more_canvases),
        }
    }

    fn max_tokens(&self) -> Option<usize> {
        // The answer has more tokens than the gap.
        None
    }

    fn seed(&self) -> u64 {
        self.params.seed
    }

    fn boxed(&self) -> Box<dyn Recipe> {
        Box::new(self.clone())
    }

    fn canvas_limit(&self, _: usize) -> Option<usize> {
        self.params.max_canvases
    }

    fn begin(
        &self,
        block: u32,
        canvas: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>> {
        Ok(Box::new(GapRun::new(self, block, canvas, noise)?))
    }
}

#[cfg(test)]
mod tests;
