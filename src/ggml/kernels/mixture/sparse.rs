//! Self-conditioning's product if few tokens have nearly all of the mass.

use std::ffi::c_void;

use multiversion::multiversion;

use super::super::super::context::Context;
use super::super::super::ops::CpuKernel;
use super::super::super::tensor::Tensor;
use super::super::LANES;
use super::super::draw::{WEIGHT_SCALE, keep_above};
use super::super::rows::{row, share};
use super::super::stored::Reader;
use super::shape;
use crate::error::Result;
use crate::sys;

impl Context {
    /// Mixes rows of `table [d, vocab]` (any type) with the `weights [vocab, positions]` of a draw,
    /// not normalised, to `[d, positions]`. Tokens of the least weight are left out: at most
    /// [`MAX_DROPPED_MASS`](super::super::draw::MAX_DROPPED_MASS) of the probability of a position. CPU
    /// only.
    ///
    /// Costs one scan of the weights and one row for every token that is kept, while
    /// [`dense_mixture`](Self::dense_mixture) costs all rows for all positions.
    pub(crate) fn sparse_mixture(&self, table: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let ne = shape("sparse_mixture", table, weights)?;
        self.custom(&ne, &[table, weights], sparse_mixture_kernel as CpuKernel)
    }
}

/// Computes some positions of [`Context::sparse_mixture`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `sparse_mixture` made.
unsafe extern "C" fn sparse_mixture_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `sparse_mixture` checked types and shapes; threads write to positions of their own.
    unsafe {
        let node = &*dst;
        let (table, weights) = (&*node.src[0], node.src[1]);
        let (d, positions) = (node.ne[0] as usize, node.ne[1] as usize);
        let Some(reader) = Reader::of(table) else {
            return;
        };
        let mut numbers = vec![0.0_f32; d];
        for p in share(positions, index, threads) {
            let out = std::slice::from_raw_parts_mut(node.data.cast::<f32>().add(p * d), d);
            out.fill(0.0);
            let weights = row(weights, p);
            let least = keep_above(weights.len()) * WEIGHT_SCALE;
            for_each_above(weights, least, |token, weight| {
                reader.read([token, 0], 0, &mut numbers);
                add_scaled(out, &numbers, weight);
            });
        }
    }
}

/// Calls `found` with the index and value of each element above `least`.
pub(in super::super) fn for_each_above(
    values: &[f32],
    least: f32,
    mut found: impl FnMut(usize, f32),
) {
    for (i, block) in values.chunks(4 * LANES).enumerate() {
        // Usually a block has none: this test is vectorized.
        if any_above(block, least) {
            for (j, &value) in block.iter().enumerate() {
                if value > least {
                    found(4 * LANES * i + j, value);
                }
            }
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn any_above(values: &[f32], least: f32) -> bool {
    values.iter().fold(false, |any, &v| any | (v > least))
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn add_scaled(out: &mut [f32], values: &[f32], factor: f32) {
    for (o, v) in out.iter_mut().zip(values) {
        *o += factor * v;
    }
}
