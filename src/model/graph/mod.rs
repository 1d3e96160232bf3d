//! DiffusionGemma as graphs of ggml operations.
//!
//! Three graphs share the layers: [`Network::encode`] appends tokens to the KV cache,
//! [`Network::denoise`] turns a canvas into draws, and [`soften()`] turns the distributions of the
//! draws into the next step's soft embeddings.
//!
//! Source of the mathematics: `modeling_diffusion_gemma.py` of transformers 5.23.0. Shapes are in
//! ggml's order, fastest dimension first; T is the number of tokens of a pass.

mod builder;
mod canvas_state;
mod draw;
mod inputs;
mod layer;
mod network;
mod soften;

pub(super) use builder::{Kernels, NodeChoice};
pub(super) use canvas_state::{CanvasState, DrawPlane};
pub(super) use inputs::{CacheInputs, Extent, KeyCounts, PassInputs};
pub(super) use network::{Network, Predicted, capacity};
pub(super) use soften::{Mixture, soften};
