//! Decoded integers become numbers in BF16.

use std::arch::x86_64::*;

use super::super::super::format::{Format, GROUP};
use super::super::super::instructions::STRIP;
use super::super::activations::OFFSET;
use super::super::panel::Panel;

/// Vectors of four elements in half of a group.
const HALF: usize = GROUP / 8;

/// Quantized elements of a panel, four in a lane, become numbers, two in a lane: each integer times
/// its scale, less its minimum, rounded to F32 and then to BF16.
///
/// # Safety
/// The panel has `k` elements of the format, whole groups, which fit it in BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn from_quads(format: Format, k: usize, panel: &mut Panel) {
    assert!(k / 2 <= panel.values.len());
    // In place: vector i becomes 2 i and 2 i + 1, so from the last to the first.
    for half in (0..k / GROUP * 2).rev() {
        // SAFETY: the panel has the group, and places for its pairs.
        unsafe {
            let (scale, start) = scale_and_start(format, half, panel);
            for quad in (half * HALF..(half + 1) * HALF).rev() {
                let quads = _mm512_load_si512(panel.values.as_ptr().add(quad).cast());
                let to = panel.values.as_mut_ptr().add(2 * quad);
                let first = pair::<0, 8>(quads, scale, start);
                let second = pair::<16, 24>(quads, scale, start);
                _mm512_store_si512(to.cast(), first);
                _mm512_store_si512(to.add(1).cast(), second);
            }
        }
    }
}

/// The scale of the numbers in half of a group, and what the integer 0 stands for.
///
/// # Safety
/// The panel has the group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scale_and_start(format: Format, half: usize, panel: &Panel) -> (__m512, __m512) {
    let group = half / 2;
    // SAFETY: by the contract of this function.
    unsafe {
        let scale = match format {
            Format::Q6_K => panel.scales.as_ptr().add(half),
            _ => panel.scales.as_ptr().add(group),
        };
        let scale = _mm512_load_ps(scale.cast());
        let less = match format {
            Format::Q4_K | Format::Q5_K => _mm512_load_ps(panel.minima.as_ptr().add(group).cast()),
            _ => _mm512_mul_ps(scale, _mm512_set1_ps(OFFSET as f32)),
        };
        (scale, _mm512_sub_ps(_mm512_setzero_ps(), less))
    }
}

/// Word 2 r of the pairs is the first number of row r, word 2 r + 1 the second one. Before, all first
/// numbers come before all second ones.
const ORDER: [u16; 2 * STRIP] = {
    let mut order = [0; 2 * STRIP];
    let mut row = 0;
    while row < STRIP {
        order[2 * row] = row as u16;
        order[2 * row + 1] = (STRIP + row) as u16;
        row += 1;
    }
    order
};

/// The bytes of each lane that begin at these bits, as numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair<const FIRST: u32, const SECOND: u32>(
    quads: __m512i,
    scale: __m512,
    start: __m512,
) -> __m512i {
    let (first, second) = (
        number::<FIRST>(quads, scale, start),
        number::<SECOND>(quads, scale, start),
    );
    // SAFETY: a vector of BF16 has the layout of one of integers.
    let halves: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) };
    // SAFETY: the array has the size of a vector.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, halves)
}

/// The byte of each lane that begins at bit `AT`, as a number.
#[inline]
#[target_feature(enable = "avx512f")]
fn number<const AT: u32>(quads: __m512i, scale: __m512, start: __m512) -> __m512 {
    let byte = _mm512_and_si512(_mm512_srli_epi32::<AT>(quads), _mm512_set1_epi32(255));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(byte), scale, start)
}
