//! One canvas, from noise to a finished block, and the parameters that it starts from, for every
//! kind of diffusion.
//!
//! A [`Run`] does not call the model. It provides the input of the next step and takes what the
//! step drew.

use super::Token;
use super::event::{CanvasStatus, Draft, FinishedCanvas, NewCanvas};
use super::random::NoiseSource;
use super::score::Scoring;
use super::step::{Draws, Limits, Lookahead, StepInput};
use crate::error::{Error, Result};

/// A canvas that is being denoised, for every kind of noise.
///
/// While it is [`Running`](CanvasStatus::Running), each step is [`begin_step`](Self::begin_step),
/// the model, [`end_step`](Self::end_step); then comes [`finish`](Self::finish).
pub trait Run: Send {
    /// Draws the randomness of the next step, and lends the model its input and its output buffers.
    ///
    /// # Errors
    /// The errors of `noise`.
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, &'a mut Draws)>;

    /// Takes what the model drew: keeps some of it, and decides whether the canvas is done.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if an entropy is not finite: sorting by it would mean nothing, and a
    /// canvas of arbitrary tokens would look like an answer. The errors of `noise`.
    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()>;

    /// Whether the canvas needs another step.
    fn status(&self) -> CanvasStatus;

    /// Whether the next step is the first of a canvas to the model, without self-conditioning, although
    /// this one has had steps. By default it is not.
    fn begins_again(&self) -> bool {
        false
    }

    /// How many canvases the next step reads at once if it is the first to the model: its input has their
    /// positions one after the other. By default one.
    fn rows(&self) -> usize {
        1
    }

    /// How many canvases a pass reads. By default one.
    fn lookahead(&self) -> Lookahead {
        Lookahead::Canvases(1)
    }

    /// A copy, whose steps guess what those of this one will do. By default there is none.
    fn copied(&self) -> Option<Box<dyn Run>> {
        None
    }

    /// The canvas as the latest [`end_step`](Self::end_step) left it. Before the first step it is
    /// the canvas of [`new_canvas`](Self::new_canvas), and the fields that steps write have no
    /// meaning.
    fn draft(&self) -> Draft<'_>;

    /// The canvas before its first step.
    fn new_canvas(&self) -> NewCanvas<'_> {
        let draft = self.draft();
        NewCanvas {
            block: draft.block,
            max_steps: draft.max_steps,
            tokens: draft.canvas,
        }
    }

    /// The finished block, cut at its first end token. The run is empty afterwards.
    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas;
}

/// How much may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Maximum number of tokens.
    pub tokens: usize,
    /// Why not more.
    pub limit: BudgetLimit,
}

impl Budget {
    /// How there is more of it; `more_canvases` is the advice where the number of canvases is the limit.
    pub(super) fn advice<'a>(&self, more_canvases: &'a str) -> &'a str {
        match self.limit {
            BudgetLimit::Tokens => "raise `max_tokens`",
            BudgetLimit::Canvases => more_canvases,
            BudgetLimit::Context => "raise `context` or shorten the prompt",
        }
    }
}

/// What limits a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetLimit {
    /// The maximum number of tokens.
    Tokens,
    /// The maximum number of canvases.
    Canvases,
    /// The context, which has no room for another canvas.
    Context,
}

/// Parameters of a generation, and the kind of diffusion that they are for.
pub trait Recipe: Send {
    /// Checks every parameter, and that a model can do what they require.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter that cannot work.
    fn validate(&self, limits: &Limits) -> Result<()>;

    /// Tokens of each canvas after a prompt of `prompt` tokens.
    ///
    /// # Errors
    /// The prompt leaves no room for the canvas.
    fn canvas_len(&self, prompt: usize, limits: &Limits) -> Result<usize>;

    /// Checks that an answer within `budget` can be what the parameters require.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with the number of tokens that are needed.
    fn check_budget(&self, budget: Budget) -> Result<()>;

    /// Maximum number of tokens in the answer; `None` is unlimited.
    fn max_tokens(&self) -> Option<usize>;

    /// Key of the randomness, see [`CounterNoise`](super::CounterNoise).
    fn seed(&self) -> u64;

    /// A copy.
    fn boxed(&self) -> Box<dyn Recipe>;

    /// Maximum number of canvases of `canvas_len` tokens; `None` is unlimited.
    fn canvas_limit(&self, canvas_len: usize) -> Option<usize>;

    /// Canvas number `block` of an answer, before its first step.
    ///
    /// # Errors
    /// The errors of `noise`.
    fn begin(
        &self,
        block: u32,
        canvas: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>>;

    /// Whether the answer goes on after the last of its `canvases`, if there is room for another one. By
    /// default it does, unless the canvas ended it.
    fn goes_on_after(&self, canvases: &[FinishedCanvas]) -> bool {
        canvases.last().is_some_and(|canvas| !canvas.is_last())
    }

    /// What of a finished canvas precedes the next one: by default all of it.
    fn committed<'c>(&self, canvas: &'c FinishedCanvas) -> &'c [Token] {
        &canvas.tokens
    }

    /// How finished canvases are scored; `None`, the default, is not at all.
    fn scoring(&self) -> Option<Scoring> {
        None
    }

    /// Repair number `round`, from 1, of a canvas of which the positions in `doubted` may be wrong, and
    /// which began as `blank`. `None`, the default, if there is none.
    ///
    /// # Errors
    /// The errors of `noise`.
    fn repair(
        &self,
        canvas: &FinishedCanvas,
        doubted: &[bool],
        round: u32,
        blank: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Option<Box<dyn Run>>> {
        let _ = (canvas, doubted, round, blank, noise);
        Ok(None)
    }
}

/// What a new canvas needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Blank<'a> {
    /// Tokens of the canvas.
    pub len: usize,
    /// Tokens of canvases that have room after the prefix.
    pub room: usize,
    /// The model.
    pub limits: &'a Limits,
    /// The tokens that end the answer.
    pub end: &'a EndTokens,
    /// The answer so far.
    pub answer: &'a [Token],
    /// The canvases so far.
    pub canvases: &'a [FinishedCanvas],
    /// Maximum number of tokens that may be written from here on, in this canvas and those after
    /// it.
    pub budget: usize,
}

/// Rejects draws that are not finite. `positions` are those that were drawn.
pub(super) fn check_finite(
    entropy: &[f32],
    mut positions: impl Iterator<Item = usize>,
    block: u32,
    step: u32,
) -> Result<()> {
    match positions.find(|&position| !entropy[position].is_finite()) {
        Some(position) => Err(Error::NotFinite {
            block,
            step,
            position,
        }),
        None => Ok(()),
    }
}

/// Which tokens end an answer, and what fills a canvas after them.
///
/// They come from the generation config, or from the GGUF file; a checkpoint may have several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndTokens {
    /// Each of these ends the answer.
    pub ids: Vec<Token>,
    /// Replaces what follows the first end token of a canvas. Never part of an answer.
    pub pad: Option<Token>,
}

impl EndTokens {
    /// Whether `token` ends the answer.
    pub fn is_end(&self, token: Token) -> bool {
        self.ids.contains(&token)
    }

    /// Fills what follows the first end token of a canvas, with `pad` where there is one. Returns
    /// the position of that end token.
    pub(super) fn pad_after_end(
        &self,
        canvas: &mut [Token],
        pad: impl Fn(Token) -> Option<Token>,
    ) -> Option<usize> {
        let first = canvas.iter().position(|&token| self.is_end(token))?;
        if let Some(pad) = self.pad.or_else(|| pad(canvas[first])) {
            canvas[first + 1..].fill(pad);
        }
        Some(first)
    }
}
