//! Rows of numbers, mixed with weights: both in BF16, or both as integers.

use std::arch::x86_64::*;

use super::super::format::GROUP;
use super::super::instructions::{Ahead, Convert, STRIP};
use super::super::mixture::Rows;
use super::super::scratch::{Line, Scratch};
use super::activations::{GREATEST_OF_WORDS, WordRow, round, to_words};
use super::panel::{PAIRS, Panel};
use super::{TILE, tiles};

const _: () = assert!(Rows::MOST <= PAIRS, "a panel holds the rows");

/// Lines that have room for the converted weights of a result. Odd: results a power of two apart
/// would share places in the cache.
pub(super) const LINES: usize = WordRow::new(Rows::MOST).bytes().div_ceil(size_of::<Line>()) | 1;

/// Converts the weights of each result, which are [`LINES`] lines apart then.
///
/// # Safety
/// Each result has a weight for each row; the processor has the instructions of `convert`.
pub(super) unsafe fn convert_weights(rows: &Rows<'_>, convert: Convert, to: &mut [Line]) {
    assert!(rows.count <= Rows::MOST && to.len() >= rows.weights.len() * LINES);
    for (from, to) in rows.weights.iter().zip(to.chunks_exact_mut(LINES)) {
        // The rows that fill the last group have the weight 0.
        let mut whole = [0.0_f32; Rows::MOST];
        // SAFETY: by the contract of this function; there is room.
        unsafe {
            whole
                .as_mut_ptr()
                .copy_from_nonoverlapping(*from, rows.count);
            convert(&whole, to.as_mut_ptr().cast());
        }
    }
}

/// Adds the mixture of some rows to each result, see [`Mix`](super::super::mixture::Mix).
///
/// # Safety
/// As there; with `BF16` the processor multiplies that.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn mix<const BF16: bool>(rows: &Rows<'_>, scratch: &mut Scratch) {
    let (panel, weights) = scratch.panel_and_rows::<Panel>();
    weights.resize(rows.weights.len() * LINES, Line::default());
    let convert: Convert = if BF16 { round } else { to_words };
    // SAFETY: by the contract of this function.
    unsafe { convert_weights(rows, convert, weights) };
    for first in (0..rows.columns).step_by(STRIP) {
        let columns = STRIP.min(rows.columns - first);
        // SAFETY: by the contract of this function.
        unsafe {
            match BF16 {
                true => fill_bf16(rows, first, columns, panel),
                false => fill_integers(rows, first, columns, panel),
            }
        }
        let mut t = 0;
        while t < rows.weights.len() {
            let n = TILE.min(rows.weights.len() - t);
            macro_rules! tile {
                ($($n:literal)*) => {
                    match n {
                        $($n => tile::<$n, BF16>(rows, panel, weights, t, first, columns),)*
                        _ => unreachable!("a tile has 1 to {TILE} inputs"),
                    }
                };
            }
            // SAFETY: by the contract of this function; there are `n` weights from `t` on.
            unsafe { tile!(1 2 3 4 5 6 7 8 9 10 11 12) };
            t += n;
        }
    }
}

/// Some columns of a row; 0 beyond the last row.
///
/// # Safety
/// The rows have these columns, at most [`STRIP`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn numbers(rows: &Rows<'_>, row: usize, first: usize, columns: usize) -> __m512 {
    if row >= rows.count {
        return _mm512_setzero_ps();
    }
    // SAFETY: by the contract of this function.
    unsafe {
        let numbers = rows.numbers.add(row * rows.stride + first);
        _mm512_maskz_loadu_ps(mask(columns), numbers)
    }
}

/// The lanes of so many columns, at most [`STRIP`].
#[inline]
fn mask(columns: usize) -> __mmask16 {
    (1_u32 << columns).wrapping_sub(1) as __mmask16
}

/// Writes some columns to the panel, in pairs of rows of BF16.
///
/// # Safety
/// As [`numbers`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn fill_bf16(rows: &Rows<'_>, first: usize, columns: usize, panel: &mut Panel) {
    let bits = |row: usize| {
        // SAFETY: by the contract of this function. A vector of BF16 has the layout of one of
        // integers.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(numbers(rows, row, first, columns));
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
        }
    };
    for (i, pairs) in panel.values[..Rows::MOST / 2].iter_mut().enumerate() {
        let upper = _mm512_slli_epi32::<16>(bits(2 * i + 1));
        // SAFETY: a vector of the panel.
        unsafe {
            _mm512_store_si512(
                pairs.as_mut_ptr().cast(),
                _mm512_or_si512(bits(2 * i), upper),
            );
        }
    }
}

/// Writes some columns to the panel, in pairs of rows of integers, with a scale for each column of 32
/// rows: NaN if one of them is not finite.
///
/// # Safety
/// As [`numbers`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn fill_integers(rows: &Rows<'_>, first: usize, columns: usize, panel: &mut Panel) {
    let greatest = _mm512_set1_ps(f32::from(GREATEST_OF_WORDS));
    let lower = _mm512_set1_epi32(0xffff);
    for group in 0..Rows::MOST / GROUP {
        // SAFETY: by the contract of this function; the panel has the group.
        unsafe {
            let row = |i| numbers(rows, group * GROUP + i, first, columns);
            let bits = |i| _mm512_castps_si512(_mm512_abs_ps(row(i)));
            // As integers the magnitudes of floats have the order of the floats, with NaN last.
            let most = (0..GROUP).fold(_mm512_setzero_si512(), |most, i| {
                _mm512_max_epu32(most, bits(i))
            });
            let most = _mm512_castsi512_ps(most);
            let is_some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(most, _mm512_set1_ps(1e-30));
            let inverse = _mm512_maskz_div_ps(is_some, greatest, most);
            let scale = _mm512_maskz_div_ps(is_some, most, greatest);
            // An infinite scale becomes NaN; numbers do not change.
            let scale = _mm512_add_ps(scale, _mm512_sub_ps(scale, scale));
            _mm512_store_ps(panel.scales[group].as_mut_ptr(), scale);
            for i in 0..GROUP / 2 {
                let integers = |i| _mm512_cvtps_epi32(_mm512_mul_ps(row(i), inverse));
                let upper = _mm512_slli_epi32::<16>(integers(2 * i + 1));
                let pairs = _mm512_or_si512(_mm512_and_si512(integers(2 * i), lower), upper);
                let to = panel.values.as_mut_ptr().add(group * GROUP / 2 + i);
                _mm512_store_si512(to.cast(), pairs);
            }
        }
    }
}

/// Adds the products of the panel with the weights of `T` results from `t` on.
///
/// # Safety
/// As [`mix`], for these weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile<const T: usize, const BF16: bool>(
    rows: &Rows<'_>,
    panel: &Panel,
    weights: &[Line],
    t: usize,
    first: usize,
    columns: usize,
) {
    let mut sums = [[0.0_f32; STRIP]; T];
    let out = sums.as_mut_ptr().cast();
    let mut inputs = [std::ptr::null(); T];
    for (i, input) in inputs.iter_mut().enumerate() {
        *input = weights[(t + i) * LINES..].as_ptr().cast();
    }
    // The columns of an embedding are next to each other.
    let ahead = &mut Ahead::nothing();
    // SAFETY: by the contract of this function.
    unsafe {
        match BF16 {
            true => tiles::bf16_pairs(panel, inputs, Rows::MOST, ahead, out),
            false => {
                let part = WordRow::new(Rows::MOST).part(0);
                tiles::words::<T, 1>(panel, inputs, part, Rows::MOST, ahead, out);
            }
        }
        let mask = mask(columns);
        for (i, sums) in sums.iter().enumerate() {
            let to = rows.out[t + i].add(first);
            let before = _mm512_maskz_loadu_ps(mask, to);
            let after = _mm512_add_ps(before, _mm512_loadu_ps(sums.as_ptr()));
            _mm512_mask_storeu_ps(to, mask, after);
        }
    }
}
