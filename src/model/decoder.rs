//! Denoising steps: the decoder's pass over the canvas of one sequence, or of several at once.

use std::sync::Arc;

use super::Model;
use super::counters::Counters;
use super::graph::{self, Extent, Kernels, KeyCounts, Network, NodeChoice};
use super::memory::Usage;
use super::pass::{ADVICE, Pass, allocate_inputs, keys, serves};
use super::profile::Part;
use super::sequence::Sequence;
use crate::diffusion::{Draws, StepInput, Token};
use crate::error::{Error, Result};
use crate::ggml::buffer::Allocation;
use crate::ggml::compute::{Backends, Executor, Graph};
use crate::ggml::cuda::CudaDraw;
use crate::ggml::tensor::Tensor;
use crate::ggml::transfer::transferred;

/// One sequence's share of a step.
pub(super) struct Share<'a, 'io> {
    pub(super) sequence: &'a mut Sequence,
    pub(super) input: StepInput<'io>,
    pub(super) draws: &'a mut Draws,
}

/// What a pass was built for: the sequences whose tensors are in its graph, and their extents.
#[derive(PartialEq, Eq)]
struct Shape {
    sequences: Vec<u64>,
    extents: Vec<Extent>,
}

impl Shape {
    /// The keys that the pass has for a sequence.
    fn keys_of(&self, sequence: u64) -> Option<KeyCounts> {
        let index = self.sequences.iter().position(|id| *id == sequence)?;
        Some(self.extents[index].keys)
    }
}

/// Runs denoising steps; the graph is reused while the sequences and the lengths of their canvases
/// stay the same and it has the keys that they need.
pub(super) struct Decoder {
    executor: Executor,
    /// The kernel that draws after the graph, if there is one.
    cuda_draw: Option<CudaDraw>,
    choice: NodeChoice,
    /// Threads of what runs on the host after the graph.
    threads: usize,
    pass: Option<(Shape, Pass)>,
    /// The canvases whose positions and masks are uploaded.
    canvases: Vec<u64>,
    counters: Counters,
}

impl Decoder {
    /// For at most this number of sequences at once.
    pub(super) fn new(
        model: &Model,
        backends: &Arc<Backends>,
        choice: NodeChoice,
        threads: usize,
        sequences: usize,
    ) -> Result<Self> {
        let capacity = graph::capacity(model.hparams(), sequences);
        Ok(Self {
            executor: Executor::new(backends, capacity, "denoising")?,
            cuda_draw: match choice.kernels {
                Kernels::CudaDraw => {
                    let head = model.placement.output();
                    let missing = || Error::Ggml(format!("{} has no kernel to draw", head.name()));
                    Some(CudaDraw::of(head).ok_or_else(missing)?)
                }
                Kernels::Cpu | Kernels::Ggml => None,
            },
            choice,
            threads,
            pass: None,
            canvases: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// The executor of the graphs, to measure its times.
    pub(super) fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    pub(super) fn choice(&self) -> NodeChoice {
        self.choice
    }

    pub(super) fn counters(&self) -> Counters {
        let captures = self.executor.captures();
        Counters {
            graphs_captured: captures.made,
            captures_dropped: captures.dropped,
            ..self.counters
        }
    }

    /// What the graph and its inputs take.
    pub(super) fn usage(&self) -> Usage {
        let pass = self.pass.as_ref();
        let mut usage = pass.map_or_else(Usage::default, |(_, pass)| pass.usage.clone());
        usage.add_graphs(self.executor.compute_bytes());
        usage
    }

    /// Releases the graph, and with it the caches of its sequences.
    pub(super) fn unload(&mut self) {
        self.pass = None;
        self.executor.unload();
    }

    /// Raw logits `[vocab, T]` of the latest step.
    pub(super) fn logits(&self) -> Option<&Tensor> {
        let (_, pass) = self.pass.as_ref()?;
        pass.logits.as_ref()
    }

    /// One forward pass over the canvases of all members, at least one, all of one model.
    pub(super) fn step(&mut self, members: &mut [Share<'_, '_>]) -> Result<()> {
        for member in &*members {
            member.sequence.check_step(&member.input, member.draws)?;
        }
        self.prepare(members)?;
        let before = transferred().bytes;
        let Some((_, pass)) = &self.pass else {
            return Err(Error::Ggml("the denoising graph was not built".into()));
        };
        let firsts = pass.inputs.sequences.iter().map(|inputs| inputs.first);
        let firsts: Vec<usize> = firsts.collect();
        for (member, first) in members.iter_mut().zip(&firsts) {
            member.sequence.begin_step(&member.input)?;
            let offset = first * size_of::<Token>();
            pass.inputs.tokens.write(offset, member.input.canvas)?;
        }
        self.executor.compute()?;
        if let (Some(kernel), Some(logits)) = (self.cuda_draw, &pass.logits) {
            let head = members[0].sequence.model.placement.output();
            self.executor.then(Part::Draw.label(), head, |backend| {
                members.iter().zip(&firsts).try_for_each(|(member, first)| {
                    let state = &member.sequence.state;
                    let (uniforms, scalars) = (&state.uniforms, &state.scalars);
                    kernel.queue(backend, &state.draws, logits, *first, uniforms, scalars)
                })
            })?;
        }
        let Some(logits) = &pass.logits else {
            return Err(Error::Ggml("the denoising graph has no logits".into()));
        };
        for (member, first) in members.iter_mut().zip(firsts) {
            let (input, draws) = (&member.input, &mut *member.draws);
            member
                .sequence
                .end_step(input, (logits, first), self.threads, draws)?;
        }
        self.counters.steps += 1;
        self.counters.step_bytes += transferred().bytes - before;
        Ok(())
    }

    /// Ensures that there is a graph for these members, and that the positions and masks of their
    /// canvases are uploaded.
    fn prepare(&mut self, members: &[Share<'_, '_>]) -> Result<()> {
        let model = Arc::clone(&members[0].sequence.model);
        let built = self.pass.as_ref().map(|(built, _)| built);
        let extent = |member: &Share<'_, '_>| {
            let tokens = member.sequence.state.len;
            let needed = keys(&model, self.choice, &member.sequence.cache, tokens);
            let keys = built
                .and_then(|built| built.keys_of(member.sequence.id))
                .filter(|built| serves(&model, self.choice, *built, needed))
                .unwrap_or(needed);
            Extent { tokens, keys }
        };
        let shape = Shape {
            sequences: members.iter().map(|m| m.sequence.id).collect(),
            extents: members.iter().map(extent).collect(),
        };
        if self.pass.as_ref().is_none_or(|(built, _)| *built != shape) {
            self.unload();
            self.canvases = vec![u64::MAX; members.len()];
            self.pass = Some(self.build(&model, shape, members)?);
        }
        let Some((_, pass)) = &self.pass else {
            return Ok(());
        };
        for (i, member) in members.iter().enumerate() {
            let sequence = &*member.sequence;
            if self.canvases[i] != sequence.canvas_id {
                let prefix = sequence.cache.tokens().len();
                let (len, all) = (sequence.canvas_len, sequence.state.len);
                pass.upload_positions(i, &sequence.cache, len, |layout, keys| {
                    layout.canvases(prefix, len, all / len, keys)
                })?;
                self.canvases[i] = sequence.canvas_id;
            }
        }
        Ok(())
    }

    fn build(
        &mut self,
        model: &Model,
        shape: Shape,
        members: &[Share<'_, '_>],
    ) -> Result<(Shape, Pass)> {
        let hparams = model.hparams();
        let mut usage = Usage::default();
        let inputs = allocate_inputs(model, &shape.extents, Allocation::Real, &mut usage)?;
        let caches: Vec<_> = members.iter().map(|m| &m.sequence.cache).collect();
        let states: Vec<_> = members.iter().map(|m| &m.sequence.state).collect();
        let describe = |graph: &Graph| {
            let network = Network {
                graph,
                hparams,
                weights: &model.weights,
                caches: &caches,
                inputs: &inputs,
                choice: self.choice,
            };
            network.denoise(&states)
        };
        let logits = Some(self.executor.load(describe, ADVICE)?);
        self.counters.graphs_built += 1;
        let pass = Pass {
            inputs,
            logits,
            usage,
        };
        Ok((shape, pass))
    }
}
