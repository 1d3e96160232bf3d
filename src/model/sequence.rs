//! One sequence: the KV cache of its prefix, and the canvas that is denoised behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Model;
use super::graph::{self, CanvasState, DrawPlane};
use super::kv_cache::KvCache;
use super::pass::ADVICE;
use crate::Token;
use crate::diffusion::{StepInput, StepOutput};
use crate::error::{Error, Result};
use crate::ggml::backend::Backend;
use crate::ggml::compute::{Executor, Graph};
use crate::ggml::tensor::Context;

/// Where the canvas behind the cached tokens stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Canvas {
    /// There is none: its inputs are those of another prefix.
    None,
    /// The next step is the first.
    Begun,
    /// The next step is conditioned on the distribution of the one before.
    Stepped,
}

/// The cache and the canvas of a sequence, on the devices of its model.
pub(super) struct Sequence {
    pub(super) model: Arc<Model>,
    pub(super) cache: KvCache,
    pub(super) state: CanvasState,
    /// Tells this sequence's tensors from those of all others.
    pub(super) id: u64,
    /// Tells the canvas from all others, of any sequence.
    pub(super) canvas_id: u64,
    canvas: Canvas,
    softener: Executor,
}

/// A number that was never given before.
fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Sequence {
    pub(super) fn new(
        model: &Arc<Model>,
        cache: KvCache,
        backends: &Arc<[Backend]>,
    ) -> Result<Self> {
        const NODES: usize = 64;
        let context = Context::new(CanvasState::TENSORS)?;
        let state = CanvasState::new(&context, model.hparams())?;
        let memory = model.placement.output().buffer_type();
        context.allocate(memory, "the state of a canvas", ADVICE)?;
        state.soft.zero()?;
        state.draws.zero()?;
        let mut softener = Executor::new(backends, NODES, "self-conditioning")?;
        let graph = Graph::new(NODES)?;
        graph::soften(&graph, model.hparams(), &model.weights, &state)?;
        softener.load(graph, ADVICE)?;
        Ok(Self {
            model: Arc::clone(model),
            cache,
            state,
            id: new_id(),
            canvas_id: new_id(),
            canvas: Canvas::None,
            softener,
        })
    }

    /// Memory of intermediate results, in bytes.
    pub(super) fn compute_bytes(&self) -> usize {
        self.softener.compute_bytes()
    }

    /// Says that tokens are about to be encoded or forgotten: the canvas stood behind others.
    pub(super) fn drop_canvas(&mut self) {
        self.canvas = Canvas::None;
    }

    pub(super) fn begin_canvas(&mut self) -> Result<()> {
        let (prompt, context) = (self.cache.tokens().len(), self.cache.context());
        let canvas = self.model.hparams().canvas_length;
        self.canvas = Canvas::None;
        if prompt + canvas > context {
            return Err(Error::ContextFull {
                prompt,
                canvas,
                context,
            });
        }
        self.cache.scratch(canvas);
        self.state.soft.zero()?;
        self.canvas_id = new_id();
        self.canvas = Canvas::Begun;
        Ok(())
    }

    pub(super) fn check_tokens(&self, tokens: &[Token]) -> Result<()> {
        let vocab = self.model.hparams().vocab_size;
        let unknown = |t: &&Token| usize::try_from(**t).map_or(true, |t| t >= vocab);
        match tokens.iter().find(unknown) {
            Some(token) => Err(Error::parameter(
                "token",
                format!("{token} is not in the vocabulary of {vocab} tokens"),
            )),
            None => Ok(()),
        }
    }

    /// Refuses a step without a canvas, or with values that do not fit it.
    pub(super) fn check_step(&self, input: &StepInput<'_>, output: &StepOutput<'_>) -> Result<()> {
        self.check_tokens(input.canvas)?;
        let n = self.model.hparams().canvas_length;
        let lengths = [
            input.canvas.len(),
            input.uniforms.len(),
            output.argmax.len(),
            output.sampled.len(),
            output.entropy.len(),
        ];
        if lengths != [n; 5] {
            return Err(Error::parameter(
                "canvas",
                format!("it and all that belongs to it must have {n} entries"),
            ));
        }
        if self.canvas == Canvas::None {
            return Err(Error::parameter(
                "canvas",
                "begin_canvas was not called behind the cached tokens",
            ));
        }
        Ok(())
    }

    /// Readies the state for a step that was [checked](Self::check_step). Until
    /// [`end_step`](Self::end_step) there is no canvas: a step that fails leaves none.
    pub(super) fn begin_step(&mut self, input: &StepInput<'_>) -> Result<()> {
        let canvas = std::mem::replace(&mut self.canvas, Canvas::None);
        if canvas == Canvas::Stepped {
            self.softener.compute()?;
        }
        self.state.uniforms.write(0, input.uniforms)?;
        let cap = self.model.hparams().logit_softcap;
        self.state.scalars.write(0, &[input.temperature, cap])
    }

    /// Reads what the step drew.
    pub(super) fn end_step(&mut self, output: &mut StepOutput<'_>) -> Result<()> {
        let (hparams, draws) = (self.model.hparams(), &self.state.draws);
        let plane = |plane| CanvasState::plane(hparams, plane);
        draws.read(plane(DrawPlane::Entropy), output.entropy)?;
        let mut numbers = vec![0.0_f32; hparams.canvas_length];
        for (of, tokens) in [
            (DrawPlane::Argmax, &mut *output.argmax),
            (DrawPlane::Sampled, &mut *output.sampled),
        ] {
            draws.read(plane(of), &mut numbers)?;
            for (token, number) in tokens.iter_mut().zip(&numbers) {
                *token = *number as Token;
            }
        }
        self.canvas = Canvas::Stepped;
        Ok(())
    }
}
