//! Tokens drawn from the logits of several positions.

use crate::diffusion::StepInput;
use crate::diffusion::draw::{Choice, DrawSampler};
use crate::error::Result;
use crate::parallel;

/// Number of logits that is worth a thread: about a millisecond of work.
const LOGITS_PER_THREAD: usize = 1 << 17;

/// Classifier-free guidance: extrapolates from the logits without the prompt to those with it.
pub(super) fn guide(unprompted: &mut [f32], prompted: &[f32], weight: f32) {
    for (without, with) in unprompted.iter_mut().zip(prompted) {
        *without += (weight + 1.0) * (with - *without);
    }
}

pub(super) type Chosen = Vec<(usize, Choice)>;

/// Draws a token for each row, on as many threads as the number of rows justifies.
pub(super) fn choose(
    samplers: &mut [DrawSampler],
    threads: usize,
    mut rows: Vec<(usize, &mut [f32])>,
    input: &StepInput<'_>,
) -> Result<Chosen> {
    let logits: usize = rows.iter().map(|(_, row)| row.len()).sum();
    let threads = threads.min(logits.div_ceil(LOGITS_PER_THREAD)).max(1);
    let share = rows.len().div_ceil(threads).max(1);
    let work = |sampler: &mut DrawSampler, rows: &mut [(usize, &mut [f32])]| -> Result<Chosen> {
        let draw = |(position, row): &mut (usize, &mut [f32])| {
            Ok((*position, sampler.draw(row, *position, input)?))
        };
        rows.iter_mut().map(draw).collect()
    };
    let shares = rows.chunks_mut(share).zip(samplers);
    let parts = parallel::map(shares, threads, |(rows, sampler)| work(sampler, rows));
    Ok(parts.into_iter().collect::<Result<Vec<Chosen>>>()?.concat())
}
