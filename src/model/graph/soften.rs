//! Self-conditioning: the distributions of the draws as embeddings.

use super::super::hparams::Hparams;
use super::super::profile::Part;
use super::super::weights::Weights;
use super::canvas_state::{CanvasState, DrawPlane};
use crate::error::Result;
use crate::ggml::compute::Graph;

/// How self-conditioning multiplies probabilities and embeddings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mixture {
    /// With all embeddings.
    Dense,
    /// With those of the tokens that matter, see
    /// [`Context::sparse_mixture`](crate::ggml::context::Context::sparse_mixture).
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
    let p = state.weights(ctx)?;
    let product = match mixture {
        Mixture::Dense => match &weights.derived.embd_transposed {
            Some(transposed) => ctx.mul_mat(transposed, &p)?,
            None => ctx.dense_mixture(&weights.table.token_embd, &p)?,
        },
        Mixture::Sparse => ctx.sparse_mixture(&weights.table.token_embd, &p)?,
    };
    let canvas = state.len;
    let scale = ctx.view(
        &state.draws,
        [1, canvas, 1],
        [4, 4 * canvas],
        state.plane(DrawPlane::Scale),
    )?;
    let soft = ctx.scale(&ctx.mul(&product, &scale)?, hparams.embedding_scale)?;
    graph.add(&ctx.copy(&soft, &state.soft)?);
    Ok(())
}
