//! Activations become integers with a scale for each group.

use std::arch::x86_64::*;

use super::super::format::{GREATEST_OF_GROUP, GROUP, GroupedRow};

/// Vectors of a group.
const VECTORS: usize = GROUP / 16;

/// Quantizes a row, see [`Instructions::quantize_groups`](super::Instructions::quantize_groups). A
/// group that has a number that is not finite gets the scale NaN.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn quantize_groups(row: &[f32], to: *mut u8) {
    let parts = GroupedRow::new(row.len());
    for (g, group) in row.chunks_exact(GROUP).enumerate() {
        // SAFETY: a group of floats, and room for as many integers and a scale.
        unsafe {
            let numbers: [__m512; VECTORS] =
                std::array::from_fn(|i| _mm512_loadu_ps(group.as_ptr().add(16 * i)));
            // As integers the magnitudes of floats have the order of the floats, with NaN last.
            let bits = numbers.map(|v| _mm512_castps_si512(_mm512_abs_ps(v)));
            let most = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(bits[0], bits[1])));
            let (scale, inverse) = scales(most);
            to.cast::<f32>().add(g).write(scale);
            let values = to.add(parts.values).cast::<i16>().add(g * GROUP);
            for (i, numbers) in numbers.into_iter().enumerate() {
                let scaled = _mm512_mul_ps(numbers, _mm512_set1_ps(inverse));
                let integers = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(scaled));
                _mm256_storeu_si256(values.add(16 * i).cast(), integers);
            }
        }
    }
}

/// The scale of a group with this greatest magnitude, and its inverse.
fn scales(most: f32) -> (f32, f32) {
    let greatest = f32::from(GREATEST_OF_GROUP);
    match most {
        most if !most.is_finite() => (f32::NAN, 0.0),
        most if most < 1e-30 => (0.0, 0.0),
        most => (most / greatest, greatest / most),
    }
}
