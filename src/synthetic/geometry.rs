//! The extents of a generated model.

use std::str::FromStr;

use super::vocabulary::special_id;
use crate::diffusion::SamplerOverrides;
use crate::gguf::TensorType;
use crate::model::hparams::{Hparams, LayerHparams, LayerKind, embedding_scale};
use crate::model::keys;
use crate::model::tensors::{Expected, TensorTable};

/// The extents of a generated model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Layers.
    pub n_layers: usize,
    /// One layer in this number, and the last, is full; the others are sliding.
    pub full_every: usize,
    /// Width of the residual stream.
    pub d: usize,
    /// Width of the dense MLPs.
    pub d_ff: usize,
    /// Heads of Q.
    pub n_heads: usize,
    /// Heads of K and V on sliding layers.
    pub n_kv_heads: usize,
    /// Heads of K and V on full layers.
    pub n_kv_heads_full: usize,
    /// Size of a head on sliding layers.
    pub head_dim: usize,
    /// Size of a head on full layers.
    pub head_dim_full: usize,
    /// Positions that a token of a sliding layer sees.
    pub sliding_window: usize,
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts chosen for a token.
    pub n_experts_used: usize,
    /// Width of an expert.
    pub d_expert: usize,
    /// Tokens of the vocabulary, at least those of [`min_vocab_size`](super::min_vocab_size).
    pub vocab_size: usize,
    /// Tokens of a canvas.
    pub canvas_length: usize,
    /// The context length in the metadata.
    pub context_length: usize,
    /// Whether the experts' gate and up projections are one tensor.
    pub fused_experts: bool,
    /// Whether the output head is the embedding matrix.
    pub tied_output: bool,
    /// Whether full layers have a value projection.
    pub full_layers_have_v: bool,
}

impl Geometry {
    /// A model for tests, below a megabyte, with every feature of the architecture. Rows are whole
    /// blocks of 32, so that it can be generated in Q8_0.
    pub const fn tiny() -> Self {
        Self {
            n_layers: 3,
            full_every: 2,
            d: 64,
            d_ff: 96,
            n_heads: 4,
            n_kv_heads: 2,
            n_kv_heads_full: 1,
            head_dim: 16,
            head_dim_full: 32,
            sliding_window: 8,
            n_experts: 4,
            n_experts_used: 2,
            d_expert: 32,
            vocab_size: 320,
            canvas_length: 16,
            context_length: 4096,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// A model for benchmarks on a CPU: 131 million weights, 263 MB in F16.
    pub const fn small() -> Self {
        Self {
            n_layers: 6,
            full_every: 6,
            d: 768,
            d_ff: 1536,
            n_heads: 8,
            n_kv_heads: 4,
            n_kv_heads_full: 1,
            head_dim: 128,
            head_dim_full: 256,
            sliding_window: 1024,
            n_experts: 16,
            n_experts_used: 4,
            d_expert: 384,
            vocab_size: 8192,
            canvas_length: 256,
            context_length: 32_768,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// The same with a large vocabulary, as real models have: 196 million weights, 208 MB in Q8_0.
    pub const fn medium() -> Self {
        Self {
            n_experts: 20,
            vocab_size: 65_536,
            ..Self::small()
        }
    }

    /// The geometry of diffusiongemma-26B-A4B.
    pub const fn a4b_26b() -> Self {
        Self {
            n_layers: 30,
            full_every: 6,
            d: 2816,
            d_ff: 2112,
            n_heads: 16,
            n_kv_heads: 8,
            n_kv_heads_full: 2,
            head_dim: 256,
            head_dim_full: 512,
            sliding_window: 1024,
            n_experts: 128,
            n_experts_used: 8,
            d_expert: 704,
            vocab_size: 262_144,
            canvas_length: 256,
            context_length: 262_144,
            fused_experts: true,
            tied_output: true,
            full_layers_have_v: false,
        }
    }

    /// The hyperparameters of a generated file in F32.
    pub fn hparams(&self) -> Hparams {
        Hparams {
            vocab_size: self.vocab_size,
            d: self.d,
            d_ff: self.d_ff,
            n_heads: self.n_heads,
            layers: (1..=self.n_layers)
                .map(|number| self.layer(number))
                .collect(),
            sliding_window: self.sliding_window,
            rms_eps: 1e-6,
            n_experts: self.n_experts,
            n_experts_used: self.n_experts_used,
            d_expert: self.d_expert,
            logit_softcap: 30.0,
            canvas_length: self.canvas_length,
            context_length: self.context_length,
            embedding_scale: embedding_scale(self.d, TensorType::F32),
            sampler: SamplerOverrides::default(),
            bos: Some(special_id("<bos>")),
            eos: Some(special_id("<eos>")),
            pad: Some(special_id("<pad>")),
        }
    }

    /// The layer with this number, counted from 1.
    fn layer(&self, number: usize) -> LayerHparams {
        let full = number == self.n_layers || number.is_multiple_of(self.full_every.max(1));
        let (kind, n_kv_heads, head_dim, rope_base) = if full {
            (
                LayerKind::Full,
                self.n_kv_heads_full,
                self.head_dim_full,
                1e6,
            )
        } else {
            (LayerKind::Sliding, self.n_kv_heads, self.head_dim, 1e4)
        };
        LayerHparams {
            kind,
            n_kv_heads,
            head_dim,
            rope_base,
            rope_dims: head_dim,
        }
    }

    /// The tensors of the file.
    pub(super) fn tensors(&self, hparams: &Hparams) -> Vec<Expected> {
        let has = |name: &str| match keys::stem(name) {
            keys::OUTPUT => !self.tied_output,
            keys::ATTN_V => self.full_layers_have_v,
            keys::EXPERTS_GATE_UP => self.fused_experts,
            keys::EXPERTS_GATE => !self.fused_experts,
            _ => true,
        };
        TensorTable::expected(hparams, has).into_vec()
    }
}

impl FromStr for Geometry {
    type Err = String;

    /// `tiny`, `small`, `200m` or `26b-a4b`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "tiny" => Ok(Self::tiny()),
            "small" => Ok(Self::small()),
            "200m" => Ok(Self::medium()),
            "26b-a4b" => Ok(Self::a4b_26b()),
            _ => Err(format!(
                "unknown geometry '{name}', expected tiny, small, 200m or 26b-a4b"
            )),
        }
    }
}
