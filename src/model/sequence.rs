//! One sequence: the KV cache of its prefix, and the canvas that is denoised after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::graph::{self, CanvasState, DrawPlane, Kernels, Mixture, NodeChoice};
use super::kv_cache::KvCache;
use super::memory::{Purpose, Usage};
use super::params::DenoiserParams;
use super::pass::ADVICE;
use super::restrict::{ComputedStep, Restriction};
use super::score;
use super::{Model, check_tokens};
use crate::diffusion::{Allowed, DrawRule, Draws, Filter, StepInput, Token};
use crate::error::{Error, Result};
use crate::ggml::buffer::Allocation;
use crate::ggml::compute::{Backends, Executor, Graph};
use crate::ggml::context::Context;
use crate::ggml::kernels::DRAW_PLANES;
use crate::ggml::tensor::Tensor;
use crate::parameter::Parameter;

/// The state of the canvas after the cached tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Canvas {
    /// There is none: its inputs belong to another prefix.
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
    /// Of the latest canvas.
    pub(super) state: CanvasState,
    /// The memory of `state`, for a canvas of the trained length.
    trained: CanvasState,
    /// Distinguishes this sequence's tensors from those of all others.
    pub(super) id: u64,
    /// Distinguishes the canvas from all others, of any sequence.
    pub(super) canvas_id: u64,
    canvas: Canvas,
    /// Tokens of each of the canvases that `state` holds, one after the other.
    pub(super) canvas_len: usize,
    dense_softener: Executor,
    /// Where our CPU kernels run.
    sparse_softener: Option<Executor>,
    /// Positions of the canvas that the softeners are loaded for; 0 is none.
    softened: usize,
    sparse_allowed: bool,
    /// Whether the mixture of the latest draws is cheaper as a sparse one, and the maximum
    /// probability that it drops then.
    peaked: bool,
    dropped: f32,
    restriction: Restriction,
    counters: SequenceCounters,
    /// The memory of the cache and the canvas.
    usage: Usage,
}

/// What self-conditioning has done so far.
#[derive(Clone, Copy, Default)]
pub(super) struct SequenceCounters {
    pub(super) graphs_built: usize,
    pub(super) sparse_mixtures: usize,
    pub(super) dropped_mass: f32,
}

/// Rows that a dense mixture multiplies in the time in which a sparse one adds a row: 115 was
/// measured with 65,536 rows of 768 elements in F16.
const SPARSE_ROW_COST: usize = 128;

/// Room for the nodes of the graph of a mixture.
pub(super) const SOFTENER_NODES: usize = 64;

/// Which mixtures sequences have graphs for.
pub(super) fn mixtures(kernels: Kernels) -> &'static [Mixture] {
    match kernels {
        Kernels::Cpu => &[Mixture::Dense, Mixture::Sparse],
        Kernels::Ggml | Kernels::CudaDraw => &[Mixture::Dense],
    }
}

/// Allocates the keys and values of a sequence.
pub(super) fn allocate_cache(
    model: &Model,
    params: &DenoiserParams,
    allocation: Allocation,
) -> Result<KvCache> {
    let hparams = model.hparams();
    // With room for a pass over the whole context the ring never wraps.
    let pass = match params.swa_full {
        true => params.context,
        false => hparams.canvas_length.max(params.pass()),
    };
    let (context, ty) = (params.context, params.kv_type);
    let mut cache = KvCache::new(hparams, &model.placement, context, pass, ty, allocation)?;
    cache.keep_checkpoints(params.checkpoints);
    Ok(cache)
}

/// Allocates what a canvas keeps between steps; `usage` counts it.
pub(super) fn allocate_state(
    model: &Model,
    allocation: Allocation,
    usage: &mut Usage,
) -> Result<CanvasState> {
    let context = Context::new(CanvasState::TENSORS)?;
    let state = CanvasState::new(&context, model.hparams())?;
    let memory = model.placement.output().buffer_type();
    let buffer = context.place(allocation, memory, "the state of a canvas", ADVICE)?;
    usage.add(memory, Purpose::Compute, buffer.size());
    Ok(state)
}

/// A number that was never returned before.
fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Sequence {
    pub(super) fn new(
        model: &Arc<Model>,
        cache: KvCache,
        backends: &Arc<Backends>,
        choice: NodeChoice,
    ) -> Result<Self> {
        let mut usage = cache.usage().clone();
        let state = allocate_state(model, Allocation::Real, &mut usage)?;
        state.soft.zero()?;
        state.draws.zero()?;
        let softener = || Executor::new(backends, SOFTENER_NODES, "self-conditioning");
        let has_sparse = mixtures(choice.kernels).contains(&Mixture::Sparse);
        let mut sequence = Self {
            model: Arc::clone(model),
            cache,
            trained: state.clone(),
            state,
            id: new_id(),
            canvas_id: new_id(),
            canvas: Canvas::None,
            canvas_len: 0,
            counters: SequenceCounters::default(),
            dense_softener: softener()?,
            sparse_softener: has_sparse.then(softener).transpose()?,
            softened: 0,
            sparse_allowed: true,
            peaked: false,
            dropped: 0.0,
            restriction: Restriction::default(),
            usage,
        };
        sequence.load_softeners()?;
        Ok(sequence)
    }

    /// Builds the graphs of the embedding mixtures for the length of the canvas, unless they are
    /// built.
    fn load_softeners(&mut self) -> Result<()> {
        let (model, state) = (&self.model, &self.state);
        if self.softened == state.len {
            return Ok(());
        }
        self.softened = 0;
        let dense = Some((&mut self.dense_softener, Mixture::Dense));
        let sparse = self.sparse_softener.as_mut().map(|s| (s, Mixture::Sparse));
        for (softener, mixture) in dense.into_iter().chain(sparse) {
            let describe = |graph: &Graph| {
                graph::soften(graph, model.hparams(), &model.weights, state, mixture)
            };
            softener.load(describe, ADVICE)?;
            self.counters.graphs_built += 1;
        }
        self.softened = state.len;
        Ok(())
    }

    /// The executor of the embedding mixtures, to measure its times.
    pub(super) fn softeners(&mut self) -> impl Iterator<Item = &mut Executor> {
        [&mut self.dense_softener]
            .into_iter()
            .chain(&mut self.sparse_softener)
    }

    /// The memory of the cache, the canvas and its graphs.
    pub(super) fn usage(&self) -> Usage {
        let softeners = [&self.dense_softener].into_iter();
        let mut usage = self.usage.clone();
        for softener in softeners.chain(&self.sparse_softener) {
            usage.add_graphs(softener.compute_bytes());
        }
        usage
    }

    pub(super) fn counters(&self) -> SequenceCounters {
        self.counters
    }

    pub(super) fn allow_sparse(&mut self, allowed: bool) {
        self.sparse_allowed = allowed;
    }

    /// Must be called before tokens are encoded or dropped: the canvas belonged to another prefix.
    pub(super) fn drop_canvas(&mut self) {
        self.canvas = Canvas::None;
    }

    /// Begins `count` canvases of `len` tokens after the cached ones, together not more than the trained
    /// length. They do not see each other, and are one canvas otherwise.
    pub(super) fn begin_canvases(&mut self, len: usize, count: usize) -> Result<()> {
        let canvas = len * count;
        let (prompt, context) = (self.cache.tokens().len(), self.cache.context());
        self.canvas = Canvas::None;
        if prompt + canvas > context {
            return Err(Error::ContextFull {
                prompt,
                canvas,
                context,
            });
        }
        self.cache.scratch(canvas)?;
        if self.state.len != canvas {
            self.state = match canvas == self.trained.len {
                true => self.trained.clone(),
                false => {
                    let context = Context::new(CanvasState::TENSORS)?;
                    self.trained.shortened(&context, canvas)?
                }
            };
        }
        self.load_softeners()?;
        self.state.soft.zero()?;
        self.restriction.begin_canvas();
        self.canvas_id = new_id();
        self.canvas_len = len;
        self.canvas = Canvas::Begun;
        Ok(())
    }

    pub(super) fn check_tokens(&self, tokens: &[Token]) -> Result<()> {
        check_tokens(tokens, self.model.hparams().vocab_size)
    }

    /// Rejects a step without a canvas, or with values that do not fit it.
    pub(super) fn check_step(&self, input: &StepInput<'_>, draws: &Draws) -> Result<()> {
        self.check_tokens(input.canvas)?;
        let n = self.state.len;
        let DrawRule::Inverse { uniforms, .. } = input.rule else {
            return Err(unsupported("draws by the inverse CDF alone"));
        };
        if [input.canvas.len(), input.free.len(), uniforms.len()] != [n; 3] {
            return Err(Error::parameter(
                Parameter::Canvas,
                format!("it and all that belongs to it must have {n} entries"),
            ));
        }
        draws.check(n)?;
        if input.filter != Filter::NONE {
            return Err(unsupported("draws without top-k and top-p"));
        }
        if !(0.0..1.0).contains(&input.average) {
            return Err(Error::parameter(
                Parameter::Canvas,
                format!(
                    "the share of earlier steps is {}: use 0 to below 1",
                    input.average
                ),
            ));
        }
        self.check_allowed(input)?;
        self.check_targets(input)?;
        if input.guidance != 0.0 {
            return Err(unsupported("runs without guidance"));
        }
        if self.canvas == Canvas::None {
            return Err(Error::parameter(
                Parameter::Canvas,
                "begin_canvas was not called after the cached tokens",
            ));
        }
        Ok(())
    }

    /// Rejects sets that do not fit the canvas, and positions that are free to hold nothing.
    fn check_allowed(&self, input: &StepInput<'_>) -> Result<()> {
        let vocab = self.model.hparams().vocab_size;
        let problem = match input.allowed {
            Allowed::All => None,
            Allowed::Except(token) => (vocab < 2 && token == 0).then_some("no token is left"),
            Allowed::Sets { sets, of } => {
                let last = of.iter().flatten().max();
                let known = |token: Token| usize::try_from(token).is_ok_and(|t| t < vocab);
                if of.len() != input.canvas.len() || last.is_some_and(|last| *last >= sets.len()) {
                    Some("each position needs one of the sets, or none")
                } else if !sets.iter().all(|set| set.iter().any(known)) {
                    Some("each set needs a token of the vocabulary")
                } else {
                    None
                }
            }
        };
        problem.map_or(Ok(()), |problem| {
            Err(Error::parameter(Parameter::Canvas, problem))
        })
    }

    /// Rejects targets at no position of the canvas, and tokens of no vocabulary.
    fn check_targets(&self, input: &StepInput<'_>) -> Result<()> {
        let (canvas, vocab) = (input.canvas.len(), self.model.hparams().vocab_size);
        let is_known = |token: Token| usize::try_from(token).is_ok_and(|t| t < vocab);
        let mut targets = input.targets.iter();
        match targets.find(|(position, token)| *position >= canvas || !is_known(*token)) {
            Some((position, token)) => Err(Error::parameter(
                Parameter::Canvas,
                format!(
                    "token {token} at position {position} is not one of {vocab} at one of {canvas}"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Prepares the state for a step that was [checked](Self::check_step). Until
    /// [`end_step`](Self::end_step) there is no canvas: a step that fails leaves none.
    pub(super) fn begin_step(&mut self, input: &StepInput<'_>) -> Result<()> {
        let canvas = std::mem::replace(&mut self.canvas, Canvas::None);
        if canvas == Canvas::Stepped {
            self.soften()?;
        }
        if let DrawRule::Inverse {
            temperature,
            uniforms,
        } = input.rule
        {
            self.state.uniforms.write(0, uniforms)?;
            let cap = self.model.hparams().logit_softcap;
            self.state.scalars.write(0, &[temperature, cap])?;
        }
        Ok(())
    }

    /// Turns the distributions of the latest draws into the next step's soft embeddings.
    fn soften(&mut self) -> Result<()> {
        match &mut self.sparse_softener {
            Some(softener) if self.peaked && self.sparse_allowed => {
                self.counters.sparse_mixtures += 1;
                self.counters.dropped_mass = self.counters.dropped_mass.max(self.dropped);
                softener.compute()
            }
            _ => self.dense_softener.compute(),
        }
    }

    /// Reads the draws of the step whose raw logits `[vocab, T]` have those of this canvas from row
    /// `first` on, and restricts them to what the input allows, on `threads` threads.
    pub(super) fn end_step(
        &mut self,
        input: &StepInput<'_>,
        (logits, first): (&Tensor, usize),
        threads: usize,
        output: &mut Draws,
    ) -> Result<()> {
        let hparams = self.model.hparams();
        let n = self.state.len;
        let mut planes = vec![0.0_f32; DRAW_PLANES * n];
        self.state
            .draws
            .read(self.state.plane(DrawPlane::Argmax), &mut planes)?;
        let step = ComputedStep {
            input,
            logits,
            first,
            hparams,
            threads,
        };
        self.restriction
            .apply(&step, &mut self.state, &mut planes)?;
        output.target_logprobs =
            score::of_targets((logits, first), hparams, input.targets, threads)?;
        let plane = |plane: DrawPlane| &planes[plane as usize * n..][..n];
        for (from, values) in [
            (DrawPlane::Entropy, &mut output.entropy),
            (DrawPlane::Probability, &mut output.probability),
            (DrawPlane::Margin, &mut output.margin),
        ] {
            for_free(input.free, values, plane(from), |number| number);
        }
        for (from, tokens) in [
            (DrawPlane::Argmax, &mut output.argmax),
            (DrawPlane::Sampled, &mut output.sampled),
        ] {
            for_free(input.free, tokens, plane(from), |number| number as Token);
        }
        let kept: f32 = plane(DrawPlane::Kept).iter().sum();
        self.peaked = kept as usize * SPARSE_ROW_COST < n * hparams.vocab_size;
        let dropped = plane(DrawPlane::Dropped).iter();
        self.dropped = dropped.copied().fold(0.0, f32::max);
        self.canvas = Canvas::Stepped;
        Ok(())
    }
}

/// Copies what a step drew at the free positions.
fn for_free<T>(free: &[bool], values: &mut [T], plane: &[f32], convert: impl Fn(f32) -> T) {
    for ((value, number), free) in values.iter_mut().zip(plane).zip(free) {
        if *free {
            *value = convert(*number);
        }
    }
}

fn unsupported(what: &str) -> Error {
    Error::parameter(Parameter::Recipe, format!("a canvas model {what}"))
}
