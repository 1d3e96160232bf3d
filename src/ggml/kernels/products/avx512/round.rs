//! Activations become BF16.

use std::arch::x86_64::*;

/// Rounds a row to BF16, see [`Instructions::round`](super::Instructions::round).
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
pub(super) unsafe fn round(row: &[f32], to: *mut u8) {
    for (i, values) in row.chunks_exact(16).enumerate() {
        // SAFETY: 16 floats, and room for as many numbers of two bytes. A vector of BF16 has the
        // layout of one of integers.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            let bits = std::mem::transmute::<__m256bh, __m256i>(rounded);
            _mm256_storeu_si256(to.cast::<u16>().add(16 * i).cast(), bits);
        }
    }
}
