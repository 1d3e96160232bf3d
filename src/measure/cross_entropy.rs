//! How well a model denoises known answers: their cross-entropy.
//!
//! The measure is that of training, on fixed draws. Each canvas of an answer follows the prompt and
//! the canvases before it, with a share of its tokens replaced by uniformly random ones, and the
//! model predicts the true tokens in one step without self-conditioning. It shows in nats what a
//! smaller type of weights costs, on identical canvases, long before answers change.

use crate::diffusion::{
    Allowed, CounterNoise, Denoiser as _, DrawRule, Draws, Filter, NoiseSource as _, StepInput,
    Token,
};
use crate::error::{Error, Result};
use crate::model::SequenceDenoiser;
use crate::parameter::Parameter;

/// Shares of tokens that are replaced; the last is a canvas of noise only.
pub const NOISE_LEVELS: [f32; 4] = [0.25, 0.5, 0.75, 1.0];

/// A prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The tokens up to the opening of the model's turn.
    pub prompt: Vec<Token>,
    /// The tokens of the answer, with the token that ends it.
    pub answer: Vec<Token>,
}

/// How well one answer was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean cross-entropy of the answer's tokens at each of [`NOISE_LEVELS`], in nats.
    pub levels: [f64; NOISE_LEVELS.len()],
    /// Share of the answer's tokens that were the most likely ones, over all levels.
    pub top1: f64,
}

impl Score {
    /// Mean cross-entropy over the levels, in nats.
    pub fn mean(&self) -> f64 {
        self.levels.iter().sum::<f64>() / self.levels.len() as f64
    }
}

/// Scores the answer `number` of a list, whose noise depends only on that number, on `seed` and on
/// the size of the vocabulary. After the answer its last canvas is filled with `pad`, as in
/// training; those positions do not count.
///
/// # Errors
/// An empty prompt or answer, a token that is not in the vocabulary, a context that does not hold
/// both, logits that are not finite, or a device that fails.
pub fn score(
    denoiser: &mut SequenceDenoiser,
    exchange: &Exchange,
    pad: Token,
    seed: u64,
    number: u32,
) -> Result<Score> {
    let Exchange { prompt, answer } = exchange;
    if prompt.is_empty() || answer.is_empty() {
        return Err(Error::parameter(
            Parameter::Answers,
            "a prompt or an answer is empty: both need a token at least",
        ));
    }
    let vocab = denoiser.model().hparams().vocab_size;
    let noise = CounterNoise::new(seed, vocab)?;
    let (mut sums, mut top1) = ([0.0; NOISE_LEVELS.len()], 0);
    denoiser.truncate(0)?;
    denoiser.encode(prompt)?;
    let n = denoiser.model().hparams().canvas_length;
    for (i, tokens) in answer.chunks(n).enumerate() {
        if i > 0 {
            denoiser.encode(&answer[(i - 1) * n..i * n])?;
        }
        let mut truth = tokens.to_vec();
        truth.resize(n, pad);
        for (j, (&level, sum)) in NOISE_LEVELS.iter().zip(&mut sums).enumerate() {
            let draw = (i * NOISE_LEVELS.len() + j) as u32;
            let canvas = noisy(&noise, &truth, level, number, draw)?;
            let logits = predict(denoiser, &canvas)?;
            let rows = logits.chunks_exact(vocab).zip(tokens);
            for (position, (row, &token)) in rows.enumerate() {
                let nats = cross_entropy(row, token)?;
                if !nats.is_finite() {
                    let (block, step) = (i as u32, 0);
                    let error = Error::NotFinite {
                        block,
                        step,
                        position,
                    };
                    return Err(denoiser.model().file().explain(error));
                }
                *sum += nats;
                top1 += usize::from(argmax(row) == token as usize);
            }
        }
    }
    let count = answer.len() as f64;
    Ok(Score {
        levels: sums.map(|sum| sum / count),
        top1: top1 as f64 / (count * NOISE_LEVELS.len() as f64),
    })
}

/// A canvas with about that share of its tokens replaced.
fn noisy(
    noise: &CounterNoise,
    truth: &[Token],
    level: f32,
    number: u32,
    draw: u32,
) -> Result<Vec<Token>> {
    let mut uniforms = vec![0.0; truth.len()];
    let mut canvas = vec![0; truth.len()];
    noise.uniforms(number, draw, &mut uniforms)?;
    noise.renoise(number, draw, &mut canvas)?;
    for ((token, &truth), &uniform) in canvas.iter_mut().zip(truth).zip(&uniforms) {
        if uniform >= level {
            *token = truth;
        }
    }
    Ok(canvas)
}

/// Logits `[canvas, vocab]` of a first step.
fn predict(denoiser: &mut SequenceDenoiser, canvas: &[Token]) -> Result<Vec<f32>> {
    let n = canvas.len();
    denoiser.begin_canvas(n)?;
    // The rule is for the draws, which are not used here.
    let input = StepInput {
        canvas,
        free: &vec![true; n],
        allowed: Allowed::All,
        filter: Filter::NONE,
        rule: DrawRule::Inverse {
            temperature: 1.0,
            uniforms: &vec![0.5; n],
        },
        guidance: 0.0,
        average: 0.0,
        language: None,
        targets: &[],
    };
    denoiser.step(&input, &mut Draws::new(n, 0))?;
    denoiser.logits()
}

/// `-ln softmax(logits)[token]`.
fn cross_entropy(logits: &[f32], token: Token) -> Result<f64> {
    let logit = usize::try_from(token).ok().and_then(|at| logits.get(at));
    let logit = logit.ok_or_else(|| {
        Error::parameter(
            Parameter::Answers,
            format!("token {token} is not in the vocabulary"),
        )
    })?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    Ok(sum.ln() - f64::from(logit - max))
}

fn argmax(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropies_are_those_of_a_softmax() {
        let logits = [1.0, 1000.0, 999.0];
        let rest = (1.0 + (-1.0_f64).exp()).ln();
        let expected = [999.0 + rest, rest, 1.0 + rest];
        for (token, expected) in expected.into_iter().enumerate() {
            let found = cross_entropy(&logits, token as Token).unwrap();
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(argmax(&logits), 1);
        assert!(cross_entropy(&logits, 3).is_err() && cross_entropy(&logits, -1).is_err());
    }

    #[test]
    fn a_level_is_the_share_that_is_replaced() {
        let noise = CounterNoise::new(7, 1 << 20).unwrap();
        let truth = vec![3; 4096];
        let canvas = |level, draw| noisy(&noise, &truth, level, 5, draw).unwrap();
        for level in NOISE_LEVELS {
            let kept = canvas(level, 1).iter().filter(|t| **t == 3).count();
            let expected = f64::from(1.0 - level) * 4096.0;
            assert!((kept as f64 - expected).abs() <= 96.0, "{level}: {kept}");
        }
        assert_eq!(canvas(0.5, 1), canvas(0.5, 1));
        assert_ne!(canvas(0.5, 1), canvas(0.5, 2));
    }
}
