//! What a form is filled with.

use serde::{Deserialize, Serialize};

use crate::diffusion::Token;

/// A choice of a blank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredChoice {
    /// Its log-probability among the choices, in nats.
    pub logprob: f64,
    /// Its probability among the choices.
    pub probability: f64,
    /// Standard error of the probability over the samples; `None` for a single sample.
    pub standard_error: Option<f64>,
}

/// What a blank is filled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilledBlank {
    /// The blank.
    pub name: String,
    /// The tokens in it.
    pub tokens: Vec<Token>,
    /// The index of the choice, if it has choices. Of equally likely ones it is the first.
    pub choice: Option<usize>,
    /// The log-probability of the tokens among what may stand there, in nats.
    pub logprob: f64,
    /// Their probability among what may stand there.
    pub probability: f64,
    /// Entropy of what may stand there, in nats: 0 is certain.
    pub entropy: f64,
    /// The probability of all that may stand there, before it was restricted to that. If it is low, the
    /// form does not fit what the model would write.
    pub allowed_mass: f64,
    /// Standard error of the probability over the samples; `None` for a single sample. Positions of a blank
    /// without choices count as independent.
    pub standard_error: Option<f64>,
    /// Each choice, in the order of the form.
    pub choices: Vec<ScoredChoice>,
}

/// A filled form.
#[derive(Debug, Clone, PartialEq)]
pub struct FilledForm {
    /// The whole text.
    pub tokens: Vec<Token>,
    /// Its blanks, in order.
    pub blanks: Vec<FilledBlank>,
    /// Tokens of a canvas.
    pub canvas: usize,
    /// Number of canvases that were denoised.
    pub rows: usize,
    /// Number of forward passes over canvases.
    pub passes: usize,
    /// Tokens of the prompt that were already in the cache.
    pub reused: usize,
}
