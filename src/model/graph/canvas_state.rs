//! What a canvas keeps between steps.

use super::super::hparams::Hparams;
use crate::error::Result;
use crate::ggml::context::Context;
use crate::ggml::kernels::DRAW_PLANES;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;

/// What a canvas carries from step to step, on the device of the output head.
#[derive(Clone)]
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
    /// Positions of the canvas.
    pub(crate) len: usize,
    vocab: usize,
}

impl CanvasState {
    /// How many tensors [`CanvasState::new`] makes.
    pub(crate) const TENSORS: usize = 4;

    /// For a canvas of the length that the model was trained with.
    pub(crate) fn new(context: &Context, hparams: &Hparams) -> Result<Self> {
        let canvas = hparams.canvas_length;
        let draws = (hparams.vocab_size + DRAW_PLANES) * canvas;
        Ok(Self {
            soft: context.tensor(TensorType::F32, &[hparams.d, canvas], "soft_embeddings")?,
            draws: context.tensor(TensorType::F32, &[draws], "draws")?,
            uniforms: context.tensor(TensorType::F32, &[canvas], "uniforms")?,
            scalars: context.tensor(TensorType::F32, &[2], "scalars")?,
            len: canvas,
            vocab: hparams.vocab_size,
        })
    }

    /// The same memory for a canvas of `len` positions, not more than this one has.
    pub(crate) fn shortened(&self, context: &Context, len: usize) -> Result<Self> {
        let first = |tensor: &Tensor, count: usize| {
            let bytes = 4 * count;
            context.view(tensor, [count, 1, 1], [bytes, bytes], 0)
        };
        let d = self.soft.ne()[0];
        Ok(Self {
            soft: context.view(&self.soft, [d, len, 1], [4 * d, 4 * d * len], 0)?,
            draws: first(&self.draws, (self.vocab + DRAW_PLANES) * len)?,
            uniforms: first(&self.uniforms, len)?,
            scalars: self.scalars.clone(),
            len,
            vocab: self.vocab,
        })
    }

    /// The unnormalised probabilities, `[vocab, canvas]`.
    pub(super) fn weights(&self, context: &Context) -> Result<Tensor> {
        let (vocab, canvas) = (self.vocab, self.len);
        context.view(
            &self.draws,
            [vocab, canvas, 1],
            [4 * vocab, 4 * vocab * canvas],
            0,
        )
    }

    /// First byte of a plane of draws.
    pub(crate) fn plane(&self, plane: DrawPlane) -> usize {
        4 * self.len * (self.vocab + plane as usize)
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
