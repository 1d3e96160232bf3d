//! How a model is loaded, where its parts lie, and how its sequences run.

use regex::Regex;

use super::hparams::Hparams;
use super::kv_type::{KvType, SLOT_UNIT};
use crate::error::{Error, Result};
use crate::gguf::MetadataOverride;
use crate::parallel::check_threads;

/// Keeps the tensors whose names match a pattern in a given kind of memory.
#[derive(Clone, Debug)]
pub struct TensorOverride {
    /// Regular expression over tensor names, found anywhere in the name.
    pub pattern: Regex,
    /// Name of the memory, such as `CPU` or `CUDA0`.
    pub memory: String,
}

/// What is kept free on GPUs where it is decided how much of a model they hold.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    /// The session that the memory must do for, besides the weights.
    pub session: SessionParams,
    /// Bytes that stay free on each GPU, in the order of the devices; one value is for all of them.
    /// Without any it is 1 GiB, and an eighth of the memory of smaller devices.
    pub target: Vec<usize>,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct ModelParams {
    /// Layers on GPUs, counted from the last one; the output head counts as one. `None` is as many as
    /// fit, see [`fit`](Self::fit).
    pub gpu_layers: Option<usize>,
    /// Where [`gpu_layers`](Self::gpu_layers) is left open: what the memory of the GPUs must do for.
    /// What does not fit stays with the host: experts first, then whole layers. Nothing is moved
    /// where [`split`](Self::split) is given, and no experts where
    /// [`cpu_moe_layers`](Self::cpu_moe_layers) is. `None` puts all layers on GPUs without a look at
    /// their memory.
    pub fit: Option<Fit>,
    /// Devices to use, by name; `None` is every GPU of [`Device::default_gpus`], an empty list is
    /// none.
    ///
    /// [`Device::default_gpus`]: crate::Device::default_gpus
    pub devices: Option<Vec<String>>,
    /// Shares of the layers for each GPU; empty shares by free memory.
    pub split: Vec<f32>,
    /// Keep the experts of this many layers, from the first on, in host memory.
    pub cpu_moe_layers: usize,
    /// Memory of single tensors; the first match counts.
    pub overrides: Vec<TensorOverride>,
    /// Keep the KV cache in host memory.
    pub kv_on_host: bool,
    /// Copy the weights instead of using the mapped file (`--no-mmap`).
    pub no_mmap: bool,
    /// Keep the weights in host memory from being swapped out (`--mlock`). Where the system does not
    /// allow it, there is a warning in the log.
    pub lock: bool,
    /// Refuse weights that are not finite (`--check-tensors`): all of the file is read.
    pub check_tensors: bool,
    /// Metadata to use instead of the file's (`--override-kv`).
    pub metadata: Vec<MetadataOverride>,
}

impl Default for ModelParams {
    fn default() -> Self {
        Self {
            gpu_layers: None,
            fit: Some(Fit::default()),
            devices: None,
            split: Vec::new(),
            cpu_moe_layers: 0,
            overrides: Vec::new(),
            kv_on_host: false,
            no_mmap: false,
            lock: false,
            check_tensors: false,
            metadata: Vec::new(),
        }
    }
}

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
    /// Threads of the CPU for denoising steps.
    pub threads: usize,
    /// Threads of the CPU for passes of the prefill.
    pub prefill_threads: usize,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Keep the keys and values of all positions on sliding layers too, not only those of the window
    /// and a pass: more memory and longer steps, but a conversation can go back to any earlier point
    /// without being read again.
    pub swa_full: bool,
    /// Maximum number of prompts to whose end a conversation can go back after sliding layers have
    /// moved on: each takes the window of those layers on the host.
    pub checkpoints: usize,
}

/// Positions are I32 in ggml, and slots come in units.
const MAX_CONTEXT: usize = i32::MAX as usize - SLOT_UNIT;

impl DenoiserParams {
    /// Tokens that a pass of the prefill really takes at most.
    pub(super) fn pass(&self) -> usize {
        self.batch.min(self.context)
    }

    /// Refuses what cannot work with a model.
    pub(super) fn check(&self, hparams: &Hparams) -> Result<()> {
        let canvas = hparams.canvas_length;
        if self.context < canvas + 1 {
            return Err(Error::parameter(
                "context size (-c)",
                format!(
                    "{} does not hold one prompt token and a canvas of {canvas}",
                    self.context
                ),
            ));
        }
        if self.context > MAX_CONTEXT {
            return Err(Error::parameter(
                "context size (-c)",
                format!(
                    "{} is more than the {MAX_CONTEXT} positions that ggml can count",
                    self.context
                ),
            ));
        }
        check_threads(self.threads, "threads (-t)")?;
        check_threads(self.prefill_threads, "threads of the prefill (-tb)")?;
        if self.batch == 0 {
            return Err(Error::parameter("batch size (-b)", "use at least 1"));
        }
        let block = self.kv_type.tensor_type().block_len();
        let mut head_dims = hparams.layers.iter().map(|layer| layer.head_dim);
        if let Some(l) = head_dims.position(|head_dim| !head_dim.is_multiple_of(block)) {
            return Err(Error::parameter(
                "KV cache type (-ctk, -ctv)",
                format!(
                    "q8_0 needs heads of a multiple of 32, layer {l} has {}: use f16",
                    hparams.layers[l].head_dim
                ),
            ));
        }
        Ok(())
    }
}

/// How a session runs. The default suits the model.
#[derive(Clone, Debug, Default)]
pub struct SessionParams {
    /// Positions of the KV cache for prompt and answer; 0 is what the model was trained for, `None`
    /// the same, but at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Most tokens that one pass over a prompt takes; `None` is a canvas, at least 256.
    pub batch: Option<usize>,
    /// Threads of the CPU; `None` is one for each core, and fewer for a model so small that waiting
    /// for each other would cost more than the work they share.
    pub threads: Option<usize>,
    /// The same for passes over a prompt; `None` is [`threads`](Self::threads).
    pub prefill_threads: Option<usize>,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Keep the keys and values of all positions on sliding layers too, not only those of the window
    /// and a pass: more memory and longer steps, but a conversation can go back to any earlier point
    /// without being read again.
    pub swa_full: bool,
    /// Maximum number of prompts to whose end a conversation can go back after sliding layers have
    /// moved on: each takes the window of those layers on the host. `None` is
    /// [`DEFAULT_CHECKPOINTS`].
    pub checkpoints: Option<usize>,
}

/// Checkpoints of a session unless the caller says otherwise.
pub const DEFAULT_CHECKPOINTS: usize = 3;

/// Positions of the KV cache unless the caller says more.
pub const DEFAULT_CONTEXT: usize = 8192;

impl SessionParams {
    /// How the sequence of a session on a model runs. `threads` are those of the CPU where they are
    /// left open.
    pub(crate) fn resolve(&self, hparams: &Hparams, threads: usize) -> DenoiserParams {
        let trained = hparams.context_length;
        let threads = self.threads.unwrap_or(threads);
        DenoiserParams {
            context: match self.context {
                Some(0) => trained,
                Some(context) => context,
                None => trained.min(DEFAULT_CONTEXT),
            },
            batch: self.batch.unwrap_or(hparams.canvas_length.max(256)),
            threads,
            prefill_threads: self.prefill_threads.unwrap_or(threads),
            kv_type: self.kv_type,
            flash_attention: self.flash_attention,
            swa_full: self.swa_full,
            checkpoints: self.checkpoints.unwrap_or(DEFAULT_CHECKPOINTS),
        }
    }
}
