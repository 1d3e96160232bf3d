//! Where the weights of a position are: the host's memory is worked on where it is, a device's is copied.

use std::cell::Cell;

use crate::diffusion::Token;
use crate::error::Result;
use crate::ggml::kernels::WEIGHT_SCALE;
use crate::ggml::tensor::Tensor;

/// The memory of a row of the vocabulary.
pub(super) enum RowMemory<'a> {
    /// Of the host.
    Host(&'a mut [f32]),
    /// Of a device.
    Device {
        tensor: &'a Tensor,
        /// The row's first byte.
        at: usize,
        vocab: usize,
    },
}

impl<'a> RowMemory<'a> {
    /// The first `count` rows of a tensor of F32.
    pub(super) fn of(tensor: &'a mut Tensor, vocab: usize, count: usize) -> Result<Vec<Self>> {
        if tensor.is_in_host_memory() {
            let rows = tensor.lend(vocab * count)?.chunks_exact_mut(vocab);
            return Ok(rows.map(Self::Host).collect());
        }
        let tensor = &*tensor;
        let row = |index| Self::Device {
            tensor,
            at: size_of::<f32>() * vocab * index,
            vocab,
        };
        Ok((0..count).map(row).collect())
    }

    /// Lends the row to be read. What `work` changes may be lost.
    pub(super) fn read<T>(&mut self, work: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
        match self {
            Self::Host(row) => Ok(work(row)),
            Self::Device { tensor, at, vocab } => with_buffer(|buffer| {
                buffer.resize(*vocab, 0.0);
                tensor.read(*at, buffer)?;
                Ok(work(buffer))
            }),
        }
    }

    /// Lends the row to be changed.
    pub(super) fn change<T>(&mut self, work: impl FnOnce(&mut [f32]) -> Result<T>) -> Result<T> {
        match self {
            Self::Host(row) => work(row),
            Self::Device { tensor, at, vocab } => with_buffer(|buffer| {
                buffer.resize(*vocab, 0.0);
                tensor.read(*at, buffer)?;
                let result = work(buffer)?;
                tensor.write(*at, buffer)?;
                Ok(result)
            }),
        }
    }

    /// Gives all weight to a token.
    pub(super) fn set(&mut self, token: Token) -> Result<()> {
        match self {
            Self::Host(row) => {
                row.fill(0.0);
                row[token as usize] = WEIGHT_SCALE;
                Ok(())
            }
            Self::Device { tensor, at, vocab } => {
                let size = size_of::<f32>();
                tensor.zero_range(*at, size * *vocab)?;
                tensor.write(*at + size * token as usize, &[WEIGHT_SCALE])
            }
        }
    }
}

/// Lends memory for a row of the vocabulary. Each thread keeps its own: to allocate a megabyte for
/// each row costs more than to compute with it.
fn with_buffer<T>(work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
    thread_local! {
        static ROW: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let mut row = ROW.take();
    let result = work(&mut row);
    ROW.set(row);
    result
}
