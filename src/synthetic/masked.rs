//! Generated models of the masked families, for tests: small files with random weights that
//! libllama loads.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::vocabulary::{min_vocab_size, set_tokenizer};
use super::weights::{Random, write_matrix};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::gguf::writer::{Encoded, GgufWriter};

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

    /// Whether a position is predicted by the logits of the one before.
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
            ("token_embd.weight".to_owned(), vec![D, vocab]),
            ("output_norm.weight".into(), vec![D]),
            ("output.weight".into(), vec![D, vocab]),
        ];
        for layer in 0..LAYERS {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("blk.{layer}.{name}"), shape.to_vec()));
            };
            add("attn_norm.weight", &[D]);
            for (name, width) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                add(&format!("{name}.weight"), &[D, width]);
                if self == Self::Dream {
                    add(&format!("{name}.bias"), &[width]);
                }
            }
            add("attn_output.weight", &[q, D]);
            add("ffn_norm.weight", &[D]);
            if self.has_experts() {
                add("attn_q_norm.weight", &[self.head_dim()]);
                add("attn_k_norm.weight", &[self.head_dim()]);
                add("ffn_gate_inp.weight", &[D, EXPERTS]);
                add("ffn_gate_exps.weight", &[D, D_EXPERT, EXPERTS]);
                add("ffn_up_exps.weight", &[D, D_EXPERT, EXPERTS]);
                add("ffn_down_exps.weight", &[D_EXPERT, D, EXPERTS]);
            } else {
                add("ffn_gate.weight", &[D, D_FF]);
                add("ffn_up.weight", &[D, D_FF]);
                add("ffn_down.weight", &[D_FF, D]);
            }
        }
        tensors
    }

    fn metadata(self) -> GgufWriter {
        let architecture = self.architecture();
        let mut writer = GgufWriter::new();
        writer
            .set("general.architecture", architecture)
            .set("general.name", "synthetic")
            .set("diffusion.shift_logits", self.shifts_logits());
        let mut set = |suffix: &str, value: Encoded| {
            writer.set(format!("{architecture}.{suffix}"), value);
        };
        let mut numbers = vec![
            ("block_count", LAYERS),
            ("context_length", 2048),
            ("embedding_length", D),
            ("feed_forward_length", D_FF),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", self.head_dim()),
            ("attention.value_length", self.head_dim()),
            ("rope.dimension_count", self.head_dim()),
        ];
        if self.has_experts() {
            numbers.push(("expert_count", EXPERTS));
            numbers.push(("expert_used_count", EXPERTS_USED));
            numbers.push(("expert_feed_forward_length", D_EXPERT));
        }
        for (suffix, number) in numbers {
            set(suffix, (number as u32).into());
        }
        set("attention.layer_norm_rms_epsilon", 1e-6_f32.into());
        set("rope.freq_base", 1e4_f32.into());
        set_tokenizer(&mut writer, min_vocab_size());
        writer
    }
}

/// Writes a generated model of a masked family to `path`, in F32, after `change` had its way with
/// the metadata. The same seed gives the same file.
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
            // Uniform, so that activations keep their size; logits are three times as far apart.
            _ => {
                let deviation = if name == "output.weight" { 3.0 } else { 1.0 };
                let amplitude = deviation * (3.0 / shape[0] as f32).sqrt();
                write_matrix(out, TensorType::F32, elements, amplitude, &mut random)
            }
        });
        written.map_err(io())?;
    }
    let mut out = data.finish().map_err(io())?;
    out.flush().map_err(io())
}
