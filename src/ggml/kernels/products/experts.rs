//! The operations of the experts.

use std::ffi::c_void;

use super::super::super::context::Context;
use super::super::super::ops::CpuKernel;
use super::super::super::tensor::Tensor;
use super::super::geglu::geglu_row;
use super::super::rows::share;
use super::activations::is_rows;
use super::inputs::Inputs;
use super::instructions::{Instructions, STRIP};
use super::matrices::{Matrices, is_readable, unfit};
use super::routes::Routes;
use super::scratch::Scratch;
use crate::error::Result;
use crate::sys;

/// The matrices that the input of the experts is multiplied with.
pub(crate) enum FirstMatrices<'a> {
    /// The rows of the gate, then those of the up projection: `[d, 2 · hidden, experts]`.
    Fused(&'a Tensor),
    /// Gate and up projection, both `[d, hidden, experts]`.
    Split(&'a Tensor, &'a Tensor),
}

impl FirstMatrices<'_> {
    fn gate(&self) -> &Tensor {
        match self {
            Self::Fused(both) => both,
            Self::Split(gate, _) => gate,
        }
    }

    /// Elements of the hidden layer.
    fn hidden(&self) -> usize {
        let rows = self.gate().ne()[1];
        match self {
            Self::Fused(_) => rows / 2,
            Self::Split(..) => rows,
        }
    }

    /// Whether [`Context::experts_hidden`] can multiply them.
    fn are_multiplied(&self) -> bool {
        match self {
            Self::Fused(both) => is_multiplied(both) && both.ne()[1].is_multiple_of(2),
            Self::Split(gate, up) => {
                is_multiplied(gate)
                    && is_multiplied(up)
                    && gate.ty() == up.ty()
                    && gate.ne() == up.ne()
            }
        }
    }
}

/// Whether the kernels read and multiply a tensor of experts.
fn is_multiplied(experts: &Tensor) -> bool {
    instructions_for(experts).is_some()
}

fn instructions_for(experts: &Tensor) -> Option<&'static Instructions> {
    let found = Instructions::of_experts(experts.ty()?, experts.ne()[0]);
    found.filter(|_| is_readable(experts))
}

impl Context {
    /// The instructions with which the kernels run the experts, if they can run those with these
    /// matrices. Each token has `used` of them.
    pub(crate) fn expert_instructions(
        &self,
        first: &FirstMatrices<'_>,
        down: &Tensor,
        used: usize,
    ) -> Option<&'static Instructions> {
        /// Of DiffusionGemma.
        const CANVAS: usize = 256;
        let best = instructions_for(down).filter(|_| first.are_multiplied())?;
        Some(best.for_inputs(CANVAS * used / down.ne()[2].max(1)))
    }

    /// The hidden layer of the chosen experts, `gelu(gate x) * (up x)`: `x [d, tokens]` and
    /// `chosen` I32 `[used, tokens]` to `[hidden, used, tokens]`. CPU only.
    pub(crate) fn experts_hidden(
        &self,
        instructions: &'static Instructions,
        first: &FirstMatrices<'_>,
        x: &Tensor,
        chosen: &Tensor,
    ) -> Result<Tensor> {
        let gate = first.gate();
        let ([d, tokens, ..], [used, choosing, ..]) = (x.ne(), chosen.ne());
        if !first.are_multiplied() || gate.ne()[0] != d || choosing != tokens || !is_rows(x) {
            return Err(unfit("experts_hidden", gate, x));
        }
        let x = self.input_for(instructions, gate, x)?;
        let ne = [first.hidden(), used, tokens];
        let kernel = hidden_kernel as CpuKernel;
        match first {
            FirstMatrices::Fused(both) => {
                self.custom_with(&ne, &[&x, chosen, both], kernel, instructions)
            }
            FirstMatrices::Split(gate, up) => {
                self.custom_with(&ne, &[&x, chosen, gate, up], kernel, instructions)
            }
        }
    }

    /// The output of the chosen experts: `hidden [k, used, tokens]`, `down [k, d, experts]`,
    /// `chosen` I32 `[used, tokens]` and the `share` of each, F32 of the same shape, to
    /// `[d, tokens]`. CPU only.
    pub(crate) fn experts_output(
        &self,
        instructions: &'static Instructions,
        down: &Tensor,
        hidden: &Tensor,
        chosen: &Tensor,
        share: &Tensor,
    ) -> Result<Tensor> {
        let ([k, used, tokens, _], [width, d, ..]) = (hidden.ne(), down.ne());
        let routed = [used, tokens, 1, 1];
        let fits = width == k && chosen.ne() == routed && share.ne() == routed;
        if !fits || !is_multiplied(down) || !is_rows(hidden) || !is_rows(share) {
            return Err(unfit("experts_output", down, hidden));
        }
        let hidden = self.input_for(instructions, down, hidden)?;
        let args = [&hidden, chosen, down, share];
        let kernel = output_kernel as CpuKernel;
        self.custom_with(&[d, tokens], &args, kernel, instructions)
    }
}

/// Computes some strips of [`Context::experts_hidden`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `experts_hidden` made.
unsafe extern "C" fn hidden_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    instructions: *mut c_void,
) {
    // SAFETY: `experts_hidden` checked types and shapes, and passed what this processor has; threads write to strips of their own.
    unsafe {
        let node = &*dst;
        let (x, first) = (&*node.src[0], node.src[2]);
        let instructions: &Instructions = &*instructions.cast();
        let Some(mut gate) = Matrices::of(first) else {
            return;
        };
        let up = match node.src[3].is_null() {
            true => Some(gate.split()),
            false => Matrices::of(node.src[3]),
        };
        let Some(up) = up else { return };
        let routes = Routes::new(node.src[1], (*first).ne[2] as usize);
        let (hidden, used) = (node.ne[0] as usize, node.ne[1] as usize);
        let mut scratch = Scratch::new();
        let mut inputs = Inputs::default();
        let [mut gates, mut ups, mut products] = [const { Vec::new() }; 3];
        let (index, threads) = (index as usize, threads as usize);
        for (expert, routes, strips) in routes.share(gate.strips(), index, threads) {
            if strips.is_empty() {
                continue;
            }
            let tokens = routes.iter().map(|route| route / used);
            let inputs = inputs.choose(instructions, gate.format, x, tokens);
            for buffer in [&mut gates, &mut ups, &mut products] {
                buffer.resize(routes.len() * STRIP, 0.0_f32);
            }
            for s in strips {
                let (this, next) = ([expert, s], [expert, s + 1]);
                let strip = gate.strip(this, next, inputs);
                let rows = strip.rows;
                (instructions.product)(&strip, &mut scratch, &mut gates);
                (instructions.product)(&up.strip(this, next, inputs), &mut scratch, &mut ups);
                geglu_row(&gates, &ups, &mut products);
                for (route, product) in routes.iter().zip(products.chunks_exact(STRIP)) {
                    let to = node.data.cast::<f32>().add(route * hidden + s * STRIP);
                    to.copy_from_nonoverlapping(product.as_ptr(), rows);
                }
            }
        }
    }
}

/// Strips of each expert that are multiplied before those of the next one: many, because each expert
/// reads its inputs again, but few enough for the cache to keep their sums.
fn strips_together(tokens: usize) -> usize {
    /// Bytes of sums: a part of the cache that a core has for itself.
    const SUMS: usize = 128 << 10;
    /// Inputs that are read again for so many strips cost little.
    const ENOUGH: usize = 16;
    (SUMS / (4 * STRIP * tokens)).clamp(1, ENOUGH)
}

/// Computes some strips of [`Context::experts_output`].
///
/// # Safety
/// Called by ggml's CPU backend with the node that `experts_output` made.
unsafe extern "C" fn output_kernel(
    dst: *mut sys::ggml_tensor,
    index: i32,
    threads: i32,
    instructions: *mut c_void,
) {
    // SAFETY: `experts_output` checked types and shapes, and passed what this processor has; threads write to strips of their own.
    unsafe {
        let node = &*dst;
        let (x, down, shares) = (&*node.src[0], node.src[2], node.src[3]);
        let instructions: &Instructions = &*instructions.cast();
        let Some(matrices) = Matrices::of(down) else {
            return;
        };
        let format = matrices.format;
        let routes = Routes::new(node.src[1], (*down).ne[2] as usize);
        let (d, tokens) = (node.ne[0] as usize, node.ne[1] as usize);
        let used = (*shares).ne[0] as usize;
        let shares = std::slice::from_raw_parts((*shares).data.cast::<f32>(), used * tokens);
        let mut scratch = Scratch::new();
        let (mut products, mut sums) = (Vec::new(), Vec::new());
        let strips = share(matrices.strips(), index, threads);
        if strips.is_empty() || tokens == 0 {
            return;
        }
        let experts: Vec<_> = routes
            .experts()
            .map(|(expert, routes)| {
                let mut inputs = Inputs::default();
                inputs.choose(instructions, format, x, routes.iter().copied());
                (expert, routes, inputs)
            })
            .collect();
        let together = strips_together(tokens);
        for from in strips.clone().step_by(together) {
            let block = from..strips.end.min(from + together);
            sums.clear();
            sums.resize(block.len() * tokens * STRIP, 0.0_f32);
            for (i, (expert, routes, inputs)) in experts.iter().enumerate() {
                products.resize(routes.len() * STRIP, 0.0_f32);
                for (s, sums) in block.clone().zip(sums.chunks_exact_mut(tokens * STRIP)) {
                    let next = match experts.get(i + 1) {
                        _ if s + 1 < block.end => [*expert, s + 1],
                        Some((expert, ..)) => [*expert, from],
                        None => [experts[0].0, block.end],
                    };
                    let strip = matrices.strip([*expert, s], next, inputs.rows());
                    (instructions.product)(&strip, &mut scratch, &mut products);
                    for (route, product) in routes.iter().zip(products.chunks_exact(STRIP)) {
                        let sum = &mut sums[route / used * STRIP..][..STRIP];
                        let scale = shares[*route];
                        sum.iter_mut()
                            .zip(product)
                            .for_each(|(s, p)| *s += scale * p);
                    }
                }
            }
            for (s, sums) in block.zip(sums.chunks_exact(tokens * STRIP)) {
                let rows = STRIP.min(matrices.rows - s * STRIP);
                for (token, sum) in sums.chunks_exact(STRIP).enumerate() {
                    let to = node.data.cast::<f32>().add(token * d + s * STRIP);
                    to.copy_from_nonoverlapping(sum.as_ptr(), rows);
                }
            }
        }
    }
}
