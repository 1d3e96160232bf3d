//! Products of weights and activations.
//!
//! ggml computes one scalar product at a time for most types: each row of weights is decoded again
//! for every token. Here a few rows of weights are decoded once for all tokens that they are
//! multiplied with.
//!
//! * `experts` are the operations with the chosen experts, whose tokens `routes` sorts by expert and
//!   divides among threads; `dense` is the product with a whole matrix.
//! * `mixture` is the product of self-conditioning, for [`super::mixture`].
//! * `activations` makes the rows that are multiplied, `matrices` divides weights into strips.
//! * `format` says how both are stored, `inputs` lists the activations of an expert, `scratch` holds
//!   decoded weights.
//! * `instructions` chooses the product by what the processor has: `avx512`, with `amx` in it, or `avx2`.
//!
//! With AVX2, activations are multiplied in F32 with weights in F16 or BF16, and as integers of 15
//! bits with quantized ones. With AVX-512, weights in F16 and their activations become integers of 14
//! bits, and activations for quantized weights integers of 8 bits, as in ggml, with a scale for 32 of
//! them. Where the processor multiplies BF16, activations for such weights are BF16, too; with AMX,
//! weights and activations of all types but F16 are. Weights in F32 remain ggml's: such models are
//! references, whose results stay the same to the last bit.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dense;
mod experts;
mod format;
mod inputs;
mod instructions;
mod matrices;
mod mixture;
mod routes;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use experts::FirstMatrices;
pub(crate) use instructions::Instructions;
pub(crate) use mixture::{Mix, Rows, mixing};
pub(crate) use scratch::Scratch;
#[cfg(test)]
pub(super) use tests::sets;
