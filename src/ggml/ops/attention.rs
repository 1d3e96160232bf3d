//! The operations of attention.

use super::super::context::Context;
use super::super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// Element of an F16 mask for a key that a query sees: 0.
pub(crate) const VISIBLE: u16 = 0;
/// Element of an F16 mask for a key that it does not see: negative infinity.
pub(crate) const HIDDEN: u16 = 0xfc00;

/// How the rotary embedding is applied; the frequencies are in the divisors tensor.
pub(crate) struct Rope<'a> {
    /// I32 `[tokens]`: absolute positions.
    pub(crate) positions: &'a Tensor,
    /// F32, one for each rotated pair: the angle of pair i is `position / divisors[i]`.
    pub(crate) divisors: &'a Tensor,
}

impl Context {
    /// Rotary position embedding over `a [head_dim, heads, tokens]`: n divisors rotate the pairs
    /// (i, i + n) of each head.
    ///
    /// ggml derives the frequencies by repeated multiplication, which loses digits at high
    /// positions. With base 1 they do not change, and the divisors alone make the angle.
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
        // SAFETY: the checks are those of ggml.
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
        // SAFETY: the checks are those of ggml.
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
        // SAFETY: the checks are those of ggml.
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
}
