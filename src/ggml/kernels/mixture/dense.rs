//! Self-conditioning's product with all embeddings.
//!
//! The table is read as the file stores it, a few rows at a time, which become F32: no transposed
//! copy of it is needed, and the sums are F32. The product of these rows is ours where the processor
//! multiplies BF16 or has AVX-512 with VNNI; else it is `matrixmultiply`'s in F32, which has kernels
//! for AVX2, AVX-512 and NEON.

use std::ffi::c_void;
use std::ops::Range;

use matrixmultiply::sgemm;

use super::super::super::context::Context;
use super::super::super::ops::CpuKernel;
use super::super::super::tensor::Tensor;
use super::super::products::{Mix, Rows, Scratch, mixing};
use super::super::rows::share;
use super::super::stored::Reader;
use super::shape;
use crate::error::Result;
use crate::sys;

/// Rows of the table that are multiplied together: as many as `matrixmultiply` packs.
const ROWS: usize = Rows::MOST;

/// To convert an element costs as much as to multiply it at so many positions.
const CONVERSION: usize = 24;

impl Context {
    /// Mixes rows of `table [d, vocab]` (any type) with the `weights [vocab, positions]` (F32), to
    /// `[d, positions]`. CPU only.
    pub(crate) fn dense_mixture(&self, table: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let mix = table.ty().map_or(&None, mixing);
        self.dense_mixture_by(mix, table, weights)
    }

    /// [`dense_mixture`](Self::dense_mixture) by a product of ours, or by `matrixmultiply`.
    pub(super) fn dense_mixture_by(
        &self,
        mix: &'static Option<Mix>,
        table: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor> {
        let ne = shape("dense_mixture", table, weights)?;
        let kernel = dense_mixture_kernel as CpuKernel;
        self.custom_with(&ne, &[table, weights], kernel, mix)
    }
}

/// A thread's part of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    columns: Range<usize>,
    positions: Range<usize>,
}

impl Part {
    /// Divides `columns`, which are stored in blocks, and `positions` among threads: each has a
    /// rectangle, as equal ones as is cheapest. `None` if nothing is left for this thread.
    fn of(
        index: usize,
        threads: usize,
        (columns, block): (usize, usize),
        positions: usize,
    ) -> Option<Self> {
        let cost = |across: usize| {
            let width = columns.div_ceil(across);
            let converted = (width + block - 1).min(columns);
            width * positions.div_ceil(threads / across) + converted * CONVERSION
        };
        let across = (1..=threads).min_by_key(|across| cost(*across))?;
        let down = threads / across;
        let (i, j) = (index % across, index / across);
        let part = (j < down).then(|| Self {
            columns: share(columns, i as i32, across as i32),
            positions: share(positions, j as i32, down as i32),
        })?;
        (!part.columns.is_empty() && !part.positions.is_empty()).then_some(part)
    }
}

/// Computes a part of [`Context::dense_mixture`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `dense_mixture` made.
unsafe extern "C" fn dense_mixture_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    mix: *mut c_void,
) {
    // SAFETY: `dense_mixture` checked types and shapes, so all parts are in the memory of their
    // tensors, and passed what this processor has; threads write to parts of their own.
    unsafe {
        let node = &*dst;
        let (table, weights) = (&*node.src[0], &*node.src[1]);
        let (d, positions) = (node.ne[0] as usize, node.ne[1] as usize);
        let vocab = weights.ne[0] as usize;
        let Some(reader) = Reader::of(table) else {
            return;
        };
        let block = reader.block_len();
        let (index, threads) = (index as usize, threads as usize);
        let Some(part) = Part::of(index, threads, (d, block), positions) else {
            return;
        };
        // Whole blocks around the columns.
        let begin = part.columns.start / block * block;
        let width = part.columns.end.next_multiple_of(block) - begin;
        let mut panel = vec![0.0_f32; ROWS * width];
        let at = |tensor: *mut c_void, offset: usize| tensor.cast::<f32>().add(offset);
        let mix: &Option<Mix> = &*mix.cast();
        let mut scratch = Scratch::new();
        let positions = part.positions.clone();
        let out: Vec<_> = positions
            .map(|position| at(node.data, position * d + part.columns.start))
            .collect();
        for sums in &out {
            sums.write_bytes(0, part.columns.len());
        }
        for first in (0..vocab).step_by(ROWS) {
            let rows = ROWS.min(vocab - first);
            for (row, numbers) in panel.chunks_exact_mut(width).take(rows).enumerate() {
                reader.read([first + row, 0], begin, numbers);
            }
            let numbers = panel.as_ptr().add(part.columns.start - begin);
            let weights_of = |position| at(weights.data, position * vocab + first).cast_const();
            match mix {
                Some(mix) => {
                    let weights: Vec<_> = part.positions.clone().map(weights_of).collect();
                    let rows = Rows {
                        count: rows,
                        columns: part.columns.len(),
                        numbers,
                        stride: width,
                        weights: &weights,
                        out: &out,
                    };
                    mix(&rows, &mut scratch);
                }
                None => sgemm(
                    part.positions.len(),
                    rows,
                    part.columns.len(),
                    1.0,
                    weights_of(part.positions.start),
                    vocab as isize,
                    1,
                    numbers,
                    width as isize,
                    1,
                    1.0,
                    out[0],
                    d as isize,
                    1,
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_result_once() {
        for (columns, block) in [(1, 1), (64, 32), (2816, 256), (768, 256), (100, 1)] {
            for positions in [1, 7, 256] {
                for threads in [1, 2, 3, 5, 16, 64] {
                    let mut covered = vec![0; columns * positions];
                    for index in 0..threads {
                        if let Some(part) = Part::of(index, threads, (columns, block), positions) {
                            for p in part.positions {
                                for c in part.columns.clone() {
                                    covered[p * columns + c] += 1;
                                }
                            }
                        }
                    }
                    assert!(
                        covered.iter().all(|n| *n == 1),
                        "{columns} {positions} {threads}"
                    );
                }
            }
        }
    }

    #[test]
    fn many_threads_share_the_work_evenly() {
        let areas = |threads| {
            (0..threads)
                .filter_map(|index| Part::of(index, threads, (2816, 256), 256))
                .map(|part| part.columns.len() * part.positions.len())
                .max()
        };
        for threads in [2, 4, 8, 16, 32] {
            let largest = areas(threads).unwrap();
            assert!(
                largest * threads <= 2816 * 256 * 11 / 10,
                "{threads}: {largest}"
            );
        }
    }
}
