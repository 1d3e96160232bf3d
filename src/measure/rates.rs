//! How fast a device reads memory and multiplies matrices: lower bounds for the time of every pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::ggml::compute::{Backends, Executor};
use crate::ggml::context::Context;
use crate::ggml::device::Device;
use crate::gguf::TensorType;
use crate::model::Model;
use crate::synthetic::random_weights;

/// What was measured on the device that has the output head.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRates {
    /// Its name.
    pub device: String,
    /// Bytes per second that a product with a single vector reads.
    pub bandwidth: f64,
    /// Operations per second (two for each multiplication with its addition) of a product with as
    /// many tokens as a canvas has.
    pub operations: f64,
    /// The type of the matrix in that product: the model's most common type of weights.
    pub weight_type: TensorType,
}

/// Side of the square matrix that is multiplied.
const SIDE: usize = 4096;
/// Far larger than the caches of the device.
const READ_BYTES_CPU: usize = 1 << 28;
const READ_BYTES_GPU: usize = 1 << 31;

/// Measures the device of a model's output head, with `threads` threads if it is the CPU.
///
/// # Errors
/// The device has no memory for the measurement (up to 2 GiB on a GPU).
pub fn device_rates(model: &Model, threads: usize) -> Result<DeviceRates> {
    let (cpu, device) = (Device::cpu()?, model.output_device());
    let mut backends = vec![device.backend(threads)?];
    if device != cpu {
        backends.push(cpu.backend(threads)?);
    }
    let backends = Arc::new(backends.into());

    let bytes = if device == cpu {
        READ_BYTES_CPU
    } else {
        READ_BYTES_GPU
    };
    let rows = bytes / (SIDE * size_of::<f32>());
    let read = Product {
        ty: TensorType::F32,
        rows,
        tokens: 1,
    };
    let read = read.time(model, &backends)?;

    let weight_type = main_type(model);
    let tokens = model.hparams().canvas_length;
    let product = Product {
        ty: weight_type,
        rows: SIDE,
        tokens,
    };
    let product = product.time(model, &backends)?;
    Ok(DeviceRates {
        device: device.name(),
        bandwidth: bytes as f64 / read.as_secs_f64(),
        operations: (2 * SIDE * SIDE * tokens) as f64 / product.as_secs_f64(),
        weight_type,
    })
}

/// The most common type of weights.
fn main_type(model: &Model) -> TensorType {
    let bytes_of = |ty: &TensorType| -> usize {
        let tensors = model.file().tensors().map(|(_, tensor)| tensor.info);
        let same = tensors.filter(|info| info.ty == *ty);
        same.map(|info| info.range.len()).sum()
    };
    let fits = |ty: &&TensorType| SIDE.is_multiple_of(ty.block_len());
    let types = TensorType::ALL.iter().filter(fits);
    types
        .copied()
        .max_by_key(bytes_of)
        .unwrap_or(TensorType::F16)
}

/// A matrix `[SIDE, rows]` times `[SIDE, tokens]`.
struct Product {
    ty: TensorType,
    rows: usize,
    tokens: usize,
}

impl Product {
    /// The minimum of several times.
    fn time(&self, model: &Model, backends: &Arc<Backends>) -> Result<Duration> {
        const TIMES: usize = 5;
        const NODES: usize = 8;
        const WHAT: &str = "measuring the device";
        const ADVICE: &str = "free some memory, or do without the measurement";
        let device = model.output_device();
        let matrices = Context::new(1)?;
        let matrix = matrices.tensor(self.ty, &[SIDE, self.rows], "matrix")?;
        // The memory that holds weights of this type: rearranged, if that makes products faster.
        let memory = model.memory_of(self.ty);
        let on_cpu = device == Device::cpu()?;
        let memory = memory.filter(|_| self.ty != TensorType::F32 && on_cpu);
        let memory = memory.unwrap_or(device.buffer_type());
        matrices.allocate(memory, WHAT, ADVICE)?.mark_weights();
        matrix.write(0, &random_weights(self.ty, SIDE * self.rows))?;

        let inputs = Context::new(1)?;
        let input = inputs.tensor(TensorType::F32, &[SIDE, self.tokens], "input")?;
        inputs.allocate(device.buffer_type(), WHAT, ADVICE)?;
        input.write(0, &vec![0.5_f32; SIDE * self.tokens])?;

        let mut executor = Executor::new(backends, NODES, "measurement")?;
        executor.load(
            |graph| {
                graph.add(&graph.context().mul_mat(&matrix, &input)?);
                Ok(())
            },
            ADVICE,
        )?;
        executor.compute()?;
        let mut best = None;
        for _ in 0..TIMES {
            let start = Instant::now();
            executor.compute()?;
            best = best.into_iter().chain([start.elapsed()]).min();
        }
        best.ok_or_else(|| Error::Ggml("nothing was measured".into()))
    }
}
