//! The network: tokens into the cache, a canvas into draws.

use super::super::hparams::Hparams;
use super::super::kv_cache::KvCache;
use super::super::profile::Part;
use super::super::weights::Weights;
use super::builder::{Builder, Kernels, NodeChoice};
use super::canvas_state::CanvasState;
use super::draw::draw_by_ops;
use super::inputs::PassInputs;
use super::layer::Layer;
use crate::error::Result;
use crate::ggml::compute::Graph;
use crate::ggml::tensor::Tensor;

/// The tokens after which an encoder pass predicts the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predicted {
    None,
    AfterLast,
    AfterEach,
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

/// Room for the nodes of any graph of this model over this number of sequences.
pub(crate) fn capacity(hparams: &Hparams, sequences: usize) -> usize {
    // A layer makes at most 81 nodes, two for each of its experts' sums, and 20 for the attention
    // of each further sequence. A draw takes up to 70.
    let per_layer = 96 + 2 * hparams.n_experts_used + 24 * (sequences - 1);
    192 + 96 * sequences + hparams.layers.len() * per_layer
}

impl<'a> Network<'a> {
    fn builder(&self) -> Builder<'a> {
        Builder {
            graph: self.graph,
            hparams: self.hparams,
            inputs: self.inputs,
            choice: self.choice,
        }
    }

    fn layer(&self, index: usize) -> Layer<'a> {
        Layer {
            build: self.builder(),
            hparams: &self.hparams.layers[index],
            tensors: &self.weights.table.layers[index],
            derived: &self.weights.derived.layers[index],
            caches: self
                .caches
                .iter()
                .map(|cache| &cache.layers[index])
                .collect(),
        }
    }

    /// Encodes tokens: the K and V of every layer go to the cache. The result is the next-token logits
    /// `[vocab, T]` after the tokens of `predicted`, before the soft cap.
    pub(crate) fn encode(&self, predicted: Predicted) -> Result<Option<Tensor>> {
        let build = self.builder();
        let last = self.hparams.layers.len() - 1;
        let mut x = self.embed()?;
        for l in 0..last {
            let layer = self.layer(l);
            x = layer.block(&x, &layer.tensors.encoder_scale)?;
        }
        let last = self.layer(last);
        if predicted == Predicted::None {
            // Only K and V of the encoder are ever read.
            build.part(Part::Attention);
            let h = build.norm(&x, &last.tensors.attn_norm)?;
            last.keys_values(&h)?;
            return Ok(None);
        }
        let x = last.block(&x, &last.tensors.encoder_scale)?;
        let [d, tokens, ..] = x.ne();
        let x = match predicted {
            Predicted::AfterEach => x,
            _ => build
                .ctx()
                .view(&x, [d, 1, 1], [4 * d, 4 * d], 4 * d * (tokens - 1))?,
        };
        let logits = self.head(&x)?;
        self.graph.add(&logits);
        Ok(Some(logits))
    }

    /// One denoising step: canvases and soft embeddings to draws in `states`, one per sequence. The
    /// result is the logits `[vocab, T]` before the soft cap.
    pub(crate) fn denoise(&self, states: &[&CanvasState]) -> Result<Tensor> {
        let build = self.builder();
        let ctx = build.ctx();
        build.part(Part::Embedding);
        let sc = &self.weights.table.self_cond;
        // Soft embeddings of zero, as on the first step, give a signal of exactly zero.
        let soft: Vec<Tensor> = states.iter().map(|state| state.soft.clone()).collect();
        let n = build.norm(&ctx.join_columns(&soft)?, &sc.pre_norm)?;
        let gate = build.product(&sc.gate, &n)?;
        let up = build.product(&sc.up, &n)?;
        let signal = build.product(&sc.down, &build.geglu(&gate, &up)?)?;
        let mut x = ctx.rms_norm(&ctx.add(&self.embed()?, &signal)?, self.hparams.rms_eps)?;
        for l in 0..self.hparams.layers.len() {
            let layer = self.layer(l);
            x = layer.block(&x, &layer.tensors.decoder_scale)?;
        }
        let logits = self.head(&x)?;
        self.graph.add(&logits);
        build.part(Part::Draw);
        for (sequence, state) in states.iter().enumerate() {
            let logits = build.of_sequence(&logits, sequence)?;
            match self.choice.kernels {
                Kernels::Cpu => {
                    let draws = ctx.draw(&state.draws, &logits, &state.uniforms, &state.scalars)?;
                    self.graph.add(&draws);
                }
                Kernels::Ggml => draw_by_ops(build, state, &logits)?,
                Kernels::CudaDraw => {} // the decoder runs it
            }
        }
        Ok(logits)
    }

    /// Logits `[vocab, T]` before the soft cap.
    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let build = self.builder();
        build.part(Part::OutputHead);
        let x = build.norm(x, &self.weights.table.output_norm)?;
        Ok(build.product(&self.weights.output, &x)?.output())
    }

    /// Scaled token embeddings, `[d, T]`.
    fn embed(&self) -> Result<Tensor> {
        let build = self.builder();
        let ctx = build.ctx();
        build.part(Part::Embedding);
        let rows = ctx.get_rows(&self.weights.table.token_embd, &self.inputs.tokens)?;
        ctx.scale(&rows, self.hparams.embedding_scale)
    }
}
