//! Generated models of the masked families, for tests: small files with random weights that
//! libllama loads.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::vocabulary::{min_vocab_size, set_tokenizer};
use super::weights::{Random, write_matrix};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::gguf::keys::{GENERAL_ARCHITECTURE, NAME};
use crate::gguf::writer::{Encoded, GgufWriter};
use crate::model::keys;

/// A family of masked models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskedFamily {
    /// Dense, of Qwen 2: biases, shifted logits.
    Dream,
    /// Dense, of Llama.
    Llada,
    /// Mixture of experts.
    LladaMoe,
    /// Mixture of experts, of Qwen 3: shifted logits, heads wider than the residual stream.
    Rnd1,
}

const LAYERS: usize = 2;
const D: usize = 64;
const D_FF: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const EXPERTS: usize = 4;
const EXPERTS_USED: usize = 2;
const D_EXPERT: usize = 32;

impl MaskedFamily {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dream, Self::Llada, Self::LladaMoe, Self::Rnd1];

    /// Its name in `general.architecture`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Dream => "dream",
            Self::Llada => "llada",
            Self::LladaMoe => "llada-moe",
            Self::Rnd1 => "rnd1",
        }
    }

    /// Whether a position is predicted by the logits of the previous one.
    pub fn shifts_logits(self) -> bool {
        matches!(self, Self::Dream | Self::Rnd1)
    }

    fn has_experts(self) -> bool {
        matches!(self, Self::LladaMoe | Self::Rnd1)
    }

    fn head_dim(self) -> usize {
        match self {
            Self::Rnd1 => 32,
            _ => D / HEADS,
        }
    }

    /// Names and shapes, in ggml's order.
    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let vocab = min_vocab_size();
        let (q, kv) = (HEADS * self.head_dim(), KV_HEADS * self.head_dim());
        let mut tensors = vec![
            (keys::TOKEN_EMBD.to_owned(), vec![D, vocab]),
            (keys::weight(keys::OUTPUT_NORM), vec![D]),
            (keys::weight(keys::OUTPUT), vec![D, vocab]),
        ];
        for layer in 0..LAYERS {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((keys::of_layer(layer) + name, shape.to_vec()));
            };
            add(&keys::weight(keys::ATTN_NORM), &[D]);
            for (name, width) in [(keys::ATTN_Q, q), (keys::ATTN_K, kv), (keys::ATTN_V, kv)] {
                add(&keys::weight(name), &[D, width]);
                if self == Self::Dream {
                    add(&format!("{name}.bias"), &[width]);
                }
            }
            add(&keys::weight(keys::ATTN_OUTPUT), &[q, D]);
            add(&keys::weight(keys::FFN_NORM), &[D]);
            if self.has_experts() {
                add(&keys::weight(keys::ATTN_Q_NORM), &[self.head_dim()]);
                add(&keys::weight(keys::ATTN_K_NORM), &[self.head_dim()]);
                add(&keys::weight(keys::ROUTER), &[D, EXPERTS]);
                add(&keys::weight(keys::EXPERTS_GATE), &[D, D_EXPERT, EXPERTS]);
                add(&keys::weight(keys::EXPERTS_UP), &[D, D_EXPERT, EXPERTS]);
                add(&keys::weight(keys::EXPERTS_DOWN), &[D_EXPERT, D, EXPERTS]);
            } else {
                add(&keys::weight(keys::FFN_GATE), &[D, D_FF]);
                add(&keys::weight(keys::FFN_UP), &[D, D_FF]);
                add(&keys::weight(keys::FFN_DOWN), &[D_FF, D]);
            }
        }
        tensors
    }

    fn metadata(self) -> GgufWriter {
        let architecture = self.architecture();
        let mut writer = GgufWriter::new();
        writer
            .set(GENERAL_ARCHITECTURE, architecture)
            .set(NAME, "synthetic")
            .set(keys::SHIFT_LOGITS, self.shifts_logits());
        let mut set = |suffix: &str, value: Encoded| {
            writer.set(format!("{architecture}.{suffix}"), value);
        };
        let mut numbers = vec![
            (keys::BLOCK_COUNT, LAYERS),
            (keys::CONTEXT_LENGTH, 2048),
            (keys::EMBEDDING_LENGTH, D),
            (keys::FEED_FORWARD_LENGTH, D_FF),
            (keys::HEAD_COUNT, HEADS),
            (keys::HEAD_COUNT_KV, KV_HEADS),
            (keys::KEY_LENGTH, self.head_dim()),
            (keys::VALUE_LENGTH, self.head_dim()),
            (keys::ROPE_DIMENSION_COUNT, self.head_dim()),
        ];
        if self.has_experts() {
            numbers.push((keys::EXPERT_COUNT, EXPERTS));
            numbers.push((keys::EXPERT_USED_COUNT, EXPERTS_USED));
            numbers.push((keys::EXPERT_FEED_FORWARD_LENGTH, D_EXPERT));
        }
        for (suffix, number) in numbers {
            set(suffix, (number as u32).into());
        }
        set(keys::LAYER_NORM_RMS_EPSILON, 1e-6_f32.into());
        set(keys::ROPE_FREQ_BASE, 1e4_f32.into());
        set_tokenizer(&mut writer, min_vocab_size());
        writer
    }
}

/// Writes a generated model of a masked family to `path`, in F32, after `change` has modified the
/// metadata. The same seed gives the same file.
///
/// # Errors
/// The file cannot be written.
pub fn write_masked(
    path: &Path,
    family: MaskedFamily,
    seed: u64,
    change: &dyn Fn(&mut GgufWriter),
) -> Result<()> {
    let mut writer = family.metadata();
    change(&mut writer);
    let tensors = family.tensors();
    for (name, shape) in &tensors {
        writer.tensor(name, shape, TensorType::F32);
    }
    let io = || Error::io(path);
    let out = BufWriter::new(File::create(path).map_err(io())?);
    let mut data = writer.begin(out).map_err(io())?;
    for (name, shape) in &tensors {
        let mut random = Random::new(seed, name, 0);
        let elements = shape.iter().product();
        let written = data.write_with(|out| match (shape.len(), name.ends_with("bias")) {
            (1, bias) => (0..elements).try_for_each(|_| {
                let value = f32::from(!bias) + 0.5 * random.signed();
                out.write_all(&value.to_le_bytes())
            }),
            // Uniform, so that activations keep their size; logits have three times the spread.
            _ => {
                let deviation = if *name == keys::weight(keys::OUTPUT) {
                    3.0
                } else {
                    1.0
                };
                let amplitude = deviation * (3.0 / shape[0] as f32).sqrt();
                write_matrix(out, TensorType::F32, elements, amplitude, &mut random)
            }
        });
        written.map_err(io())?;
    }
    let mut out = data.finish().map_err(io())?;
    out.flush().map_err(io())
}
