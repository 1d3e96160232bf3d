//! Activations as the kernels multiply them.

use std::ffi::c_void;

use super::super::super::context::Context;
use super::super::super::ops::CpuKernel;
use super::super::super::tensor::Tensor;
use super::super::rows::{row, share};
use super::format::Format;
use super::instructions::{Conversion, Convert, Instructions};
use crate::error::Result;
use crate::gguf::TensorType;
use crate::sys;

impl Context {
    /// Contiguous F32 rows as the kernels multiply them with `weights`.
    pub(super) fn input_for(
        &self,
        instructions: &'static Instructions,
        weights: &Tensor,
        x: &Tensor,
    ) -> Result<Tensor> {
        let [k, n1, n2, _] = x.ne();
        let format = weights.ty().and_then(Format::of);
        match format.and_then(|format| (instructions.conversion)(format, k)) {
            None => Ok(x.clone()),
            Some(Conversion { convert, bytes }) => {
                // F32 in name only: custom nodes have this type.
                let ne = [bytes / 4, n1, n2];
                // The kernel does not read the weights, but their place is its own: a server of RPC devices
                // would take any node, and has no such function.
                self.custom_with(&ne, &[x, weights], convert_kernel as CpuKernel, convert)
            }
        }
    }
}

pub(super) fn is_rows(t: &Tensor) -> bool {
    t.is(TensorType::F32) && t.is_contiguous()
}

/// Converts some rows, see [`Context::input_for`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `input_for` made.
unsafe extern "C" fn convert_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    convert: *mut c_void,
) {
    // SAFETY: `input_for` checked types and shapes, and passed a function of this processor;
    // threads write to rows of their own.
    unsafe {
        let node = &*dst;
        let convert: &Convert = &*convert.cast();
        let rows = (node.ne[1] * node.ne[2]) as usize;
        for r in share(rows, index, threads) {
            let to = node.data.cast::<u8>().add(r * node.nb[1]);
            convert(row(node.src[0], r), to);
        }
    }
}
