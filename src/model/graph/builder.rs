//! What all parts of a graph need to be built.

use super::super::hparams::Hparams;
use super::super::profile::Part;
use super::inputs::PassInputs;
use crate::error::Result;
use crate::ggml::compute::Graph;
use crate::ggml::context::Context;
use crate::ggml::tensor::Tensor;

/// How the nodes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeChoice {
    /// Fused attention instead of separate scores, softmax and sum.
    pub(crate) flash: bool,
    /// Kernels of our own.
    pub(crate) kernels: Kernels,
    /// Maximum number of tokens in a pass for which experts in host memory run in kernels of our own,
    /// whatever else runs on a GPU.
    pub(crate) own_experts: usize,
}

/// Which kernels of our own replace ggml's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// No kernels.
    Ggml,
    /// Those for the CPU, as nodes of the graphs: everything runs there.
    Cpu,
    /// The draw on the device of the output head, after the graph.
    CudaDraw,
}

/// A graph to which nodes are added.
#[derive(Clone, Copy)]
pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) hparams: &'a Hparams,
    pub(super) inputs: &'a PassInputs,
    pub(super) choice: NodeChoice,
}

impl<'a> Builder<'a> {
    pub(super) fn ctx(&self) -> &'a Context {
        self.graph.context()
    }

    /// Sets the part of the model that the following nodes belong to.
    pub(super) fn part(&self, part: Part) {
        self.ctx().label(part.label());
    }

    /// Matrix product of `weights [k, m]` and `x [k, n]`, to `[m, n]`.
    pub(super) fn product(&self, weights: &Tensor, x: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        match ctx.dense_instructions(weights) {
            Some(own) if self.choice.kernels == Kernels::Cpu => ctx.dense_product(own, weights, x),
            _ => ctx.mul_mat(weights, x),
        }
    }

    /// The columns of one sequence in `x [n, T]`.
    pub(super) fn of_sequence(&self, x: &Tensor, sequence: usize) -> Result<Tensor> {
        if self.inputs.sequences.len() == 1 {
            return Ok(x.clone());
        }
        let ([n, ..], stride) = (x.ne(), x.nb()[1]);
        let extent = &self.inputs.sequences[sequence];
        let shape = [n, extent.tokens, 1];
        self.ctx().view(
            x,
            shape,
            [stride, extent.tokens * stride],
            extent.first * stride,
        )
    }

    /// `rms(x) * weight`.
    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let ctx = self.ctx();
        ctx.mul(&ctx.rms_norm(x, self.hparams.rms_eps)?, weight)
    }

    /// `gelu(gate) * up`.
    pub(super) fn geglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        if self.choice.kernels == Kernels::Cpu {
            self.ctx().geglu_exact(gate, up)
        } else {
            self.ctx().geglu(gate, up)
        }
    }
}
