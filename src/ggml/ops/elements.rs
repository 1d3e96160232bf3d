//! Operations on elements and on rows.

use super::super::context::Context;
use super::super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

type UnaryOp =
    unsafe extern "C" fn(*mut sys::ggml_context, *mut sys::ggml_tensor) -> *mut sys::ggml_tensor;
type BinaryOp = unsafe extern "C" fn(
    *mut sys::ggml_context,
    *mut sys::ggml_tensor,
    *mut sys::ggml_tensor,
) -> *mut sys::ggml_tensor;

impl Context {
    /// `a + b`, with `b` repeated over `a`.
    pub(crate) fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.broadcast("add", sys::ggml_add, a, b)
    }

    /// `a * b` element by element, with `b` repeated over `a`.
    pub(crate) fn mul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.broadcast("mul", sys::ggml_mul, a, b)
    }

    /// `a - b`, with `b` repeated over `a`.
    pub(crate) fn sub(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.broadcast("sub", sys::ggml_sub, a, b)
    }

    /// `a / b`, with `b` repeated over `a`.
    pub(crate) fn div(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.broadcast("div", sys::ggml_div, a, b)
    }

    fn broadcast(&self, name: &str, op: BinaryOp, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let fits = a.ne().iter().zip(b.ne()).all(|(&na, nb)| na % nb == 0);
        if !fits || !a.is(TensorType::F32) || !b.is(TensorType::F32) {
            return Err(Error::Ggml(format!(
                "{name}: {} cannot be repeated over {}",
                b.label(),
                a.label()
            )));
        }
        self.ensure_room()?;
        // SAFETY: `b` can be repeated over `a`, which is all that these operations require.
        self.own(unsafe { op(self.raw(), self.reads(a), self.reads(b)) })
    }

    fn unary(&self, name: &str, op: UnaryOp, a: &Tensor) -> Result<Tensor> {
        if !a.is(TensorType::F32) || !a.is_contiguous() {
            return Err(Error::Ggml(format!(
                "{name}: needs contiguous F32, got {}",
                a.label()
            )));
        }
        self.ensure_room()?;
        // SAFETY: takes any contiguous F32 tensor.
        self.own(unsafe { op(self.raw(), self.reads(a)) })
    }

    /// Hyperbolic tangent of every element.
    pub(crate) fn tanh(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("tanh", sys::ggml_tanh, a)
    }

    /// Natural logarithm of every element.
    pub(crate) fn log(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("log", sys::ggml_log, a)
    }

    /// 1 where an element is above 0, else 0.
    pub(crate) fn step(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("step", sys::ggml_step, a)
    }

    /// Cumulative sums of each row.
    pub(crate) fn cumsum(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("cumsum", sys::ggml_cumsum, a)
    }

    /// The sum of each row, `[1, rows]`.
    pub(crate) fn sum_rows(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("sum_rows", sys::ggml_sum_rows, a)
    }

    /// Softmax of each row.
    pub(crate) fn soft_max(&self, a: &Tensor) -> Result<Tensor> {
        self.unary("soft_max", sys::ggml_soft_max, a)
    }

    /// The index of the greatest element of each row, I32 `[rows]`.
    pub(crate) fn argmax(&self, a: &Tensor) -> Result<Tensor> {
        require!(a.ne()[2] == 1 && a.ne()[3] == 1, "argmax", "a matrix", a);
        self.unary("argmax", sys::ggml_argmax, a)
    }

    /// `a * factor + offset`.
    pub(crate) fn scale_bias(&self, a: &Tensor, factor: f32, offset: f32) -> Result<Tensor> {
        require!(
            a.is(TensorType::F32) && a.is_contiguous(),
            "scale",
            "contiguous F32",
            a
        );
        self.ensure_room()?;
        // SAFETY: takes any contiguous F32 tensor.
        self.own(unsafe { sys::ggml_scale_bias(self.raw(), self.reads(a), factor, offset) })
    }

    /// `a * factor`.
    pub(crate) fn scale(&self, a: &Tensor, factor: f32) -> Result<Tensor> {
        self.scale_bias(a, factor, 0.0)
    }

    /// Every element clamped to `low ..= high`; in place.
    pub(crate) fn clamp(&self, a: &Tensor, low: f32, high: f32) -> Result<Tensor> {
        require!(a.is(TensorType::F32), "clamp", "F32", a);
        self.ensure_room()?;
        // SAFETY: takes any F32 tensor.
        self.own(unsafe { sys::ggml_clamp(self.raw(), self.reads(a), low, high) })
    }

    /// Root-mean-square normalisation of each row, without a weight.
    pub(crate) fn rms_norm(&self, a: &Tensor, eps: f32) -> Result<Tensor> {
        require!(
            a.is(TensorType::F32) && a.nb()[0] == 4,
            "rms_norm",
            "F32 rows",
            a
        );
        self.ensure_room()?;
        // SAFETY: takes any F32 tensor with contiguous rows.
        self.own(unsafe { sys::ggml_rms_norm(self.raw(), self.reads(a), eps) })
    }

    /// `gelu(gate) * up` with the tanh form of gelu, by ggml's own operation (on the CPU it looks
    /// gelu up in a table of F16 values).
    pub(crate) fn geglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        require!(
            gate.is(TensorType::F32)
                && up.is(TensorType::F32)
                && gate.ne() == up.ne()
                && gate.nb()[0] == 4
                && up.nb()[0] == 4,
            "geglu",
            "F32 gate and up of one shape",
            gate,
            up
        );
        self.ensure_room()?;
        // SAFETY: the checks are those of ggml.
        self.own(unsafe { sys::ggml_geglu_split(self.raw(), self.reads(gate), self.reads(up)) })
    }

    /// The indices of the `k` greatest elements of each row, greatest first: I32 `[k, rows]`.
    pub(crate) fn top_k(&self, a: &Tensor, k: usize) -> Result<Tensor> {
        require!(
            a.is(TensorType::F32) && k <= a.ne()[0],
            "top_k",
            "rows of at least k elements",
            a
        );
        self.ensure_room()?;
        // SAFETY: `k` is at most the row length.
        self.own(unsafe { sys::ggml_argsort_top_k(self.raw(), self.reads(a), k as i32) })
    }
}
