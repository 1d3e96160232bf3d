//! Matrix products, and rows of matrices.

use super::super::context::Context;
use super::super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

impl Context {
    /// Matrix product: `a [k, m]`, `b [k, n]` to `[m, n]`, accumulated in F32.
    pub(crate) fn mul_mat(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (na, nb) = (a.ne(), b.ne());
        require!(
            na[0] == nb[0] && nb[2] % na[2] == 0 && nb[3] % na[3] == 0,
            "mul_mat",
            "rows of equal length",
            a,
            b
        );
        require!(
            a.nb()[0] <= a.nb()[1] && b.is(TensorType::F32),
            "mul_mat",
            "an untransposed left and an F32 right side",
            a,
            b
        );
        self.ensure_room()?;
        // SAFETY: shapes and types were checked as in ggml.
        self.own(unsafe { sys::ggml_mul_mat(self.raw(), self.reads(a), self.reads(b)) })
    }

    /// Like [`mul_mat`](Self::mul_mat), and forbids the backend to lower the precision of `b`.
    pub(crate) fn mul_mat_f32(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let product = self.mul_mat(a, b)?;
        // SAFETY: sets a parameter of the node just made.
        unsafe { sys::ggml_prec_set_acc(product.raw.as_ptr(), sys::GGML_PREC_F32) };
        Ok(product)
    }

    /// Products with the chosen experts: `experts [k, m, E]`, `b [k, 1 or used, tokens]`, `chosen`
    /// I32 `[used, tokens]` to `[m, used, tokens]`.
    pub(crate) fn mul_mat_id(
        &self,
        experts: &Tensor,
        b: &Tensor,
        chosen: &Tensor,
    ) -> Result<Tensor> {
        let (ne, nb, nc) = (experts.ne(), b.ne(), chosen.ne());
        require!(
            ne[0] == nb[0] && ne[3] == 1 && nb[3] == 1 && nc[2] == 1 && nc[3] == 1,
            "mul_mat_id",
            "rows of equal length",
            experts,
            b,
            chosen
        );
        require!(
            chosen.is(TensorType::I32)
                && b.is(TensorType::F32)
                && nc[1] == nb[2]
                && nc[0] % nb[1] == 0,
            "mul_mat_id",
            "an F32 input and I32 expert numbers for its tokens",
            b,
            chosen
        );
        self.ensure_room()?;
        // SAFETY: the checks are those of ggml; the numbers come from a top-k over the experts.
        self.own(unsafe {
            sys::ggml_mul_mat_id(
                self.raw(),
                self.reads(experts),
                self.reads(b),
                self.reads(chosen),
            )
        })
    }

    /// Rows of `a` by I32 row numbers, as F32.
    pub(crate) fn get_rows(&self, a: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let (na, nr) = (a.ne(), rows.ne());
        require!(
            rows.is(TensorType::I32) && na[2] == nr[1] && na[3] == nr[2] && nr[3] == 1,
            "get_rows",
            "I32 row numbers",
            a,
            rows
        );
        self.ensure_room()?;
        // SAFETY: the checks are those of ggml.
        self.own(unsafe { sys::ggml_get_rows(self.raw(), self.reads(a), self.reads(rows)) })
    }

    /// Writes the rows of `b` (F32) over the rows of `a` whose numbers are in `rows` (I64); yields
    /// `a`.
    pub(crate) fn set_rows(&self, a: &Tensor, b: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let (na, nb) = (a.ne(), b.ne());
        require!(
            na[0] == nb[0]
                && na[2] == 1
                && nb[2] == 1
                && na[3] == 1
                && nb[3] == 1
                && b.is(TensorType::F32),
            "set_rows",
            "two matrices with rows of equal length",
            a,
            b
        );
        require!(
            rows.is(TensorType::I64) && rows.ne() == [nb[1], 1, 1, 1],
            "set_rows",
            "an I64 row number for every row",
            b,
            rows
        );
        self.ensure_room()?;
        // SAFETY: the checks are those of ggml.
        self.own(unsafe {
            sys::ggml_set_rows(self.raw(), self.reads(a), self.reads(b), self.reads(rows))
        })
    }
}
