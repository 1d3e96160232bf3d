//! Rows of weights become rows of a panel. The layout of the blocks is ggml's.

use std::arch::x86_64::*;

use super::super::format::{BLOCK, Format, GROUP};
use super::panel::Panel;

/// Decodes `k` elements into row `r` of the panel.
///
/// # Safety
/// `from` has `k` elements of the format, whole groups and blocks, which fit the panel.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode(
    format: Format,
    from: *const u8,
    k: usize,
    panel: &mut Panel,
    r: usize,
) {
    let floats = panel.floats[r].as_mut_ptr();
    let to = panel.integers[r].as_mut_ptr();
    let scales = &mut panel.scales[r];
    let minima = panel.minima[r].as_mut_ptr();
    // SAFETY: by the contract of this function.
    unsafe {
        match format {
            Format::F16 => f16(from, k, floats),
            Format::BF16 => bf16(from, k, floats),
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => {
                for (g, scale) in scales.iter_mut().enumerate().take(k / GROUP) {
                    let block = from.add(g * format.block_bytes());
                    *scale = half(block);
                    let bytes = match format {
                        Format::Q8_0 => _mm256_loadu_si256(block.add(2).cast()),
                        Format::Q4_0 => q4_0(block),
                        _ => q5_0(block),
                    };
                    store(bytes, to.add(g * GROUP));
                }
            }
            Format::Q4_K | Format::Q5_K | Format::Q6_K => {
                for (b, scale) in scales.iter_mut().enumerate().take(k / BLOCK) {
                    let block = from.add(b * format.block_bytes());
                    let (to, minima) = (to.add(b * BLOCK), minima.add(8 * b));
                    *scale = match format {
                        Format::Q4_K => q4_k(block, to, minima),
                        Format::Q5_K => q5_k(block, to, minima),
                        _ => q6_k(block, to),
                    };
                }
            }
        }
    }
}

/// # Safety
/// Both have `k` elements, whole groups.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f16(from: *const u8, k: usize, to: *mut f32) {
    for i in (0..k).step_by(8) {
        // SAFETY: by the contract of this function.
        unsafe {
            let halves = _mm_loadu_si128(from.add(2 * i).cast());
            _mm256_storeu_ps(to.add(i), _mm256_cvtph_ps(halves));
        }
    }
}

/// # Safety
/// Both have `k` elements, whole groups.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bf16(from: *const u8, k: usize, to: *mut f32) {
    for i in (0..k).step_by(8) {
        // SAFETY: by the contract of this function.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(2 * i).cast()));
            _mm256_storeu_si256(to.add(i).cast(), _mm256_slli_epi32::<16>(halves));
        }
    }
}

/// A number in F16.
///
/// # Safety
/// Two bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half(from: *const u8) -> f32 {
    // SAFETY: by the contract of this function.
    let bits = unsafe { from.cast::<u16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// The low four bits of 16 bytes, then the high four.
///
/// # Safety
/// 16 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles(from: *const u8) -> __m256i {
    // SAFETY: by the contract of this function.
    let bytes = unsafe { _mm_loadu_si128(from.cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// # Safety
/// A block of Q4_0: a scale, 32 values of four bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_0(block: *const u8) -> __m256i {
    // SAFETY: by the contract of this function.
    let values = unsafe { nibbles(block.add(2)) };
    _mm256_sub_epi8(values, _mm256_set1_epi8(8))
}

/// # Safety
/// A block of Q5_0: a scale, a fifth bit for each value, their low four bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_0(block: *const u8) -> __m256i {
    // SAFETY: by the contract of this function.
    let (fifths, low) = unsafe {
        let fifths = block.add(2).cast::<i32>().read_unaligned();
        (fifths, nibbles(block.add(6)))
    };
    // Every byte of a lane gets the byte of `fifths` that has its bit.
    let bytes = _mm256_setr_epi64x(
        0,
        0x0101_0101_0101_0101,
        0x0202_0202_0202_0202,
        0x0303_0303_0303_0303,
    );
    let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(fifths), bytes);
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
    // Without the fifth bit a value is 16 less: its upper bits are those of a negative number.
    _mm256_or_si256(low, _mm256_andnot_si256(is_set, _mm256_set1_epi8(-16)))
}

/// Widens 32 signed bytes.
///
/// # Safety
/// `to` has room for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store(bytes: __m256i, to: *mut i16) {
    let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
    let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(bytes));
    // SAFETY: by the contract of this function.
    unsafe {
        _mm256_storeu_si256(to.cast(), low);
        _mm256_storeu_si256(to.add(16).cast(), high);
    }
}

/// Widens 32 signed bytes, and multiplies each half by a scale.
///
/// # Safety
/// `to` has room for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store_scaled(bytes: __m256i, scales: [i16; 2], to: *mut i16) {
    let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
    let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(bytes));
    let scales = scales.map(|scale| _mm256_set1_epi16(scale));
    // SAFETY: by the contract of this function.
    unsafe {
        _mm256_storeu_si256(to.cast(), _mm256_mullo_epi16(low, scales[0]));
        _mm256_storeu_si256(to.add(16).cast(), _mm256_mullo_epi16(high, scales[1]));
    }
}

/// Scales and minima of the eight groups of a block of Q4_K or Q5_K, six bits each: the first four
/// of both in whole bytes, whose upper two bits belong to the last four.
fn six_bits(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let [scale, minimum, last] = [packed[j], packed[j + 4], packed[j + 8]];
        scales[j] = scale & 63;
        minima[j] = minimum & 63;
        scales[j + 4] = last & 15 | (scale >> 6) << 4;
        minima[j + 4] = last >> 4 | (minimum >> 6) << 4;
    }
    (scales, minima)
}

/// Writes the minima of a block of Q4_K or Q5_K; returns its scale and those of its groups.
///
/// # Safety
/// A block that begins with a scale, a scale of minima and what [`six_bits`] reads; room for eight
/// minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn k_scales(block: *const u8, to: *mut f32) -> (f32, [i16; 8]) {
    // SAFETY: by the contract of this function.
    unsafe {
        let (scales, minima) = six_bits(&*block.add(4).cast());
        let minima = _mm256_cvtepu8_epi32(_mm_loadl_epi64(minima.as_ptr().cast()));
        let scale = _mm256_set1_ps(half(block.add(2)));
        _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(minima), scale));
        (half(block), scales.map(i16::from))
    }
}

/// Returns the scale.
///
/// # Safety
/// A block of Q4_K: what [`k_scales`] reads, 128 bytes with two values each, of 64 values the first
/// 32 in the low bits. Room for a block and its minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q4_k(block: *const u8, to: *mut i16, minima: *mut f32) -> f32 {
    // SAFETY: by the contract of this function.
    unsafe {
        let (scale, scales) = k_scales(block, minima);
        let low = _mm256_set1_epi8(15);
        for j in 0..4 {
            let both = _mm256_loadu_si256(block.add(16 + GROUP * j).cast());
            for (half, bits) in [both, _mm256_srli_epi16::<4>(both)].into_iter().enumerate() {
                let group = 2 * j + half;
                let values = _mm256_and_si256(bits, low);
                store_scaled(values, [scales[group]; 2], to.add(group * GROUP));
            }
        }
        scale
    }
}

/// Returns the scale.
///
/// # Safety
/// A block of Q5_K: as [`q4_k`], with 32 bytes before the values, whose bit g is the fifth of group
/// g. Room for a block and its minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q5_k(block: *const u8, to: *mut i16, minima: *mut f32) -> f32 {
    // SAFETY: by the contract of this function.
    unsafe {
        let (scale, scales) = k_scales(block, minima);
        let (low, one) = (_mm256_set1_epi8(15), _mm256_set1_epi8(1));
        let mut fifths = _mm256_loadu_si256(block.add(16).cast());
        for j in 0..4 {
            let both = _mm256_loadu_si256(block.add(48 + GROUP * j).cast());
            for (half, bits) in [both, _mm256_srli_epi16::<4>(both)].into_iter().enumerate() {
                let group = 2 * j + half;
                let fifth = _mm256_slli_epi16::<4>(_mm256_and_si256(fifths, one));
                fifths = _mm256_srli_epi16::<1>(fifths);
                let values = _mm256_or_si256(_mm256_and_si256(bits, low), fifth);
                store_scaled(values, [scales[group]; 2], to.add(group * GROUP));
            }
        }
        scale
    }
}

/// Returns the scale.
///
/// # Safety
/// A block of Q6_K: low four bits (128 bytes), upper two bits (64 bytes), 16 scales of one byte, a
/// scale. Of 128 values the first 64 are in the low bits of 64 bytes; 32 bytes have the upper bits
/// of all four groups. Room for a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6_k(block: *const u8, to: *mut i16) -> f32 {
    let (four, two) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    // SAFETY: by the contract of this function.
    unsafe {
        for half in 0..2 {
            let [low, next] = [0, 32].map(|i| _mm256_loadu_si256(block.add(64 * half + i).cast()));
            let upper = _mm256_loadu_si256(block.add(128 + 32 * half).cast());
            let scales = block.add(192 + 8 * half).cast::<i8>();
            let groups = [
                (low, _mm256_slli_epi16::<4>(upper)),
                (next, _mm256_slli_epi16::<2>(upper)),
                (_mm256_srli_epi16::<4>(low), upper),
                (_mm256_srli_epi16::<4>(next), _mm256_srli_epi16::<2>(upper)),
            ];
            for (group, (low, upper)) in groups.into_iter().enumerate() {
                let (low, upper) = (_mm256_and_si256(low, four), _mm256_and_si256(upper, two));
                let values = _mm256_sub_epi8(_mm256_or_si256(low, upper), _mm256_set1_epi8(32));
                let scales = [0, 1].map(|i| i16::from(*scales.add(2 * group + i)));
                store_scaled(values, scales, to.add(128 * half + GROUP * group));
            }
        }
        super::decode::half(block.add(208))
    }
}
