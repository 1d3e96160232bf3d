//! Rows of weights become a panel. The layout of the blocks is ggml's.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::super::format::{BLOCK, Format, GROUP};
use super::super::instructions::{Ahead, STRIP};
use super::activations::{GREATEST_OF_WORDS, OFFSET};
use super::panel::Panel;
use super::transpose::{Rows, transpose, transpose_twice};

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

/// BF16 is divided by two to the power of this, so that the addend of the greatest numbers is finite.
const SPARE: i32 = 16;

/// Floats of 16 bits become integers, as many bits of each as the exponent of the greatest of its group
/// leaves; ties are rounded to even. `MANTISSA` and `BIAS` are those of the type. A group that is not finite
/// gets the scale NaN; one whose scale is too small for a normal number of F32, as only BF16 has, zero.
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
    const BITS: i32 = GREATEST_OF_WORDS.ilog2().cast_signed() + 1;
    let magnitude = _mm512_set1_epi16(i16::MAX);
    let (zero, one) = (_mm512_setzero_si512(), _mm512_set1_epi32(1));
    // SAFETY: by the contract of this function.
    let parts = [0, 32].map(|at| unsafe { transpose_twice(rows, offset + at) });
    let mut most = zero;
    for pairs in parts.as_flattened() {
        most = _mm512_max_epu16(most, _mm512_and_si512(*pairs, magnitude));
    }
    // The exponent of the greatest number. That of subnormal numbers is 1, too.
    let most = _mm512_max_epu16(most, _mm512_rol_epi32::<16>(most));
    let most = _mm512_and_si512(most, _mm512_set1_epi32(i16::MAX.into()));
    let most = _mm512_srl_epi32(most, _mm_cvtsi32_si128(MANTISSA.cast_signed()));
    let most = _mm512_max_epu32(most, one);
    // A number so great that the last bit of a sum is the unit of the integers: the lower bits of the sum are
    // the integer. It is 1.5 times a power of two, so that the exponent of the sum is the same for both signs.
    // Where it would be too small, the scale is zero.
    let spare = if MANTISSA == 10 { 0 } else { SPARE };
    let exponent = _mm512_add_epi32(most, _mm512_set1_epi32(24 - BITS - spare));
    let exponent = _mm512_slli_epi32::<23>(_mm512_max_epi32(exponent, one));
    let addend = _mm512_castsi512_ps(_mm512_or_si512(exponent, _mm512_set1_epi32(1 << 22)));
    // The lower half of each second sum goes to the upper half.
    let order = _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
    let order = _mm512_broadcast_i32x4(order);
    for (i, pairs) in parts.as_flattened().iter().enumerate() {
        let [first, second] = match MANTISSA {
            10 => f16_sums(*pairs, addend),
            _ => bf16_sums(*pairs, addend),
        };
        let value = _mm512_mask_shuffle_epi8(first, 0xcccc_cccc_cccc_cccc, second, order);
        // SAFETY: the panel has the group.
        unsafe {
            let to = panel.values.as_mut_ptr().add(group * GROUP / 2 + i);
            _mm512_store_si512(to.cast(), value);
        }
    }
    // The exponent of the scale, as F32 has it.
    let ends = 1 << (15 - MANTISSA);
    let is_finite = _mm512_cmplt_epi32_mask(most, _mm512_set1_epi32(ends - 1));
    let scale = _mm512_add_epi32(most, _mm512_set1_epi32(127 - BIAS - BITS + 1));
    let scale = _mm512_slli_epi32::<23>(_mm512_max_epi32(scale, zero));
    let nan = _mm512_set1_epi32(f32::NAN.to_bits().cast_signed());
    let scale = _mm512_mask_mov_epi32(nan, is_finite, scale);
    // SAFETY: scales have the alignment of vectors.
    unsafe { _mm512_store_si512(panel.scales[group].as_mut_ptr().cast(), scale) };
}

/// The bits of the sums of F16 and an addend, of the first number of each pair and of the second. The
/// magnitude of F16 at the place of F32's is a number of F32 that is 2^112 times smaller. It is not
/// multiplied by that, because some processors multiply subnormal numbers slowly.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn f16_sums(pairs: __m512i, addend: __m512) -> [__m512i; 2] {
    let without_copies_of_the_sign = _mm512_set1_epi32(0x8fff_ffff_u32.cast_signed());
    // A product with 2^13 shifts, and copies the sign into the bits above the magnitude.
    [1 << 13, 1 << 29].map(|place| {
        let bits = _mm512_madd_epi16(pairs, _mm512_set1_epi32(place));
        let number = _mm512_castsi512_ps(_mm512_and_si512(bits, without_copies_of_the_sign));
        _mm512_castps_si512(_mm512_add_ps(number, addend))
    })
}

/// [`f16_sums`] of BF16.
#[inline]
#[target_feature(enable = "avx512f")]
fn bf16_sums(pairs: __m512i, addend: __m512) -> [__m512i; 2] {
    let factor = _mm512_set1_ps(1.0 / (1 << SPARE) as f32);
    let second = _mm512_and_si512(pairs, _mm512_set1_epi32(-1 << 16));
    [_mm512_slli_epi32::<16>(pairs), second].map(|bits| {
        let number = _mm512_castsi512_ps(bits);
        _mm512_castps_si512(_mm512_fmadd_ps(number, factor, addend))
    })
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
        for i in (first..first + GROUP).step_by(GROUP / 2) {
            // SAFETY: by the contract of this function.
            unsafe {
                for pairs in transpose_twice(rows, 2 * i) {
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
        for (column, bytes) in transpose_twice(rows, offset + 2).into_iter().enumerate() {
            store(add(bytes, OFFSET), group, column, panel);
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
        for part in 0..GROUPS / 2 {
            let pair = group + 2 * part;
            let values = transpose_twice(rows, offset + 16 + 32 * part);
            for (column, bytes) in values.into_iter().enumerate() {
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
        let fifths = transpose_twice(rows, offset + 16);
        for part in 0..GROUPS / 2 {
            let values = transpose_twice(rows, offset + 48 + 32 * part);
            for (column, bytes) in values.into_iter().enumerate() {
                for (high, bits) in [low_bits(bytes), high_bits(bytes)].into_iter().enumerate() {
                    let g = 2 * part + high;
                    // Bit g of each byte becomes bit 4.
                    let turn = _mm512_set1_epi32(4 - g as i32);
                    let bit = _mm512_and_si512(_mm512_rolv_epi32(fifths[column], turn), fifth);
                    store(_mm512_or_si512(bits, bit), group + g, column, panel);
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
            let groups = Q6KGroups {
                twos: transpose_twice(rows, offset + 128 + 32 * half),
                fours: [0, 32].map(|i| transpose_twice(rows, offset + 64 * half + i)),
                first: group + 4 * half,
            };
            groups.store::<0>(panel);
            groups.store::<1>(panel);
            groups.store::<2>(panel);
            groups.store::<3>(panel);
        }
    }
}

/// Four groups of Q6_K.
struct Q6KGroups {
    /// Upper two bits of all groups.
    twos: [__m512i; 8],
    /// Low four bits: of groups 0 and 2, of groups 1 and 3.
    fours: [[__m512i; 8]; 2],
    /// The first group.
    first: usize,
}

impl Q6KGroups {
    /// Writes the values of group `G`.
    ///
    /// # Safety
    /// The panel has the group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store<const G: usize>(&self, panel: &mut Panel) {
        let upper = _mm512_set1_epi8(0x30);
        for (column, (four, two)) in self.fours[G % 2].into_iter().zip(self.twos).enumerate() {
            let four = if G < 2 {
                low_bits(four)
            } else {
                high_bits(four)
            };
            // Bits 2 G and 2 G + 1 of each byte become bits 4 and 5.
            let turn = _mm512_set1_epi32(4 - 2 * G as i32);
            let two = _mm512_and_si512(_mm512_rolv_epi32(two, turn), upper);
            let values = add(_mm512_or_si512(four, two), OFFSET - 32);
            // SAFETY: by the contract of this function.
            unsafe { store(values, self.first + G, column, panel) };
        }
    }
}
