//! CPU operations of our own, called by ggml's CPU backend as nodes of a graph.
//!
//! * [`Context::geglu_exact`]: gelu in F32, where ggml's CPU operation looks it up in a table of
//!   F16 values (relative error 5e-4).
//! * [`Context::draw`]: everything between the logits and the sampled token in one pass over the
//!   vocabulary per position instead of about ten.
//! * [`Context::sparse_mixture`]: self-conditioning's product where few tokens have all the mass.

use std::ffi::c_void;

use multiversion::multiversion;

use super::context::Context;
use super::ops::CpuKernel;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Values that the loops below handle together: a multiple of every vector length.
const LANES: usize = 16;
/// Length of the stretches whose sums locate a draw without scanning the vocabulary again.
const STRETCH: usize = 512;
/// Probabilities are kept as `p * WEIGHT_SCALE / max p`: still in range in F16, so that a product
/// with an F16 matrix loses none but the smallest (below 2e-12 of the greatest).
pub(crate) const WEIGHT_SCALE: f32 = 32768.0;
/// Values that a draw yields per position beside the weights: see [`Context::draw`].
pub(crate) const DRAW_PLANES: usize = 8;
/// A sparse mixture drops tokens that together have at most this probability: no more than what
/// the rounding of a dense sum in F32 loses.
pub(crate) const MAX_DROPPED_MASS: f32 = 1e-6;

/// The weight, relative to the greatest, above which a token is kept. Its probability is at most
/// its relative weight, so what `vocab` tokens at or below it have together is bounded.
fn keep_above(vocab: usize) -> f32 {
    MAX_DROPPED_MASS / vocab as f32
}

impl Context {
    /// `gelu(gate) * up` in F32 with the tanh form of gelu:
    /// `gelu(x) = x / (1 + exp(-2 sqrt(2/π) (x + 0.044715 x³)))`. CPU only.
    pub(crate) fn geglu_exact(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let rows = |t: &Tensor| t.is(TensorType::F32) && t.nb()[0] == 4;
        if !rows(gate) || !rows(up) || gate.ne() != up.ne() {
            return Err(Error::Ggml(format!(
                "geglu_exact: needs F32 rows of one shape, got {} and {}",
                gate.label(),
                up.label()
            )));
        }
        self.custom(&gate.ne(), &[gate, up], geglu_kernel as CpuKernel)
    }

    /// Turns raw logits `[vocab, positions]` into draws, for the distribution
    /// `softmax(cap * tanh(logits / cap) / temperature)` of every position.
    ///
    /// `uniforms` F32 `[positions]`; `scalars` F32 `[2]` are temperature and cap; `into` is F32
    /// of `vocab * positions + 8 * positions` elements: first the unnormalised probabilities
    /// `[vocab, positions]` (the greatest of a row is [`WEIGHT_SCALE`]), then planes of
    /// `[positions]`: the most likely token, the drawn token (the first whose cumulated
    /// probability exceeds `uniform * total`), the entropy in nats, the factor that normalises
    /// the row, how many tokens a [sparse mixture](Self::sparse_mixture) keeps and what mass it
    /// drops, the probability of the drawn token, and that of the most likely token less that of
    /// the second. Tokens are stored as numbers; the caller sees to `vocab < 2^24`. CPU only.
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

    /// Rows of `table [d, vocab]` (any type) mixed with the `weights [vocab, positions]` of a
    /// draw, not normalised, to `[d, positions]`. Tokens of the least weight are left out: at most
    /// [`MAX_DROPPED_MASS`] of the probability of a position. CPU only.
    ///
    /// Costs one scan of the weights and a row for every token that is kept, where
    /// [`mul_mat`](Self::mul_mat) costs all rows for all positions.
    pub(crate) fn sparse_mixture(&self, table: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let ([d, vocab, ..], [width, positions, ..]) = (table.ne(), weights.ne());
        let plain = weights.is(TensorType::F32) && weights.is_contiguous();
        let readable = table.ty().is_some_and(|ty| row_reader(ty.id()).is_some());
        if !plain || !readable || !table.is_contiguous() || width != vocab {
            return Err(Error::Ggml(format!(
                "sparse_mixture: {} and {} do not fit",
                table.label(),
                weights.label()
            )));
        }
        self.custom(
            &[d, positions],
            &[table, weights],
            sparse_mixture_kernel as CpuKernel,
        )
    }
}

/// How a stored row becomes numbers.
enum RowReader {
    /// It is F32.
    Plain,
    Convert(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
}

fn row_reader(ty: u32) -> Option<RowReader> {
    if ty == TensorType::F32.id() {
        return Some(RowReader::Plain);
    }
    // SAFETY: a static table, asked for a type of a live tensor.
    let traits = unsafe { &*sys::ggml_get_type_traits(ty as sys::ggml_type) };
    traits.to_float.map(RowReader::Convert)
}

/// Computes some positions of [`Context::sparse_mixture`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `sparse_mixture` made.
unsafe extern "C" fn sparse_mixture_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `sparse_mixture` checked types and shapes; threads write to positions of their own.
    unsafe {
        let node = &*dst;
        let (table, weights) = (&*node.src[0], node.src[1]);
        let (d, positions) = (node.ne[0] as usize, node.ne[1] as usize);
        #[allow(
            clippy::unnecessary_cast,
            reason = "C enums are signed on some systems"
        )]
        let Some(reader) = row_reader(table.type_ as u32) else {
            return;
        };
        let mut numbers = vec![0.0_f32; d];
        for p in share(positions, index, threads) {
            let out = std::slice::from_raw_parts_mut(node.data.cast::<f32>().add(p * d), d);
            out.fill(0.0);
            let weights = row(weights, p);
            let least = keep_above(weights.len()) * WEIGHT_SCALE;
            for_each_above(weights, least, |token, weight| {
                let stored = table.data.cast::<u8>().add(token * table.nb[1]);
                let values = match reader {
                    RowReader::Plain => std::slice::from_raw_parts(stored.cast::<f32>(), d),
                    RowReader::Convert(convert) => {
                        convert(stored.cast(), numbers.as_mut_ptr(), d as i64);
                        numbers.as_slice()
                    }
                };
                add_scaled(out, values, weight);
            });
        }
    }
}

/// Calls `found` with the index and value of each element above `least`.
fn for_each_above(values: &[f32], least: f32, mut found: impl FnMut(usize, f32)) {
    for (i, block) in values.chunks(4 * LANES).enumerate() {
        // Most blocks have none: this test runs in vectors.
        if any_above(block, least) {
            for (j, &value) in block.iter().enumerate() {
                if value > least {
                    found(4 * LANES * i + j, value);
                }
            }
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn any_above(values: &[f32], least: f32) -> bool {
    values.iter().fold(false, |any, &v| any | (v > least))
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn add_scaled(out: &mut [f32], values: &[f32], factor: f32) {
    for (o, v) in out.iter_mut().zip(values) {
        *o += factor * v;
    }
}

/// The share of `total` items that thread `index` of `threads` does.
fn share(total: usize, index: i32, threads: i32) -> std::ops::Range<usize> {
    let (index, threads) = (index as usize, threads as usize);
    total * index / threads..total * (index + 1) / threads
}

/// A row of an F32 tensor.
///
/// # Safety
/// `t` is F32 with contiguous rows, allocated in host memory that lives for `'a`, and `row` is one
/// of its rows.
unsafe fn row<'a>(t: *const sys::ggml_tensor, row: usize) -> &'a [f32] {
    // SAFETY: by the contract of this function.
    unsafe {
        let t = &*t;
        let (n1, n2) = (t.ne[1] as usize, t.ne[2] as usize);
        let (i1, i2, i3) = (row % n1, row / n1 % n2, row / n1 / n2);
        let start = t
            .data
            .cast::<u8>()
            .add(i1 * t.nb[1] + i2 * t.nb[2] + i3 * t.nb[3]);
        std::slice::from_raw_parts(start.cast(), t.ne[0] as usize)
    }
}

/// Computes some rows of [`Context::geglu_exact`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `geglu_exact` made.
unsafe extern "C" fn geglu_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `geglu_exact` checked types and shapes; threads write to rows of their own.
    unsafe {
        let node = &*dst;
        let (gate, up) = (node.src[0], node.src[1]);
        let width = node.ne[0] as usize;
        let rows = (node.ne[1] * node.ne[2] * node.ne[3]) as usize;
        for r in share(rows, index, threads) {
            let out = std::slice::from_raw_parts_mut(node.data.cast::<f32>().add(r * width), width);
            geglu_row(row(gate, r), row(up, r), out);
        }
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

/// e^x for x <= 0 (up to 88), with a relative error below 2e-7; arguments below -87 give e^-87, NaN
/// any number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the reduction loses nothing.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    // Taylor coefficients, the last adjusted (minimax on |r| <= ln 2 / 2).
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// tanh x with a relative error below 3e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    // Near zero 1 - 2 / (e^2|x| + 1) would cancel: there an odd polynomial.
    let s = x * x;
    let p = -5.704_988_7e-3;
    let p = p * s + 2.063_909e-2;
    let p = p * s - 5.373_971_6e-2;
    let p = p * s + 0.133_314_42;
    let p = p * s - 0.333_332_8;
    let near = x + x * s * p;
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    // In this order NaN stays NaN.
    if x.abs() >= 0.625 { far } else { near }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn geglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    for ((&x, &u), o) in gate.iter().zip(up).zip(out) {
        let y = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
        // e^-|y| keeps both signs exact: gelu(x) = x e / (1 + e) for negative x.
        let e = exp(-y.abs());
        let numerator = if y >= 0.0 { 1.0 } else { e };
        *o = x * u * (numerator / (1.0 + e));
    }
}

/// What [`draw_row`] says about one position.
pub(super) struct RowDraw {
    pub(super) argmax: usize,
    pub(super) sampled: usize,
    pub(super) entropy: f32,
    pub(super) scale: f32,
    /// Tokens that a sparse mixture keeps.
    kept: usize,
    /// The probability of the others.
    dropped: f32,
    /// That of the drawn token.
    pub(super) probability: f32,
    /// The probability of the most likely token, less that of the second.
    pub(super) margin: f32,
}

/// Turns one row of logits into weights and draws from them; `sums` has an element per stretch.
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
    // Scores, and the two greatest of them.
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut next = [f32::NEG_INFINITY; LANES];
    let gain = cap / temperature;
    for (x, z) in logits.chunks(LANES).zip(weights.chunks_mut(LANES)) {
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
    // A score that is not a number leaves no argmax: the entropy below then is not a number either.
    let argmax = weights.iter().position(|&z| z == top).unwrap_or(0);

    // Weights, their sum per stretch, and the sum of weight times score.
    let mut total = 0.0_f64;
    let mut moment = 0.0_f64;
    let mut kept = [0_u32; LANES];
    let mut dropped = 0.0_f64;
    let least = keep_above(weights.len());
    for (stretch, sum) in weights.chunks_mut(STRETCH).zip(sums.iter_mut()) {
        let (mut w_lanes, mut m_lanes) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let mut d_lanes = [0.0_f32; LANES];
        for z in stretch.chunks_mut(LANES) {
            // Zipped, as an index into the lanes would keep the compiler from using vectors.
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
    // H = -Σ p ln p with ln p = below - ln total.
    let entropy = total.ln() - moment / total;

    // The draw: first the stretch, then the token in it.
    let target = f64::from(uniform) * total;
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
    let mut sampled = argmax;
    let mut reached = before;
    for (i, &w) in weights[start..end].iter().enumerate() {
        reached += f64::from(w) / f64::from(WEIGHT_SCALE);
        // Rounding may leave the target unreached: then the last token of the stretch is meant.
        sampled = start + i;
        if reached > target {
            break;
        }
    }
    RowDraw {
        argmax,
        sampled,
        // Rounding may leave a tiny negative; what is not a number must stay visible.
        entropy: if entropy < 0.0 { 0.0 } else { entropy as f32 },
        scale: (1.0 / (f64::from(WEIGHT_SCALE) * total)) as f32,
        kept: kept.iter().sum::<u32>() as usize,
        dropped: (dropped / total) as f32,
        probability: (f64::from(weights[sampled]) / (f64::from(WEIGHT_SCALE) * total)) as f32,
        // The greatest weight is 1.
        margin: ((1.0 - f64::from(exp(second - top))) / total) as f32,
    }
}

/// The draw of one row, and its weights.
#[cfg(test)]
pub(super) fn draw_row_alone(
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
    use super::*;

    #[test]
    fn exp_and_tanh_are_exact_to_a_few_ulp() {
        let mut worst = (0.0_f64, 0.0_f64);
        for i in -870_000..=100_000 {
            let x = i as f32 * 1e-4;
            let e = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            worst.0 = worst.0.max(e.abs());
            if x != 0.0 {
                let t = f64::from(tanh(x)) / f64::from(x).tanh() - 1.0;
                worst.1 = worst.1.max(t.abs());
            }
        }
        assert!(worst.0 < 3e-7 && worst.1 < 5e-7, "{worst:?}");
    }

    #[test]
    fn geglu_matches_f64() {
        let x: Vec<f32> = (0..2001).map(|i| (i as f32 - 1000.0) * 0.01).collect();
        let up: Vec<f32> = x.iter().map(|x| 1.5 - x).collect();
        let mut out = vec![0.0; x.len()];
        geglu_row(&x, &up, &mut out);
        for ((&x, &u), &o) in x.iter().zip(&up).zip(&out) {
            let d = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            // 1 + tanh cancels for negative x: the logistic form does not.
            let want = d / (1.0 + (-2.0 * inner).exp()) * f64::from(u);
            // The exponent carries the rounding of its argument.
            let tolerance = (1e-6 + 4e-7 * inner.abs()) * want.abs() + 1e-30;
            assert!((f64::from(o) - want).abs() <= tolerance, "{x}: {o} {want}");
        }
    }

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
                // Scores reach spread / 0.7; the exponent carries their rounding.
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
                // Next to the edge of a token's stretch of the distribution rounding may decide.
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
        // Equal weights are exact, and so are their sums; in 1024 tokens edges of stretches are met.
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
        // The soft cap bends scores around zero the least.
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
        // Whatever bits a NaN carries: those of erased memory turned into numbers once.
        for bits in [f32::NAN.to_bits(), 0xffff_ffff, 0x7f80_0001] {
            let broken = draw(f32::from_bits(bits), 0.5);
            assert!(broken.sampled < 40 && broken.argmax < 40 && broken.entropy.is_nan());
            let mut logits = [1.0; 40];
            logits[7] = f32::from_bits(bits);
            assert!(draw_row_alone(&logits, 1.0, 30.0, 0.5).0.entropy.is_nan());
        }
    }

    #[test]
    fn a_sparse_mixture_is_the_dense_one_in_every_kind_of_row() {
        use crate::ggml::compute::{Executor, Graph};
        use crate::ggml::convert::to_f32;
        use crate::ggml::device::Device;

        const D: usize = 64;
        const VOCAB: usize = 150;
        const POSITIONS: usize = 5;
        for ty in [TensorType::F32, TensorType::F16, TensorType::Q8_0] {
            let device = Device::cpu().unwrap();
            let inputs = Context::new(2).unwrap();
            let table = inputs.tensor(ty, &[D, VOCAB], "table").unwrap();
            let weights = inputs
                .tensor(TensorType::F32, &[VOCAB, POSITIONS], "weights")
                .unwrap();
            let memory = device.buffer_type();
            inputs.allocate(memory, "a test", "").unwrap();
            // Small exponents of F16 scales: all bytes that follow are finite numbers.
            let bytes: Vec<u8> = (0..table.nbytes()).map(|i| (i * 37 % 60) as u8).collect();
            table.write(0, &bytes).unwrap();
            let mut numbers = vec![0.0; D * VOCAB];
            to_f32(ty, &bytes, &mut numbers).unwrap();
            // Most positions have weights of all sizes, the last one only some around the limit.
            let limit = 1e-6 / VOCAB as f32 * WEIGHT_SCALE;
            let p: Vec<f32> = (0..VOCAB * POSITIONS)
                .map(|i| match (i / VOCAB == POSITIONS - 1, i % 7 == 0) {
                    (true, true) => 1.01 * limit,
                    (true, false) => 0.99 * limit,
                    (false, true) => (i % 11) as f32 * 3e3,
                    (false, false) => 1e-6,
                })
                .collect();
            weights.write(0, &p).unwrap();

            let backends = vec![device.backend(2).unwrap()].into();
            let mut executor = Executor::new(&backends, 8, "test").unwrap();
            let describe = |graph: &Graph| {
                let mixture = graph.context().sparse_mixture(&table, &weights)?.output();
                graph.add(&mixture);
                Ok(mixture)
            };
            let mixture = executor.load(describe, "").unwrap();
            executor.compute().unwrap();
            let mut got = vec![0.0; D * POSITIONS];
            mixture.read(0, &mut got).unwrap();
            for (position, got) in got.chunks(D).enumerate() {
                let p = &p[position * VOCAB..][..VOCAB];
                for (i, &got) in got.iter().enumerate() {
                    let terms = p.iter().enumerate().filter(|(_, p)| **p > limit);
                    let want: f64 = terms
                        .map(|(token, &p)| f64::from(p) * f64::from(numbers[token * D + i]))
                        .sum();
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 1e-5 * want.abs(), "{}: {got} {want}", ty.name());
                }
            }
        }
    }
}
