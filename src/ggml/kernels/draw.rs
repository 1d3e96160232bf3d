//! From logits to drawn tokens.

use std::ffi::c_void;

use multiversion::multiversion;

use super::super::context::Context;
use super::super::ops::CpuKernel;
use super::super::tensor::Tensor;
use super::LANES;
use super::math::{exp, tanh};
use super::rows::{row, share};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Length of the chunks whose sums locate a draw without scanning the vocabulary again.
const STRETCH: usize = 512;
/// Probabilities are stored as `p * WEIGHT_SCALE / max p`: within the range of F16, so that a
/// product with an F16 matrix loses only the smallest (below 2e-12 of the greatest).
pub(crate) const WEIGHT_SCALE: f32 = 32768.0;
/// Values that a draw yields per position in addition to the weights: see [`Context::draw`].
pub(crate) const DRAW_PLANES: usize = 8;
/// A sparse mixture drops tokens with at most this total probability: not more than the rounding
/// error of a dense sum in F32.
pub(crate) const MAX_DROPPED_MASS: f32 = 1e-6;

/// The weight, relative to the greatest, above which a token is kept. Its probability is at most
/// its relative weight, so the total of `vocab` tokens at or below it is bounded.
pub(crate) fn keep_above(vocab: usize) -> f32 {
    MAX_DROPPED_MASS / vocab as f32
}

impl Context {
    /// Turns raw logits `[vocab, positions]` into draws, for the distribution
    /// `softmax(cap * tanh(logits / cap) / temperature)` of every position.
    ///
    /// `uniforms` F32 `[positions]`; `scalars` F32 `[2]` are temperature and cap; `into` is F32 of
    /// `vocab * positions + 8 * positions` elements: first the unnormalised probabilities
    /// `[vocab, positions]` (the greatest of a row is [`WEIGHT_SCALE`]), then planes of
    /// `[positions]`: the most likely token, the drawn token (the first whose cumulative
    /// probability exceeds `uniform * total`), the entropy in nats, the factor that normalises the
    /// row, how many tokens a [sparse mixture](Self::sparse_mixture) keeps and what mass it drops,
    /// the probability of the drawn token, and that of the most likely token less that of the
    /// second. Tokens are stored as numbers; the caller ensures `vocab < 2^24`. CPU only.
    pub(crate) fn draw(
        &self,
        into: &Tensor,
        logits: &Tensor,
        uniforms: &Tensor,
        scalars: &Tensor,
    ) -> Result<Tensor> {
        let [vocab, positions, ..] = logits.ne();
        let plain = |t: &Tensor, n: usize| {
            t.is(TensorType::F32) && t.is_contiguous() && t.ne() == [n, 1, 1, 1]
        };
        if !logits.is(TensorType::F32)
            || !logits.is_contiguous()
            || !plain(uniforms, positions)
            || !plain(scalars, 2)
            || !plain(into, (vocab + DRAW_PLANES) * positions)
        {
            return Err(Error::Ggml(format!(
                "draw: {}, {}, {} and {} do not fit",
                into.label(),
                logits.label(),
                uniforms.label(),
                scalars.label()
            )));
        }
        self.custom_into(into, &[logits, uniforms, scalars], draw_kernel as CpuKernel)
    }
}

/// Computes some positions of [`Context::draw`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `draw` made.
unsafe extern "C" fn draw_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `draw` checked types and shapes; threads write to positions of their own.
    unsafe {
        let node = &*dst;
        let (logits, uniforms, scalars) = (node.src[1], row(node.src[2], 0), row(node.src[3], 0));
        let (vocab, positions) = ((*logits).ne[0] as usize, (*logits).ne[1] as usize);
        let weights = node.data.cast::<f32>();
        let planes = weights.add(vocab * positions);
        let mut sums = vec![0.0; vocab.div_ceil(STRETCH)];
        for p in share(positions, index, threads) {
            let weights = std::slice::from_raw_parts_mut(weights.add(p * vocab), vocab);
            let drawn = draw_row(
                row(logits, p),
                weights,
                &mut sums,
                scalars[0],
                scalars[1],
                uniforms[p],
            );
            let values = [
                drawn.argmax as f32,
                drawn.sampled as f32,
                drawn.entropy,
                drawn.scale,
                drawn.kept as f32,
                drawn.dropped,
                drawn.probability,
                drawn.margin,
            ];
            for (plane, value) in values.into_iter().enumerate() {
                *planes.add(plane * positions + p) = value;
            }
        }
    }
}

/// The results of [`draw_row`] for one position.
pub(in crate::ggml) struct RowDraw {
    pub(in crate::ggml) argmax: usize,
    pub(in crate::ggml) sampled: usize,
    pub(in crate::ggml) entropy: f32,
    pub(in crate::ggml) scale: f32,
    /// Tokens that a sparse mixture keeps.
    kept: usize,
    /// The probability of the others.
    dropped: f32,
    /// The probability of the drawn token.
    pub(in crate::ggml) probability: f32,
    /// The probability of the most likely token, less that of the second.
    pub(in crate::ggml) margin: f32,
}

/// Turns one row of logits into weights and draws from them; `sums` has an element per chunk.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn draw_row(
    logits: &[f32],
    weights: &mut [f32],
    sums: &mut [f64],
    temperature: f32,
    cap: f32,
    uniform: f32,
) -> RowDraw {
    let (top, second) = score(logits, weights, temperature, cap);
    // If a score is NaN there is no argmax: the entropy below is then not a number either.
    let argmax = weights.iter().position(|&z| z == top).unwrap_or(0);
    let Sums {
        total,
        moment,
        kept,
        dropped,
    } = weigh(weights, sums, top);
    // H = -Σ p ln p with ln p = below - ln total.
    let entropy = total.ln() - moment / total;
    let target = f64::from(uniform) * total;
    let sampled = locate(weights, sums, target).unwrap_or(argmax);
    RowDraw {
        argmax,
        sampled,
        // Rounding may leave a tiny negative value; NaN must stay visible.
        entropy: if entropy < 0.0 { 0.0 } else { entropy as f32 },
        scale: (1.0 / (f64::from(WEIGHT_SCALE) * total)) as f32,
        kept,
        dropped: (dropped / total) as f32,
        probability: (f64::from(weights[sampled]) / (f64::from(WEIGHT_SCALE) * total)) as f32,
        // The greatest weight is 1.
        margin: ((1.0 - f64::from(exp(second - top))) / total) as f32,
    }
}

// The parts of `draw_row` are inlined into each of its versions.

/// Writes the scores of a row, and returns the two greatest.
#[inline(always)]
fn score(logits: &[f32], scores: &mut [f32], temperature: f32, cap: f32) -> (f32, f32) {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut next = [f32::NEG_INFINITY; LANES];
    let gain = cap / temperature;
    for (x, z) in logits.chunks(LANES).zip(scores.chunks_mut(LANES)) {
        let lanes = best.iter_mut().zip(&mut next);
        for ((x, z), (best, next)) in x.iter().zip(z).zip(lanes) {
            *z = gain * tanh(x / cap);
            let lower = if *z > *best { *best } else { *z };
            *next = if lower > *next { lower } else { *next };
            *best = if *z > *best { *z } else { *best };
        }
    }
    let (mut top, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (best, next) in best.into_iter().zip(next) {
        second = second.max(next).max(top.min(best));
        top = top.max(best);
    }
    (top, second)
}

/// Sums over a row, relative to its greatest weight.
struct Sums {
    /// Sum of the weights.
    total: f64,
    /// Sum of weight times score.
    moment: f64,
    /// Tokens that a sparse mixture keeps.
    kept: usize,
    /// Sum of the weights of the others.
    dropped: f64,
}

/// Turns the scores of a row into weights, and sums those of each chunk.
#[inline(always)]
fn weigh(weights: &mut [f32], sums: &mut [f64], top: f32) -> Sums {
    let mut total = 0.0_f64;
    let mut moment = 0.0_f64;
    let mut kept = [0_u32; LANES];
    let mut dropped = 0.0_f64;
    let least = keep_above(weights.len());
    for (stretch, sum) in weights.chunks_mut(STRETCH).zip(sums.iter_mut()) {
        let (mut w_lanes, mut m_lanes) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let mut d_lanes = [0.0_f32; LANES];
        for z in stretch.chunks_mut(LANES) {
            // Zipped, because an index into the lanes would prevent vectorization.
            let sums = w_lanes.iter_mut().zip(&mut m_lanes);
            let counts = d_lanes.iter_mut().zip(&mut kept);
            for ((z, (w_lane, m_lane)), (d_lane, kept)) in z.iter_mut().zip(sums).zip(counts) {
                let below = *z - top;
                let w = exp(below);
                *w_lane += w;
                *m_lane += w * below;
                let keep = w > least;
                *kept += u32::from(keep);
                *d_lane += if keep { 0.0 } else { w };
                *z = w * WEIGHT_SCALE;
            }
        }
        *sum = w_lanes.iter().map(|&w| f64::from(w)).sum();
        total += *sum;
        moment += m_lanes.iter().map(|&m| f64::from(m)).sum::<f64>();
        dropped += d_lanes.iter().map(|&w| f64::from(w)).sum::<f64>();
    }
    Sums {
        total,
        moment,
        kept: kept.iter().sum::<u32>() as usize,
        dropped,
    }
}

/// The first token at which the cumulative weight exceeds `target`: first its chunk, then the token
/// in the chunk.
#[inline(always)]
fn locate(weights: &[f32], sums: &[f64], target: f64) -> Option<usize> {
    let mut before = 0.0;
    let mut stretch = sums.len() - 1;
    for (i, &sum) in sums.iter().enumerate() {
        if before + sum > target {
            stretch = i;
            break;
        }
        if i + 1 < sums.len() {
            before += sum;
        }
    }
    let start = stretch * STRETCH;
    let end = (start + STRETCH).min(weights.len());
    let mut sampled = None;
    let mut reached = before;
    for (i, &w) in weights[start..end].iter().enumerate() {
        reached += f64::from(w) / f64::from(WEIGHT_SCALE);
        // Rounding may leave the target unreached: then it is the last token of the chunk.
        sampled = Some(start + i);
        if reached > target {
            break;
        }
    }
    sampled
}

/// The draw of one row, and its weights.
#[cfg(test)]
pub(in crate::ggml) fn draw_row_alone(
    logits: &[f32],
    temperature: f32,
    cap: f32,
    uniform: f32,
) -> (RowDraw, Vec<f32>) {
    let mut weights = vec![0.0; logits.len()];
    let mut sums = vec![0.0; logits.len().div_ceil(STRETCH)];
    let drawn = draw_row(logits, &mut weights, &mut sums, temperature, cap, uniform);
    (drawn, weights)
}

#[cfg(test)]
mod tests {
    use super::super::mixture::for_each_above;
    use super::*;

    fn reference(
        logits: &[f32],
        temperature: f64,
        cap: f64,
        u: f64,
    ) -> (usize, usize, f64, Vec<f64>) {
        let z: Vec<f64> = logits
            .iter()
            .map(|&x| cap * (f64::from(x) / cap).tanh() / temperature)
            .collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = z.iter().map(|z| (z - top).exp()).collect();
        let total: f64 = e.iter().sum();
        let p: Vec<f64> = e.iter().map(|e| e / total).collect();
        let entropy = -p
            .iter()
            .filter(|p| **p > 0.0)
            .map(|p| p * p.ln())
            .sum::<f64>();
        let mut cdf = 0.0;
        let sampled = p.iter().position(|p| {
            cdf += p;
            cdf > u
        });
        let argmax = z.iter().position(|&z| z == top).unwrap();
        (argmax, sampled.unwrap_or(p.len() - 1), entropy, p)
    }

    #[test]
    fn a_row_is_drawn_as_in_f64() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for vocab in [1, 2, 15, 16, 17, 511, 512, 513, 5000] {
            for spread in [0.1, 5.0, 60.0] {
                let logits: Vec<f32> = (0..vocab).map(|_| (random() - 0.5) * spread).collect();
                let u = random();
                let (got, weights) = draw_row_alone(&logits, 0.7, 30.0, u);
                let (argmax, sampled, entropy, p) = reference(&logits, 0.7, 30.0, f64::from(u));
                assert_eq!(got.argmax, argmax);
                assert!(
                    (f64::from(got.entropy) - entropy).abs() < 2e-5 * entropy.max(1.0),
                    "{} {entropy}",
                    got.entropy
                );
                // Scores reach spread / 0.7; the exponent carries their rounding error.
                let tolerance = 1e-6 + 5e-7 * f64::from(spread) / 0.7;
                for (w, p) in weights.iter().zip(&p) {
                    assert!((f64::from(w * got.scale) - p).abs() < tolerance * p + 1e-12);
                }
                let least = keep_above(vocab) * WEIGHT_SCALE;
                let mut kept = Vec::new();
                for_each_above(&weights, least, |token, weight| {
                    assert_eq!(weight, weights[token]);
                    kept.push(token);
                });
                assert_eq!(got.kept, kept.len());
                assert!(got.dropped <= MAX_DROPPED_MASS);
                let tokens = p.iter().enumerate();
                let mass: f64 = tokens
                    .filter(|(token, _)| kept.binary_search(token).is_err())
                    .map(|(_, p)| p)
                    .sum();
                assert!(
                    (f64::from(got.dropped) - mass).abs() <= tolerance * mass,
                    "{} {mass}",
                    got.dropped
                );
                let mut sorted = p.clone();
                sorted.sort_by(f64::total_cmp);
                let second = sorted.iter().rev().nth(1).unwrap_or(&0.0);
                let margin = p[argmax] - second;
                assert!(
                    (f64::from(got.margin) - margin).abs() < tolerance,
                    "{margin}"
                );
                let drawn = p[got.sampled];
                assert!((f64::from(got.probability) - drawn).abs() < tolerance * drawn + 1e-12);
                // Near the border of a token's part of the distribution rounding may decide.
                let edge: f64 = p[..sampled].iter().sum();
                if (f64::from(u) - edge).abs() > 1e-5
                    && (f64::from(u) - edge - p[sampled]).abs() > 1e-5
                {
                    assert_eq!(got.sampled, sampled, "vocab {vocab} spread {spread}");
                }
            }
        }
    }

    #[test]
    fn a_uniform_on_the_edge_of_a_token_draws_the_token_after_it() {
        // Equal weights are exact, and so are their sums; with 1024 tokens draws hit borders of
        // chunks.
        for vocab in [2, 4, 1024, 2048] {
            for quarter in 0..4 {
                let uniform = quarter as f32 / 4.0;
                let drawn = draw_row_alone(&vec![1.0; vocab], 0.5, 30.0, uniform).0;
                assert_eq!(drawn.sampled, quarter * vocab / 4, "{uniform} of {vocab}");
            }
        }
    }

    /// The documented limit: 1e-6 divided by the vocabulary, relative to the greatest weight.
    #[test]
    fn a_sparse_mixture_keeps_what_is_above_its_limit() {
        let limit = (1e-6_f32 / 3.0).ln();
        // The soft cap distorts scores around zero the least.
        let kept = |below: f32| draw_row_alone(&[0.0, below, below], 1.0, 1e6, 0.5).0;
        assert_eq!(kept(limit + 1e-3).kept, 3);
        let cut = kept(limit - 1e-3);
        assert_eq!(cut.kept, 1);
        let dropped = 2e-6 / 3.0 * (-1e-3_f32).exp();
        assert!(
            (cut.dropped / dropped - 1.0).abs() < 1e-4,
            "{}",
            cut.dropped
        );
    }

    #[test]
    fn ties_go_to_the_first_and_extremes_stay_inside() {
        let draw = |logit, u| draw_row_alone(&[logit; 40], 1.0, 30.0, u).0;
        let flat = draw(1.0, 0.0);
        assert_eq!((flat.argmax, flat.sampled), (0, 0));
        assert!((flat.entropy - 40_f32.ln()).abs() < 1e-5);
        assert_eq!(flat.margin, 0.0);
        assert!((flat.probability - 1.0 / 40.0).abs() < 1e-8);
        assert_eq!(draw(1.0, 1.0 - f32::EPSILON / 2.0).sampled, 39);
        // Whatever bits a NaN has: freed memory once contained such values.
        for bits in [f32::NAN.to_bits(), 0xffff_ffff, 0x7f80_0001] {
            let broken = draw(f32::from_bits(bits), 0.5);
            assert!(broken.sampled < 40 && broken.argmax < 40 && broken.entropy.is_nan());
            let mut logits = [1.0; 40];
            logits[7] = f32::from_bits(bits);
            assert!(draw_row_alone(&logits, 1.0, 30.0, 0.5).0.entropy.is_nan());
        }
    }
}
