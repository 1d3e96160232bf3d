//! The innermost loops: a panel times a few inputs. Lanes are rows.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler unrolls loops over the registers of a tile"
)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::GROUP;
use super::activations::{BytePart, WordPart};
use super::panel::Panel;

/// Sums of each input in floats, every one of which takes every second pair: an addition must wait for
/// the one before it. As many for any number of inputs, so that this number changes no bit.
const CHAINS: usize = 2;

/// BF16 times BF16, in pairs that are added in F32.
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16_pairs<const T: usize>(
    panel: &Panel,
    inputs: [*const u16; T],
    k: usize,
    out: [*mut f32; T],
) {
    // SAFETY: by the contract of this function; the panel has as many pairs. A vector of pairs of
    // BF16 has the layout of one of I32.
    unsafe {
        let pairs = |bits| std::mem::transmute::<__m512i, __m512bh>(bits);
        let mut sums = [[_mm512_setzero_ps(); T]; CHAINS];
        for i in (0..k / 2).step_by(CHAINS) {
            for c in 0..CHAINS {
                let w = pairs(_mm512_load_si512(panel.values.as_ptr().add(i + c).cast()));
                for t in 0..T {
                    let x = inputs[t].cast::<i32>().add(i + c).read_unaligned();
                    sums[c][t] = _mm512_dpbf16_ps(sums[c][t], w, pairs(_mm512_set1_epi32(x)));
                }
            }
        }
        let [first, second] = sums;
        for t in 0..T {
            let sum = _mm512_add_ps(_mm512_loadu_ps(out[t]), _mm512_add_ps(first[t], second[t]));
            _mm512_storeu_ps(out[t], sum);
        }
    }
}

/// Adds up the vectors of sums of each input.
#[inline]
#[target_feature(enable = "avx512f")]
fn total<const T: usize, const C: usize>(sums: [[__m512i; T]; C]) -> [__m512; T] {
    from_fn(|t| {
        let total = (1..C).fold(sums[0][t], |sum, c| _mm512_add_epi32(sum, sums[c][t]));
        _mm512_cvtepi32_ps(total)
    })
}

/// I16 times I16, with a scale for each group, of the rows as of the inputs. The products of an input
/// are summed in `C` vectors, because an addition must wait for the one before it.
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn words<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [WordPart; T],
    k: usize,
    out: [*mut f32; T],
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = from_fn(|t| _mm512_loadu_ps(out[t]));
        for g in 0..k / GROUP {
            let mut parts = [[_mm512_setzero_si512(); T]; C];
            for pair in (g * GROUP / 2..(g + 1) * GROUP / 2).step_by(C) {
                for c in 0..C {
                    let w = _mm512_load_si512(panel.values.as_ptr().add(pair + c).cast());
                    for t in 0..T {
                        let x = inputs[t]
                            .values
                            .cast::<i32>()
                            .add(pair + c)
                            .read_unaligned();
                        parts[c][t] = _mm512_dpwssd_epi32(parts[c][t], w, _mm512_set1_epi32(x));
                    }
                }
            }
            let products = total(parts);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(g).cast());
            for t in 0..T {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*inputs[t].scales.add(g)));
                sums[t] = _mm512_fmadd_ps(products[t], scale, sums[t]);
            }
        }
        for t in 0..T {
            _mm512_storeu_ps(out[t], sums[t]);
        }
    }
}

/// The products of `LEN` elements of U8, with I8, from those of quad `first` on, added to `start`.
///
/// # Safety
/// The panel and the inputs have them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn products<const T: usize, const C: usize, const LEN: usize>(
    panel: &Panel,
    inputs: [BytePart; T],
    first: usize,
    start: [__m512i; T],
) -> [__m512; T] {
    let mut parts = [[_mm512_setzero_si512(); T]; C];
    parts[0] = start;
    for quad in (first..first + LEN / 4).step_by(C) {
        for c in 0..C {
            // SAFETY: by the contract of this function.
            unsafe {
                let w = _mm512_load_si512(panel.values.as_ptr().add(quad + c).cast());
                for t in 0..T {
                    let x = inputs[t]
                        .values
                        .cast::<i32>()
                        .add(quad + c)
                        .read_unaligned();
                    parts[c][t] = _mm512_dpbusd_epi32(parts[c][t], w, _mm512_set1_epi32(x));
                }
            }
        }
    }
    total(parts)
}

/// U8, to which [`OFFSET`](super::activations::OFFSET) was added, times I8, with a scale for `LEN`
/// elements, a group or half of one. `C` as for [`words`].
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn bytes<const T: usize, const C: usize, const LEN: usize>(
    panel: &Panel,
    inputs: [BytePart; T],
    k: usize,
    out: [*mut f32; T],
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = from_fn(|t| _mm512_loadu_ps(out[t]));
        for part in 0..k / LEN {
            let start = from_fn(|t| {
                let offsets = match LEN {
                    GROUP => inputs[t].offsets,
                    _ => inputs[t].offsets_of_halves,
                };
                _mm512_set1_epi32(*offsets.add(part))
            });
            let products = products::<T, C, LEN>(panel, inputs, part * LEN / 4, start);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(part).cast());
            for t in 0..T {
                let x = _mm512_set1_ps(*inputs[t].scales.add(part * LEN / GROUP));
                sums[t] = _mm512_fmadd_ps(products[t], _mm512_mul_ps(scale, x), sums[t]);
            }
        }
        for t in 0..T {
            _mm512_storeu_ps(out[t], sums[t]);
        }
    }
}

/// U8 times I8, with a scale and a minimum for each group. `C` as for [`words`].
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn bytes_and_minima<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [BytePart; T],
    k: usize,
    out: [*mut f32; T],
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = from_fn(|t| _mm512_loadu_ps(out[t]));
        for g in 0..k / GROUP {
            let start = [_mm512_setzero_si512(); T];
            let products = products::<T, C, GROUP>(panel, inputs, g * GROUP / 4, start);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(g).cast());
            let minimum = _mm512_load_ps(panel.minima.as_ptr().add(g).cast());
            for t in 0..T {
                let x = _mm512_set1_ps(*inputs[t].scales.add(g));
                sums[t] = _mm512_fmadd_ps(products[t], _mm512_mul_ps(scale, x), sums[t]);
                let sum = _mm512_set1_ps(*inputs[t].sums.add(g));
                sums[t] = _mm512_fnmadd_ps(minimum, sum, sums[t]);
            }
        }
        for t in 0..T {
            _mm512_storeu_ps(out[t], sums[t]);
        }
    }
}
