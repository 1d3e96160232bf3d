//! Products with the chosen experts.
//!
//! ggml's `mul_mat_id` computes one scalar product at a time for most types: each row of weights is
//! decoded again for every token. Here tokens are sorted by expert, and a few rows of weights are
//! decoded once for all tokens of their expert.
//!
//! * `nodes` are the operations: the hidden layer and the output of the experts.
//! * `routes` sorts tokens by expert and divides the work among threads.
//! * `format` says how weights and activations are stored, `scratch` holds decoded weights.
//! * `instructions` chooses the product by what the processor has: `avx512` or `avx2`.
//!
//! Activations are multiplied in F32 with weights in F16 or BF16, and as integers of 15 bits with
//! quantized ones, where ggml rounds them to F16, BF16 or 8 bits. Where the processor multiplies
//! BF16, activations for such weights are BF16 here, too. Weights in F32 remain ggml's: such models
//! are references, whose results stay the same to the last bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod instructions;
mod nodes;
mod routes;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use instructions::Instructions;
pub(crate) use nodes::FirstMatrices;
