//! Reads the logits of a step, and scores the tokens of a canvas by them.

use std::collections::BTreeMap;

use super::hparams::Hparams;
use crate::diffusion::{Token, TokenScore};
use crate::error::Result;
use crate::ggml::tensor::Tensor;
use crate::parallel;

/// Reads the soft-capped logits of a row.
pub(super) fn read_capped(logits: &Tensor, row: usize, cap: f32, out: &mut [f32]) -> Result<()> {
    logits.read(4 * out.len() * row, out)?;
    out.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
    Ok(())
}

/// The score of each token of a canvas with the `top` most likely ones, by raw logits `[vocab, canvas]`,
/// on `threads` threads.
pub(super) fn of_canvas(
    logits: &Tensor,
    hparams: &Hparams,
    (canvas, top): (&[Token], usize),
    threads: usize,
) -> Result<Vec<TokenScore>> {
    let score = |(position, token): (usize, &Token)| {
        let mut row = vec![0.0; hparams.vocab_size];
        read_capped(logits, position, hparams.logit_softcap, &mut row)?;
        Ok(TokenScore::new(&row, *token, top))
    };
    let scores = parallel::map(canvas.iter().enumerate(), threads, score);
    scores.into_iter().collect()
}

/// The log-probability of each target, a position of a canvas and a token, by raw logits `[vocab, T]` whose
/// row `first` belongs to the canvas's first position, on `threads` threads.
pub(super) fn of_targets(
    (logits, first): (&Tensor, usize),
    hparams: &Hparams,
    targets: &[(usize, Token)],
    threads: usize,
) -> Result<Vec<f32>> {
    let mut of_position: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (target, (position, _)) in targets.iter().enumerate() {
        of_position.entry(*position).or_default().push(target);
    }
    let score = |(position, indices): (usize, Vec<usize>)| {
        let mut row = vec![0.0; hparams.vocab_size];
        read_capped(logits, first + position, hparams.logit_softcap, &mut row)?;
        let total = log_sum(&row);
        let logprob = |&target: &usize| (f64::from(row[targets[target].1 as usize]) - total) as f32;
        let scores = indices.iter().map(logprob).collect();
        Ok((indices, scores))
    };
    let rows = parallel::map(of_position, threads, score);
    let mut logprobs = vec![0.0; targets.len()];
    for row in rows {
        let (indices, scores): (Vec<usize>, Vec<f32>) = row?;
        for (target, score) in indices.into_iter().zip(scores) {
            logprobs[target] = score;
        }
    }
    Ok(logprobs)
}

/// The logarithm of the sum of exponentials.
fn log_sum(logits: &[f32]) -> f64 {
    let greatest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|&x| (f64::from(x) - greatest).exp())
        .sum();
    greatest + sum.ln()
}
