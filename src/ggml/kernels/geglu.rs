//! Gelu in F32.

use std::ffi::c_void;

use multiversion::multiversion;

use super::super::context::Context;
use super::super::ops::CpuKernel;
use super::super::tensor::Tensor;
use super::math::exp;
use super::rows::{row, share};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

impl Context {
    /// `gelu(gate) * up` in F32 with the tanh form of gelu:
    /// `gelu(x) = x / (1 + exp(-2 sqrt(2/π) (x + 0.044715 x³)))`. CPU only.
    pub(crate) fn geglu_exact(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let rows = |t: &Tensor| t.is(TensorType::F32) && t.nb()[0] == 4;
        if !rows(gate) || !rows(up) || gate.ne() != up.ne() {
            return Err(Error::Ggml(format!(
                "geglu_exact: needs F32 rows of one shape, got {} and {}",
                gate.label(),
                up.label()
            )));
        }
        self.custom(&gate.ne(), &[gate, up], geglu_kernel as CpuKernel)
    }
}

/// Computes some rows of [`Context::geglu_exact`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `geglu_exact` made.
unsafe extern "C" fn geglu_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `geglu_exact` checked types and shapes; threads write to rows of their own.
    unsafe {
        let node = &*dst;
        let (gate, up) = (node.src[0], node.src[1]);
        let width = node.ne[0] as usize;
        let rows = (node.ne[1] * node.ne[2] * node.ne[3]) as usize;
        for r in share(rows, index, threads) {
            let out = std::slice::from_raw_parts_mut(node.data.cast::<f32>().add(r * width), width);
            geglu_row(row(gate, r), row(up, r), out);
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
pub(super) fn geglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    for ((&x, &u), o) in gate.iter().zip(up).zip(out) {
        let y = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
        // e^-|y| keeps both signs exact: gelu(x) = x e / (1 + e) for negative x.
        let e = exp(-y.abs());
        let numerator = if y >= 0.0 { 1.0 } else { e };
        *o = x * u * (numerator / (1.0 + e));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geglu_matches_f64() {
        let x: Vec<f32> = (0..2001).map(|i| (i as f32 - 1000.0) * 0.01).collect();
        let up: Vec<f32> = x.iter().map(|x| 1.5 - x).collect();
        let mut out = vec![0.0; x.len()];
        geglu_row(&x, &up, &mut out);
        for ((&x, &u), &o) in x.iter().zip(&up).zip(&out) {
            let d = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            // 1 + tanh cancels for negative x: the logistic form does not.
            let want = d / (1.0 + (-2.0 * inner).exp()) * f64::from(u);
            // The exponent carries the rounding error of its argument.
            let tolerance = (1e-6 + 4e-7 * inner.abs()) * want.abs() + 1e-30;
            assert!((f64::from(o) - want).abs() <= tolerance, "{x}: {o} {want}");
        }
    }
}
