//! The draw by ggml's own operations.

use super::builder::Builder;
use super::canvas_state::{CanvasState, DrawPlane};
use crate::error::Result;
use crate::ggml::context::Context;
use crate::ggml::kernels::WEIGHT_SCALE;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;

/// What [`Context::draw`] does, by ggml's own operations, for devices without a kernel of ours.
///
/// The entropy is `-Σ p ln p`; the drawn token is the number of tokens whose cumulative probability
/// does not exceed `uniform * total`.
pub(super) fn draw_by_ops(build: Builder<'_>, state: &CanvasState, logits: &Tensor) -> Result<()> {
    let ctx = build.ctx();
    let hp = build.hparams;
    let (vocab, canvas) = (hp.vocab_size, state.len);
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
            state.plane(plane),
        )?;
        build.graph.add(&ctx.copy(value, &at)?);
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
    store(&probability_of(ctx, &p, &drawn)?, DrawPlane::Probability)?;
    store(&margin(ctx, &p, &z, &argmax)?, DrawPlane::Margin)?;
    let weights = ctx.scale(&p, WEIGHT_SCALE)?;
    build.graph.add(&ctx.copy(&weights, &state.weights(ctx)?)?);
    // The sum of the weights of a row is WEIGHT_SCALE.
    let constant = |value| ctx.scale_bias(&state.uniforms, 0.0, value);
    store(&constant(1.0 / WEIGHT_SCALE)?, DrawPlane::Scale)?;
    // Sparse mixtures run only on the CPU.
    store(&constant(vocab as f32)?, DrawPlane::Kept)?;
    store(&constant(0.0)?, DrawPlane::Dropped)
}

/// Of the probabilities `p [vocab, canvas]` those of one token, I32, per position: `[1, canvas]`.
fn probability_of(ctx: &Context, p: &Tensor, token: &Tensor) -> Result<Tensor> {
    let [vocab, canvas, ..] = p.ne();
    let rows = ctx.reshape(p, &[1, vocab, canvas])?;
    let found = ctx.get_rows(&rows, &ctx.reshape(token, &[1, canvas])?)?;
    ctx.reshape(&found, &[1, canvas])
}

/// The greatest probability less the second, `[1, canvas]`, of `p` with the scores `z` (both
/// `[vocab, canvas]`) and their `argmax`.
fn margin(ctx: &Context, p: &Tensor, z: &Tensor, argmax: &Tensor) -> Result<Tensor> {
    let [vocab, canvas, ..] = z.ne();
    // 1 below the greatest score, 0 at it.
    let scores = ctx.reshape(z, &[1, vocab, canvas])?;
    let top = ctx.get_rows(&scores, &ctx.reshape(argmax, &[1, canvas])?)?;
    let top = ctx.reshape(&top, &[1, canvas])?;
    let lower = ctx.step(&ctx.scale(&ctx.sub(z, &top)?, -1.0)?)?;
    let others = ctx.mul(p, &lower)?;
    let second = probability_of(ctx, p, &ctx.argmax(&others)?)?;
    let margin = ctx.sub(&probability_of(ctx, p, argmax)?, &second)?;
    // If several tokens have the greatest score, the margin is 0.
    let equals = ctx.scale_bias(&ctx.sum_rows(&lower)?, -1.0, vocab as f32)?;
    let is_alone = ctx.step(&ctx.scale_bias(&equals, -1.0, 1.5)?)?;
    ctx.mul(&margin, &is_alone)
}
