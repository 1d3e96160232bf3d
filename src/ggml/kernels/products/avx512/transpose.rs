//! Pieces of 16 rows become vectors with a lane for each row.

use std::arch::x86_64::*;
use std::array::from_fn;

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
    square([0, 1, 2, 3].map(four))
}

/// Reads 32 bytes of each row as [`transpose`] reads 16, with fewer instructions than two of them.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn transpose_twice(rows: &Rows, offset: usize) -> [__m512i; 8] {
    // SAFETY: by the contract of this function.
    let bytes = |row: usize| unsafe { _mm256_loadu_si256(rows[row].add(offset).cast()) };
    // The parts of 128 bits are the first and the second 16 bytes of four rows, then those of the next four.
    let squares = |first: usize| {
        let two = |row| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(bytes(row)), bytes(row + 4));
        square([first, first + 1, first + 2, first + 3].map(two))
    };
    let (first, last) = (squares(0), squares(8));
    from_fn(|i| match i {
        0..4 => _mm512_shuffle_i32x4::<0b10_00_10_00>(first[i], last[i]),
        _ => _mm512_shuffle_i32x4::<0b11_01_11_01>(first[i - 4], last[i - 4]),
    })
}

/// Transposes squares of four by four: the same 128 bits of the four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn square([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (upper_ab, upper_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(upper_ab, upper_cd),
        _mm512_unpackhi_epi64(upper_ab, upper_cd),
    ]
}
