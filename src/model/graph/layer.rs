//! A transformer layer.

use super::super::hparams::LayerHparams;
use super::super::kv_cache::LayerCache;
use super::super::profile::Part;
use super::super::tensors::{Experts, LayerTensors};
use super::super::weights::DerivedLayer;
use super::builder::{Builder, Kernels};
use crate::error::Result;
use crate::ggml::kernels::products::FirstMatrices;
use crate::ggml::ops::Rope;
use crate::ggml::tensor::Tensor;

/// A layer of one graph.
pub(super) struct Layer<'a> {
    pub(super) build: Builder<'a>,
    pub(super) hparams: &'a LayerHparams,
    pub(super) tensors: &'a LayerTensors<Tensor>,
    pub(super) derived: &'a DerivedLayer,
    /// One entry per sequence.
    pub(super) caches: Vec<&'a LayerCache>,
}

impl Layer<'_> {
    /// One transformer layer, `[d, T]` to `[d, T]`; `scalar [1]` is the encoder's or the decoder's.
    pub(super) fn block(&self, x: &Tensor, scalar: &Tensor) -> Result<Tensor> {
        let (build, w) = (self.build, self.tensors);
        let ctx = build.ctx();
        build.part(Part::Attention);
        let h = build.norm(x, &w.attn_norm)?;
        self.keys_values(&h)?;
        let attention = build.norm(&self.attention(&h)?, &w.post_attention_norm)?;
        let x = ctx.add(x, &attention)?;

        build.part(Part::DenseMlp);
        let dense = build.norm(&x, &w.ffn_norm)?;
        let dense = build.geglu(
            &build.product(&w.ffn_gate, &dense)?,
            &build.product(&w.ffn_up, &dense)?,
        )?;
        let dense = build.norm(&build.product(&w.ffn_down, &dense)?, &w.post_ffw_norm_1)?;
        let experts = build.norm(&self.experts(&x)?, &w.post_ffw_norm_2)?;
        let mixed = build.norm(&ctx.add(&dense, &experts)?, &w.post_ffw_norm)?;
        ctx.mul(&ctx.add(&x, &mixed)?, scalar)
    }

    /// Writes the K and V of the normed input to the cache.
    pub(super) fn keys_values(&self, h: &Tensor) -> Result<()> {
        let (build, w, layer) = (self.build, self.tensors, self.hparams);
        let ctx = build.ctx();
        let tokens = h.ne()[1];
        let heads = [layer.head_dim, layer.n_kv_heads, tokens];
        let k = ctx.reshape(&build.product(&w.attn_k, h)?, &heads)?;
        // Layers without a V projection use the raw K projection.
        let v = match &w.attn_v {
            Some(attn_v) => ctx.reshape(&build.product(attn_v, h)?, &heads)?,
            None => k.clone(),
        };
        let k = ctx.rope(&build.norm(&k, &w.attn_k_norm)?, &self.rope())?;
        let v = ctx.rms_norm(&v, build.hparams.rms_eps)?;
        let width = [layer.head_dim * layer.n_kv_heads, tokens];
        let (k, v) = (ctx.reshape(&k, &width)?, ctx.reshape(&v, &width)?);
        for (sequence, (cache, inputs)) in
            self.caches.iter().zip(&build.inputs.sequences).enumerate()
        {
            let rows = &inputs.cache(layer.kind).rows;
            let (k, v) = (
                build.of_sequence(&k, sequence)?,
                build.of_sequence(&v, sequence)?,
            );
            build.graph.add(&ctx.set_rows(&cache.k, &k, rows)?);
            build.graph.add(&ctx.set_rows(&cache.v, &v, rows)?);
        }
        Ok(())
    }

    fn rope(&self) -> Rope<'_> {
        Rope {
            positions: &self.build.inputs.positions,
            divisors: &self.derived.rope_divisors,
        }
    }

    /// Attention over the caches, which already hold the pass's own K and V; `[d, T]`.
    fn attention(&self, h: &Tensor) -> Result<Tensor> {
        let (build, w, layer) = (self.build, self.tensors, self.hparams);
        let ctx = build.ctx();
        let (dim, heads, tokens) = (layer.head_dim, build.hparams.n_heads, h.ne()[1]);
        let q = ctx.reshape(&build.product(&w.attn_q, h)?, &[dim, heads, tokens])?;
        let q = ctx.rope(&build.norm(&q, &w.attn_q_norm)?, &self.rope())?;
        let q = ctx.reshape(&q, &[dim * heads, tokens])?;
        let mixed: Result<Vec<Tensor>> = (0..self.caches.len())
            .map(|sequence| self.sequence_attention(&build.of_sequence(&q, sequence)?, sequence))
            .collect();
        build.product(&w.attn_output, &ctx.join_columns(&mixed?)?)
    }

    /// Attention of one sequence: `q [head_dim * heads, t]` to a mixture of V of the same shape.
    fn sequence_attention(&self, q: &Tensor, sequence: usize) -> Result<Tensor> {
        let (build, layer) = (self.build, self.hparams);
        let ctx = build.ctx();
        let (dim, heads, tokens) = (layer.head_dim, build.hparams.n_heads, q.ne()[1]);
        let q = ctx.reshape(q, &[dim, heads, tokens])?;
        let cache = self.caches[sequence];
        let inputs = build.inputs.sequences[sequence].cache(layer.kind);
        let row = cache.k.nb()[1];
        let head = row / layer.n_kv_heads;
        let shape = [dim, inputs.keys, layer.n_kv_heads];
        let k = ctx.view(&cache.k, shape, [row, head], 0)?;
        let v = ctx.view(&cache.v, shape, [row, head], 0)?;
        if build.choice.flash && build.choice.kernels == Kernels::Cpu {
            let mixed = ctx.attention(&q, &k, &v, &inputs.mask)?;
            return ctx.reshape(&mixed, &[dim * heads, tokens]);
        }
        let q = ctx.swap_middle(&q)?;
        // The norms of Q and K carry the scale of the scores.
        const SCALE: f32 = 1.0;
        let mixed = if build.choice.flash {
            ctx.flash_attention(&q, &k, &v, &inputs.mask, SCALE)?
        } else {
            let scores = ctx.mul_mat_f32(&k, &q)?;
            let scores = ctx.soft_max_masked(&scores, &inputs.mask, SCALE)?;
            let mixed = ctx.mul_mat(&ctx.cont(&ctx.transpose(&v)?)?, &scores)?;
            ctx.cont(&ctx.swap_middle(&mixed)?)?
        };
        ctx.reshape(&mixed, &[dim * heads, tokens])
    }

    /// The mixture of experts on the residual `x [d, T]`.
    fn experts(&self, x: &Tensor) -> Result<Tensor> {
        let (build, w) = (self.build, self.tensors);
        let ctx = build.ctx();
        let (n, used) = (build.hparams.n_experts, build.hparams.n_experts_used);
        let [d, tokens, ..] = x.ne();

        build.part(Part::Router);
        // Softmax over all experts, the best of them renormalised to sum 1, then the scale of each
        // expert. A small error here selects other experts: the router stays in F32.
        let input = ctx.mul(
            &ctx.rms_norm(x, build.hparams.rms_eps)?,
            &self.derived.router_scale,
        )?;
        let p = ctx.soft_max(&ctx.mul_mat_f32(&w.router, &input)?)?;
        let chosen = ctx.top_k(&p, used)?;
        let pick = |values: &Tensor| -> Result<Tensor> {
            let rows = ctx.get_rows(&ctx.reshape(values, &[1, n, tokens])?, &chosen)?;
            ctx.reshape(&rows, &[used, tokens])
        };
        let scaled = pick(&ctx.mul(&p, &w.experts_down_scale)?)?;
        let share = ctx.div(&scaled, &ctx.sum_rows(&pick(&p)?)?)?;

        build.part(Part::Experts);
        let input = build.norm(x, &w.pre_ffw_norm_2)?;
        let first = match &w.experts {
            Experts::Fused { gate_up } => FirstMatrices::Fused(gate_up),
            Experts::Split { gate, up } => FirstMatrices::Split(gate, up),
        };
        let own = ctx.expert_instructions(&first, &w.experts_down, used);
        if let Some(own) = own.filter(|_| tokens <= build.choice.own_experts) {
            let hidden = ctx.experts_hidden(own, &first, &input, &chosen)?;
            return ctx.experts_output(own, &w.experts_down, &hidden, &chosen, &share);
        }
        let input = ctx.reshape(&input, &[d, 1, tokens])?;
        let hidden = match &w.experts {
            Experts::Fused { gate_up } => {
                let both = ctx.mul_mat_id(gate_up, &input, &chosen)?;
                let (half, stride) = (both.ne()[0] / 2, both.nb());
                let part =
                    |offset| ctx.view(&both, [half, used, tokens], [stride[1], stride[2]], offset);
                build.geglu(&part(0)?, &part(4 * half)?)?
            }
            Experts::Split { gate, up } => build.geglu(
                &ctx.mul_mat_id(gate, &input, &chosen)?,
                &ctx.mul_mat_id(up, &input, &chosen)?,
            )?,
        };
        let out = ctx.mul_mat_id(&w.experts_down, &hidden, &chosen)?;
        let out = ctx.mul(&out, &ctx.reshape(&share, &[1, used, tokens])?)?;
        let stride = out.nb();
        let expert =
            |e: usize| ctx.view(&out, [d, tokens, 1], [stride[2], stride[3]], e * stride[1]);
        let mut sum = expert(0)?;
        for e in 1..used {
            sum = ctx.add(&sum, &expert(e)?)?;
        }
        // The view of a single expert has gaps of length zero, but ggml cannot know that.
        if used == 1 { ctx.cont(&sum) } else { Ok(sum) }
    }
}
