//! One product of self-conditioning, for benchmarks.

use super::product::{ADVICE, WHAT, executor};
use crate::error::Result;
use crate::ggml::compute::Executor;
use crate::ggml::context::Context;
use crate::ggml::device::Device;
use crate::gguf::TensorType;
use crate::synthetic::random_weights;

/// What mixes embeddings, or multiplies with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixtureKernel {
    /// Our kernel: probabilities times the embeddings as they are stored.
    Own,
    /// ggml's `mul_mat` of a transposed copy in F16.
    Transposed,
    /// ggml's `mul_mat` as the output head: as many operations, the other way.
    Head,
}

/// The size of a product.
#[derive(Clone, Copy, Debug)]
pub struct MixtureShape {
    /// Elements of an embedding.
    pub d: usize,
    /// Number of embeddings.
    pub vocab: usize,
    /// Positions of a canvas.
    pub positions: usize,
}

impl MixtureShape {
    /// Operations, two for each multiplication with its addition.
    pub fn operations(&self) -> usize {
        2 * self.d * self.vocab * self.positions
    }
}

/// A product that is ready to be computed on the CPU.
pub struct MixtureProduct {
    executor: Executor,
}

impl MixtureProduct {
    /// With embeddings of a type.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new(
        kernel: MixtureKernel,
        ty: TensorType,
        shape: &MixtureShape,
        threads: usize,
    ) -> Result<Self> {
        let cpu = Device::cpu()?;
        let (ty, ne, width) = match kernel {
            MixtureKernel::Own => (ty, [shape.d, shape.vocab], shape.vocab),
            MixtureKernel::Transposed => (TensorType::F16, [shape.vocab, shape.d], shape.vocab),
            MixtureKernel::Head => (ty, [shape.d, shape.vocab], shape.d),
        };
        let inputs = Context::new(2)?;
        let table = inputs.tensor(ty, &ne, "table")?;
        let x = inputs.tensor(TensorType::F32, &[width, shape.positions], "x")?;
        inputs.allocate(cpu.buffer_type(), WHAT, ADVICE)?;
        table.write(0, &random_weights(ty, ne.iter().product()))?;
        x.write(0, &vec![0.5_f32; width * shape.positions])?;
        let executor = executor(threads, |ctx| match kernel {
            MixtureKernel::Own => ctx.dense_mixture(&table, &x),
            MixtureKernel::Transposed | MixtureKernel::Head => ctx.mul_mat(&table, &x),
        })?;
        Ok(Self { executor })
    }

    /// Computes it once.
    ///
    /// # Errors
    /// ggml fails.
    pub fn compute(&mut self) -> Result<()> {
        self.executor.compute()
    }
}
