//! Random weights of every type, as the bytes of tensors.

use std::io::Write;

use half::{bf16, f16};

use crate::gguf::TensorType;

/// Random weights of one type, as the bytes of a tensor. All zero for a type that cannot be
/// generated.
pub(crate) fn random_weights(ty: TensorType, elements: usize) -> Vec<u8> {
    let mut bytes = vec![0; elements / ty.block_len() * ty.block_bytes()];
    if scales(ty).is_some() {
        fill(&mut bytes, ty, 1.0, &mut Random::new(0, ty.name(), 0));
    }
    bytes
}

/// Where the blocks of a type hold their F16 scales, and how these follow from the amplitude: the
/// largest quantized value is close to the amplitude and the mean close to 0. `None` for types that
/// cannot be generated.
pub(super) fn scales(ty: TensorType) -> Option<&'static [(usize, f32)]> {
    Some(match ty {
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => &[],
        TensorType::Q4_0 => &[(0, 1.0 / 8.0)],
        TensorType::Q4_1 => &[(0, 1.0 / 7.5), (2, -1.0)],
        TensorType::Q5_0 => &[(0, 1.0 / 16.0)],
        TensorType::Q5_1 => &[(0, 1.0 / 15.5), (2, -1.0)],
        TensorType::Q8_0 => &[(0, 1.0 / 128.0)],
        TensorType::Q2_K => &[(80, 1.0 / (1.5 * 7.5)), (82, 1.0 / 7.5)],
        TensorType::Q3_K => &[(108, 1.0 / (4.0 * 32.0))],
        TensorType::Q4_K => &[(0, 1.0 / (7.5 * 31.5)), (2, 1.0 / 31.5)],
        TensorType::Q5_K => &[(0, 1.0 / (15.5 * 31.5)), (2, 1.0 / 31.5)],
        TensorType::Q6_K => &[(208, 1.0 / (32.0 * 128.0))],
        _ => return None,
    })
}

/// Writes a matrix of random weights, in pieces that fit the cache.
pub(super) fn write_matrix(
    out: &mut dyn Write,
    ty: TensorType,
    elements: usize,
    amplitude: f32,
    random: &mut Random,
) -> std::io::Result<()> {
    const PIECE_BYTES: usize = 1 << 18;
    let mut left = elements / ty.block_len() * ty.block_bytes();
    let blocks = PIECE_BYTES / ty.block_bytes();
    let mut buffer = vec![0; left.min(blocks * ty.block_bytes())];
    while left > 0 {
        let piece = left.min(buffer.len());
        fill(&mut buffer[..piece], ty, amplitude, random);
        out.write_all(&buffer[..piece])?;
        left -= piece;
    }
    Ok(())
}

/// Fills `buffer` with blocks of random weights.
pub(super) fn fill(buffer: &mut [u8], ty: TensorType, amplitude: f32, random: &mut Random) {
    let blocks = |buffer: &mut [u8], make: &mut dyn FnMut(&mut [u8])| {
        buffer.chunks_exact_mut(ty.block_bytes()).for_each(make);
    };
    let mut weight = || amplitude * random.signed();
    match ty {
        TensorType::F32 => blocks(buffer, &mut |block| {
            block.copy_from_slice(&weight().to_le_bytes())
        }),
        TensorType::F16 => blocks(buffer, &mut |block| {
            block.copy_from_slice(&f16::from_f32(weight()).to_le_bytes());
        }),
        TensorType::BF16 => blocks(buffer, &mut |block| {
            block.copy_from_slice(&bf16::from_f32(weight()).to_le_bytes());
        }),
        _ => {
            random.fill(buffer);
            blocks(buffer, &mut |block| {
                for &(offset, factor) in scales(ty).unwrap_or_default() {
                    block[offset..offset + 2]
                        .copy_from_slice(&f16::from_f32(amplitude * factor).to_le_bytes());
                }
            });
        }
    }
}

/// SplitMix64: fast, and good enough for random weights.
pub(super) struct Random(u64);

impl Random {
    /// Each piece of a tensor has its own stream, so that its weights do not depend on the others.
    pub(super) fn new(seed: u64, name: &str, piece: usize) -> Self {
        // FNV-1a.
        let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let start = name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, hash);
        // Far enough from the other pieces' streams, which are shorter than 2^20.
        Self(start.wrapping_add((piece as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15 << 20)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in [-1, 1).
    pub(super) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generator_stays_near_its_amplitude() {
        for &ty in TensorType::ALL.iter().filter(|&&ty| scales(ty).is_some()) {
            let mut buffer = vec![0; ty.block_bytes() * 4];
            fill(&mut buffer, ty, 0.5, &mut Random(1));
            for block in buffer.chunks_exact(ty.block_bytes()) {
                for &(offset, factor) in scales(ty).unwrap() {
                    let scale = f16::from_le_bytes([block[offset], block[offset + 1]]);
                    assert_eq!(scale, f16::from_f32(0.5 * factor), "{ty}");
                }
            }
        }
    }
}
