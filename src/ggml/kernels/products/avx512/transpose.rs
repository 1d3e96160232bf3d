//! Pieces of 16 rows become vectors with a lane for each row.

use std::arch::x86_64::*;

use super::super::instructions::STRIP;

/// Where each row of a strip continues.
pub(super) type Rows = [*const u8; STRIP];

/// Reads 16 bytes of each row, at `offset`: lane r of vector i has bytes 4 i to 4 i + 3 of row r.
///
/// # Safety
/// All rows have these bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn transpose(rows: &Rows, offset: usize) -> [__m512i; 4] {
    // SAFETY: by the contract of this function.
    let bytes = |row: usize| unsafe { _mm_loadu_si128(rows[row].add(offset).cast()) };
    // Each part of 128 bits becomes a square of four rows.
    let four = |i: usize| {
        let all = _mm512_castsi128_si512(bytes(i));
        let all = _mm512_inserti32x4::<1>(all, bytes(i + 4));
        let all = _mm512_inserti32x4::<2>(all, bytes(i + 8));
        _mm512_inserti32x4::<3>(all, bytes(i + 12))
    };
    let [a, b, c, d] = [four(0), four(1), four(2), four(3)];
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (upper_ab, upper_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(upper_ab, upper_cd),
        _mm512_unpackhi_epi64(upper_ab, upper_cd),
    ]
}
