//! How likely the tokens of a canvas are.

use std::ffi::c_void;

use super::border::{Failure, Result};
use llama_diffusion::diffusion::{ScoredCanvas, Scorer};

/// What scores the tokens of a finished canvas.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_scorer {
    /// The denoiser, by a step: how likely each token is with all others around it.
    Denoiser = 0,
    /// The causal encoder, by a pass: how likely each token is after those before it. An error if the encoder
    /// is not trained to predict tokens.
    Encoder = 1,
}

impl diffusion_scorer {
    pub(super) fn of(number: i32) -> Result<Scorer> {
        match number {
            n if n == Self::Denoiser as i32 => Ok(Scorer::Denoiser),
            n if n == Self::Encoder as i32 => Ok(Scorer::Encoder),
            n => Err(Failure::argument("scorer", format_args!("{n} is none"))),
        }
    }
}

/// How likely the model takes each token of a canvas to be, after the steps of the canvas or of its
/// repair. Valid only during the callback.
#[repr(C)]
pub struct diffusion_scores {
    /// Size of the struct in the library.
    pub struct_size: usize,
    /// Tokens of a canvas: entries of each array below, but for the last two.
    pub length: usize,
    /// The tokens of the canvas.
    pub tokens: *const i32,
    /// Their log-probabilities at temperature 1, in nats.
    pub logprob: *const f32,
    /// Entropy of the distribution at each position, in nats.
    pub entropy: *const f32,
    /// Which tokens have a log-probability below `min_logprob`.
    pub doubted: *const bool,
    /// The most likely tokens of each position, `top_count` of them, the most likely one first.
    pub top_tokens: *const i32,
    /// Their log-probabilities, in nats.
    pub top_logprobs: *const f32,
    /// Number of the most likely tokens of a position.
    pub top_count: usize,
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Number of its repairs so far.
    pub round: u32,
}

/// The arrays of a `diffusion_scores`.
pub(super) struct Scores {
    logprob: Vec<f32>,
    entropy: Vec<f32>,
    top_tokens: Vec<i32>,
    top_logprobs: Vec<f32>,
}

impl Scores {
    pub(super) fn new(canvas: &ScoredCanvas<'_>) -> Self {
        let top = || canvas.scores.iter().flat_map(|score| &score.top);
        Self {
            logprob: canvas.scores.iter().map(|score| score.logprob).collect(),
            entropy: canvas.scores.iter().map(|score| score.entropy).collect(),
            top_tokens: top().map(|(token, _)| *token).collect(),
            top_logprobs: top().map(|(_, logprob)| *logprob).collect(),
        }
    }

    pub(super) fn view(&self, canvas: &ScoredCanvas<'_>) -> diffusion_scores {
        diffusion_scores {
            struct_size: size_of::<diffusion_scores>(),
            length: canvas.tokens.len(),
            tokens: canvas.tokens.as_ptr(),
            logprob: self.logprob.as_ptr(),
            entropy: self.entropy.as_ptr(),
            doubted: canvas.doubted.as_ptr(),
            top_tokens: self.top_tokens.as_ptr(),
            top_logprobs: self.top_logprobs.as_ptr(),
            top_count: canvas.scores.first().map_or(0, |score| score.top.len()),
            block: canvas.block,
            round: canvas.round,
        }
    }
}

/// Called with the scores of each canvas whose steps are done, before a repair or `on_canvas`. Returns
/// false to cancel.
pub type diffusion_scores_callback =
    Option<unsafe extern "C" fn(scores: *const diffusion_scores, user_data: *mut c_void) -> bool>;
