//! Rows of weights become a panel. The layout of the blocks is ggml's.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, Format, GROUP};
use super::super::instructions::{Ahead, STRIP};
use super::activations::{GREATEST_OF_WORDS, OFFSET};
use super::panel::Panel;
use super::transpose::{Rows, transpose};

/// Groups of a block of a K type.
const GROUPS: usize = BLOCK / GROUP;

/// Decodes `k` elements of each row.
///
/// # Safety
/// The rows have `k` elements of the format, whole groups and blocks, which fit the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn decode(
    format: Format,
    rows: &Rows,
    k: usize,
    panel: &mut Panel,
    ahead: &mut Ahead,
) {
    let part = format.part();
    for first in (0..k).step_by(part) {
        let (offset, group) = (format.bytes(first), first / GROUP);
        ahead.read(part / GROUP);
        // SAFETY: by the contract of this function.
        unsafe {
            match format {
                Format::F16 => floats::<10, 15>(rows, offset, group, panel),
                Format::BF16 => floats::<7, 127>(rows, offset, group, panel),
                Format::Q8_0 => q8_0(rows, offset, group, panel),
                Format::Q4_0 => q4_0(rows, offset, group, panel),
                Format::Q5_0 => q5_0(rows, offset, group, panel),
                Format::Q4_K => q4_k(rows, offset, group, panel),
                Format::Q5_K => q5_k(rows, offset, group, panel),
                Format::Q6_K => q6_k(rows, offset, group, panel),
            }
        }
    }
}

/// Floats of 16 bits become integers, as many bits of each as the exponent of the greatest of its group
/// leaves. `MANTISSA` and `BIAS` are those of the type. A group that is not finite gets the scale NaN.
///
/// # Safety
/// The rows have a group of floats at the offset. The panel has the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn floats<const MANTISSA: u32, const BIAS: i32>(
    rows: &Rows,
    offset: usize,
    group: usize,
    panel: &mut Panel,
) {
    /// Bits of the greatest integer.
    const BITS: u32 = GREATEST_OF_WORDS.ilog2() + 1;
    let magnitude = _mm512_set1_epi16(i16::MAX);
    let zero = _mm512_setzero_si512();
    // The least number that is not subnormal: the first bit of its mantissa is that of its exponent.
    let normal = _mm512_set1_epi16(1 << MANTISSA);
    let mantissa = _mm512_set1_epi16((1 << MANTISSA) - 1);
    let exponent = |bits| _mm512_srl_epi16(bits, _mm_cvtsi32_si128(MANTISSA as i32));
    // SAFETY: by the contract of this function.
    unsafe {
        let parts = [0, 16, 32, 48].map(|at| transpose(rows, offset + at));
        let mut most = normal;
        for pairs in parts.as_flattened() {
            most = _mm512_max_epu16(most, _mm512_and_si512(*pairs, magnitude));
        }
        let most = _mm512_max_epu16(most, _mm512_rol_epi32::<16>(most));
        let last = _mm512_or_si512(most, mantissa);
        for (i, pairs) in parts.as_flattened().iter().enumerate() {
            let number = _mm512_and_si512(*pairs, magnitude);
            // The mantissa with its first bit, which subnormal numbers lack.
            let bits = or_of_and(_mm512_min_epu16(number, normal), number, mantissa);
            let bits = _mm512_sll_epi16(bits, _mm_cvtsi32_si128((BITS - MANTISSA) as i32));
            let behind = exponent(_mm512_sub_epi16(last, _mm512_max_epu16(number, normal)));
            // A power of two that is half as large with each exponent. The sign comes after rounding,
            // which would favor one of them.
            let power = _mm512_srlv_epi16(_mm512_set1_epi16(1 << 14), behind);
            let value = _mm512_mulhrs_epi16(bits, power);
            let value = _mm512_mask_sub_epi16(value, _mm512_movepi16_mask(*pairs), zero, value);
            let to = panel.values.as_mut_ptr().add(group * GROUP / 2 + i);
            _mm512_store_si512(to.cast(), value);
        }
        let most = exponent(most);
        // The exponent of the scale, as F32 has it.
        let most = _mm512_and_si512(most, _mm512_set1_epi32(0xffff));
        let ends = 1 << (15 - MANTISSA);
        let is_finite = _mm512_cmplt_epi32_mask(most, _mm512_set1_epi32(ends - 1));
        let scale = _mm512_add_epi32(most, _mm512_set1_epi32(127 - BIAS - BITS as i32 + 1));
        let scale = _mm512_slli_epi32::<23>(_mm512_max_epi32(scale, zero));
        let nan = _mm512_set1_epi32(f32::NAN.to_bits().cast_signed());
        let scale = _mm512_mask_mov_epi32(nan, is_finite, scale);
        _mm512_store_si512(panel.scales[group].as_mut_ptr().cast(), scale);
    }
}

/// `a | (b & c)`, bit by bit.
#[inline]
#[target_feature(enable = "avx512f")]
fn or_of_and(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, c)
}

/// Pairs of BF16 remain as they are.
///
/// # Safety
/// The rows have `k` elements, whole groups, which fit the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn bf16_pairs(rows: &Rows, k: usize, panel: &mut Panel, ahead: &mut Ahead) {
    let mut to = panel.values.as_mut_ptr();
    for first in (0..k).step_by(GROUP) {
        ahead.read(1);
        for i in (first..first + GROUP).step_by(8) {
            // SAFETY: by the contract of this function.
            unsafe {
                for pairs in transpose(rows, 2 * i) {
                    _mm512_store_si512(to.cast(), pairs);
                    to = to.add(1);
                }
            }
        }
    }
}

/// Numbers in F16, one of each row.
///
/// # Safety
/// The rows have two bytes at the offset.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn halves(rows: &Rows, offset: usize) -> __m512 {
    // SAFETY: by the contract of this function.
    unsafe {
        let bits: [u16; STRIP] = from_fn(|r| rows[r].add(offset).cast::<u16>().read_unaligned());
        _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast()))
    }
}

/// Writes the four elements of column `column` of a group.
///
/// # Safety
/// The panel has the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store(quads: __m512i, group: usize, column: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        let to = panel.values.as_mut_ptr().add(group * GROUP / 4 + column);
        _mm512_store_si512(to.cast(), quads);
    }
}

/// Adds to each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn add(bytes: __m512i, number: i32) -> __m512i {
    _mm512_add_epi8(bytes, _mm512_set1_epi8(number as i8))
}

/// The low four bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn low_bits(bytes: __m512i) -> __m512i {
    _mm512_and_si512(bytes, _mm512_set1_epi8(15))
}

/// The high four bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn high_bits(bytes: __m512i) -> __m512i {
    low_bits(_mm512_srli_epi16::<4>(bytes))
}

/// # Safety
/// The rows have a block of Q8_0 at the offset: a scale, 32 values of eight bits. The panel has
/// the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q8_0(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        _mm512_store_ps(panel.scales[group].as_mut_ptr(), halves(rows, offset));
        for half in 0..2 {
            let values = transpose(rows, offset + 2 + 16 * half);
            for (column, bytes) in values.into_iter().enumerate() {
                store(add(bytes, OFFSET), group, 4 * half + column, panel);
            }
        }
    }
}

/// # Safety
/// The rows have a block of Q4_0 at the offset: a scale, 32 values of four bits, first the low ones
/// of all bytes. The panel has the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q4_0(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        _mm512_store_ps(panel.scales[group].as_mut_ptr(), halves(rows, offset));
        for (column, bytes) in transpose(rows, offset + 2).into_iter().enumerate() {
            for (half, bits) in [low_bits(bytes), high_bits(bytes)].into_iter().enumerate() {
                store(add(bits, OFFSET - 8), group, 4 * half + column, panel);
            }
        }
    }
}

/// # Safety
/// The rows have a block of Q5_0 at the offset: a scale, a fifth bit for each value, their low four
/// bits as in [`q4_0`]. The panel has the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q5_0(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        _mm512_store_ps(panel.scales[group].as_mut_ptr(), halves(rows, offset));
        let [fifths, ..] = transpose(rows, offset + 2);
        for (column, bytes) in transpose(rows, offset + 6).into_iter().enumerate() {
            for (half, bits) in [low_bits(bytes), high_bits(bytes)].into_iter().enumerate() {
                let column = 4 * half + column;
                // The byte with the bits of these four values, in each byte of the lane.
                let order = _mm_setr_epi32(0, 0x0404_0404, 0x0808_0808, 0x0c0c_0c0c);
                let order = _mm_add_epi8(order, _mm_set1_epi8((column / 2) as i8));
                let spread = _mm512_shuffle_epi8(fifths, _mm512_broadcast_i32x4(order));
                let bit = _mm512_set1_epi32(0x0804_0201 << (4 * (column % 2)));
                let is_set = _mm512_test_epi8_mask(spread, bit);
                // Without the fifth bit a value is 16 less.
                let less = _mm512_mask_sub_epi8(bits, !is_set, bits, _mm512_set1_epi8(16));
                store(add(less, OFFSET), group, column, panel);
            }
        }
    }
}

/// Writes scales and minima of the groups of a block of Q4_K or Q5_K. Both have six bits: the first
/// four of each are in whole bytes, whose upper two bits belong to the last four.
///
/// # Safety
/// The rows have at the offset a scale of scales, a scale of minima and twelve bytes. The panel has
/// the groups from `group` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn k_scales(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    let six = _mm512_set1_epi8(63);
    let upper = _mm512_set1_epi8(0x30);
    // SAFETY: by the contract of this function.
    let [whole, scales, minima, last] = unsafe { transpose(rows, offset) };
    let float = |bits| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
    let (scale, minimum) = (float(whole), float(_mm512_srli_epi32::<16>(whole)));
    let join = |low, first| {
        let two = _mm512_and_si512(_mm512_srli_epi16::<2>(first), upper);
        _mm512_or_si512(low, two)
    };
    let parts = [
        (_mm512_and_si512(scales, six), _mm512_and_si512(minima, six)),
        (join(low_bits(last), scales), join(high_bits(last), minima)),
    ];
    for (half, (mut scales, mut minima)) in parts.into_iter().enumerate() {
        for i in 0..4 {
            let times = |bytes, whole| {
                let number = _mm512_and_si512(bytes, _mm512_set1_epi32(255));
                _mm512_mul_ps(_mm512_cvtepi32_ps(number), whole)
            };
            let g = group + 4 * half + i;
            // SAFETY: the panel has the group.
            unsafe {
                _mm512_store_ps(panel.scales[g].as_mut_ptr(), times(scales, scale));
                _mm512_store_ps(panel.minima[g].as_mut_ptr(), times(minima, minimum));
            }
            scales = _mm512_srli_epi32::<8>(scales);
            minima = _mm512_srli_epi32::<8>(minima);
        }
    }
}

/// # Safety
/// The rows have a block of Q4_K at the offset: what [`k_scales`] reads, 128 bytes with two values
/// each, of 64 values the first 32 in the low bits. The panel has the groups from `group` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q4_k(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        k_scales(rows, offset, group, panel);
        for part in 0..GROUPS {
            let (pair, half) = (group + part / 2 * 2, part % 2);
            let values = transpose(rows, offset + 16 + 16 * part);
            for (column, bytes) in values.into_iter().enumerate() {
                let column = 4 * half + column;
                store(low_bits(bytes), pair, column, panel);
                store(high_bits(bytes), pair + 1, column, panel);
            }
        }
    }
}

/// # Safety
/// The rows have a block of Q5_K at the offset: as [`q4_k`], with 32 bytes before the values, whose
/// bit g is the fifth of group g. The panel has the groups from `group` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q5_k(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    let fifth = _mm512_set1_epi8(16);
    // SAFETY: by the contract of this function.
    unsafe {
        k_scales(rows, offset, group, panel);
        for half in 0..2 {
            let fifths = transpose(rows, offset + 16 + 16 * half);
            for part in 0..GROUPS / 2 {
                let values = transpose(rows, offset + 48 + 32 * part + 16 * half);
                for (column, bytes) in values.into_iter().enumerate() {
                    for (high, bits) in [low_bits(bytes), high_bits(bytes)].into_iter().enumerate()
                    {
                        let g = 2 * part + high;
                        // Bit g of each byte becomes bit 4.
                        let turn = _mm512_set1_epi32(4 - g as i32);
                        let bit = _mm512_and_si512(_mm512_rolv_epi32(fifths[column], turn), fifth);
                        let values = _mm512_or_si512(bits, bit);
                        store(values, group + g, 4 * half + column, panel);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The rows have a block of Q6_K at the offset: low four bits (128 bytes), upper two bits (64
/// bytes), 16 scales of one byte, a scale. Of 128 values the first 64 are in the low bits of 64
/// bytes; 32 bytes have the upper bits of all four groups. The panel has the groups from `group` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn q6_k(rows: &Rows, offset: usize, group: usize, panel: &mut Panel) {
    // SAFETY: by the contract of this function.
    unsafe {
        let whole = halves(rows, offset + 208);
        let scales = transpose(rows, offset + 192);
        for (i, to) in panel.scales[2 * group..][..2 * GROUPS]
            .iter_mut()
            .enumerate()
        {
            let left = _mm_cvtsi32_si128(24 - 8 * (i as i32 % 4));
            let number = _mm512_srai_epi32::<24>(_mm512_sll_epi32(scales[i / 4], left));
            _mm512_store_ps(
                to.as_mut_ptr(),
                _mm512_mul_ps(_mm512_cvtepi32_ps(number), whole),
            );
        }
        for half in 0..2 {
            for first in 0..2 {
                let part = Q6KPart {
                    twos: transpose(rows, offset + 128 + 32 * half + 16 * first),
                    fours: [0, 32].map(|i| transpose(rows, offset + 64 * half + i + 16 * first)),
                    group: group + 4 * half,
                    first,
                };
                part.store::<0>(panel);
                part.store::<1>(panel);
                part.store::<2>(panel);
                part.store::<3>(panel);
            }
        }
    }
}

/// The first or the last 16 values of four groups of Q6_K.
struct Q6KPart {
    /// Upper two bits of all groups.
    twos: [__m512i; 4],
    /// Low four bits: of groups 0 and 2, of groups 1 and 3.
    fours: [[__m512i; 4]; 2],
    /// The first group.
    group: usize,
    /// 0 for the first values, 1 for the last.
    first: usize,
}

impl Q6KPart {
    /// Writes the values of group `G`.
    ///
    /// # Safety
    /// The panel has the group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store<const G: usize>(&self, panel: &mut Panel) {
        let upper = _mm512_set1_epi8(0x30);
        for column in 0..4 {
            let four = self.fours[G % 2][column];
            let four = if G < 2 {
                low_bits(four)
            } else {
                high_bits(four)
            };
            // Bits 2 G and 2 G + 1 of each byte become bits 4 and 5.
            let turn = _mm512_set1_epi32(4 - 2 * G as i32);
            let two = _mm512_and_si512(_mm512_rolv_epi32(self.twos[column], turn), upper);
            let values = add(_mm512_or_si512(four, two), OFFSET - 32);
            // SAFETY: by the contract of this function.
            unsafe { store(values, self.group + G, 4 * self.first + column, panel) };
        }
    }
}
