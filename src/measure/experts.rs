//! One product with the chosen experts, for benchmarks.

use super::product::{ADVICE, NODES, WHAT, executor};
use crate::error::Result;
use crate::ggml::compute::Executor;
use crate::ggml::context::Context;
use crate::ggml::device::{BufferType, Device};
use crate::ggml::kernels::products::Instructions;
use crate::ggml::tensor::Tensor;
use crate::gguf::TensorType;
use crate::synthetic::random_weights;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertKernel {
    /// Ours with a set of instructions, one of [`ExpertKernel::instructions`].
    Own(&'static str),
    /// ggml's `mul_mat_id`.
    Ggml,
    /// ggml's `mul_mat` of a matrix of one expert with as many rows of activations.
    Dense,
}

impl ExpertKernel {
    /// Our sets of instructions that this processor has, the best first.
    pub fn instructions() -> impl Iterator<Item = &'static str> {
        Instructions::of_this_processor().iter().map(|own| own.name)
    }
}

/// The size of a product.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShape {
    /// Elements of a row of weights.
    pub k: usize,
    /// Rows of an expert.
    pub rows: usize,
    /// Number of experts.
    pub experts: usize,
    /// Experts that each token chooses.
    pub used: usize,
    /// Number of tokens.
    pub tokens: usize,
}

impl ExpertShape {
    /// Operations, two for each multiplication with its addition.
    pub fn operations(&self) -> usize {
        2 * self.k * self.rows * self.used * self.tokens
    }

    /// Tokens choose `used` experts that follow each other, from pseudorandom ones on.
    fn chosen(&self) -> Vec<i32> {
        let first = |token: usize| token * 7919 % 1009;
        let of_token = |token| (0..self.used).map(move |e| (first(token) + e) % self.experts);
        let all = (0..self.tokens).flat_map(of_token);
        all.map(|expert| expert as i32).collect()
    }
}

/// A product that is ready to be computed on the CPU.
pub struct ExpertProduct {
    executor: Executor,
}

impl ExpertProduct {
    /// `None` if our kernels leave this type to ggml, or the processor lacks the instructions.
    ///
    /// # Errors
    /// There is no memory for the weights.
    pub fn new(
        kernel: ExpertKernel,
        ty: TensorType,
        shape: &ExpertShape,
        threads: usize,
    ) -> Result<Option<Self>> {
        let own = match kernel {
            ExpertKernel::Own(name) => {
                let sets = Instructions::of_this_processor().iter();
                let found = sets.copied().find(|own| own.name == name);
                let Some(own) = found.filter(|_| Instructions::of_experts(ty, shape.k).is_some())
                else {
                    return Ok(None);
                };
                Some(own)
            }
            ExpertKernel::Ggml | ExpertKernel::Dense => None,
        };
        let cpu = Device::cpu()?;
        let inputs = Context::new(4)?;
        let routed = [shape.used, shape.tokens];
        let x = inputs.tensor(TensorType::F32, &[shape.k, shape.used, shape.tokens], "x")?;
        let flat = [shape.k, shape.used * shape.tokens];
        let chosen = inputs.tensor(TensorType::I32, &routed, "chosen")?;
        let share = inputs.tensor(TensorType::F32, &routed, "share")?;
        inputs.allocate(cpu.buffer_type(), WHAT, ADVICE)?;
        x.write(0, &vec![0.5_f32; shape.k * shape.used * shape.tokens])?;
        chosen.write(0, &shape.chosen())?;
        share.write(0, &vec![0.25_f32; shape.used * shape.tokens])?;

        let describe = |ctx: &Context, weights: &Tensor| match (own, kernel) {
            (Some(own), _) => ctx.experts_output(own, weights, &x, &chosen, &share),
            (None, ExpertKernel::Dense) => ctx.mul_mat(weights, &ctx.reshape(&x, &flat)?),
            (None, _) => ctx.mul_mat_id(weights, &x, &chosen),
        };
        let experts = match kernel {
            ExpertKernel::Dense => 1,
            _ => shape.experts,
        };
        let ne = [shape.k, shape.rows, experts];
        // The fastest memory, as for the weights of a model.
        let mut memory = cpu.buffer_type();
        if own.is_none() {
            for candidate in cpu.extra_buffer_types() {
                if runs_in(cpu, candidate, ty, &ne, describe)? {
                    memory = candidate;
                    break;
                }
            }
        }
        let matrices = Context::new(1)?;
        let weights = matrices.tensor(ty, &ne, "weights")?;
        matrices.allocate(memory, WHAT, ADVICE)?.mark_weights();
        // All experts have the same numbers, which take long to quantize.
        let expert = random_weights(ty, shape.k * shape.rows);
        weights.write(0, &expert.repeat(experts))?;

        let executor = executor(threads, |ctx| describe(ctx, &weights))?;
        Ok(Some(Self { executor }))
    }

    /// Computes it once.
    ///
    /// # Errors
    /// ggml fails.
    pub fn compute(&mut self) -> Result<()> {
        self.executor.compute()
    }
}

/// Whether the CPU computes what `describe` makes of weights in a kind of memory.
fn runs_in(
    cpu: Device,
    memory: BufferType,
    ty: TensorType,
    ne: &[usize],
    describe: impl Fn(&Context, &Tensor) -> Result<Tensor>,
) -> Result<bool> {
    let context = Context::new(NODES)?;
    let weights = context.tensor(ty, ne, "weights")?;
    let node = describe(&context, &weights)?;
    Ok(node.runs_on_with(cpu, &weights, memory))
}
