//! Rows of numbers, mixed with weights in BF16.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::instructions::STRIP;
use super::super::mixture::{Buffers, Rows};
use super::panel::{PAIRED, Panel};
use super::{TILE, round, tiles};

const _: () = assert!(Rows::MOST <= PAIRED, "a panel holds the rows");

/// Adds the mixture of some rows to each result, see
/// [`Instructions::mix`](super::Instructions::mix).
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn mix(rows: &Rows<'_>, buffers: &mut Buffers) {
    let Buffers { scratch, rounded } = buffers;
    let panel: &mut Panel = scratch.panel();
    assert!(rows.count <= Rows::MOST);
    // The rows that fill the last pairs have the weight 0.
    let k = Rows::MOST;
    rounded.resize(rows.weights.len() * k, 0);
    for (weights, rounded) in rows.weights.iter().zip(rounded.chunks_exact_mut(k)) {
        let mut whole = [0.0_f32; Rows::MOST];
        // SAFETY: by the contract of this function there is a weight for each row.
        unsafe {
            whole
                .as_mut_ptr()
                .copy_from_nonoverlapping(*weights, rows.count);
            round::round(&whole, rounded.as_mut_ptr().cast());
        }
    }
    for first in (0..rows.columns).step_by(STRIP) {
        let columns = STRIP.min(rows.columns - first);
        // SAFETY: by the contract of this function.
        unsafe { fill(rows, first, columns, panel) };
        let mut t = 0;
        while t < rows.weights.len() {
            let n = TILE.min(rows.weights.len() - t);
            macro_rules! tile {
                ($($n:literal)*) => {
                    match n {
                        $($n => tile::<$n>(rows, panel, rounded, t, first, columns),)*
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

/// Writes some columns to the panel, in pairs of rows.
///
/// # Safety
/// The rows have these columns, at most [`STRIP`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn fill(rows: &Rows<'_>, first: usize, columns: usize, panel: &mut Panel) {
    let mask = (1_u32 << columns).wrapping_sub(1) as __mmask16;
    let bits = |row: usize| {
        if row >= rows.count {
            return _mm512_setzero_si512();
        }
        // SAFETY: by the contract of this function. A vector of BF16 has the layout of one of
        // integers.
        unsafe {
            let at = rows.numbers.add(row * rows.stride + first);
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, at));
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

/// Adds the products of the panel with the weights of `T` results from `t` on.
///
/// # Safety
/// As [`mix`], for these weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const T: usize>(
    rows: &Rows<'_>,
    panel: &Panel,
    rounded: &[u16],
    t: usize,
    first: usize,
    columns: usize,
) {
    let mut sums = [[0.0_f32; STRIP]; T];
    let out = sums.each_mut().map(|sums| sums.as_mut_ptr());
    let inputs: [*const u16; T] = from_fn(|i| rounded[(t + i) * Rows::MOST..].as_ptr());
    // SAFETY: by the contract of this function.
    unsafe {
        tiles::bf16_pairs(panel, inputs, Rows::MOST, out);
        for (i, sums) in sums.iter().enumerate() {
            let to = rows.out[t + i].add(first);
            for (column, sum) in sums.iter().take(columns).enumerate() {
                *to.add(column) += sum;
            }
        }
    }
}
