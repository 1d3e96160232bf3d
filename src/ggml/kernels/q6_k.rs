//! Blocks of Q6_K as numbers. The layout of a block is ggml's.

use half::f16;
use multiversion::multiversion;

/// Elements of a block.
pub(super) const LEN: usize = 256;

/// The low four bits of each element (128 bytes), the upper two (64 bytes), 16 scales of one byte, and
/// a scale in F16. Of 128 elements the first 64 are in the low halves of 64 bytes; 32 bytes have the
/// upper bits of all four quarters.
pub(super) type Block = [u8; 210];

/// Writes the elements of the blocks: the same numbers as ggml's function.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn decode(blocks: &[Block], to: &mut [f32]) {
    for (block, to) in blocks.iter().zip(to.chunks_exact_mut(LEN)) {
        let whole = f16::from_le_bytes([block[208], block[209]]).to_f32();
        for (half, to) in to.chunks_exact_mut(LEN / 2).enumerate() {
            let low = &block[64 * half..][..64];
            let upper = &block[128 + 32 * half..][..32];
            let scales = &block[192 + 8 * half..][..8];
            for (part, to) in to.chunks_exact_mut(16).enumerate() {
                let (quarter, first) = (part / 2, 16 * (part % 2));
                let scale = whole * f32::from(scales[part].cast_signed());
                let low = &low[32 * (quarter % 2) + first..][..16];
                let upper = &upper[first..][..16];
                for ((to, low), upper) in to.iter_mut().zip(low).zip(upper) {
                    let low = low >> (4 * (quarter / 2)) & 15;
                    let upper = upper >> (2 * quarter) & 3;
                    *to = scale * f32::from((low | upper << 4).cast_signed() - 32);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::convert::to_f32;
    use crate::gguf::TensorType;

    #[test]
    fn elements_are_those_of_ggml() {
        let mut bytes: Vec<u8> = (0..210 * 9).map(|i| (i * 89 % 251) as u8).collect();
        for block in bytes.chunks_exact_mut(210) {
            block[209] &= 0x3f; // a finite scale
        }
        let mut want = vec![0.0; 9 * LEN];
        to_f32(TensorType::Q6_K, &bytes, &mut want).unwrap();
        let blocks: Vec<Block> = bytes
            .chunks_exact(210)
            .map(|b| b.try_into().unwrap())
            .collect();
        let mut got = vec![0.0; 9 * LEN];
        decode(&blocks, &mut got);
        assert_eq!(got, want);
    }
}
