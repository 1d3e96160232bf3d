//! The same elements in another layout.

use super::super::context::Context;
use super::super::tensor::{Tensor, shape};
use crate::error::{Error, Result};
use crate::sys;

impl Context {
    /// Matrices of `n` rows side by side: `[n, a]`, `[n, b]`, ... to `[n, a + b + ...]`. A single
    /// one is not copied.
    pub(crate) fn join_columns(&self, parts: &[Tensor]) -> Result<Tensor> {
        match parts {
            [] => Err(Error::Ggml("join_columns: nothing to join".into())),
            [one] => Ok(one.clone()),
            // Joined by halves, so that an element is copied log2(parts) times.
            _ => {
                let (left, right) = parts.split_at(parts.len() / 2);
                let (a, b) = (self.join_columns(left)?, self.join_columns(right)?);
                let ([n, _, a2, a3], [m, _, b2, b3]) = (a.ne(), b.ne());
                require!(
                    n == m && [a2, a3, b2, b3] == [1; 4],
                    "join_columns",
                    "matrices of as many rows",
                    a,
                    b
                );
                self.ensure_room()?;
                // SAFETY: all dimensions but the joined one are equal.
                self.own(unsafe { sys::ggml_concat(self.raw(), self.reads(&a), self.reads(&b), 1) })
            }
        }
    }

    /// The same elements in another shape.
    pub(crate) fn reshape(&self, a: &Tensor, ne: &[usize]) -> Result<Tensor> {
        let full = shape(ne);
        require!(
            a.is_contiguous() && full.iter().product::<usize>() == a.ne().iter().product::<usize>(),
            "reshape",
            "contiguous elements, as many as before",
            a
        );
        self.ensure_room()?;
        let d = full.map(|n| n as i64);
        // SAFETY: contiguous, and the number of elements does not change.
        self.own(unsafe { sys::ggml_reshape_4d(self.raw(), self.reads(a), d[0], d[1], d[2], d[3]) })
    }

    /// A window into `a`: its shape, the strides (bytes) of dimensions 1 and 2, its first byte.
    pub(crate) fn view(
        &self,
        a: &Tensor,
        ne: [usize; 3],
        stride: [usize; 2],
        offset: usize,
    ) -> Result<Tensor> {
        let ty = a
            .ty()
            .ok_or_else(|| Error::Ggml(format!("view: unknown type of {}", a.label())))?;
        let row = ty.row_bytes(ne[0]).ok_or_else(|| {
            Error::Ggml(format!(
                "view: rows of {} cannot be {} long",
                a.label(),
                ne[0]
            ))
        })?;
        let last = offset + (ne[1] - 1) * stride[0] + (ne[2] - 1) * stride[1] + row;
        require!(last <= a.nbytes(), "view", "a window inside the tensor", a);
        self.ensure_room()?;
        let d = ne.map(|n| n as i64);
        // SAFETY: the window lies inside `a`.
        self.own(unsafe {
            sys::ggml_view_3d(
                self.raw(),
                self.reads(a),
                d[0],
                d[1],
                d[2],
                stride[0],
                stride[1],
                offset,
            )
        })
    }

    /// `a [x, y, z]` as `[x, z, y]`, without moving data.
    pub(crate) fn swap_middle(&self, a: &Tensor) -> Result<Tensor> {
        self.ensure_room()?;
        // SAFETY: a valid permutation of four axes.
        self.own(unsafe { sys::ggml_permute(self.raw(), self.reads(a), 0, 2, 1, 3) })
    }

    /// `a [x, y]` as `[y, x]`, without moving data.
    pub(crate) fn transpose(&self, a: &Tensor) -> Result<Tensor> {
        self.ensure_room()?;
        // SAFETY: takes any tensor.
        self.own(unsafe { sys::ggml_transpose(self.raw(), self.reads(a)) })
    }

    /// A contiguous copy.
    pub(crate) fn cont(&self, a: &Tensor) -> Result<Tensor> {
        self.ensure_room()?;
        // SAFETY: takes any tensor.
        self.own(unsafe { sys::ggml_cont(self.raw(), self.reads(a)) })
    }

    /// Copies `a` over `b` (converting the type) and yields `b`.
    pub(crate) fn copy(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        require!(
            a.ne().iter().product::<usize>() == b.ne().iter().product::<usize>(),
            "copy",
            "as many elements",
            a,
            b
        );
        self.ensure_room()?;
        // SAFETY: the checks are those of ggml.
        self.own(unsafe { sys::ggml_cpy(self.raw(), self.reads(a), self.reads(b)) })
    }
}
