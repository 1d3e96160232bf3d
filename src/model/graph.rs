//! DiffusionGemma as graphs of ggml operations.
//!
//! Three graphs share the layers: [`Network::encode`] appends tokens to the KV cache,
//! [`Network::denoise`] turns a canvas into draws, [`soften`] turns the distributions behind the
//! draws into the next step's soft embeddings.
//!
//! Source of the mathematics: `modeling_diffusion_gemma.py` of transformers 5.23.0. Shapes are in
//! ggml's order, fastest dimension first; T is the number of tokens of a pass.

use super::hparams::{Hparams, LayerKind};
use super::kv_cache::KvCache;
use super::profile::Part;
use super::tensors::{Experts, LayerTensors};
use super::weights::Weights;
use crate::error::Result;
use crate::ggml::compute::Graph;
use crate::ggml::context::Context;
use crate::ggml::kernels::DRAW_PLANES;
use crate::ggml::ops::Rope;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;

/// Where one kind of layer writes and reads its cache during a pass.
pub(crate) struct CacheInputs {
    /// I64 `[T]`: the slot of each token.
    pub(crate) rows: Tensor,
    /// F16 `[keys, T]`: 0 where a token sees a key, else negative infinity.
    pub(crate) mask: Tensor,
    /// Slots that the pass looks at, from the first on.
    pub(crate) keys: usize,
}

/// What the host tells a pass; the tensors have memory of their own on the model's first device, so
/// that the host copies nothing again while their contents stay. (For layers on other devices ggml's
/// scheduler copies them from there in every pass.) T is the tokens of all sequences, which take T / sequences each.
pub(crate) struct PassInputs {
    /// I32 `[T]`.
    pub(crate) tokens: Tensor,
    /// I32 `[T]`: absolute positions.
    pub(crate) positions: Tensor,
    /// One entry per sequence, in the order of their tokens.
    pub(crate) sequences: Vec<SequenceInputs>,
}

/// What the host tells a pass about one sequence.
pub(crate) struct SequenceInputs {
    pub(crate) full: CacheInputs,
    pub(crate) sliding: CacheInputs,
}

/// Keys that a pass over one sequence looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) full: usize,
    pub(crate) sliding: usize,
}

impl PassInputs {
    /// Inputs for `tokens` tokens of each sequence.
    pub(crate) fn new(context: &Context, tokens: usize, sequences: &[Keys]) -> Result<Self> {
        let cache = |keys: usize, rows: &str, mask: &str| -> Result<CacheInputs> {
            Ok(CacheInputs {
                rows: context.tensor(TensorType::I64, &[tokens], rows)?,
                mask: context.tensor(TensorType::F16, &[keys, tokens], mask)?,
                keys,
            })
        };
        let all = tokens * sequences.len();
        let sequence = |keys: &Keys| -> Result<SequenceInputs> {
            Ok(SequenceInputs {
                full: cache(keys.full, "rows_full", "mask_full")?,
                sliding: cache(keys.sliding, "rows_sliding", "mask_sliding")?,
            })
        };
        Ok(Self {
            tokens: context.tensor(TensorType::I32, &[all], "tokens")?,
            positions: context.tensor(TensorType::I32, &[all], "positions")?,
            sequences: sequences.iter().map(sequence).collect::<Result<_>>()?,
        })
    }

    /// How many tensors [`PassInputs::new`] makes.
    pub(crate) fn tensors(sequences: usize) -> usize {
        2 + 4 * sequences
    }
}

impl SequenceInputs {
    fn cache(&self, kind: LayerKind) -> &CacheInputs {
        match kind {
            LayerKind::Full => &self.full,
            LayerKind::Sliding => &self.sliding,
        }
    }
}

/// What a canvas carries from step to step, on the device of the output head.
pub(crate) struct CanvasState {
    /// F32 `[d, canvas]`: the soft embeddings that condition the next step.
    pub(crate) soft: Tensor,
    /// F32: unnormalised probabilities `[vocab, canvas]`, then the planes of a draw (see
    /// [`Context::draw`]).
    pub(crate) draws: Tensor,
    /// F32 `[canvas]` in [0, 1).
    pub(crate) uniforms: Tensor,
    /// F32 `[2]`: temperature and soft cap.
    pub(crate) scalars: Tensor,
}

impl CanvasState {
    /// How many tensors [`CanvasState::new`] makes.
    pub(crate) const TENSORS: usize = 4;

    pub(crate) fn new(context: &Context, hparams: &Hparams) -> Result<Self> {
        let canvas = hparams.canvas_length;
        let draws = (hparams.vocab_size + DRAW_PLANES) * canvas;
        Ok(Self {
            soft: context.tensor(TensorType::F32, &[hparams.d, canvas], "soft_embeddings")?,
            draws: context.tensor(TensorType::F32, &[draws], "draws")?,
            uniforms: context.tensor(TensorType::F32, &[canvas], "uniforms")?,
            scalars: context.tensor(TensorType::F32, &[2], "scalars")?,
        })
    }

    /// The unnormalised probabilities, `[vocab, canvas]`.
    fn weights(&self, context: &Context, hparams: &Hparams) -> Result<Tensor> {
        let (vocab, canvas) = (hparams.vocab_size, hparams.canvas_length);
        context.view(
            &self.draws,
            [vocab, canvas, 1],
            [4 * vocab, 4 * vocab * canvas],
            0,
        )
    }

    /// First byte of a plane of draws.
    pub(crate) fn plane(hparams: &Hparams, plane: DrawPlane) -> usize {
        4 * hparams.canvas_length * (hparams.vocab_size + plane as usize)
    }
}

/// The planes that a draw fills, one value per position.
#[derive(Clone, Copy)]
pub(crate) enum DrawPlane {
    /// The most likely token.
    Argmax,
    /// The drawn token.
    Sampled,
    /// Entropy of the distribution, in nats.
    Entropy,
    /// The factor that normalises the weights.
    Scale,
    /// How many tokens a sparse mixture keeps.
    Kept,
    /// The probability of the tokens that it drops.
    Dropped,
    /// The probability of the drawn token.
    Probability,
    /// The probability of the most likely token, less that of the second.
    Margin,
}

/// How the nodes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeChoice {
    /// Fused attention instead of separate scores, softmax and sum.
    pub(crate) flash: bool,
    /// Kernels of our own.
    pub(crate) kernels: Kernels,
}

/// Which kernels of our own replace ggml's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// None.
    Ggml,
    /// Those for the CPU, as nodes of the graphs: everything runs there.
    Cpu,
    /// The draw on the device of the output head, behind the graph.
    CudaDraw,
}

/// Builds the nodes of one graph.
pub(crate) struct Network<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) hparams: &'a Hparams,
    pub(crate) weights: &'a Weights,
    /// One entry per sequence, as in `inputs`.
    pub(crate) caches: &'a [&'a KvCache],
    pub(crate) inputs: &'a PassInputs,
    pub(crate) choice: NodeChoice,
}

/// Room for the nodes of any graph of this model over so many sequences.
pub(crate) fn capacity(hparams: &Hparams, sequences: usize) -> usize {
    // A layer makes at most 74 nodes, two for each of its experts' sums, and 20 for the attention
    // of each further sequence. A draw takes up to 70.
    let per_layer = 96 + 2 * hparams.n_experts_used + 24 * (sequences - 1);
    192 + 96 * sequences + hparams.layers.len() * per_layer
}

impl Network<'_> {
    /// Encodes tokens: the K and V of every layer go to the cache. With `logits` the result is the
    /// next-token logits `[vocab]` of the last token, before the soft cap.
    pub(crate) fn encode(&self, logits: bool) -> Result<Option<Tensor>> {
        let last = self.hparams.layers.len() - 1;
        let mut x = self.embed()?;
        for l in 0..last {
            let scalar = &self.layer(l).encoder_scale;
            x = self.block(l, &x, scalar)?;
        }
        if !logits {
            // Nothing but K and V of the encoder is ever read.
            self.part(Part::Attention);
            let h = self.norm(&x, &self.layer(last).attn_norm)?;
            self.keys_values(last, &h)?;
            return Ok(None);
        }
        let x = self.block(last, &x, &self.layer(last).encoder_scale)?;
        let [d, tokens, ..] = x.ne();
        let x = self
            .ctx()
            .view(&x, [d, 1, 1], [4 * d, 4 * d], 4 * d * (tokens - 1))?;
        let logits = self.head(&x)?;
        self.graph.add(&logits);
        Ok(Some(logits))
    }

    /// One denoising step: canvases and soft embeddings to draws in `states`, one per sequence. The
    /// result is the logits `[vocab, T]` before the soft cap.
    pub(crate) fn denoise(&self, states: &[&CanvasState]) -> Result<Tensor> {
        let ctx = self.ctx();
        self.part(Part::Embedding);
        let sc = &self.weights.table.self_cond;
        // Soft embeddings of zero, as on the first step, give a signal of exactly zero.
        let soft: Vec<Tensor> = states.iter().map(|state| state.soft.clone()).collect();
        let n = self.norm(&ctx.join_columns(&soft)?, &sc.pre_norm)?;
        let gate = ctx.mul_mat(&sc.gate, &n)?;
        let up = ctx.mul_mat(&sc.up, &n)?;
        let signal = ctx.mul_mat(&sc.down, &self.geglu(&gate, &up)?)?;
        let mut x = ctx.rms_norm(&ctx.add(&self.embed()?, &signal)?, self.hparams.rms_eps)?;
        for l in 0..self.hparams.layers.len() {
            x = self.block(l, &x, &self.layer(l).decoder_scale)?;
        }
        let logits = self.head(&x)?;
        self.graph.add(&logits);
        self.part(Part::Draw);
        for (sequence, state) in states.iter().enumerate() {
            let logits = self.of_sequence(&logits, sequence)?;
            match self.choice.kernels {
                Kernels::Cpu => {
                    let draws = ctx.draw(&state.draws, &logits, &state.uniforms, &state.scalars)?;
                    self.graph.add(&draws);
                }
                Kernels::Ggml => self.draw_by_ops(state, &logits)?,
                Kernels::CudaDraw => {} // the decoder runs it
            }
        }
        Ok(logits)
    }

    /// Logits `[vocab, T]` before the soft cap.
    fn head(&self, x: &Tensor) -> Result<Tensor> {
        self.part(Part::OutputHead);
        let x = self.norm(x, &self.weights.table.output_norm)?;
        Ok(self.ctx().mul_mat(&self.weights.output, &x)?.output())
    }

    /// What [`Context::draw`] does, by ggml's own operations, for devices without a kernel of ours.
    ///
    /// The entropy is `-Σ p ln p`; the drawn token is the number of tokens whose cumulated
    /// probability does not exceed `uniform * total`.
    fn draw_by_ops(&self, state: &CanvasState, logits: &Tensor) -> Result<()> {
        use crate::ggml::kernels::WEIGHT_SCALE;
        let ctx = self.ctx();
        let hp = self.hparams;
        let (vocab, canvas) = (hp.vocab_size, hp.canvas_length);
        let cap = hp.logit_softcap;
        let temperature = ctx.view(&state.scalars, [1, 1, 1], [4, 4], 0)?;
        let capped = ctx.scale(&ctx.tanh(&ctx.scale(logits, 1.0 / cap)?)?, cap)?;
        let z = ctx.div(&capped, &temperature)?;
        let p = ctx.soft_max(&z)?;
        let store = |value: &Tensor, plane: DrawPlane| -> Result<()> {
            let at = ctx.view(
                &state.draws,
                [canvas, 1, 1],
                [4 * canvas; 2],
                CanvasState::plane(hp, plane),
            )?;
            self.graph.add(&ctx.copy(value, &at)?);
            Ok(())
        };
        let argmax = ctx.argmax(&z)?;
        store(&argmax, DrawPlane::Argmax)?;
        // A probability of zero would make the logarithm infinite; its share of the entropy is zero.
        // Clamping works in place, on a copy.
        let log_p = ctx.log(&ctx.clamp(&ctx.scale(&p, 1.0)?, f32::MIN_POSITIVE, 1.0)?)?;
        let entropy = ctx.scale(&ctx.sum_rows(&ctx.mul(&p, &log_p)?)?, -1.0)?;
        store(&entropy, DrawPlane::Entropy)?;
        let cdf = ctx.cumsum(&p)?;
        let total = ctx.view(
            &cdf,
            [1, canvas, 1],
            [4 * vocab, 4 * vocab * canvas],
            4 * (vocab - 1),
        )?;
        let uniforms = ctx.reshape(&state.uniforms, &[1, canvas])?;
        let target = ctx.mul(&ctx.cont(&total)?, &uniforms)?;
        let above = ctx.sum_rows(&ctx.step(&ctx.sub(&cdf, &target)?)?)?;
        let sampled = ctx.clamp(
            &ctx.scale_bias(&above, -1.0, vocab as f32)?,
            0.0,
            (vocab - 1) as f32,
        )?;
        store(&sampled, DrawPlane::Sampled)?;
        let drawn = ctx.tensor(TensorType::I32, &[1, canvas], "drawn")?;
        let drawn = ctx.copy(&sampled, &drawn)?;
        store(&self.probability_of(&p, &drawn)?, DrawPlane::Probability)?;
        store(&self.margin(&p, &z, &argmax)?, DrawPlane::Margin)?;
        let weights = ctx.scale(&p, WEIGHT_SCALE)?;
        self.graph
            .add(&ctx.copy(&weights, &state.weights(ctx, hp)?)?);
        // The sum of the weights of a row is WEIGHT_SCALE.
        let constant = |value| ctx.scale_bias(&state.uniforms, 0.0, value);
        store(&constant(1.0 / WEIGHT_SCALE)?, DrawPlane::Scale)?;
        // Sparse mixtures run on the CPU alone.
        store(&constant(vocab as f32)?, DrawPlane::Kept)?;
        store(&constant(0.0)?, DrawPlane::Dropped)
    }

    /// Of the probabilities `p [vocab, canvas]` those of one token, I32, per position: `[1, canvas]`.
    fn probability_of(&self, p: &Tensor, token: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        let [vocab, canvas, ..] = p.ne();
        let rows = ctx.reshape(p, &[1, vocab, canvas])?;
        let found = ctx.get_rows(&rows, &ctx.reshape(token, &[1, canvas])?)?;
        ctx.reshape(&found, &[1, canvas])
    }

    /// The greatest probability less the second, `[1, canvas]`, of `p` with the scores `z` (both
    /// `[vocab, canvas]`), where `argmax` is.
    fn margin(&self, p: &Tensor, z: &Tensor, argmax: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        let [vocab, canvas, ..] = z.ne();
        // 1 below the greatest score, 0 where it is.
        let scores = ctx.reshape(z, &[1, vocab, canvas])?;
        let top = ctx.get_rows(&scores, &ctx.reshape(argmax, &[1, canvas])?)?;
        let top = ctx.reshape(&top, &[1, canvas])?;
        let lower = ctx.step(&ctx.scale(&ctx.sub(z, &top)?, -1.0)?)?;
        let others = ctx.mul(p, &lower)?;
        let second = self.probability_of(p, &ctx.argmax(&others)?)?;
        let margin = ctx.sub(&self.probability_of(p, argmax)?, &second)?;
        // Where several have the greatest score, the margin is 0.
        let equals = ctx.scale_bias(&ctx.sum_rows(&lower)?, -1.0, vocab as f32)?;
        let is_alone = ctx.step(&ctx.scale_bias(&equals, -1.0, 1.5)?)?;
        ctx.mul(&margin, &is_alone)
    }

    fn ctx(&self) -> &Context {
        self.graph.context()
    }

    /// Says what the nodes that follow belong to.
    fn part(&self, part: Part) {
        self.ctx().label(part.label());
    }

    /// The columns `[n, T / sequences]` of one sequence in `x [n, T]`.
    fn of_sequence(&self, x: &Tensor, sequence: usize) -> Result<Tensor> {
        let sequences = self.caches.len();
        if sequences == 1 {
            return Ok(x.clone());
        }
        let ([n, all, ..], stride) = (x.ne(), x.nb());
        let tokens = all / sequences;
        let first = sequence * tokens * stride[1];
        self.ctx()
            .view(x, [n, tokens, 1], [stride[1], tokens * stride[1]], first)
    }

    fn layer(&self, l: usize) -> &LayerTensors<Tensor> {
        &self.weights.table.layers[l]
    }

    /// `rms(x) * weight`.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        ctx.mul(&ctx.rms_norm(x, self.hparams.rms_eps)?, weight)
    }

    /// Scaled token embeddings, `[d, T]`.
    fn embed(&self) -> Result<Tensor> {
        let ctx = self.ctx();
        self.part(Part::Embedding);
        let rows = ctx.get_rows(&self.weights.table.token_embd, &self.inputs.tokens)?;
        ctx.scale(&rows, self.hparams.embedding_scale)
    }

    fn geglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        if self.choice.kernels == Kernels::Cpu {
            self.ctx().geglu_exact(gate, up)
        } else {
            self.ctx().geglu(gate, up)
        }
    }

    /// One transformer layer, `[d, T]` to `[d, T]`; `scalar [1]` is the encoder's or the decoder's.
    fn block(&self, l: usize, x: &Tensor, scalar: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        let w = self.layer(l);
        self.part(Part::Attention);
        let h = self.norm(x, &w.attn_norm)?;
        self.keys_values(l, &h)?;
        let attention = self.norm(&self.attention(l, &h)?, &w.post_attention_norm)?;
        let x = ctx.add(x, &attention)?;

        self.part(Part::DenseMlp);
        let dense = self.norm(&x, &w.ffn_norm)?;
        let dense = self.geglu(
            &ctx.mul_mat(&w.ffn_gate, &dense)?,
            &ctx.mul_mat(&w.ffn_up, &dense)?,
        )?;
        let dense = self.norm(&ctx.mul_mat(&w.ffn_down, &dense)?, &w.post_ffw_norm_1)?;
        let experts = self.norm(&self.experts(l, &x)?, &w.post_ffw_norm_2)?;
        let mixed = self.norm(&ctx.add(&dense, &experts)?, &w.post_ffw_norm)?;
        ctx.mul(&ctx.add(&x, &mixed)?, scalar)
    }

    /// Puts the K and V of the normed input into the cache.
    fn keys_values(&self, l: usize, h: &Tensor) -> Result<()> {
        let ctx = self.ctx();
        let (w, layer) = (self.layer(l), &self.hparams.layers[l]);
        let tokens = h.ne()[1];
        let heads = [layer.head_dim, layer.n_kv_heads, tokens];
        let k = ctx.reshape(&ctx.mul_mat(&w.attn_k, h)?, &heads)?;
        // Layers without a V projection use the raw K projection.
        let v = match &w.attn_v {
            Some(attn_v) => ctx.reshape(&ctx.mul_mat(attn_v, h)?, &heads)?,
            None => k.clone(),
        };
        let k = ctx.rope(&self.norm(&k, &w.attn_k_norm)?, &self.rope(l))?;
        let v = ctx.rms_norm(&v, self.hparams.rms_eps)?;
        let width = [layer.head_dim * layer.n_kv_heads, tokens];
        let (k, v) = (ctx.reshape(&k, &width)?, ctx.reshape(&v, &width)?);
        for (sequence, (cache, inputs)) in
            self.caches.iter().zip(&self.inputs.sequences).enumerate()
        {
            let rows = &inputs.cache(layer.kind).rows;
            let cache = &cache.layers[l];
            let (k, v) = (
                self.of_sequence(&k, sequence)?,
                self.of_sequence(&v, sequence)?,
            );
            self.graph.add(&ctx.set_rows(&cache.k, &k, rows)?);
            self.graph.add(&ctx.set_rows(&cache.v, &v, rows)?);
        }
        Ok(())
    }

    fn rope(&self, l: usize) -> Rope<'_> {
        Rope {
            positions: &self.inputs.positions,
            divisors: &self.weights.computed.rope_divisors[l],
        }
    }

    /// Attention over the caches, which hold the pass's own K and V already; `[d, T]`.
    fn attention(&self, l: usize, h: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        let (w, layer) = (self.layer(l), &self.hparams.layers[l]);
        let (dim, heads, tokens) = (layer.head_dim, self.hparams.n_heads, h.ne()[1]);
        let q = ctx.reshape(&ctx.mul_mat(&w.attn_q, h)?, &[dim, heads, tokens])?;
        let q = ctx.rope(&self.norm(&q, &w.attn_q_norm)?, &self.rope(l))?;
        let q = ctx.reshape(&q, &[dim * heads, tokens])?;
        let mixed: Result<Vec<Tensor>> = (0..self.caches.len())
            .map(|sequence| self.sequence_attention(l, &self.of_sequence(&q, sequence)?, sequence))
            .collect();
        ctx.mul_mat(&w.attn_output, &ctx.join_columns(&mixed?)?)
    }

    /// Attention of one sequence: `q [head_dim * heads, t]` to a mixture of V of the same shape.
    fn sequence_attention(&self, l: usize, q: &Tensor, sequence: usize) -> Result<Tensor> {
        let ctx = self.ctx();
        let layer = &self.hparams.layers[l];
        let (dim, heads, tokens) = (layer.head_dim, self.hparams.n_heads, q.ne()[1]);
        let q = ctx.swap_middle(&ctx.reshape(q, &[dim, heads, tokens])?)?;
        let cache = &self.caches[sequence].layers[l];
        let inputs = self.inputs.sequences[sequence].cache(layer.kind);
        let row = cache.k.nb()[1];
        let head = row / layer.n_kv_heads;
        let shape = [dim, inputs.keys, layer.n_kv_heads];
        let k = ctx.view(&cache.k, shape, [row, head], 0)?;
        let v = ctx.view(&cache.v, shape, [row, head], 0)?;
        // The norms of Q and K carry the scale of the scores.
        const SCALE: f32 = 1.0;
        let mixed = if self.choice.flash {
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
    fn experts(&self, l: usize, x: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        let w = self.layer(l);
        let (n, used) = (self.hparams.n_experts, self.hparams.n_experts_used);
        let [d, tokens, ..] = x.ne();

        self.part(Part::Router);
        // Softmax over all experts, the best of them renormalised to sum 1, then the scale of each
        // expert. A small error here changes experts: the router stays in F32.
        let input = ctx.mul(
            &ctx.rms_norm(x, self.hparams.rms_eps)?,
            &self.weights.computed.router_scale[l],
        )?;
        let p = ctx.soft_max(&ctx.mul_mat_f32(&w.router, &input)?)?;
        let chosen = ctx.top_k(&p, used)?;
        let pick = |values: &Tensor| -> Result<Tensor> {
            let rows = ctx.get_rows(&ctx.reshape(values, &[1, n, tokens])?, &chosen)?;
            ctx.reshape(&rows, &[used, tokens])
        };
        let scaled = pick(&ctx.mul(&p, &w.experts_down_scale)?)?;
        let share = ctx.div(&scaled, &ctx.sum_rows(&pick(&p)?)?)?;

        self.part(Part::Experts);
        let input = ctx.reshape(&self.norm(x, &w.pre_ffw_norm_2)?, &[d, 1, tokens])?;
        let hidden = match &w.experts {
            Experts::Fused { gate_up } => {
                let both = ctx.mul_mat_id(gate_up, &input, &chosen)?;
                let (half, stride) = (both.ne()[0] / 2, both.nb());
                let part =
                    |offset| ctx.view(&both, [half, used, tokens], [stride[1], stride[2]], offset);
                self.geglu(&part(0)?, &part(4 * half)?)?
            }
            Experts::Split { gate, up } => self.geglu(
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
        // A single expert's view has gaps of nothing, but ggml cannot know.
        if used == 1 { ctx.cont(&sum) } else { Ok(sum) }
    }
}

/// How self-conditioning multiplies probabilities and embeddings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mixture {
    /// With all embeddings.
    Dense,
    /// With those of the tokens that matter, see [`Context::sparse_mixture`].
    Sparse,
}

/// Self-conditioning's product: probabilities times embeddings, `soft = p E s`, kept in `state`
/// for the next step.
pub(crate) fn soften(
    graph: &Graph,
    hparams: &Hparams,
    weights: &Weights,
    state: &CanvasState,
    mixture: Mixture,
) -> Result<()> {
    let ctx = graph.context();
    ctx.label(Part::Embedding.label());
    let p = state.weights(ctx, hparams)?;
    let product = match mixture {
        Mixture::Dense => ctx.mul_mat(&weights.computed.embd_transposed, &p)?,
        Mixture::Sparse => ctx.sparse_mixture(&weights.table.token_embd, &p)?,
    };
    let canvas = hparams.canvas_length;
    let scale = ctx.view(
        &state.draws,
        [1, canvas, 1],
        [4, 4 * canvas],
        CanvasState::plane(hparams, DrawPlane::Scale),
    )?;
    let soft = ctx.scale(&ctx.mul(&product, &scale)?, hparams.embedding_scale)?;
    graph.add(&ctx.copy(&soft, &state.soft)?);
    Ok(())
}
