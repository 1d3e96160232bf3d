//! Activations become integers.

use std::arch::x86_64::*;

use super::super::format::{BLOCK, GROUP};

/// The greatest quantized activation: the sum of 32 products with a weight of Q6_K, at most
/// 32 · 128, remains below 2^31.
const GREATEST: i16 = 16_383;

/// A quantized row of activations: scales of [`BLOCK`] elements (F32), sums of groups (F32, times the scale),
/// values (I16). Each part begins at a multiple of 32 bytes.
pub(super) struct QuantizedRow {
    /// Offset of the sums in bytes.
    pub(super) sums: usize,
    /// Offset of the values in bytes.
    pub(super) values: usize,
    /// Size in bytes.
    pub(super) bytes: usize,
}

impl QuantizedRow {
    /// Of `k` elements, which are whole groups.
    pub(super) fn new(k: usize) -> Self {
        let sums = 4 * k.div_ceil(BLOCK).next_multiple_of(8);
        let values = sums + 4 * (k / GROUP).next_multiple_of(8);
        Self {
            sums,
            values,
            bytes: values + 2 * k,
        }
    }

    /// The part of a row from element `first` on, which begins a block.
    ///
    /// # Safety
    /// `row` is a quantized row of this size, and has the element.
    pub(super) unsafe fn part(&self, row: *const u8, first: usize) -> QuantizedPart {
        // SAFETY: by the contract of this function.
        unsafe {
            QuantizedPart {
                scales: row.cast::<f32>().add(first / BLOCK),
                sums: row.add(self.sums).cast::<f32>().add(first / GROUP),
                values: row.add(self.values).cast::<i16>().add(first),
            }
        }
    }
}

/// A part of a quantized row.
#[derive(Clone, Copy)]
pub(super) struct QuantizedPart {
    /// One for each block.
    pub(super) scales: *const f32,
    /// Sums of the groups.
    pub(super) sums: *const f32,
    pub(super) values: *const i16,
}

/// Quantizes a row, see [`Instructions::quantize`](super::Instructions::quantize). A block that
/// has a number that is not finite gets the scale NaN.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantize(row: &[f32], to: *mut u8) {
    let parts = QuantizedRow::new(row.len());
    for (b, block) in row.chunks(BLOCK).enumerate() {
        let (scale, inverse) = match greatest(block) {
            most if !most.is_finite() => (f32::NAN, 0.0),
            most if most < 1e-30 => (0.0, 0.0),
            most => (most / f32::from(GREATEST), f32::from(GREATEST) / most),
        };
        // SAFETY: the target has these parts, each with room for the whole row.
        unsafe {
            to.cast::<f32>().add(b).write(scale);
            for (g, group) in block.chunks_exact(GROUP).enumerate() {
                let at = b * BLOCK + g * GROUP;
                let values = to.add(parts.values).cast::<i16>().add(at);
                let sum = quantize_group(group, inverse, values) as f32 * scale;
                to.add(parts.sums).cast::<f32>().add(at / GROUP).write(sum);
            }
        }
    }
}

/// The greatest magnitude in whole groups; not finite if one of them is not.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn greatest(values: &[f32]) -> f32 {
    // As integers the magnitudes of floats have the order of the floats, with NaN last.
    let magnitudes = _mm256_set1_epi32(i32::MAX);
    let mut most = _mm256_setzero_si256();
    for eight in values.chunks_exact(8) {
        // SAFETY: eight floats.
        let bits = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
        most = _mm256_max_epi32(most, _mm256_and_si256(bits, magnitudes));
    }
    let mut lanes = [0_u32; 8];
    // SAFETY: eight integers.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), most) };
    f32::from_bits(lanes.into_iter().fold(0, u32::max))
}

/// Quantizes 32 values; returns the sum of the integers.
///
/// # Safety
/// `to` has room for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_group(group: &[f32], inverse: f32, to: *mut i16) -> i32 {
    let inverse = _mm256_set1_ps(inverse);
    let mut sums = _mm256_setzero_si256();
    for (half, values) in group.chunks_exact(16).enumerate() {
        let [low, high] = [0, 8].map(|i| {
            // SAFETY: 16 floats.
            let eight = unsafe { _mm256_loadu_ps(values.as_ptr().add(i)) };
            _mm256_cvtps_epi32(_mm256_mul_ps(eight, inverse))
        });
        sums = _mm256_add_epi32(sums, _mm256_add_epi32(low, high));
        // Packing interleaves the halves of both vectors.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
        // SAFETY: by the contract of this function.
        unsafe { _mm256_storeu_si256(to.add(16 * half).cast(), packed) };
    }
    let high = _mm256_extracti128_si256::<1>(sums);
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), high);
    let two = _mm_hadd_epi32(four, four);
    _mm_cvtsi128_si32(_mm_hadd_epi32(two, two))
}
