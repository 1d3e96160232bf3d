//! Matrices of weights in host memory, in strips.

use super::super::super::tensor::Tensor;
use super::format::Format;
use super::instructions::{STRIP, Strip};
use crate::error::Error;
use crate::gguf::TensorType;
use crate::sys;

/// Whether the kernels can read weights.
pub(super) fn is_readable(weights: &Tensor) -> bool {
    weights.ne()[3] == 1 && weights.buffer_type().is_some_and(|memory| memory.is_host())
}

pub(super) fn unfit(operation: &str, weights: &Tensor, x: &Tensor) -> Error {
    Error::Ggml(format!(
        "{operation}: {} and {} do not fit",
        weights.label(),
        x.label()
    ))
}

/// One matrix, or one of each expert.
pub(super) struct Matrices {
    pub(super) format: Format,
    data: *const u8,
    /// Bytes from one row to the next, and from one expert to the next.
    strides: [usize; 2],
    k: usize,
    /// Of each matrix.
    pub(super) rows: usize,
}

impl Matrices {
    /// Those of a tensor that [`is_readable`]; `None` if the kernels do not have its type.
    ///
    /// # Safety
    /// A live tensor with data in host memory.
    pub(super) unsafe fn of(tensor: *const sys::ggml_tensor) -> Option<Self> {
        // SAFETY: by the contract of this function.
        let tensor = unsafe { &*tensor };
        #[allow(
            clippy::unnecessary_cast,
            reason = "C enums are signed on some systems"
        )]
        let format = Format::of(TensorType::from_id(tensor.type_ as u32)?)?;
        Some(Self {
            format,
            data: tensor.data.cast(),
            strides: [tensor.nb[1], tensor.nb[2]],
            k: tensor.ne[0] as usize,
            rows: tensor.ne[1] as usize,
        })
    }

    /// Takes half of the rows of each expert; returns those that follow.
    pub(super) fn split(&mut self) -> Self {
        self.rows /= 2;
        Self {
            data: self.data.wrapping_add(self.rows * self.strides[0]),
            ..*self
        }
    }

    pub(super) fn strips(&self) -> usize {
        self.rows.div_ceil(STRIP)
    }

    /// Address of a strip of an expert.
    fn address(&self, expert: usize, strip: usize) -> *const u8 {
        let offset = expert * self.strides[1] + strip * STRIP * self.strides[0];
        self.data.wrapping_add(offset)
    }

    /// A strip of an expert, and of which expert a strip is multiplied `next`.
    pub(super) fn strip<'a>(
        &self,
        [expert, strip]: [usize; 2],
        next: [usize; 2],
        inputs: &'a [*const u8],
    ) -> Strip<'a> {
        let first = strip * STRIP;
        Strip {
            format: self.format,
            weights: self.address(expert, strip),
            next: self.address(next[0], next[1]),
            stride: self.strides[0],
            rows: STRIP.min(self.rows - first),
            k: self.k,
            inputs,
        }
    }
}

/// Address of a row of contiguous rows.
pub(super) fn input_row(t: &sys::ggml_tensor, row: usize) -> *const u8 {
    t.data.cast::<u8>().wrapping_add(row * t.nb[1])
}
