//! The innermost loops: a panel times a few inputs. Each lane of a vector sums every eighth (F32)
//! or every eighth pair (I16) of products; the lanes are added at the end.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler unrolls loops over the registers of a tile"
)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, GROUP};
use super::activations::QuantizedPart;
use super::panel::{Panel, ROWS};

/// Adds the lanes of the sums of each row, and those to `out`.
///
/// # Safety
/// `out` has [`ROWS`] elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn finish(sums: [__m256; ROWS], out: *mut f32) {
    let pairs = _mm256_hadd_ps(sums[0], sums[1]);
    let others = _mm256_hadd_ps(sums[2], sums[3]);
    let halves = _mm256_hadd_ps(pairs, others);
    let low = _mm256_castps256_ps128(halves);
    let sum = _mm_add_ps(low, _mm256_extractf128_ps::<1>(halves));
    // SAFETY: by the contract of this function.
    unsafe { _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sum)) };
}

/// F32 times F32.
///
/// # Safety
/// The inputs have `k` elements, a multiple of 8; each output has [`ROWS`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn floats<const T: usize>(
    panel: &Panel,
    inputs: [*const f32; T],
    k: usize,
    out: [*mut f32; T],
) {
    let mut sums = [[_mm256_setzero_ps(); ROWS]; T];
    for i in (0..k).step_by(8) {
        // SAFETY: by the contract of this function; the panel has as many elements.
        unsafe {
            let x: [__m256; T] = from_fn(|t| _mm256_loadu_ps(inputs[t].add(i)));
            for r in 0..ROWS {
                let w = _mm256_loadu_ps(panel.floats[r].as_ptr().add(i));
                for t in 0..T {
                    sums[t][r] = _mm256_fmadd_ps(w, x[t], sums[t][r]);
                }
            }
        }
    }
    for t in 0..T {
        // SAFETY: by the contract of this function.
        unsafe { finish(sums[t], out[t]) };
    }
}

/// Integers with a scale for each block, and with `MINIMA` a minimum for each group.
///
/// # Safety
/// The inputs have `k` elements, whole blocks; each output has [`ROWS`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocks<const T: usize, const MINIMA: bool>(
    panel: &Panel,
    inputs: [QuantizedPart; T],
    k: usize,
    out: [*mut f32; T],
) {
    let mut sums = [[_mm256_setzero_ps(); ROWS]; T];
    for b in 0..k / BLOCK {
        let mut products = [[_mm256_setzero_si256(); ROWS]; T];
        for i in (b * BLOCK..(b + 1) * BLOCK).step_by(16) {
            // SAFETY: by the contract of this function; the panel has as many elements.
            unsafe {
                let x: [__m256i; T] =
                    from_fn(|t| _mm256_loadu_si256(inputs[t].values.add(i).cast()));
                for r in 0..ROWS {
                    let w = _mm256_loadu_si256(panel.integers[r].as_ptr().add(i).cast());
                    for t in 0..T {
                        let pairs = _mm256_madd_epi16(w, x[t]);
                        products[t][r] = _mm256_add_epi32(products[t][r], pairs);
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..ROWS {
                let sum = &mut sums[t][r];
                let product = _mm256_cvtepi32_ps(products[t][r]);
                // SAFETY: as above, with a scale for each block and eight sums and minima.
                unsafe {
                    let scale = _mm256_set1_ps(*inputs[t].scales.add(b) * panel.scales[r][b]);
                    *sum = _mm256_fmadd_ps(product, scale, *sum);
                    if MINIMA {
                        let minima = _mm256_loadu_ps(panel.minima[r].as_ptr().add(8 * b));
                        let x = _mm256_loadu_ps(inputs[t].sums.add(8 * b));
                        *sum = _mm256_fnmadd_ps(minima, x, *sum);
                    }
                }
            }
        }
    }
    for t in 0..T {
        // SAFETY: by the contract of this function.
        unsafe { finish(sums[t], out[t]) };
    }
}

/// Integers with a scale for each group.
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has [`ROWS`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn groups<const T: usize>(
    panel: &Panel,
    inputs: [QuantizedPart; T],
    k: usize,
    out: [*mut f32; T],
) {
    let mut sums = [[_mm256_setzero_ps(); ROWS]; T];
    for begin in (0..k).step_by(BLOCK) {
        let mut block = [[_mm256_setzero_ps(); ROWS]; T];
        for i in (begin..k.min(begin + BLOCK)).step_by(GROUP) {
            for r in 0..ROWS {
                // SAFETY: by the contract of this function; the panel has as many elements.
                unsafe {
                    let row = panel.integers[r].as_ptr().add(i);
                    let w = [0, 16].map(|j| _mm256_loadu_si256(row.add(j).cast()));
                    let scale = _mm256_set1_ps(*panel.scales[r].as_ptr().add(i / GROUP));
                    for t in 0..T {
                        let x = inputs[t].values.add(i);
                        let low = _mm256_madd_epi16(w[0], _mm256_loadu_si256(x.cast()));
                        let high = _mm256_madd_epi16(w[1], _mm256_loadu_si256(x.add(16).cast()));
                        let product = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
                        block[t][r] = _mm256_fmadd_ps(product, scale, block[t][r]);
                    }
                }
            }
        }
        for t in 0..T {
            // SAFETY: as above, with a scale for each block.
            let scale = _mm256_set1_ps(unsafe { *inputs[t].scales.add(begin / BLOCK) });
            for r in 0..ROWS {
                sums[t][r] = _mm256_fmadd_ps(block[t][r], scale, sums[t][r]);
            }
        }
    }
    for t in 0..T {
        // SAFETY: by the contract of this function.
        unsafe { finish(sums[t], out[t]) };
    }
}
