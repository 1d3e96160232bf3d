//! Operations that extend a graph, with the checks that ggml would make by aborting.

use std::ffi::c_void;

use super::context::Context;
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Fails with the operation's name, what it needs and what it got.
macro_rules! require {
    ($cond:expr, $op:literal, $need:literal, $($got:expr),+) => {
        if !$cond {
            let got: Vec<String> = vec![$($got.label()),+];
            return Err(Error::Ggml(format!("{}: {}; got {}", $op, $need, got.join(", "))));
        }
    };
}

/// A computation of ours that ggml's CPU backend calls as part of a graph: every thread of the
/// pool calls it with its index and the number of threads.
pub(super) type CpuKernel = unsafe extern "C" fn(*mut sys::ggml_tensor, i32, i32, *mut c_void);

/// How the rotary embedding is applied; the frequencies are in the divisors tensor.
pub(crate) struct Rope<'a> {
    /// I32 `[tokens]`: absolute positions.
    pub(crate) positions: &'a Tensor,
    /// F32, one for each pair that turns: the angle of pair i is `position / divisors[i]`.
    pub(crate) divisors: &'a Tensor,
}

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
        // SAFETY: shapes and types were checked as ggml does.
        self.own(unsafe { sys::ggml_mul_mat(self.raw(), self.reads(a), self.reads(b)) })
    }

    /// Like [`mul_mat`](Self::mul_mat), and forbids the backend to lower the precision of `b`.
    pub(crate) fn mul_mat_f32(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let product = self.mul_mat(a, b)?;
        // SAFETY: sets a parameter of the node just made.
        unsafe { sys::ggml_prec_set_acc(product.raw.as_ptr(), sys::GGML_PREC_F32) };
        Ok(product)
    }

    /// Products with chosen experts: `experts [k, m, E]`, `b [k, 1 or used, tokens]`,
    /// `chosen` I32 `[used, tokens]` to `[m, used, tokens]`.
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
        // SAFETY: checked as ggml does; the numbers come from a top-k over the experts.
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
        // SAFETY: checked as ggml does.
        self.own(unsafe { sys::ggml_get_rows(self.raw(), self.reads(a), self.reads(rows)) })
    }

    /// Writes the rows of `b` (F32) over those rows of `a` that I64 `rows` names; yields `a`.
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
        // SAFETY: checked as ggml does.
        self.own(unsafe {
            sys::ggml_set_rows(self.raw(), self.reads(a), self.reads(b), self.reads(rows))
        })
    }

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
        // SAFETY: `b` can be repeated over `a`, which is all that these operations ask.
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

    /// Sums from the first element of each row on.
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

    /// Every element limited to `low ..= high`; in place.
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

    /// Rotary position embedding over `a [head_dim, heads, tokens]`: n divisors turn the pairs
    /// (i, i + n) of each head.
    ///
    /// ggml derives the frequencies by repeated multiplication, which loses digits at high
    /// positions. With base 1 they stay at the position and the divisors alone make the angle.
    pub(crate) fn rope(&self, a: &Tensor, rope: &Rope) -> Result<Tensor> {
        let ne = a.ne();
        require!(
            a.is(TensorType::F32)
                && ne[0].is_multiple_of(2)
                && ne[3] == 1
                && rope.positions.is(TensorType::I32),
            "rope",
            "F32 heads of even size and I32 positions",
            a,
            rope.positions
        );
        require!(
            rope.positions.ne() == [ne[2], 1, 1, 1]
                && rope.divisors.is(TensorType::F32)
                && rope.divisors.is_contiguous()
                && 2 * rope.divisors.ne()[0] <= ne[0],
            "rope",
            "a position for every token and at most half a head of divisors",
            a,
            rope.positions,
            rope.divisors
        );
        self.ensure_room()?;
        let dims = i32::try_from(2 * rope.divisors.ne()[0])
            .map_err(|_| Error::Ggml("rope: head too large".into()))?;
        // SAFETY: checked as ggml does.
        self.own(unsafe {
            sys::ggml_rope_ext(
                self.raw(),
                self.reads(a),
                self.reads(rope.positions),
                self.reads(rope.divisors),
                dims,
                sys::GGML_ROPE_TYPE_NEOX as i32,
                0,
                1.0,
                1.0,
                0.0,
                1.0,
                0.0,
                0.0,
            )
        })
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
        // SAFETY: checked as ggml does.
        self.own(unsafe { sys::ggml_geglu_split(self.raw(), self.reads(gate), self.reads(up)) })
    }

    /// The `k` greatest of each row, greatest first: I32 `[k, rows]`.
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

    /// Matrices of `n` rows side by side: `[n, a]`, `[n, b]`, ... to `[n, a + b + ...]`. One alone is
    /// not copied.
    pub(crate) fn join_columns(&self, parts: &[Tensor]) -> Result<Tensor> {
        match parts {
            [] => Err(Error::Ggml("join_columns: nothing to join".into())),
            [one] => Ok(one.clone()),
            // Halves, so that an element is copied log2(parts) times.
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
                // SAFETY: all but the joined dimension are equal.
                self.own(unsafe { sys::ggml_concat(self.raw(), self.reads(&a), self.reads(&b), 1) })
            }
        }
    }

    /// The same elements in another shape.
    pub(crate) fn reshape(&self, a: &Tensor, ne: &[usize]) -> Result<Tensor> {
        let full = super::tensor::shape(ne);
        require!(
            a.is_contiguous() && full.iter().product::<usize>() == a.ne().iter().product::<usize>(),
            "reshape",
            "contiguous elements, as many as before",
            a
        );
        self.ensure_room()?;
        let d = full.map(|n| n as i64);
        // SAFETY: contiguous, and the number of elements stays.
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
        // SAFETY: checked as ggml does.
        self.own(unsafe { sys::ggml_cpy(self.raw(), self.reads(a), self.reads(b)) })
    }

    /// Masked softmax of each row: `softmax(scale * a + mask)`, the mask F16 `[row, rows]`.
    pub(crate) fn soft_max_masked(&self, a: &Tensor, mask: &Tensor, scale: f32) -> Result<Tensor> {
        let (na, nm) = (a.ne(), mask.ne());
        require!(
            a.is(TensorType::F32)
                && a.is_contiguous()
                && mask.is(TensorType::F16)
                && mask.is_contiguous(),
            "soft_max",
            "contiguous F32 scores and F16 mask",
            a,
            mask
        );
        require!(
            nm[0] == na[0] && nm[1] >= na[1] && nm[2] == 1 && nm[3] == 1,
            "soft_max",
            "a mask of the scores' shape",
            a,
            mask
        );
        self.ensure_room()?;
        // SAFETY: checked as ggml does.
        self.own(unsafe {
            sys::ggml_soft_max_ext(self.raw(), self.reads(a), self.reads(mask), scale, 0.0)
        })
    }

    /// Fused attention: `q [head_dim, queries, heads]`, `k` and `v` `[head_dim, keys, kv_heads]`,
    /// mask F16 `[keys, queries]` to `[head_dim, heads, queries]`.
    pub(crate) fn flash_attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: &Tensor,
        scale: f32,
    ) -> Result<Tensor> {
        let (nq, nk, nv, nm) = (q.ne(), k.ne(), v.ne(), mask.ne());
        require!(
            nq[0] == nk[0]
                && nk[1] == nv[1]
                && nk[2] == nv[2]
                && nq[2] % nk[2] == 0
                && nq[3] == 1
                && nk[3] == 1
                && nv[3] == 1,
            "flash_attention",
            "queries, keys and values that fit",
            q,
            k,
            v
        );
        require!(
            mask.is(TensorType::F16)
                && mask.is_contiguous()
                && nm == [nk[1], nq[1], 1, 1]
                && q.is(TensorType::F32),
            "flash_attention",
            "F32 queries and an F16 mask of keys by queries",
            q,
            mask
        );
        self.ensure_room()?;
        // SAFETY: checked as ggml does.
        let out = self.own(unsafe {
            sys::ggml_flash_attn_ext(
                self.raw(),
                self.reads(q),
                self.reads(k),
                self.reads(v),
                self.reads(mask),
                scale,
                0.0,
                0.0,
            )
        })?;
        // SAFETY: sets a parameter of the node just made. Scores are unscaled and large (the norms
        // of Q and K carry the scale), so F16 accumulation is not enough.
        unsafe { sys::ggml_prec_set_acc(out.raw.as_ptr(), sys::GGML_PREC_F32) };
        Ok(out)
    }

    /// A node of F32 shape `ne` computed by one of our CPU kernels from `args`.
    pub(super) fn custom(
        &self,
        ne: &[usize],
        args: &[&Tensor],
        kernel: CpuKernel,
    ) -> Result<Tensor> {
        self.ensure_room()?;
        let d = super::tensor::shape(ne).map(|n| n as i64);
        let mut args: Vec<_> = args.iter().map(|t| self.reads(t)).collect();
        // SAFETY: the kernels in `kernels` check nothing at run time: their builders there did.
        self.own(unsafe {
            sys::ggml_custom_4d(
                self.raw(),
                sys::GGML_TYPE_F32,
                d[0],
                d[1],
                d[2],
                d[3],
                args.as_mut_ptr(),
                args.len() as i32,
                Some(kernel),
                ALL_THREADS,
                std::ptr::null_mut(),
            )
        })
    }

    /// Like [`custom`](Self::custom), writing to the memory of `dst`; yields `dst`.
    pub(super) fn custom_into(
        &self,
        dst: &Tensor,
        args: &[&Tensor],
        kernel: CpuKernel,
    ) -> Result<Tensor> {
        self.ensure_room()?;
        let mut args: Vec<_> = args.iter().map(|t| self.reads(t)).collect();
        // SAFETY: as in `custom`.
        self.own(unsafe {
            sys::ggml_custom_inplace(
                self.raw(),
                self.reads(dst),
                args.as_mut_ptr(),
                args.len() as i32,
                Some(kernel),
                ALL_THREADS,
                std::ptr::null_mut(),
            )
        })
    }
}

/// `GGML_N_TASKS_MAX`: a macro that bindgen cannot read.
const ALL_THREADS: i32 = -1;

type UnaryOp =
    unsafe extern "C" fn(*mut sys::ggml_context, *mut sys::ggml_tensor) -> *mut sys::ggml_tensor;
type BinaryOp = unsafe extern "C" fn(
    *mut sys::ggml_context,
    *mut sys::ggml_tensor,
    *mut sys::ggml_tensor,
) -> *mut sys::ggml_tensor;
