//! The description of a generated model, and the data of its tensors.

use super::geometry::Geometry;
use super::metadata::set_hparams;
use super::types::WeightTypes;
use super::vocabulary::{min_vocab_size, set_tokenizer};
use super::weights::{Random, fill, scales};
use crate::error::{Error, Result};
use crate::gguf::writer::GgufWriter;
use crate::gguf::{TensorData, TensorInfo, TensorType};
use crate::model::hparams::Hparams;
use crate::model::keys::{self, TOKEN_EMBD};
use crate::model::tensors::{Expected, TensorUse};
use crate::parallel;
use crate::parameter::Parameter;

/// The tensors of a generated model.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) tensors: Vec<GeneratedTensor>,
    seed: u64,
}

impl Generated {
    pub(super) fn new(geometry: &Geometry, types: WeightTypes, seed: u64) -> Result<Self> {
        if geometry.vocab_size < min_vocab_size() {
            let problem = format!(
                "is {}, expected at least {}",
                geometry.vocab_size,
                min_vocab_size()
            );
            return Err(Error::parameter(Parameter::VocabSize, problem));
        }
        let expected = geometry.tensors(&geometry.hparams());
        let tensors: Vec<GeneratedTensor> = types
            .of(&expected, geometry)
            .into_iter()
            .zip(expected)
            .map(|(ty, expected)| GeneratedTensor { ty, expected })
            .collect();
        match tensors.iter().find(|tensor| scales(tensor.ty).is_none()) {
            Some(GeneratedTensor { ty, .. }) => Err(Error::parameter(
                Parameter::TensorTypes,
                format!("random weights of type {ty} are not supported"),
            )),
            None => Ok(Self { tensors, seed }),
        }
    }

    pub(super) fn describe(&self, hparams: &Hparams) -> GgufWriter {
        let mut writer = GgufWriter::new();
        set_hparams(&mut writer, hparams);
        set_tokenizer(&mut writer, hparams.vocab_size);
        for GeneratedTensor { ty, expected } in &self.tensors {
            writer.tensor(&expected.name, &expected.shape, *ty);
        }
        writer
    }
}

impl TensorData for Generated {
    /// On all cores.
    fn make(&self, info: &TensorInfo) -> Vec<u8> {
        let mut data = vec![0; info.range.len()];
        let named = |tensor: &&GeneratedTensor| tensor.expected.name == info.name;
        let Some(tensor) = self.tensors.iter().find(named) else {
            return data;
        };
        let pieces = data.chunks_mut(tensor.piece_bytes()).enumerate();
        parallel::map(pieces, parallel::cores(), |(i, piece)| {
            tensor.fill(self.seed, i, piece)
        });
        data
    }
}

/// A tensor of a generated model with its type.
#[derive(Debug)]
pub(super) struct GeneratedTensor {
    ty: TensorType,
    expected: Expected,
}

impl GeneratedTensor {
    fn elements(&self) -> usize {
        self.expected.shape.iter().product()
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements() / self.ty.block_len() * self.ty.block_bytes()
    }

    /// Matrices are generated in pieces of this size, which fit the cache; each has a random stream
    /// of its own. Vectors are one piece.
    pub(super) fn piece_bytes(&self) -> usize {
        const ABOUT: usize = 1 << 18;
        match self.expected.usage {
            TensorUse::Vector => self.bytes(),
            _ => ABOUT / self.ty.block_bytes() * self.ty.block_bytes(),
        }
    }

    /// Fills the piece of this index.
    pub(super) fn fill(&self, seed: u64, piece: usize, buffer: &mut [u8]) {
        let mut random = Random::new(seed, &self.expected.name, piece);
        match self.expected.usage {
            TensorUse::Vector => {
                buffer.copy_from_slice(&vector(&self.expected.name, self.elements(), &mut random));
            }
            _ => fill(buffer, self.ty, amplitude(&self.expected), &mut random),
        }
    }
}

/// Bound of the uniform distribution of a matrix's weights, so that activations keep their size.
fn amplitude(tensor: &Expected) -> f32 {
    let row = tensor.shape[0] as f32;
    let deviation = match tensor.usage {
        // Its input is divided by the root of its length.
        TensorUse::Router => 1.0,
        // Logits with this spread give the canvas certain and uncertain positions.
        _ if tensor.name == TOKEN_EMBD => 3.0 / row.sqrt(),
        _ => 1.0 / row.sqrt(),
    };
    deviation * 3_f32.sqrt()
}

/// Norm weights, scales and frequency factors, as F32.
fn vector(name: &str, len: usize, random: &mut Random) -> Vec<u8> {
    let value = |index: usize| match keys::stem(name) {
        // A quarter of the pairs are rotated.
        keys::ROPE_FREQS => {
            if index < len / 4 {
                1.0
            } else {
                1e30
            }
        }
        keys::DECODER_SCALE => 1.0 + 0.1 * random.signed(),
        keys::ENCODER_SCALE => 0.5 + 0.1 * random.signed(),
        _ => 1.0 + 0.5 * random.signed(),
    };
    (0..len).map(value).flat_map(f32::to_le_bytes).collect()
}
