//! Self-conditioning's product if few tokens have nearly all of the mass.

use std::ffi::c_void;

use multiversion::multiversion;

use super::super::context::Context;
use super::super::ops::CpuKernel;
use super::super::tensor::Tensor;
use super::LANES;
use super::draw::{WEIGHT_SCALE, keep_above};
use super::rows::{row, share};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

impl Context {
    /// Mixes rows of `table [d, vocab]` (any type) with the `weights [vocab, positions]` of a draw,
    /// not normalised, to `[d, positions]`. Tokens of the least weight are left out: at most
    /// [`MAX_DROPPED_MASS`](super::draw::MAX_DROPPED_MASS) of the probability of a position. CPU
    /// only.
    ///
    /// Costs one scan of the weights and one row for every token that is kept, while
    /// [`mul_mat`](Self::mul_mat) costs all rows for all positions.
    pub(crate) fn sparse_mixture(&self, table: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let ([d, vocab, ..], [width, positions, ..]) = (table.ne(), weights.ne());
        let plain = weights.is(TensorType::F32) && weights.is_contiguous();
        let readable = table.ty().is_some_and(|ty| row_reader(ty.id()).is_some());
        if !plain || !readable || !table.is_contiguous() || width != vocab {
            return Err(Error::Ggml(format!(
                "sparse_mixture: {} and {} do not fit",
                table.label(),
                weights.label()
            )));
        }
        self.custom(
            &[d, positions],
            &[table, weights],
            sparse_mixture_kernel as CpuKernel,
        )
    }
}

/// How a stored row is converted to numbers.
enum RowReader {
    /// It is F32.
    Plain,
    Convert(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
}

fn row_reader(ty: u32) -> Option<RowReader> {
    if ty == TensorType::F32.id() {
        return Some(RowReader::Plain);
    }
    // SAFETY: a static table, indexed by the type of a live tensor.
    let traits = unsafe { &*sys::ggml_get_type_traits(ty as sys::ggml_type) };
    traits.to_float.map(RowReader::Convert)
}

/// Computes some positions of [`Context::sparse_mixture`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `sparse_mixture` made.
unsafe extern "C" fn sparse_mixture_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    _: *mut c_void,
) {
    // SAFETY: `sparse_mixture` checked types and shapes; threads write to positions of their own.
    unsafe {
        let node = &*dst;
        let (table, weights) = (&*node.src[0], node.src[1]);
        let (d, positions) = (node.ne[0] as usize, node.ne[1] as usize);
        #[allow(
            clippy::unnecessary_cast,
            reason = "C enums are signed on some systems"
        )]
        let Some(reader) = row_reader(table.type_ as u32) else {
            return;
        };
        let mut numbers = vec![0.0_f32; d];
        for p in share(positions, index, threads) {
            let out = std::slice::from_raw_parts_mut(node.data.cast::<f32>().add(p * d), d);
            out.fill(0.0);
            let weights = row(weights, p);
            let least = keep_above(weights.len()) * WEIGHT_SCALE;
            for_each_above(weights, least, |token, weight| {
                let stored = table.data.cast::<u8>().add(token * table.nb[1]);
                let values = match reader {
                    RowReader::Plain => std::slice::from_raw_parts(stored.cast::<f32>(), d),
                    RowReader::Convert(convert) => {
                        convert(stored.cast(), numbers.as_mut_ptr(), d as i64);
                        numbers.as_slice()
                    }
                };
                add_scaled(out, values, weight);
            });
        }
    }
}

/// Calls `found` with the index and value of each element above `least`.
pub(super) fn for_each_above(values: &[f32], least: f32, mut found: impl FnMut(usize, f32)) {
    for (i, block) in values.chunks(4 * LANES).enumerate() {
        // Usually a block has none: this test is vectorized.
        if any_above(block, least) {
            for (j, &value) in block.iter().enumerate() {
                if value > least {
                    found(4 * LANES * i + j, value);
                }
            }
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn any_above(values: &[f32], least: f32) -> bool {
    values.iter().fold(false, |any, &v| any | (v > least))
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2+fma",
    "aarch64+neon"
))]
fn add_scaled(out: &mut [f32], values: &[f32], factor: f32) {
    for (o, v) in out.iter_mut().zip(values) {
        *o += factor * v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_mixture_is_the_dense_one_in_every_kind_of_row() {
        use crate::ggml::compute::{Executor, Graph};
        use crate::ggml::convert::to_f32;
        use crate::ggml::device::Device;

        const D: usize = 64;
        const VOCAB: usize = 150;
        const POSITIONS: usize = 5;
        for ty in [TensorType::F32, TensorType::F16, TensorType::Q8_0] {
            let device = Device::cpu().unwrap();
            let inputs = Context::new(2).unwrap();
            let table = inputs.tensor(ty, &[D, VOCAB], "table").unwrap();
            let weights = inputs
                .tensor(TensorType::F32, &[VOCAB, POSITIONS], "weights")
                .unwrap();
            let memory = device.buffer_type();
            inputs.allocate(memory, "a test", "").unwrap();
            // Small exponents of F16 scales: all bytes that follow are finite numbers.
            let bytes: Vec<u8> = (0..table.nbytes()).map(|i| (i * 37 % 60) as u8).collect();
            table.write(0, &bytes).unwrap();
            let mut numbers = vec![0.0; D * VOCAB];
            to_f32(ty, &bytes, &mut numbers).unwrap();
            // All positions but the last have weights of all sizes; the last has only some near the
            // limit.
            let limit = 1e-6 / VOCAB as f32 * WEIGHT_SCALE;
            let p: Vec<f32> = (0..VOCAB * POSITIONS)
                .map(|i| match (i / VOCAB == POSITIONS - 1, i % 7 == 0) {
                    (true, true) => 1.01 * limit,
                    (true, false) => 0.99 * limit,
                    (false, true) => (i % 11) as f32 * 3e3,
                    (false, false) => 1e-6,
                })
                .collect();
            weights.write(0, &p).unwrap();

            let backends = vec![device.backend(2).unwrap()].into();
            let mut executor = Executor::new(&backends, 8, "test").unwrap();
            let describe = |graph: &Graph| {
                let mixture = graph.context().sparse_mixture(&table, &weights)?.output();
                graph.add(&mixture);
                Ok(mixture)
            };
            let mixture = executor.load(describe, "").unwrap();
            executor.compute().unwrap();
            let mut got = vec![0.0; D * POSITIONS];
            mixture.read(0, &mut got).unwrap();
            for (position, got) in got.chunks(D).enumerate() {
                let p = &p[position * VOCAB..][..VOCAB];
                for (i, &got) in got.iter().enumerate() {
                    let terms = p.iter().enumerate().filter(|(_, p)| **p > limit);
                    let want: f64 = terms
                        .map(|(token, &p)| f64::from(p) * f64::from(numbers[token * D + i]))
                        .sum();
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 1e-5 * want.abs(), "{}: {got} {want}", ty.name());
                }
            }
        }
    }
}
