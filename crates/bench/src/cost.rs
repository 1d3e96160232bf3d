//! The arithmetic of a pass and the bytes that it reads. A multiplication with its addition counts
//! as two operations; norms, activations and the draw are left out, as in llama.cpp's counts.

use llama_diffusion::Model;
use llama_diffusion::internal::model::{LayerHparams, LayerKind};

/// What a model's passes cost.
pub struct Cost<'a>(pub &'a Model);

impl Cost<'_> {
    /// Operations of one denoising step after `prefix` tokens, with self-conditioning.
    pub fn step(&self, prefix: usize) -> f64 {
        let hp = self.0.hparams();
        let canvas = hp.canvas_length;
        let conditioning = 2 * hp.vocab_size * hp.d + 6 * hp.d * hp.d_ff;
        self.layers(canvas)
            + self.head(canvas)
            + self.attention(prefix, canvas)
            + (canvas * conditioning) as f64
    }

    /// Operations of libllama's prefill of an empty context with logits for all tokens.
    pub fn prefill_with_logits(&self, tokens: usize) -> f64 {
        self.layers(tokens) + self.head(tokens) + self.attention(0, tokens)
    }

    fn head(&self, tokens: usize) -> f64 {
        let hp = self.0.hparams();
        (2 * tokens * hp.d * hp.vocab_size) as f64
    }

    /// Products with the weights of the layers.
    fn layers(&self, tokens: usize) -> f64 {
        let hp = self.0.hparams();
        let per_token = |(l, layer): (usize, &LayerHparams)| {
            let has_v = self
                .0
                .file()
                .tensor(&format!("blk.{l}.attn_v.weight"))
                .is_some();
            let heads = 2 * hp.n_heads + layer.n_kv_heads * (1 + usize::from(has_v));
            let mlps = 3 * (hp.d_ff + hp.n_experts_used * hp.d_expert) + hp.n_experts;
            2 * hp.d * (heads * layer.head_dim + mlps)
        };
        let per_token: usize = hp.layers.iter().enumerate().map(per_token).sum();
        (tokens * per_token) as f64
    }

    /// Scores and mixtures of `tokens` tokens that see each other and `prefix` tokens before them.
    pub fn attention(&self, prefix: usize, tokens: usize) -> f64 {
        let hp = self.0.hparams();
        let keys = |layer: &LayerHparams| match layer.kind {
            LayerKind::Full => prefix + tokens,
            LayerKind::Sliding => prefix.min(hp.sliding_window - 1) + tokens,
        };
        let layer = |layer: &LayerHparams| 4 * tokens * keys(layer) * hp.n_heads * layer.head_dim;
        hp.layers.iter().map(|l| layer(l) as f64).sum()
    }

    /// Minimum number of bytes of weights that one step reads: each weight once, and of the experts
    /// the share that a canvas of independent choices uses.
    pub fn step_bytes(&self) -> f64 {
        let hp = self.0.hparams();
        let missed = (1.0 - hp.n_experts_used as f64 / hp.n_experts as f64)
            .powi(i32::try_from(hp.canvas_length).unwrap_or(i32::MAX));
        let file = self.0.file();
        let tied = file.tensor("output.weight").is_none();
        let stored: f64 = file
            .tensors()
            .map(|(_, tensor)| {
                let name = tensor.info.name.as_str();
                let share = match name {
                    // Only looked up, unless it is the output head as well.
                    "token_embd.weight" if !tied => 0.0,
                    _ if name.contains("_exps.weight") => 1.0 - missed,
                    _ => 1.0,
                };
                share * tensor.info.range.len() as f64
            })
            .sum();
        stored + self.0.soft_embedding_bytes() as f64
    }
}
