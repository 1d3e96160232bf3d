//! How likely a model takes the tokens of a finished text to be, and which of them it doubts.

use serde::{Deserialize, Serialize};

use super::Token;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// What a model says about a token that is given: its distribution at temperature 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// The token.
    pub token: Token,
    /// What scored it.
    #[serde(default)]
    pub by: Scorer,
    /// Its log-probability, in nats.
    pub logprob: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// The most likely tokens with their log-probabilities, the most likely one first. Of equally
    /// likely ones the lowest id is first.
    pub top: Vec<(Token, f32)>,
}

impl TokenScore {
    /// The denoiser's score of `token`, which must be in the vocabulary, with the `top` most likely ones,
    /// by the logits of its position. It is not finite if they are not.
    pub fn new(logits: &[f32], token: Token, top: usize) -> Self {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = |logit: f32| f64::from(logit) - f64::from(greatest);
        let (mut total, mut weighted) = (0.0_f64, 0.0_f64);
        for &logit in logits {
            let weight = shifted(logit).exp();
            total += weight;
            weighted += weight * shifted(logit);
        }
        let log_total = total.ln();
        let logprob = |token: Token| (shifted(logits[token as usize]) - log_total) as f32;
        Self {
            token,
            by: Scorer::Denoiser,
            logprob: logprob(token),
            entropy: (log_total - weighted / total) as f32,
            top: most_likely(logits, top)
                .into_iter()
                .map(|token| (token, logprob(token)))
                .collect(),
        }
    }
}

/// The `count` tokens with the greatest logits, in descending order.
pub(crate) fn most_likely(logits: &[f32], count: usize) -> Vec<Token> {
    if count == 0 {
        return Vec::new();
    }
    let mut tokens: Vec<Token> = (0..logits.len() as Token).collect();
    let descending = |a: &Token, b: &Token| {
        let by_logit = logits[*b as usize].total_cmp(&logits[*a as usize]);
        by_logit.then(a.cmp(b))
    };
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count - 1, descending);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(descending);
    tokens
}

/// What scores a finished canvas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// The denoiser, by a step that reads the finished canvas, without self-conditioning: how likely each
    /// token is with all others around it.
    #[default]
    Denoiser,
    /// The causal encoder, by a pass over the canvas: how likely each token is after those before it. It
    /// must be trained to predict tokens.
    Encoder,
}

/// How finished canvases are scored.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scoring {
    /// By what.
    pub by: Scorer,
    /// Tokens with a lower log-probability, in nats, are doubted: they and one neighbour on each
    /// side are denoised again, with everything else fixed. A repair is kept if it makes the canvas
    /// more likely; there are at most [`ROUNDS`](Self::ROUNDS) of them. `None` only scores.
    pub min_logprob: Option<f32>,
    /// How many of the most likely tokens each score lists; at most those of the vocabulary.
    pub top: usize,
}

impl Scoring {
    /// A threshold to begin with. Of the demo model's right answers 1 % have a token below it; of those
    /// with a word replaced by another of its kind 95 % are found and repaired.
    pub const MIN_LOGPROB: f32 = -1.0;

    /// Maximum number of repairs of a canvas.
    pub const ROUNDS: u32 = 2;

    /// Checks it.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `min_logprob` is not a log-probability.
    pub fn validate(&self) -> Result<()> {
        match self.min_logprob {
            Some(min) if !(f32::MIN..=0.0).contains(&min) => Err(Error::parameter(
                Parameter::MinLogprob,
                format!("is {min}, but a log-probability is finite, and 0 or less"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks it for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if `top` is more than that.
    pub(crate) fn check_vocab(&self, vocab: usize) -> Result<()> {
        match self.top > vocab {
            true => Err(Error::parameter(
                Parameter::TopTokens,
                format!("is {}, but the vocabulary has {vocab} tokens", self.top),
            )),
            false => Ok(()),
        }
    }

    /// The positions whose tokens are doubted, of those before `end`.
    pub fn doubted(&self, scores: &[TokenScore], end: usize) -> Vec<bool> {
        let min = self.min_logprob.unwrap_or(f32::NEG_INFINITY);
        let doubts =
            |(position, score): (usize, &TokenScore)| position < end && score.logprob < min;
        scores.iter().enumerate().map(doubts).collect()
    }
}

/// The log-probability of a text, in nats, as if its tokens were independent.
pub fn total_logprob(scores: &[TokenScore]) -> f64 {
    scores.iter().map(|score| f64::from(score.logprob)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_by_hand() {
        // Probabilities 1/8, 1/2, 1/8, 1/4.
        let logits = [0.0, 4.0_f32.ln(), 0.0, 2.0_f32.ln()];
        let score = TokenScore::new(&logits, 3, 3);
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(score.logprob, 0.25_f32.ln());
        close(score.entropy, 1.75 * 2.0_f32.ln());
        let tokens: Vec<Token> = score.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 3, 0]);
        close(score.top[0].1, 0.5_f32.ln());
        close(score.top[2].1, 0.125_f32.ln());
        assert_eq!(TokenScore::new(&logits, 0, 0).top, []);
        assert_eq!(TokenScore::new(&logits, 0, 9).top.len(), 4);
    }

    #[test]
    fn large_logits_do_not_overflow_and_what_is_not_finite_shows() {
        let score = TokenScore::new(&[1e30, 0.0], 0, 1);
        assert_eq!((score.logprob, score.entropy), (0.0, 0.0));
        assert!(!TokenScore::new(&[f32::NAN, 0.0], 1, 0).entropy.is_finite());
        assert!(
            !TokenScore::new(&[f32::INFINITY, 0.0], 1, 0)
                .entropy
                .is_finite()
        );
    }

    #[test]
    fn doubts_are_below_the_threshold_and_before_the_end() {
        let score = |logprob| TokenScore {
            token: 1,
            by: Scorer::Denoiser,
            logprob,
            entropy: 0.0,
            top: Vec::new(),
        };
        let scores = [-3.0, -2.0, -0.1, -9.0].map(score);
        let doubted = |min_logprob, end| {
            Scoring {
                min_logprob,
                ..Scoring::default()
            }
            .doubted(&scores, end)
        };
        assert_eq!(doubted(Some(-2.0), 4), [true, false, false, true]);
        assert_eq!(doubted(Some(-2.0), 3), [true, false, false, false]);
        assert_eq!(doubted(None, 4), [false; 4]);
    }

    #[test]
    fn a_threshold_is_a_log_probability() {
        let validate = |min| {
            let scoring = Scoring {
                min_logprob: Some(min),
                ..Scoring::default()
            };
            scoring.validate().map_err(|error| error.to_string())
        };
        assert_eq!(validate(0.0), Ok(()));
        assert_eq!(validate(-7.5), Ok(()));
        for bad in [0.5, f32::NAN, f32::NEG_INFINITY] {
            let error = validate(bad).unwrap_err();
            assert!(error.starts_with("min_logprob: is "), "{error}");
        }
    }
}
