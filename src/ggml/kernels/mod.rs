//! CPU operations of our own, called by ggml's CPU backend as nodes of a graph.
//!
//! * [`Context::attention`](super::context::Context::attention): a tile of queries at a time, where
//!   ggml converts keys and values for few.
//! * [`Context::geglu_exact`](super::context::Context::geglu_exact): gelu in F32, where ggml's CPU
//!   operation looks it up in a table of F16 values (relative error 5e-4).
//! * [`Context::draw`](super::context::Context::draw): everything between the logits and the
//!   sampled token in one pass over the vocabulary per position instead of about ten.
//! * [`Context::dense_mixture`](super::context::Context::dense_mixture): self-conditioning's product
//!   with the embeddings as they are stored.
//! * [`Context::sparse_mixture`](super::context::Context::sparse_mixture): the same if few tokens
//!   have nearly all of the mass.
//! * [`products`]: products of weights, where ggml decodes them for every token.

mod attention;
mod draw;
mod geglu;
mod math;
mod mixture;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unused, reason = "no other processor has kernels yet")
)]
pub(crate) mod products;
mod q6_k;
mod rows;
mod stored;

pub(crate) use draw::{DRAW_PLANES, WEIGHT_SCALE, keep_above};
#[cfg(test)]
pub(super) use draw::{RowDraw, draw_row_alone};

/// Values that the loops of the kernels process together: a multiple of every vector length.
const LANES: usize = 16;
