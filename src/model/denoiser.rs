//! Runs one sequence: prefill, denoising steps, commits.

use std::sync::Arc;
use std::time::Instant;

use super::Model;
use super::counters::Counters;
use super::decoder::{Decoder, Share};
use super::graph::{self, Extent, Kernels, Network, NodeChoice, Predicted};
use super::kv_cache::CacheSnapshot;
use super::kv_type::{KvType, SLOT_UNIT};
use super::measure;
use super::memory::{MemoryReport, Usage};
use super::params::{DenoiserParams, FlashAttention};
use super::pass::{ADVICE, Pass, allocate_inputs, keys};
use super::profile::Profile;
use super::score;
use super::sequence::{Sequence, allocate_cache};
use crate::diffusion::{
    Allowed, Denoiser, DrawFeatures, DrawRule, Draws, Filter, Limits, Scorer, StepInput, Token,
    TokenScore, check_canvas_length,
};
use crate::error::{Error, Result};
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Allocation;
use crate::ggml::compute::{Backends, Executor, Graph};
use crate::ggml::context::Context;
use crate::ggml::convert::to_f32;
use crate::ggml::cuda::CudaDraw;
use crate::ggml::device::Device;
use crate::ggml::tensor::Tensor;
use crate::ggml::threads::within_affinity;
use crate::ggml::transfer::transferred;
use crate::gguf::TensorType;
use crate::host_memory::{self, Request};
use crate::parameter::Parameter;

/// The shape of an encoder pass.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EncodeShape {
    extent: Extent,
    predicted: Predicted,
}

/// One sequence on the devices of its model: the KV cache, the state of a canvas, and the graphs.
pub struct SequenceDenoiser {
    sequence: Sequence,
    threads: usize,
    choice: NodeChoice,
    batch: usize,
    encoder: Executor,
    encode_pass: Option<(EncodeShape, Pass)>,
    decoder: Decoder,
    encoder_graphs: usize,
    tokens_encoded: usize,
    /// What the model and this sequence need at the full context.
    whole: Usage,
}

impl SequenceDenoiser {
    /// Reserves the memory of a sequence.
    ///
    /// # Errors
    /// Invalid parameters, or not enough memory.
    pub fn new(model: &Arc<Model>, params: &DenoiserParams) -> Result<Self> {
        params.check(model.hparams())?;
        let usable = within_affinity(params.threads.max(params.prefill_threads));
        let params = &DenoiserParams {
            threads: params.threads.min(usable),
            prefill_threads: params.prefill_threads.min(usable),
            ..params.clone()
        };
        let backends = start_backends(model, params.threads)?;
        let prefill_backends = match params.prefill_threads {
            threads if threads == params.threads => Arc::clone(&backends),
            threads => start_backends(model, threads)?,
        };
        let choice = choose_nodes(model, params)?;
        let needed = measure::sequence(model, params, &backends, choice)?;
        check_host(model, params, &needed)?;
        let reserve = || {
            let cache = allocate_cache(model, params, Allocation::Real)?;
            Sequence::new(model, cache, &backends, choice)
        };
        let mut whole = needed.clone();
        whole.extend(&model.weights.usage);
        Ok(Self {
            encoder: Executor::new(
                &prefill_backends,
                graph::capacity(model.hparams(), 1),
                "encoder",
            )?,
            encode_pass: None,
            decoder: Decoder::new(model, &backends, choice, params.threads, 1)?,
            sequence: reserve().map_err(|error| whole.explain(error))?,
            threads: params.threads,
            choice,
            batch: params.pass(),
            encoder_graphs: 0,
            tokens_encoded: 0,
            whole,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.sequence.model
    }

    /// What was done so far. Steps in a [batch](super::CanvasBatch) are counted by the batch.
    pub fn counters(&self) -> Counters {
        let (sequence, decoder) = (self.sequence.counters(), self.decoder.counters());
        Counters {
            graphs_built: self.encoder_graphs + decoder.graphs_built + sequence.graphs_built,
            tokens_encoded: self.tokens_encoded,
            sparse_mixtures: sequence.sparse_mixtures,
            dropped_mass: sequence.dropped_mass,
            ..decoder
        }
    }

    /// Whether self-conditioning may leave out tokens of negligible probability, which it does on
    /// the CPU where that is faster; on by default. The tokens left out have a total probability of
    /// at most 1e-6, less than the rounding error of the full sum.
    pub fn allow_sparse_self_conditioning(&mut self, allowed: bool) {
        self.sequence.allow_sparse(allowed);
    }

    /// The memory of the KV cache, to see when it is freed.
    #[cfg(test)]
    pub(crate) fn cache_memory(&self) -> std::sync::Weak<crate::ggml::buffer::Buffer> {
        self.sequence.cache.layers[0].k.memory()
    }

    pub(super) fn sequence(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Backends like those of this sequence, for another owner: only one thread at a time uses a
    /// backend.
    pub(super) fn new_backends(&self) -> Result<Arc<Backends>> {
        start_backends(self.model(), self.threads)
    }

    /// Threads of its steps.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    pub(super) fn node_choice(&self) -> NodeChoice {
        self.choice
    }

    /// Tokens whose keys and values are cached.
    pub fn cached(&self) -> &[Token] {
        self.sequence.cache.tokens()
    }

    /// Bytes of the KV cache, and of the intermediate results, inputs and state reserved so far.
    pub fn memory(&self) -> (usize, usize) {
        self.reserved().of_sequences()
    }

    /// What the model and this sequence need in the memory of each device.
    pub fn memory_report(&self) -> MemoryReport {
        MemoryReport::new(&self.whole, &self.reserved())
    }

    fn reserved(&self) -> Usage {
        let mut usage = self.sequence.usage();
        usage.extend(&self.decoder.usage());
        usage.add_graphs(self.encoder.compute_bytes());
        if let Some((_, pass)) = &self.encode_pass {
            usage.extend(&pass.usage);
        }
        usage
    }

    /// How many of the first `count` cached tokens can be kept: see [`truncate`](Self::truncate).
    pub fn usable_prefix(&self, count: usize) -> usize {
        self.sequence.cache.usable_prefix(count)
    }

    /// Keeps the first `count` cached tokens, or, if the sliding layers no longer hold what is
    /// needed before that position, those before the end of an earlier prompt. Returns how many are
    /// kept.
    ///
    /// # Errors
    /// The device fails.
    pub fn truncate(&mut self, count: usize) -> Result<usize> {
        self.sequence.drop_canvas();
        self.sequence.cache.truncate(count)
    }

    /// Records that a prompt ends before position `end`, so that [`truncate`](Self::truncate) can
    /// return to it after the sliding layers have moved on.
    pub fn protect(&mut self, end: usize) {
        self.sequence.cache.protect(end);
    }

    /// Copies what is cached to the host.
    pub(crate) fn snapshot(&self) -> Result<CacheSnapshot> {
        self.sequence.cache.snapshot()
    }

    /// Replaces the cache by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: &CacheSnapshot) -> Result<()> {
        self.sequence.drop_canvas();
        self.sequence.check_tokens(&snapshot.tokens)?;
        self.sequence.cache.restore(snapshot)
    }

    /// Maximum number of tokens in one prefill pass.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Appends tokens to the cache: causal, in passes of at most the batch size.
    ///
    /// # Errors
    /// The context is full, a token is not in the vocabulary, or the device fails.
    pub fn encode(&mut self, tokens: &[Token]) -> Result<()> {
        self.encode_passes(tokens, Predicted::None)
    }

    /// Like [`encode`](Self::encode), and returns the next-token logits after the last token,
    /// soft-capped, `vocab` of them. Generation does not use them; they show how the encoder, an
    /// ordinary causal language model, would continue.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); also an error if there are no tokens.
    pub fn encode_with_logits(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::parameter(
                Parameter::Prompt,
                "it is empty: give at least one token",
            ));
        }
        self.encode_passes(tokens, Predicted::AfterLast)?;
        let hparams = self.model().hparams();
        let mut row = vec![0.0; hparams.vocab_size];
        score::read_capped(self.predicted()?, 0, hparams.logit_softcap, &mut row)?;
        Ok(row)
    }

    /// The raw next-token logits of the latest pass that predicts.
    fn predicted(&self) -> Result<&Tensor> {
        let pass = self.encode_pass.as_ref();
        let logits = pass.and_then(|(_, pass)| pass.logits.as_ref());
        let missing = || Error::parameter(Parameter::Logits, "no token was predicted yet");
        logits.ok_or_else(missing)
    }

    /// Soft-capped logits `[canvas, vocab]` of the latest denoising step, before the temperature.
    ///
    /// # Errors
    /// No step has been computed yet.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = self.decoder.logits().ok_or_else(|| {
            Error::parameter(Parameter::Logits, "no denoising step was computed yet")
        })?;
        let [vocab, positions, ..] = logits.ne();
        let mut raw = vec![0.0; vocab * positions];
        logits.read(0, &mut raw)?;
        Ok(self.soft_cap(raw))
    }

    /// Soft-capped logits of one canvas position in the latest denoising step, `vocab` of them,
    /// before the temperature and whatever the step allowed.
    ///
    /// # Errors
    /// No step has been computed yet, or the canvas has no such position.
    pub fn logits_row(&self, position: usize, row: &mut Vec<f32>) -> Result<()> {
        let missing = || Error::parameter(Parameter::Logits, "no denoising step was computed yet");
        let logits = self.decoder.logits().ok_or_else(missing)?;
        let [vocab, positions, ..] = logits.ne();
        if position >= positions {
            return Err(Error::parameter(
                Parameter::Position,
                format!("{position} is not one of the {positions} of the canvas"),
            ));
        }
        row.resize(vocab, 0.0);
        score::read_capped(logits, position, self.model().hparams().logit_softcap, row)
    }

    /// Measures what `run` computes, by part of the model. This makes it a little slower: whenever
    /// the part of the model changes, the host waits for the devices.
    ///
    /// # Errors
    /// The errors of `run`.
    pub fn profile<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Profile)> {
        for executor in self.executors() {
            executor.start_timing();
        }
        let (start, transfers) = (Instant::now(), transferred());
        let result = run(self);
        let (whole, transfers) = (start.elapsed(), transferred().time - transfers.time);
        let times: Vec<_> = self.executors().map(Executor::end_timing).collect();
        Ok((result?, Profile::new(whole, transfers, &times)))
    }

    fn executors(&mut self) -> impl Iterator<Item = &mut Executor> {
        [&mut self.encoder, self.decoder.executor()]
            .into_iter()
            .chain(self.sequence.softeners())
    }

    /// Keys and values of a layer at cached positions `first ..`, each `[positions, kv_heads,
    /// head_dim]`: for comparison with a reference.
    ///
    /// # Errors
    /// The layer does not exist, or its slots no longer hold the first position.
    pub fn keys_values(&self, layer: usize, first: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let hp = self.model().hparams().layers.get(layer).ok_or_else(|| {
            let n = self.model().hparams().layers.len();
            Error::parameter(
                Parameter::Layer,
                format!("{layer} is not one of the {n} layers"),
            )
        })?;
        let layout = self.sequence.cache.layout(hp.kind);
        if first < self.sequence.cache.overwritten_below(layout) {
            return Err(Error::parameter(
                Parameter::Position,
                format!("{first} is no longer cached in layer {layer}"),
            ));
        }
        let width = hp.n_kv_heads * hp.head_dim;
        let cached = &self.sequence.cache.layers[layer];
        let read = |tensor: &Tensor| -> Result<Vec<f32>> {
            let mut values = Vec::new();
            for position in first..self.sequence.cache.tokens().len() {
                let mut row = vec![0_u8; tensor.nb()[1]];
                tensor.read(layout.slot(position) * row.len(), &mut row)?;
                let mut numbers = vec![0.0; width];
                to_f32(self.sequence.cache.ty().tensor_type(), &row, &mut numbers)?;
                values.extend(numbers);
            }
            Ok(values)
        };
        Ok((read(&cached.k)?, read(&cached.v)?))
    }

    fn soft_cap(&self, mut logits: Vec<f32>) -> Vec<f32> {
        let cap = self.model().hparams().logit_softcap;
        logits.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
        logits
    }

    /// Encodes tokens. What the last pass predicts is what [`predicted`](Self::predicted) returns.
    fn encode_passes(&mut self, tokens: &[Token], predicted: Predicted) -> Result<()> {
        self.sequence.check_tokens(tokens)?;
        let cache = &self.sequence.cache;
        let end = cache.tokens().len() + tokens.len();
        if end > cache.context() {
            return Err(Error::ContextFull {
                prompt: end,
                canvas: self.model().hparams().canvas_length,
                context: cache.context(),
            });
        }
        self.sequence.drop_canvas();
        let passes = tokens.len().div_ceil(self.batch);
        for (i, chunk) in tokens.chunks(self.batch).enumerate() {
            let model = Arc::clone(self.model());
            let shape = EncodeShape {
                extent: Extent {
                    tokens: chunk.len(),
                    keys: keys(&model, self.choice, &self.sequence.cache, chunk.len()),
                },
                predicted: match i + 1 == passes {
                    true => predicted,
                    false => Predicted::None,
                },
            };
            let kept = self.encode_pass.take().filter(|(built, _)| *built == shape);
            let (_, pass) = match kept {
                Some(kept) => self.encode_pass.insert(kept),
                None => {
                    let built = self.build_encoder(&model, shape);
                    let pass = built.map_err(|error| self.whole.explain(error))?;
                    self.encode_pass.insert((shape, pass))
                }
            };
            let cache = &mut self.sequence.cache;
            let start = cache.tokens().len();
            pass.upload_positions(0, cache, chunk.len(), |layout, keys| {
                layout.causal(start, chunk.len(), keys)
            })?;
            pass.inputs.tokens.write(0, chunk)?;
            // A pass that fails may already have written.
            cache.scratch(chunk.len())?;
            self.encoder.compute()?;
            cache.append(chunk);
            self.tokens_encoded += chunk.len();
        }
        Ok(())
    }

    fn build_encoder(&mut self, model: &Model, shape: EncodeShape) -> Result<Pass> {
        let mut usage = Usage::default();
        let inputs = allocate_inputs(model, &[shape.extent], Allocation::Real, &mut usage)?;
        let describe = |graph: &Graph| {
            let network = Network {
                graph,
                hparams: model.hparams(),
                weights: &model.weights,
                caches: &[&self.sequence.cache],
                inputs: &inputs,
                choice: self.choice,
            };
            network.encode(shape.predicted)
        };
        let logits = self.encoder.load(describe, ADVICE)?;
        self.encoder_graphs += 1;
        Ok(Pass {
            inputs,
            logits,
            usage,
        })
    }
}

/// A backend for each device of the model.
pub(super) fn start_backends(model: &Model, threads: usize) -> Result<Arc<Backends>> {
    let devices = model.placement.devices().into_iter();
    let backends: Result<Vec<Backend>> = devices.map(|d| d.backend(threads)).collect();
    let backends = Backends::new(backends?, model.placement.op_offload());
    Ok(Arc::new(backends))
}

/// How the graphs of a sequence are built.
///
/// # Errors
/// Settings that cannot be combined.
pub(super) fn choose_nodes(model: &Model, params: &DenoiserParams) -> Result<NodeChoice> {
    let flash = match params.flash_attention {
        FlashAttention::Off => false,
        FlashAttention::On => true,
        FlashAttention::Auto => supports_flash(model, params.kv_type)?,
    };
    if !flash && params.kv_type == KvType::Q8_0 {
        return Err(Error::parameter(
            Parameter::KvType,
            "q8_0 needs flash attention: set `flash_attention` to on, or use f16",
        ));
    }
    Ok(NodeChoice {
        flash,
        kernels: own_kernels(model),
        own_experts: own_experts(model)?,
    })
}

/// See [`NodeChoice::own_experts`].
fn own_experts(model: &Model) -> Result<usize> {
    /// In a larger pass a GPU computes the experts, for which they are copied to it: as long as its bus
    /// takes for that, the CPU computes them for about this number of tokens.
    const WITHOUT_COPY: usize = 512;
    if !model.own_kernels {
        return Ok(0);
    }
    if !model.placement.may_offload() {
        return Ok(usize::MAX);
    }
    let ctx = Context::new(8)?;
    let tokens = WITHOUT_COPY + 1;
    let experts = ctx.tensor(TensorType::F16, &[32, 32, 2], "experts")?;
    let input = ctx.tensor(TensorType::F32, &[32, 1, tokens], "input")?;
    let chosen = ctx.tensor(TensorType::I32, &[1, tokens], "chosen")?;
    let product = ctx.mul_mat_id(&experts, &input, &chosen)?;
    let is_offloaded = |device: &Device| product.is_offloaded_to(*device);
    Ok(if model.placement.devices().iter().any(is_offloaded) {
        WITHOUT_COPY
    } else {
        usize::MAX
    })
}

/// Rejects a context that the host can never hold.
fn check_host(model: &Model, params: &DenoiserParams, needed: &Usage) -> Result<()> {
    let cpu = model.placement.cpu();
    host_memory::check(&Request {
        what: &format!("a session of {} positions", params.context),
        bytes: needed.of(cpu).allocated(),
        held: model.weights.usage.of(cpu).allocated(),
        advice: "lower `context`, or choose a smaller type with `kv_type`",
    })
}

/// Which of our kernels can run where the model's weights are.
fn own_kernels(model: &Model) -> Kernels {
    let placement = &model.placement;
    let head = placement.output();
    if !model.own_kernels {
        Kernels::Ggml
    } else if placement.is_cpu_only() {
        Kernels::Cpu
    } else if CudaDraw::of(head).is_some()
        // Logits are on the device of the head's weights.
        && model.weights.output.buffer_type() == Some(head.buffer_type())
    {
        Kernels::CudaDraw
    } else {
        Kernels::Ggml
    }
}

/// Whether every layer's device has fused attention for its heads.
fn supports_flash(model: &Model, kv_type: KvType) -> Result<bool> {
    let hparams = model.hparams();
    for (l, layer) in hparams.layers.iter().enumerate() {
        let context = Context::new(16)?;
        let (canvas, ty) = (hparams.canvas_length, kv_type.tensor_type());
        let width = layer.n_kv_heads * layer.head_dim;
        let q = context.tensor(
            TensorType::F32,
            &[layer.head_dim, hparams.n_heads, canvas],
            "q",
        )?;
        let cache = context.tensor(ty, &[width, SLOT_UNIT], "cache")?;
        let row = cache.nb()[1];
        let shape = [layer.head_dim, SLOT_UNIT, layer.n_kv_heads];
        let kv = context.view(&cache, shape, [row, row / layer.n_kv_heads], 0)?;
        let mask = context.tensor(TensorType::F16, &[SLOT_UNIT, canvas], "mask")?;
        let node = context.flash_attention(&context.swap_middle(&q)?, &kv, &kv, &mask, 1.0)?;
        if !node.runs_on(model.placement.device_of(Some(l), false)) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Denoiser for SequenceDenoiser {
    fn limits(&self) -> Limits {
        let hparams = self.model().hparams();
        Limits {
            canvas: Some(hparams.canvas_length),
            context: self.sequence.cache.context(),
            vocab: hparams.vocab_size,
            pass: self.batch,
            mask: None,
            draws: DrawFeatures {
                fixed_positions: true,
                allowed_sets: true,
                averages: true,
                languages: true,
                scores: true,
                ..DrawFeatures::default()
            },
        }
    }

    fn prefix_len(&self) -> usize {
        self.sequence.cache.tokens().len()
    }

    fn prefill(&mut self, tokens: &[Token]) -> Result<()> {
        self.encode(tokens)
    }

    fn begin_canvas(&mut self, len: usize) -> Result<()> {
        self.begin_canvases(len, 1)
    }

    /// Together they have at most as many tokens as a canvas of the trained length.
    fn begin_canvases(&mut self, len: usize, count: usize) -> Result<()> {
        let trained = self.model().hparams().canvas_length;
        check_canvas_length(len, trained)?;
        if count == 0 || len * count > trained {
            return Err(Error::parameter(
                Parameter::Canvas,
                format!("{count} of {len} tokens: together they have 1 to {trained}"),
            ));
        }
        self.sequence.begin_canvases(len, count)
    }

    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        let members = &mut [Share {
            sequence: &mut self.sequence,
            input: *input,
            draws,
        }];
        let stepped = self.decoder.step(members);
        stepped.map_err(|error| self.whole.explain(error))
    }

    fn score(&mut self, canvas: &[Token], top: usize) -> Result<Vec<TokenScore>> {
        self.begin_canvas(canvas.len())?;
        let len = canvas.len();
        let input = StepInput {
            canvas,
            free: &vec![true; len],
            allowed: Allowed::All,
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature: 1.0,
                uniforms: &vec![0.0; len],
            },
            guidance: 0.0,
            average: 0.0,
            language: None,
            targets: &[],
        };
        self.step(&input, &mut Draws::new(len, 0))?;
        let missing = || Error::parameter(Parameter::Logits, "no denoising step was computed yet");
        let logits = self.decoder.logits().ok_or_else(missing)?;
        score::of_canvas(logits, self.model().hparams(), (canvas, top), self.threads)
    }

    fn score_by_encoder(&mut self, canvas: &[Token], top: usize) -> Result<Vec<TokenScore>> {
        check_canvas_length(canvas.len(), self.model().hparams().canvas_length)?;
        let prefix = self.cached().to_vec();
        let Some((last, before)) = prefix.split_last() else {
            let problem = "it is empty: the first token of a canvas follows one";
            return Err(Error::parameter(Parameter::Prompt, problem));
        };
        let protected = self.sequence.cache.protected();
        // The last token of the prefix predicts the first one of the canvas.
        self.keep_and_encode(before)?;
        let read = [&[*last], &canvas[..canvas.len() - 1]].concat();
        self.encode_passes(&read, Predicted::AfterEach)?;
        let (hparams, threads) = (self.model().hparams(), self.threads);
        let mut scores = score::of_canvas(self.predicted()?, hparams, (canvas, top), threads)?;
        scores
            .iter_mut()
            .for_each(|score| score.by = Scorer::Encoder);
        self.keep_and_encode(&prefix)?;
        if let Some(end) = protected {
            self.protect(end);
        }
        Ok(scores)
    }
}

impl SequenceDenoiser {
    /// Keeps what is cached of `tokens`, which begin like what is cached, drops all else, and encodes the rest.
    fn keep_and_encode(&mut self, tokens: &[Token]) -> Result<()> {
        let kept = self.truncate(tokens.len())?;
        self.encode(&tokens[kept..])
    }
}
