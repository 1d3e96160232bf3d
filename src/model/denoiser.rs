//! Runs the graphs of one sequence: prefill, denoising steps, commits.

use std::sync::Arc;

use super::Model;
use super::graph::{self, CanvasState, DrawPlane, Network, NodeChoice, PassInputs};
use super::hparams::LayerKind;
use super::kv_cache::{KvCache, KvType, SLOT_UNIT};
use crate::Token;
use crate::diffusion::{Denoiser, StepInput, StepOutput};
use crate::error::{Error, Result};
use crate::ggml::backend::Backend;
use crate::ggml::compute::{Executor, Graph};
use crate::ggml::convert::to_f32;
use crate::ggml::tensor::{Context, Tensor, transferred_bytes};
use crate::ggml::types::TensorType;

/// Whether attention runs as one fused operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlashAttention {
    /// Where the devices of the layers have it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How a sequence is run.
#[derive(Clone, Debug)]
pub struct DenoiserParams {
    /// Positions of the KV cache: prompt, finished canvases and the canvas at work.
    pub context: usize,
    /// Most tokens that one pass of the prefill takes.
    pub batch: usize,
    /// Threads of the CPU.
    pub threads: usize,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
}

/// What a [`SequenceDenoiser`] did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Graphs built and allocated.
    pub graphs_built: usize,
    /// Denoising steps computed.
    pub steps: usize,
    /// Tokens encoded, prompt and canvases.
    pub tokens_encoded: usize,
    /// Bytes that went between host and device during denoising steps.
    pub step_bytes: usize,
}

/// The shape of a pass: while it stays, the allocated graph is used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PassShape {
    tokens: usize,
    full_keys: usize,
    sliding_keys: usize,
    logits: bool,
}

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

/// An allocated graph with its inputs.
struct Pass {
    shape: PassShape,
    inputs: PassInputs,
    logits: Option<Tensor>,
}

/// One sequence on the devices of its model: the KV cache, the state of a canvas, and the graphs.
pub struct SequenceDenoiser {
    model: Arc<Model>,
    cache: KvCache,
    state: CanvasState,
    choice: NodeChoice,
    key_unit: usize,
    batch: usize,
    encoder: Executor,
    encode_pass: Option<Pass>,
    decoder: Executor,
    decode_pass: Option<Pass>,
    softener: Executor,
    canvas: Canvas,
    counters: Counters,
}

const ADVICE: &str =
    "lower the context size (-c) or the batch (-b), or put fewer layers on this device (-ngl)";

impl SequenceDenoiser {
    /// Reserves the memory of a sequence.
    ///
    /// # Errors
    /// Parameters that cannot work, or memory that is not there.
    pub fn new(model: &Arc<Model>, params: &DenoiserParams) -> Result<Self> {
        let (hparams, placement) = (model.hparams(), &model.placement);
        let canvas = hparams.canvas_length;
        if params.context < canvas + 1 {
            return Err(Error::parameter(
                "context size (-c)",
                format!(
                    "{} does not hold one prompt token and a canvas of {canvas}",
                    params.context
                ),
            ));
        }
        if params.context > MAX_CONTEXT {
            return Err(Error::parameter(
                "context size (-c)",
                format!(
                    "{} is more than the {MAX_CONTEXT} positions that ggml can count",
                    params.context
                ),
            ));
        }
        if params.threads == 0 || params.threads > MAX_THREADS {
            return Err(Error::parameter(
                "threads (-t)",
                format!("use 1 to {MAX_THREADS}"),
            ));
        }
        if params.batch == 0 {
            return Err(Error::parameter("batch size (-b)", "use at least 1"));
        }
        let batch = params.batch.min(params.context);
        let pass = canvas.max(batch);
        let cache = KvCache::new(hparams, placement, params.context, pass, params.kv_type)?;

        let devices = placement.devices();
        let backends: Result<Vec<Backend>> =
            devices.iter().map(|d| d.backend(params.threads)).collect();
        let backends: Arc<[Backend]> = backends?.into();

        let context = Context::new(CanvasState::TENSORS)?;
        let state = CanvasState::new(&context, hparams)?;
        context.allocate(
            placement.output().buffer_type(),
            "the state of a canvas",
            ADVICE,
        )?;
        state.soft.zero()?;
        state.draws.zero()?;

        let cpu_only = placement.is_cpu_only();
        let flash = match params.flash_attention {
            FlashAttention::Off => false,
            FlashAttention::On => true,
            FlashAttention::Auto => supports_flash(model, params.kv_type)?,
        };
        if !flash && params.kv_type == KvType::Q8_0 {
            return Err(Error::parameter(
                "KV cache type",
                "q8_0 needs flash attention: use -fa on, or -ctk f16 -ctv f16",
            ));
        }
        let capacity = graph::capacity(hparams);
        let mut this = Self {
            cache,
            state,
            choice: NodeChoice {
                flash,
                cpu_kernels: cpu_only && model.cpu_kernels,
            },
            // CPU kernels take any number of keys; CUDA's want multiples of this.
            key_unit: if cpu_only { 32 } else { SLOT_UNIT },
            batch,
            encoder: Executor::new(&backends, capacity, "encoder")?,
            encode_pass: None,
            decoder: Executor::new(&backends, capacity, "denoising")?,
            decode_pass: None,
            softener: Executor::new(&backends, 64, "self-conditioning")?,
            canvas: Canvas::None,
            counters: Counters::default(),
            model: Arc::clone(model),
        };
        let softener = Graph::new(64)?;
        graph::soften(
            &softener,
            this.model.hparams(),
            &this.model.weights,
            &this.state,
        )?;
        this.softener.load(softener, ADVICE)?;
        this.counters.graphs_built += 1;
        Ok(this)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Tokens whose keys and values are cached.
    pub fn cached(&self) -> &[Token] {
        self.cache.tokens()
    }

    /// Bytes of KV cache, and of intermediate results.
    pub fn memory(&self) -> (usize, usize) {
        let compute = self.encoder.compute_bytes()
            + self.decoder.compute_bytes()
            + self.softener.compute_bytes();
        (self.cache.bytes(), compute)
    }

    /// Keeps the first `count` cached tokens, or none if the sliding layers no longer hold what
    /// is needed before that position. Returns how many are kept.
    pub fn truncate(&mut self, count: usize) -> usize {
        self.canvas = Canvas::None;
        self.cache.truncate(count)
    }

    /// Most tokens that one pass of the prefill takes.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Appends tokens to the cache: causal, in passes of at most the batch size.
    ///
    /// # Errors
    /// The context is full, a token is not in the vocabulary, or the device fails.
    pub fn encode(&mut self, tokens: &[Token]) -> Result<()> {
        self.encode_passes(tokens, false)?;
        Ok(())
    }

    /// Like [`encode`](Self::encode), and returns the next-token logits behind the last token,
    /// soft-capped, `vocab` of them. Generation does not use them; they tell how the encoder, an
    /// ordinary causal language model, would continue.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and without a token there are no logits.
    pub fn encode_with_logits(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::parameter(
                "prompt",
                "it is empty: give at least one token",
            ));
        }
        let raw = self.encode_passes(tokens, true)?;
        Ok(self.soft_cap(raw))
    }

    /// Soft-capped logits `[canvas, vocab]` of the latest denoising step, before the temperature.
    ///
    /// # Errors
    /// No step was computed yet.
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = self
            .decode_pass
            .as_ref()
            .and_then(|pass| pass.logits.as_ref());
        let logits = logits
            .ok_or_else(|| Error::parameter("logits", "no denoising step was computed yet"))?;
        let hparams = self.model.hparams();
        let mut raw = vec![0.0; hparams.vocab_size * hparams.canvas_length];
        logits.read(0, &mut raw)?;
        Ok(self.soft_cap(raw))
    }

    /// Keys and values of a layer at cached positions `first ..`, each `[positions, kv_heads,
    /// head_dim]`: for comparison with a reference.
    ///
    /// # Errors
    /// There is no such layer, or its slots no longer hold the first position.
    pub fn keys_values(&self, layer: usize, first: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let hp = self.model.hparams().layers.get(layer).ok_or_else(|| {
            let n = self.model.hparams().layers.len();
            Error::parameter("layer", format!("{layer} is not one of the {n} layers"))
        })?;
        let layout = self.cache.layout(hp.kind);
        if first < self.cache.overwritten_below(layout) {
            return Err(Error::parameter(
                "first position",
                format!("{first} is no longer cached in layer {layer}"),
            ));
        }
        let width = hp.n_kv_heads * hp.head_dim;
        let cached = &self.cache.layers[layer];
        let read = |tensor: &Tensor| -> Result<Vec<f32>> {
            let mut values = Vec::new();
            for position in first..self.cache.tokens().len() {
                let mut row = vec![0_u8; tensor.nb()[1]];
                tensor.read(layout.slot(position) * row.len(), &mut row)?;
                let mut numbers = vec![0.0; width];
                to_f32(self.cache.ty().tensor_type(), &row, &mut numbers)?;
                values.extend(numbers);
            }
            Ok(values)
        };
        Ok((read(&cached.k)?, read(&cached.v)?))
    }

    fn soft_cap(&self, mut logits: Vec<f32>) -> Vec<f32> {
        let cap = self.model.hparams().logit_softcap;
        logits.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
        logits
    }

    fn check_tokens(&self, tokens: &[Token]) -> Result<()> {
        let vocab = self.model.hparams().vocab_size;
        match tokens
            .iter()
            .find(|t| usize::try_from(**t).map_or(true, |t| t >= vocab))
        {
            Some(token) => Err(Error::parameter(
                "token",
                format!("{token} is not in the vocabulary of {vocab} tokens"),
            )),
            None => Ok(()),
        }
    }

    /// Returns the raw logits of the last token if asked for.
    fn encode_passes(&mut self, tokens: &[Token], logits: bool) -> Result<Vec<f32>> {
        self.check_tokens(tokens)?;
        let end = self.cache.tokens().len() + tokens.len();
        if end > self.cache.context() {
            return Err(Error::ContextFull {
                prompt: end,
                canvas: self.model.hparams().canvas_length,
                context: self.cache.context(),
            });
        }
        self.canvas = Canvas::None;
        let mut raw = Vec::new();
        let passes = tokens.len().div_ceil(self.batch);
        for (i, chunk) in tokens.chunks(self.batch).enumerate() {
            let want = logits && i + 1 == passes;
            let start = self.cache.tokens().len();
            let shape = self.shape(start, chunk.len(), want);
            if self
                .encode_pass
                .as_ref()
                .is_none_or(|pass| pass.shape != shape)
            {
                self.encode_pass = None;
                self.encode_pass = Some(self.build(shape, Kind::Encode)?);
            }
            let Some(pass) = &self.encode_pass else {
                return Err(Error::Ggml("the encoder graph was not built".into()));
            };
            let full =
                self.cache
                    .layout(LayerKind::Full)
                    .causal(start, chunk.len(), shape.full_keys);
            let sliding = self.cache.layout(LayerKind::Sliding).causal(
                start,
                chunk.len(),
                shape.sliding_keys,
            );
            self.upload(pass, start, &full, &sliding)?;
            pass.inputs.tokens.write(0, chunk)?;
            // A pass that fails may have written already.
            self.cache.scratch(chunk.len());
            self.encoder.compute()?;
            if let Some(logits) = &pass.logits {
                raw.resize(self.model.hparams().vocab_size, 0.0);
                logits.read(0, &mut raw)?;
            }
            self.cache.append(chunk);
            self.counters.tokens_encoded += chunk.len();
        }
        Ok(raw)
    }

    fn shape(&self, start: usize, tokens: usize, logits: bool) -> PassShape {
        let keys = |kind| self.cache.layout(kind).used(start + tokens, self.key_unit);
        PassShape {
            tokens,
            full_keys: keys(LayerKind::Full),
            sliding_keys: keys(LayerKind::Sliding),
            logits,
        }
    }

    /// Writes what stays the same during a pass (or all steps of a canvas).
    fn upload(&self, pass: &Pass, start: usize, full: &[u16], sliding: &[u16]) -> Result<()> {
        let range = start..start + pass.shape.tokens;
        let positions: Vec<i32> = range.clone().map(|p| p as i32).collect();
        pass.inputs.positions.write(0, &positions)?;
        for (kind, inputs, mask) in [
            (LayerKind::Full, &pass.inputs.full, full),
            (LayerKind::Sliding, &pass.inputs.sliding, sliding),
        ] {
            let layout = self.cache.layout(kind);
            let rows: Vec<i64> = range.clone().map(|p| layout.slot(p) as i64).collect();
            inputs.rows.write(0, &rows)?;
            inputs.mask.write(0, mask)?;
        }
        Ok(())
    }

    /// Builds and allocates the graph of a pass.
    fn build(&mut self, shape: PassShape, kind: Kind) -> Result<Pass> {
        let context = Context::new(PassInputs::TENSORS)?;
        let inputs = PassInputs::new(&context, shape.tokens, shape.full_keys, shape.sliding_keys)?;
        let memory = self.model.placement.devices()[0].buffer_type();
        context.allocate(memory, "the inputs of a pass", ADVICE)?;
        let graph = Graph::new(graph::capacity(self.model.hparams()))?;
        let network = Network {
            graph: &graph,
            hparams: self.model.hparams(),
            weights: &self.model.weights,
            cache: &self.cache,
            inputs: &inputs,
            choice: self.choice,
        };
        let (logits, executor) = match kind {
            Kind::Encode => (network.encode(shape.logits)?, &mut self.encoder),
            Kind::Denoise => (Some(network.denoise(&self.state)?), &mut self.decoder),
        };
        executor.load(graph, ADVICE)?;
        self.counters.graphs_built += 1;
        Ok(Pass {
            shape,
            inputs,
            logits,
        })
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Encode,
    Denoise,
}

/// Positions are I32 in ggml, and slots come in units.
const MAX_CONTEXT: usize = i32::MAX as usize - SLOT_UNIT;

/// More than any machine has; ggml's limit is 512.
const MAX_THREADS: usize = 512;

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
        if !model.placement.device_of(Some(l), false).supports(&node) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Denoiser for SequenceDenoiser {
    fn canvas_len(&self) -> usize {
        self.model.hparams().canvas_length
    }

    fn prefix_len(&self) -> usize {
        self.cache.tokens().len()
    }

    fn context_len(&self) -> usize {
        self.cache.context()
    }

    fn begin_canvas(&mut self) -> Result<()> {
        let (start, canvas) = (self.prefix_len(), self.canvas_len());
        if start + canvas > self.context_len() {
            return Err(Error::ContextFull {
                prompt: start,
                canvas,
                context: self.context_len(),
            });
        }
        self.canvas = Canvas::None;
        let shape = self.shape(start, canvas, true);
        if self
            .decode_pass
            .as_ref()
            .is_none_or(|pass| pass.shape != shape)
        {
            self.decode_pass = None;
            self.decode_pass = Some(self.build(shape, Kind::Denoise)?);
        }
        let full = self
            .cache
            .layout(LayerKind::Full)
            .canvas(start, canvas, shape.full_keys);
        let sliding =
            self.cache
                .layout(LayerKind::Sliding)
                .canvas(start, canvas, shape.sliding_keys);
        if let Some(pass) = &self.decode_pass {
            self.upload(pass, start, &full, &sliding)?;
        }
        self.cache.scratch(canvas);
        self.state.soft.zero()?;
        self.canvas = Canvas::Begun;
        Ok(())
    }

    fn step(&mut self, input: StepInput<'_>, output: StepOutput<'_>) -> Result<()> {
        self.check_tokens(input.canvas)?;
        let before = transferred_bytes();
        let hparams = self.model.hparams();
        let n = hparams.canvas_length;
        let lengths = [
            input.uniforms.len(),
            output.argmax.len(),
            output.sampled.len(),
            output.entropy.len(),
        ];
        if input.canvas.len() != n || lengths != [n; 4] {
            return Err(Error::parameter(
                "canvas",
                format!("it and all that belongs to it must have {n} entries"),
            ));
        }
        // A step that fails leaves no canvas.
        let canvas = std::mem::replace(&mut self.canvas, Canvas::None);
        let (Some(pass), Canvas::Begun | Canvas::Stepped) = (&self.decode_pass, canvas) else {
            return Err(Error::parameter(
                "canvas",
                "begin_canvas was not called behind the cached tokens",
            ));
        };
        if canvas == Canvas::Stepped {
            self.softener.compute()?;
        }
        pass.inputs.tokens.write(0, input.canvas)?;
        self.state.uniforms.write(0, input.uniforms)?;
        self.state
            .scalars
            .write(0, &[input.temperature, hparams.logit_softcap])?;
        self.decoder.compute()?;
        self.canvas = Canvas::Stepped;

        let draws = &self.state.draws;
        draws.read(
            CanvasState::plane(hparams, DrawPlane::Entropy),
            output.entropy,
        )?;
        let mut numbers = vec![0.0_f32; hparams.canvas_length];
        for (plane, tokens) in [
            (DrawPlane::Argmax, output.argmax),
            (DrawPlane::Sampled, output.sampled),
        ] {
            draws.read(CanvasState::plane(hparams, plane), &mut numbers)?;
            for (token, number) in tokens.iter_mut().zip(&numbers) {
                *token = *number as Token;
            }
        }
        self.counters.steps += 1;
        self.counters.step_bytes += transferred_bytes() - before;
        Ok(())
    }

    fn commit(&mut self, tokens: &[Token]) -> Result<()> {
        self.encode(tokens)
    }
}
