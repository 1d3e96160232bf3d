//! Products with a whole matrix.

use std::ffi::c_void;

use super::super::super::context::Context;
use super::super::super::ops::CpuKernel;
use super::super::super::tensor::Tensor;
use super::super::rows::share;
use super::activations::is_rows;
use super::instructions::{Instructions, STRIP};
use super::matrices::{Matrices, input_row, is_readable, unfit};
use super::scratch::Scratch;
use crate::error::Result;
use crate::sys;

impl Context {
    /// The instructions with which [`dense_product`](Self::dense_product) multiplies a matrix faster
    /// than ggml.
    pub(crate) fn dense_instructions(&self, weights: &Tensor) -> Option<&'static Instructions> {
        let found = Instructions::of_dense(weights.ty()?, weights.ne()[0]);
        found.filter(|_| is_readable(weights) && weights.ne()[2] == 1)
    }

    /// Matrix product: `weights [k, m]`, contiguous `x [k, n]` in F32 to `[m, n]`. CPU only.
    pub(crate) fn dense_product(
        &self,
        instructions: &'static Instructions,
        weights: &Tensor,
        x: &Tensor,
    ) -> Result<Tensor> {
        let ([k, m, ..], [width, n, n2, _]) = (weights.ne(), x.ne());
        let multiplied = self.dense_instructions(weights).is_some();
        if !multiplied || width != k || n2 != 1 || !is_rows(x) {
            return Err(unfit("dense_product", weights, x));
        }
        let x = self.input_for(instructions, weights, x)?;
        let kernel = dense_kernel as CpuKernel;
        self.custom_with(&[m, n], &[&x, weights], kernel, instructions)
    }
}

/// Computes some strips of [`Context::dense_product`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `dense_product` made.
unsafe extern "C" fn dense_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    instructions: *mut c_void,
) {
    // SAFETY: `dense_product` checked types and shapes, and passed what this processor has; threads
    // write to strips of their own.
    unsafe {
        let node = &*dst;
        let instructions: &Instructions = &*instructions.cast();
        let Some(matrix) = Matrices::of(node.src[1]) else {
            return;
        };
        let (m, n) = (node.ne[0] as usize, node.ne[1] as usize);
        let x = &*node.src[0];
        let inputs: Vec<_> = (0..n).map(|i| input_row(x, i)).collect();
        let mut scratch = Scratch::new();
        let mut products = vec![0.0_f32; n * STRIP];
        for s in share(matrix.strips(), index, threads) {
            let strip = matrix.strip([0, s], [0, s + 1], &inputs);
            (instructions.product)(&strip, &mut scratch, &mut products);
            for (i, product) in products.chunks_exact(STRIP).enumerate() {
                let to = node.data.cast::<f32>().add(i * m + s * STRIP);
                to.copy_from_nonoverlapping(product.as_ptr(), strip.rows);
            }
        }
    }
}
