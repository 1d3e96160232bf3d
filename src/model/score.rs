//! Reads the logits of a step, and scores the tokens of a canvas by them.

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
