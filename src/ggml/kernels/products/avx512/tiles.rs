//! The innermost loops: a panel times a few inputs. Lanes are rows.

#![allow(
    clippy::needless_range_loop,
    reason = "the compiler unrolls loops over the registers of a tile"
)]

use std::arch::x86_64::*;

use super::super::format::GROUP;
use super::super::instructions::{Ahead, STRIP};
use super::activations::{BytePart, WordPart};
use super::panel::Panel;

/// Sums of each input in floats, every one of which takes every second pair: an addition must wait for
/// the one before it. As many for any number of inputs, so that this number changes no bit.
const CHAINS: usize = 2;

/// BF16 times BF16, in pairs that are added in F32.
///
/// # Safety
/// The inputs have `k` elements, whole groups; `out` has [`STRIP`] for each input.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16_pairs<const T: usize>(
    panel: &Panel,
    inputs: [*const u8; T],
    k: usize,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    // SAFETY: by the contract of this function; the panel has as many pairs. A vector of pairs of
    // BF16 has the layout of one of I32.
    unsafe {
        let pairs = |bits| std::mem::transmute::<__m512i, __m512bh>(bits);
        let mut sums = [[_mm512_setzero_ps(); T]; CHAINS];
        for g in 0..k / GROUP {
            ahead.read(1);
            for i in (g * GROUP / 2..(g + 1) * GROUP / 2).step_by(CHAINS) {
                for c in 0..CHAINS {
                    let w = pairs(_mm512_load_si512(panel.values.as_ptr().add(i + c).cast()));
                    for t in 0..T {
                        let x = number(inputs[t], 0, i + c);
                        sums[c][t] = _mm512_dpbf16_ps(sums[c][t], w, pairs(_mm512_set1_epi32(x)));
                    }
                }
            }
        }
        let [even, odd] = sums;
        for t in 0..T {
            let out = out.add(t * STRIP);
            let sum = _mm512_add_ps(_mm512_loadu_ps(out), _mm512_add_ps(even[t], odd[t]));
            _mm512_storeu_ps(out, sum);
        }
    }
}

/// Four bytes of an input: those of number `i` from an offset on.
///
/// # Safety
/// The input has them.
#[inline]
unsafe fn number(input: *const u8, offset: usize, i: usize) -> i32 {
    // SAFETY: by the contract of this function.
    unsafe { input.add(offset).cast::<i32>().add(i).read_unaligned() }
}

/// A float of an input, as [`number`].
///
/// # Safety
/// As there.
#[inline]
unsafe fn float(input: *const u8, offset: usize, i: usize) -> f32 {
    // SAFETY: by the contract of this function.
    f32::from_bits(unsafe { number(input, offset, i) } as u32)
}

/// Adds up the vectors of sums of each input.
#[inline]
#[target_feature(enable = "avx512f")]
fn total<const T: usize, const C: usize>(sums: [[__m512i; T]; C]) -> [__m512; T] {
    let mut totals = [_mm512_setzero_ps(); T];
    for t in 0..T {
        let mut total = sums[0][t];
        for c in 1..C {
            total = _mm512_add_epi32(total, sums[c][t]);
        }
        totals[t] = _mm512_cvtepi32_ps(total);
    }
    totals
}

/// The sums of each input so far.
///
/// # Safety
/// `out` has [`STRIP`] for each input.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const T: usize>(out: *const f32) -> [__m512; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    for t in 0..T {
        // SAFETY: by the contract of this function.
        sums[t] = unsafe { _mm512_loadu_ps(out.add(t * STRIP)) };
    }
    sums
}

/// Writes the sums of each input.
///
/// # Safety
/// As [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const T: usize>(sums: [__m512; T], out: *mut f32) {
    for t in 0..T {
        // SAFETY: by the contract of this function.
        unsafe { _mm512_storeu_ps(out.add(t * STRIP), sums[t]) };
    }
}

/// I16 times I16, with a scale for each group, of the rows as of the inputs. The products of an input
/// are summed in `C` vectors, because an addition must wait for the one before it.
///
/// # Safety
/// The inputs have `k` elements at `part`, whole groups; `out` has [`STRIP`] for each input.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn words<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [*const u8; T],
    part: WordPart,
    k: usize,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = load(out);
        for g in 0..k / GROUP {
            ahead.read(1);
            let mut parts = [[_mm512_setzero_si512(); T]; C];
            for pair in (g * GROUP / 2..(g + 1) * GROUP / 2).step_by(C) {
                for c in 0..C {
                    let w = _mm512_load_si512(panel.values.as_ptr().add(pair + c).cast());
                    for t in 0..T {
                        let x = number(inputs[t], part.values, pair + c);
                        parts[c][t] = _mm512_dpwssd_epi32(parts[c][t], w, _mm512_set1_epi32(x));
                    }
                }
            }
            let products = total(parts);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(g).cast());
            for t in 0..T {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(float(inputs[t], part.scales, g)));
                sums[t] = _mm512_fmadd_ps(products[t], scale, sums[t]);
            }
        }
        store(sums, out);
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
    inputs: [*const u8; T],
    values: usize,
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
                    let x = number(inputs[t], values, quad + c);
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
/// The inputs have `k` elements at `part`, whole groups; `out` has [`STRIP`] for each input.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn bytes<const T: usize, const C: usize, const LEN: usize>(
    panel: &Panel,
    inputs: [*const u8; T],
    part: BytePart,
    k: usize,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = load(out);
        let offsets = match LEN {
            GROUP => part.offsets,
            _ => part.offsets_of_halves,
        };
        for i in 0..k / LEN {
            if i % (GROUP / LEN) == 0 {
                ahead.read(1);
            }
            let mut start = [_mm512_setzero_si512(); T];
            for t in 0..T {
                start[t] = _mm512_set1_epi32(number(inputs[t], offsets, i));
            }
            let products = products::<T, C, LEN>(panel, inputs, part.values, i * LEN / 4, start);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(i).cast());
            for t in 0..T {
                let x = _mm512_set1_ps(float(inputs[t], part.scales, i * LEN / GROUP));
                sums[t] = _mm512_fmadd_ps(products[t], _mm512_mul_ps(scale, x), sums[t]);
            }
        }
        store(sums, out);
    }
}

/// U8 times I8, with a scale and a minimum for each group. `C` as for [`words`].
///
/// # Safety
/// The inputs have `k` elements at `part`, whole groups; `out` has [`STRIP`] for each input.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn bytes_and_minima<const T: usize, const C: usize>(
    panel: &Panel,
    inputs: [*const u8; T],
    part: BytePart,
    k: usize,
    ahead: &mut Ahead,
    out: *mut f32,
) {
    // SAFETY: by the contract of this function; the panel has as many elements.
    unsafe {
        let mut sums: [__m512; T] = load(out);
        for g in 0..k / GROUP {
            ahead.read(1);
            let start = [_mm512_setzero_si512(); T];
            let products =
                products::<T, C, GROUP>(panel, inputs, part.values, g * GROUP / 4, start);
            let scale = _mm512_load_ps(panel.scales.as_ptr().add(g).cast());
            let minimum = _mm512_load_ps(panel.minima.as_ptr().add(g).cast());
            for t in 0..T {
                let x = _mm512_set1_ps(float(inputs[t], part.scales, g));
                sums[t] = _mm512_fmadd_ps(products[t], _mm512_mul_ps(scale, x), sums[t]);
                let sum = _mm512_set1_ps(float(inputs[t], part.sums, g));
                sums[t] = _mm512_fnmadd_ps(minimum, sum, sums[t]);
            }
        }
        store(sums, out);
    }
}
