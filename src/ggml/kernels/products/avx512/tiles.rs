//! The innermost loops: a panel times a few inputs. Lanes are rows.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler unrolls loops over the registers of a tile"
)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, GROUP, GroupedPart, QuantizedPart};
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

/// Sums of the products of a group, of which those of an input are summed in `C` vectors, because an
/// addition must wait for the one before it.
///
/// # Safety
/// The panel and the inputs have the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn group_products<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [*const i16; T],
    group: usize,
) -> [__m512; T] {
    let mut sums = [[_mm512_setzero_si512(); T]; C];
    for pair in (group * GROUP / 2..(group + 1) * GROUP / 2).step_by(C) {
        for c in 0..C {
            // SAFETY: by the contract of this function.
            unsafe {
                let w = _mm512_load_si512(panel.values.as_ptr().add(pair + c).cast());
                for t in 0..T {
                    let x = inputs[t].cast::<i32>().add(pair + c).read_unaligned();
                    sums[c][t] = _mm512_dpwssd_epi32(sums[c][t], w, _mm512_set1_epi32(x));
                }
            }
        }
    }
    for c in 1..C {
        for t in 0..T {
            sums[0][t] = _mm512_add_epi32(sums[0][t], sums[c][t]);
        }
    }
    from_fn(|t| _mm512_cvtepi32_ps(sums[0][t]))
}

/// Integers with a scale for each group, of the rows as of the inputs.
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn groups<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [GroupedPart; T],
    k: usize,
    out: [*mut f32; T],
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = from_fn(|t| _mm512_loadu_ps(out[t]));
        for g in 0..k / GROUP {
            let products = group_products::<T, C>(panel, inputs.map(|x| x.values), g);
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

/// Integers with a scale, and with `MINIMA` a minimum, for each group; those of the inputs have one
/// for each block.
///
/// # Safety
/// The inputs have `k` elements, whole groups; each output has as many as a strip has rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn blocks<const T: usize, const C: usize, const MINIMA: bool>(
    panel: &Panel,
    inputs: [QuantizedPart; T],
    k: usize,
    out: [*mut f32; T],
) {
    for begin in (0..k).step_by(BLOCK) {
        let groups = begin / GROUP..k.min(begin + BLOCK) / GROUP;
        let mut block = [_mm512_setzero_ps(); T];
        // SAFETY: by the contract of this function; the panel has as many elements.
        unsafe {
            for g in groups.clone() {
                let products = group_products::<T, C>(panel, inputs.map(|x| x.values), g);
                let scale = _mm512_load_ps(panel.scales.as_ptr().add(g).cast());
                for t in 0..T {
                    block[t] = _mm512_fmadd_ps(products[t], scale, block[t]);
                }
            }
            let mut sums: [__m512; T] = from_fn(|t| {
                let scale = _mm512_set1_ps(*inputs[t].scales.add(begin / BLOCK));
                _mm512_fmadd_ps(block[t], scale, _mm512_loadu_ps(out[t]))
            });
            if MINIMA {
                for g in groups {
                    let minimum = _mm512_load_ps(panel.minima.as_ptr().add(g).cast());
                    for t in 0..T {
                        let x = _mm512_set1_ps(*inputs[t].sums.add(g));
                        sums[t] = _mm512_fnmadd_ps(minimum, x, sums[t]);
                    }
                }
            }
            for t in 0..T {
                _mm512_storeu_ps(out[t], sums[t]);
            }
        }
    }
}
