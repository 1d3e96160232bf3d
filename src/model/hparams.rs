//! The hyperparameters of a model, read from GGUF metadata and validated.
//!
//! A model that passes these checks can neither make ggml stop the process nor make us reserve
//! absurd amounts of memory: every extent is bounded here or compared with the shape of a tensor in
//! the file (see [`tensors`](super::tensors)).

use std::fmt;
use std::ops::RangeInclusive;

use super::file::ModelFile;
use super::keys::{self, MASKED_ARCHITECTURES, TOKEN_EMBD};
use crate::diffusion::SamplerOverrides;
use crate::error::Result;
use crate::gguf::keys::{DIFFUSION_GEMMA, GENERAL_ARCHITECTURE, TOKENS, token_id};
use crate::gguf::{Array, FromValue, Gguf, TensorType, Value};

/// Deep models have about a hundred layers; the bound keeps the graph (some 60 nodes a layer)
/// small.
const MAX_LAYERS: u32 = 1024;
/// Logits of a canvas are `canvas_length × vocab_size` and its masks `canvas_length × keys`, so
/// this bounds them to what a machine may have; 32 times the value of any known model.
const MAX_CANVAS: u32 = 8192;
/// Heads, their size and experts, each; ten times the values of any known model, and their products
/// still fit.
const MAX_COUNT: u32 = 4096;
/// The graph has nodes for each expert that a token uses.
const MAX_EXPERTS_USED: usize = 128;
/// Drawn tokens are stored as F32, which represents whole numbers up to this; sixty times the
/// vocabulary of any known model.
const MAX_VOCAB: usize = 1 << 24;
/// Positions and ids are `i32` in ggml.
const MAX_I32: u32 = i32::MAX as u32;

/// Which part of the prefix the queries of a layer see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The last `sliding_window` positions.
    Sliding,
    /// All positions.
    Full,
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sliding => "sliding",
            Self::Full => "full",
        })
    }
}

/// What differs between layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerHparams {
    /// How far its queries see.
    pub kind: LayerKind,
    /// Heads of K and V, a divisor of [`Hparams::n_heads`].
    pub n_kv_heads: usize,
    /// Size of a head of Q, K and V; even.
    pub head_dim: usize,
    /// Base of the rotary embedding (theta).
    pub rope_base: f32,
    /// Leading dimensions of a head that the rotary embedding covers; even, at most `head_dim`.
    pub rope_dims: usize,
}

/// The hyperparameters of a DiffusionGemma model.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d: usize,
    /// Width of the dense MLP and of the self-conditioning MLP.
    pub d_ff: usize,
    /// Heads of Q, the same in all layers.
    pub n_heads: usize,
    /// Layer by layer, at least one.
    pub layers: Vec<LayerHparams>,
    /// Positions that a token of a sliding layer sees, itself included.
    pub sliding_window: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_eps: f32,
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that the router chooses for a token.
    pub n_experts_used: usize,
    /// Width of an expert.
    pub d_expert: usize,
    /// Logits are soft-capped to `±logit_softcap` by `c · tanh(x / c)`.
    pub logit_softcap: f32,
    /// Tokens of a canvas.
    pub canvas_length: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Embeddings are multiplied by this, see [`embedding_scale`].
    pub embedding_scale: f32,
    /// Settings of the sampler that the file recommends (`diffusion.eb_…`).
    pub sampler: SamplerOverrides,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence token.
    pub eos: Option<u32>,
    /// Padding token.
    pub pad: Option<u32>,
}

impl Hparams {
    /// Reads and validates the hyperparameters of a file of architecture `diffusion-gemma`.
    ///
    /// # Errors
    /// Another architecture; a missing key; a value that has the wrong type, is out of range or
    /// contradicts another one.
    pub fn from_file(file: &ModelFile) -> Result<Self> {
        let gguf = file.metadata();
        check_architecture(gguf)?;
        let reader = Reader { gguf };
        reader.refuse_nonzero(keys::SHARED_KV_LAYERS, "K and V shared between layers")?;
        reader.refuse_nonzero(keys::EMBEDDING_LENGTH_PER_LAYER, "embeddings per layer")?;
        if gguf.get(keys::SHIFT_LOGITS)? == Some(true) {
            return Err(gguf.metadata_error(
                keys::SHIFT_LOGITS,
                "is true, which canvas models do not support",
            ));
        }

        let n_layers = reader.count(keys::BLOCK_COUNT, 1..=MAX_LAYERS)?;
        let n_heads = reader.count(keys::HEAD_COUNT, 1..=MAX_COUNT)?;
        let n_experts = reader.count(keys::EXPERT_COUNT, 1..=MAX_COUNT)?;
        let d = reader.count(keys::EMBEDDING_LENGTH, 1..=MAX_I32)?;
        let (embd_type, vocab_size) = vocabulary(file)?;
        let special = |name: &str| reader.token_id(name, vocab_size);
        Ok(Self {
            vocab_size,
            d,
            d_ff: reader.count(keys::FEED_FORWARD_LENGTH, 1..=MAX_I32)?,
            n_heads,
            layers: reader.layers(n_layers, n_heads)?,
            // With a window of one position a token would see nothing of the prefix.
            sliding_window: reader.count(keys::SLIDING_WINDOW, 2..=MAX_I32)?,
            rms_eps: reader.positive(keys::LAYER_NORM_RMS_EPSILON)?,
            n_experts,
            n_experts_used: reader.count(
                keys::EXPERT_USED_COUNT,
                1..=n_experts.min(MAX_EXPERTS_USED) as u32,
            )?,
            d_expert: reader.count(keys::EXPERT_FEED_FORWARD_LENGTH, 1..=MAX_I32)?,
            logit_softcap: reader.positive(keys::FINAL_LOGIT_SOFTCAPPING)?,
            canvas_length: in_range(gguf, keys::CANVAS_LENGTH, 1..=MAX_CANVAS)?,
            context_length: reader.count(keys::CONTEXT_LENGTH, 1..=MAX_I32)?,
            embedding_scale: match gguf.value(&keys::of_model(keys::EMBEDDING_SCALE)) {
                Some(_) => reader.positive(keys::EMBEDDING_SCALE)?,
                None => embedding_scale(d, embd_type),
            },
            sampler: sampler_hints(gguf)?,
            bos: special("bos")?,
            eos: special("eos")?,
            pad: special("padding")?,
        })
    }
}

/// What the reference multiplies embeddings by: `sqrt(d)` in the type of the checkpoint.
///
/// F32 and F16 files are taken literally. All others come from BF16 checkpoints, whose factor is
/// rounded to BF16 (53.0 instead of 53.066 for d = 2816).
pub fn embedding_scale(d: usize, token_embd: TensorType) -> f32 {
    let scale = (d as f32).sqrt();
    match token_embd {
        TensorType::F32 | TensorType::F16 => scale,
        _ => half::bf16::from_f32(scale).to_f32(),
    }
}

fn check_architecture(gguf: &Gguf) -> Result<()> {
    let found: &str = gguf.require(GENERAL_ARCHITECTURE)?;
    if found == DIFFUSION_GEMMA {
        return Ok(());
    }
    let problem = if MASKED_ARCHITECTURES.contains(&found) {
        format!(
            "is a masked model, for `AnyModel` or `MaskedModel`: expected '{DIFFUSION_GEMMA}' here"
        )
    } else {
        let others = MASKED_ARCHITECTURES.join(", ");
        format!("is not supported: use a '{DIFFUSION_GEMMA}' model, or a masked one ({others})")
    };
    Err(gguf.unsupported(found, problem))
}

/// Type of the embedding matrix and its number of rows, which must match the tokenizer's list.
fn vocabulary(file: &ModelFile) -> Result<(TensorType, usize)> {
    let (_, tensor) = file
        .tensor(TOKEN_EMBD)
        .ok_or_else(|| file.tensor_error(TOKEN_EMBD, "is missing"))?;
    let rows = tensor.info.shape[1];
    if rows > MAX_VOCAB {
        return Err(file.tensor_error(
            TOKEN_EMBD,
            format!("has {rows} rows, but at most {MAX_VOCAB} tokens are supported"),
        ));
    }
    match file.metadata().value(TOKENS) {
        Some(Value::Array(tokens)) if tokens.len() != rows => {
            let problem = format!(
                "has {} tokens, but '{TOKEN_EMBD}' has {rows} rows",
                tokens.len()
            );
            Err(file.metadata().metadata_error(TOKENS, problem))
        }
        _ => Ok((tensor.info.ty, rows)),
    }
}

fn sampler_hints(gguf: &Gguf) -> Result<SamplerOverrides> {
    let count = |name: &str, range| {
        let name = keys::entropy_bound(name);
        match gguf.value(&name) {
            Some(_) => in_range(gguf, &name, range).map(|n| Some(n as u32)),
            None => Ok(None),
        }
    };
    let number = |name: &str| {
        let name = keys::entropy_bound(name);
        match gguf.get::<f32>(&name)? {
            Some(x) if !x.is_finite() || x < 0.0 => Err(gguf.metadata_error(
                &name,
                format!("is {x}, expected a finite number that is not negative"),
            )),
            x => Ok(x),
        }
    };
    Ok(SamplerOverrides {
        max_steps: count("max_steps", 1..=MAX_I32)?,
        t_min: number("t_min")?,
        t_max: number("t_max")?,
        entropy_bound: number("entropy_bound")?,
        stability_threshold: count("stability_threshold", 0..=MAX_I32)?,
        confidence_threshold: number("confidence_threshold")?,
    })
}

fn in_range(gguf: &Gguf, key: &str, range: RangeInclusive<u32>) -> Result<usize> {
    let value: u32 = gguf.require(key)?;
    if range.contains(&value) {
        Ok(value as usize)
    } else {
        let (min, max) = range.into_inner();
        Err(gguf.metadata_error(key, format!("is {value}, expected {min} to {max}")))
    }
}

/// Reads keys with the architecture's prefix.
struct Reader<'a> {
    gguf: &'a Gguf,
}

impl<'a> Reader<'a> {
    fn require<T: FromValue<'a>>(&self, suffix: &str) -> Result<T> {
        self.gguf.require(&keys::of_model(suffix))
    }

    fn count(&self, suffix: &str, range: RangeInclusive<u32>) -> Result<usize> {
        in_range(self.gguf, &keys::of_model(suffix), range)
    }

    fn positive(&self, suffix: &str) -> Result<f32> {
        let value: f32 = self.require(suffix)?;
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.gguf.metadata_error(
                &keys::of_model(suffix),
                format!("is {value}, expected a finite number above 0"),
            ))
        }
    }

    fn refuse_nonzero(&self, suffix: &str, feature: &str) -> Result<()> {
        match self.gguf.get::<u32>(&keys::of_model(suffix))? {
            None | Some(0) => Ok(()),
            Some(value) => {
                let problem = format!("is {value}: {feature} are not supported (expected 0)");
                Err(self.gguf.metadata_error(&keys::of_model(suffix), problem))
            }
        }
    }

    fn token_id(&self, name: &str, vocab_size: usize) -> Result<Option<u32>> {
        let key = token_id(name);
        match self.gguf.get::<u32>(&key)? {
            Some(id) if id as usize >= vocab_size => {
                let problem = format!("is {id}, but the vocabulary has {vocab_size} tokens");
                Err(self.gguf.metadata_error(&key, problem))
            }
            id => Ok(id),
        }
    }

    fn layers(&self, n_layers: usize, n_heads: usize) -> Result<Vec<LayerHparams>> {
        let kinds = self.kinds(n_layers)?.into_iter();
        let kv_heads = self.kv_heads(n_layers, n_heads)?;
        kinds
            .zip(kv_heads)
            .map(|(kind, n_kv_heads)| self.layer(kind, n_kv_heads))
            .collect()
    }

    /// An array with an element per layer, or a period p: every p-th layer is full.
    fn kinds(&self, n_layers: usize) -> Result<Vec<LayerKind>> {
        let name = keys::of_model(keys::SLIDING_WINDOW_PATTERN);
        let is_sliding: Vec<bool> = match self.gguf.require::<Value<'_>>(&name)? {
            Value::Array(_) => self.per_layer(&name, n_layers)?,
            _ => {
                let period = in_range(self.gguf, &name, 1..=MAX_LAYERS)?;
                (1..=n_layers)
                    .map(|layer| !layer.is_multiple_of(period))
                    .collect()
            }
        };
        let kind = |sliding| {
            if sliding {
                LayerKind::Sliding
            } else {
                LayerKind::Full
            }
        };
        Ok(is_sliding.into_iter().map(kind).collect())
    }

    fn kv_heads(&self, n_layers: usize, n_heads: usize) -> Result<Vec<usize>> {
        let name = keys::of_model(keys::HEAD_COUNT_KV);
        let counts: Vec<u32> = match self.gguf.require::<Value<'_>>(&name)? {
            Value::Array(_) => self.per_layer(&name, n_layers)?,
            _ => vec![self.gguf.require(&name)?; n_layers],
        };
        let divides = |&count: &u32| count > 0 && n_heads.is_multiple_of(count as usize);
        match counts.iter().find(|count| !divides(count)) {
            Some(count) => {
                let problem = format!(
                    "has {count} heads of K and V, which do not divide the {n_heads} heads of Q"
                );
                Err(self.gguf.metadata_error(&name, problem))
            }
            None => Ok(counts.into_iter().map(|count| count as usize).collect()),
        }
    }

    fn per_layer<T: FromValue<'a>>(&self, name: &str, n_layers: usize) -> Result<Vec<T>> {
        let array: Array<'_> = self.gguf.require(name)?;
        if array.len() != n_layers {
            let problem = format!("has {} elements for {n_layers} layers", array.len());
            return Err(self.gguf.metadata_error(name, problem));
        }
        let values: Option<Vec<T>> = array.to_vec();
        values.ok_or_else(|| {
            let problem = format!(
                "is {}, expected each element to be {}",
                Value::Array(array),
                T::EXPECTED
            );
            self.gguf.metadata_error(name, problem)
        })
    }

    /// The sizes are those of the layer's kind.
    fn layer(&self, kind: LayerKind, n_kv_heads: usize) -> Result<LayerHparams> {
        let suffix = match kind {
            LayerKind::Sliding => keys::OF_SLIDING_LAYERS,
            LayerKind::Full => "",
        };
        let even = |name: &str, max: u32| {
            let name = format!("{name}{suffix}");
            let value = self.count(&name, 2..=max)?;
            if value.is_multiple_of(2) {
                Ok(value)
            } else {
                let problem = format!(
                    "is {value}, expected an even number: the rotary embedding turns pairs"
                );
                Err(self.gguf.metadata_error(&keys::of_model(&name), problem))
            }
        };
        let head_dim = even(keys::KEY_LENGTH, MAX_COUNT)?;
        let value_key = format!("{}{suffix}", keys::VALUE_LENGTH);
        let value_dim = self.count(&value_key, 1..=MAX_COUNT)?;
        if value_dim != head_dim {
            let problem = format!(
                "is {value_dim}, but the keys of {kind} layers have a length of {head_dim}"
            );
            return Err(self
                .gguf
                .metadata_error(&keys::of_model(&value_key), problem));
        }
        Ok(LayerHparams {
            kind,
            n_kv_heads,
            head_dim,
            rope_base: self.positive(&format!("{}{suffix}", keys::ROPE_FREQ_BASE))?,
            rope_dims: even(keys::ROPE_DIMENSION_COUNT, head_dim as u32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_scale_is_that_of_the_checkpoint() {
        assert_eq!(embedding_scale(2816, TensorType::Q8_0), 53.0);
        assert_eq!(embedding_scale(2816, TensorType::F32), 2816_f32.sqrt());
        assert_eq!(embedding_scale(2304, TensorType::BF16), 48.0);
    }
}
