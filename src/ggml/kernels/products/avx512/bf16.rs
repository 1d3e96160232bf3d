//! Rows of BF16 times inputs in BF16. Nothing is decoded: lanes are elements of a row, and are added
//! up at its end.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler unrolls loops over the registers of a tile"
)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::GROUP;
use super::super::instructions::{Ahead, STRIP, Strip};

/// Rows whose sums are added up together.
const ROWS: usize = 4;
/// Inputs that they are multiplied with together: as many as the registers can hold sums for.
const INPUTS: usize = 6;

/// Multiplies a strip, see [`Instructions::product`](super::Instructions::product). Each sum is added
/// in the same order for any number of inputs.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn product(strip: &Strip<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), strip.inputs.len() * STRIP);
    let tiles = strip.inputs.len().div_ceil(INPUTS);
    let blocks = strip.rows.div_ceil(ROWS);
    // With each group of elements of a row and a tile.
    let ahead = &mut strip.ahead(strip.k / GROUP * blocks * ROWS * tiles);
    for first in (0..blocks * ROWS).step_by(ROWS) {
        // Beyond the last row the results have no meaning.
        let rows: [_; ROWS] = from_fn(|r| {
            let row = (first + r).min(strip.rows - 1);
            strip.weights.wrapping_add(row * strip.stride)
        });
        let mut t = 0;
        for i in 0..tiles {
            let n = (strip.inputs.len() - t).div_ceil(tiles - i);
            macro_rules! tile {
                ($($n:literal: $r:literal,)*) => {
                    match n {
                        $($n => tile::<$n, $r>(&rows, strip, t, ahead, &mut out[t * STRIP + first..]),)*
                        _ => unreachable!("a tile has 1 to {INPUTS} inputs"),
                    }
                };
            }
            // SAFETY: by the contract of this function; there are `n` inputs from `t` on.
            unsafe {
                tile! { 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, }
            };
            t += n;
        }
    }
}

/// The products of some rows, `R` at a time, with the `T` inputs from `t` on. Few inputs wait for
/// memory, which is read fastest where rows follow each other; many are multiplied fastest with
/// several rows.
///
/// # Safety
/// The rows and inputs have the elements of the strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const T: usize, const R: usize>(
    rows: &[*const u8; ROWS],
    strip: &Strip<'_>,
    t: usize,
    ahead: &mut Ahead,
    out: &mut [f32],
) {
    let inputs = strip.inputs[t..].first_chunk::<T>();
    let inputs = *inputs.expect("a tile of inputs");
    let mut sums = [[_mm512_setzero_ps(); ROWS]; T];
    for first in (0..ROWS).step_by(R) {
        let mut parts = [[_mm512_setzero_ps(); R]; T];
        for at in (0..2 * strip.k).step_by(2 * GROUP) {
            ahead.read(R);
            // SAFETY: by the contract of this function.
            unsafe {
                let mut weights = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    weights[r] = _mm512_loadu_si512(rows[first + r].add(at).cast());
                }
                for t in 0..T {
                    let input = bf16(_mm512_loadu_si512(inputs[t].add(at).cast()));
                    for r in 0..R {
                        parts[t][r] = _mm512_dpbf16_ps(parts[t][r], bf16(weights[r]), input);
                    }
                }
            }
        }
        for t in 0..T {
            sums[t][first..first + R].copy_from_slice(&parts[t]);
        }
    }
    for t in 0..T {
        let out = &mut out[t * STRIP..][..ROWS];
        // SAFETY: as many numbers as a vector has.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), totals(sums[t])) };
    }
}

/// Numbers in BF16 by their bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(bits: __m512i) -> __m512bh {
    // SAFETY: all bits are numbers, and both vectors have the same layout.
    unsafe { std::mem::transmute(bits) }
}

/// The sum of each vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals([a, b, c, d]: [__m512; ROWS]) -> __m128 {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
    // Each part of 128 bits has a part of all four sums.
    let parts = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    let halves = _mm512_add_ps(parts, _mm512_shuffle_f32x4::<0b01_00_11_10>(parts, parts));
    let sums = _mm512_castps512_ps256(halves);
    _mm_add_ps(
        _mm256_castps256_ps128(sums),
        _mm256_extractf128_ps::<1>(sums),
    )
}
