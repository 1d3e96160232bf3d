//! How a model is loaded, where its parts are placed, and how its sequences run.

use regex::Regex;

use super::hparams::Hparams;
use super::kv_type::{KvType, SLOT_UNIT};
use crate::error::{Error, Result};
use crate::gguf::MetadataOverride;
use crate::parallel::check_threads;
use crate::parameter::Parameter;

/// Keeps the tensors whose names match a pattern in a given kind of memory.
#[derive(Clone, Debug)]
pub struct TensorOverride {
    /// Regular expression over tensor names, found anywhere in the name.
    pub pattern: Regex,
    /// Name of the memory, such as `CPU` or `CUDA0`.
    pub memory: String,
}

/// How much memory stays free on GPUs when the placement is chosen automatically.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    /// The session that must fit the memory together with the weights.
    pub session: SessionParams,
    /// Bytes that stay free on each GPU, in the order of the devices; one value applies to all. If
    /// empty: 1 GiB, or an eighth of the memory of smaller devices.
    pub target: Vec<usize>,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct ModelParams {
    /// Layers on GPUs, counted from the last one; the output head counts as one. `None` is as many
    /// as fit, see [`fit`](Self::fit).
    pub gpu_layers: Option<usize>,
    /// What must fit the memory of the GPUs if [`gpu_layers`](Self::gpu_layers) is `None`. What
    /// does not fit stays on the host: experts first, then whole layers. Nothing is moved if
    /// [`split`](Self::split) is given, and no experts if [`cpu_moe_layers`](Self::cpu_moe_layers)
    /// is. `None` puts all layers on GPUs without checking their memory.
    pub fit: Option<Fit>,
    /// Devices to use, by name; `None` is every GPU of [`Device::default_gpus`], an empty list is
    /// no GPU.
    ///
    /// [`Device::default_gpus`]: crate::Device::default_gpus
    pub devices: Option<Vec<String>>,
    /// Shares of the layers for each GPU; if empty, in proportion to free memory.
    pub split: Vec<f32>,
    /// Keep the experts of this many layers, from the first on, in host memory.
    pub cpu_moe_layers: usize,
    /// Memory of single tensors; the first match applies.
    pub overrides: Vec<TensorOverride>,
    /// Keep the KV cache in host memory.
    pub kv_on_host: bool,
    /// Let the CPU compute the products of matrices in host memory. Otherwise the matrices are
    /// copied to a GPU in each pass of at least 32 tokens, and multiplied there.
    pub no_op_offload: bool,
    /// Copy the weights instead of using the mapped file.
    pub no_mmap: bool,
    /// Lock the weights in host memory, so that they are not swapped out. If the system does not
    /// allow it, the log has a warning.
    pub lock: bool,
    /// Reject weights that are not finite: the whole file is read.
    pub check_tensors: bool,
    /// Metadata to use instead of the file's.
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
            no_op_offload: false,
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
    /// If the devices of the layers support it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The parameters of a sequence.
#[derive(Clone, Debug)]
pub struct DenoiserParams {
    /// Positions of the KV cache: prompt, finished canvases and the current canvas.
    pub context: usize,
    /// Maximum number of tokens in one prefill pass.
    pub batch: usize,
    /// Threads of the CPU for denoising steps.
    pub threads: usize,
    /// Threads of the CPU for passes of the prefill.
    pub prefill_threads: usize,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Keep the keys and values of all positions on sliding layers too, not only those of the
    /// window and a pass: this takes more memory and makes steps longer, but a conversation can
    /// return to any earlier point without encoding it again.
    pub swa_full: bool,
    /// Maximum number of prompts to whose end a conversation can return after sliding layers have
    /// moved on: each one keeps the window of those layers on the host.
    pub checkpoints: usize,
}

/// Positions are I32 in ggml, and slots are allocated in units.
const MAX_CONTEXT: usize = i32::MAX as usize - SLOT_UNIT;

impl DenoiserParams {
    /// The effective maximum number of tokens in a prefill pass.
    pub(super) fn pass(&self) -> usize {
        self.batch.min(self.context)
    }

    /// Rejects what a model cannot run.
    pub(super) fn check(&self, hparams: &Hparams) -> Result<()> {
        let canvas = hparams.canvas_length;
        if self.context < canvas + 1 {
            return Err(Error::parameter(
                Parameter::Context,
                format!(
                    "{} does not hold one prompt token and a canvas of {canvas}",
                    self.context
                ),
            ));
        }
        if self.context > MAX_CONTEXT {
            return Err(Error::parameter(
                Parameter::Context,
                format!(
                    "{} is more than the {MAX_CONTEXT} positions that ggml can count",
                    self.context
                ),
            ));
        }
        check_threads(self.threads, Parameter::Threads)?;
        check_threads(self.prefill_threads, Parameter::PrefillThreads)?;
        if self.batch == 0 {
            return Err(Error::parameter(Parameter::Batch, "use at least 1"));
        }
        let block = self.kv_type.tensor_type().block_len();
        let mut head_dims = hparams.layers.iter().map(|layer| layer.head_dim);
        if let Some(l) = head_dims.position(|head_dim| !head_dim.is_multiple_of(block)) {
            return Err(Error::parameter(
                Parameter::KvType,
                format!(
                    "q8_0 needs heads of a multiple of 32, layer {l} has {}: use f16",
                    hparams.layers[l].head_dim
                ),
            ));
        }
        Ok(())
    }
}

/// The parameters of a session. The default suits the model.
#[derive(Clone, Debug, Default)]
pub struct SessionParams {
    /// Positions of the KV cache for prompt and answer; 0 is the length that the model was trained
    /// for, `None` the same, but at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Maximum number of tokens in one pass over a prompt; `None` is the canvas length, at least
    /// 256.
    pub batch: Option<usize>,
    /// Threads of the CPU, at most as many as the process may use cores; `None` is one for each
    /// core, and fewer for a model so small that synchronization would cost more than the shared
    /// work saves.
    pub threads: Option<usize>,
    /// Threads for passes over a prompt; `None` is [`threads`](Self::threads).
    pub prefill_threads: Option<usize>,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Keep the keys and values of all positions on sliding layers too, not only those of the
    /// window and a pass: this takes more memory and makes steps longer, but a conversation can
    /// return to any earlier point without encoding it again.
    pub swa_full: bool,
    /// Maximum number of prompts to whose end a conversation can return after sliding layers have
    /// moved on: each one keeps the window of those layers on the host. `None` is
    /// [`DEFAULT_CHECKPOINTS`].
    pub checkpoints: Option<usize>,
}

/// Default number of checkpoints of a session.
pub const DEFAULT_CHECKPOINTS: usize = 3;

/// Default maximum number of positions of the KV cache.
pub const DEFAULT_CONTEXT: usize = 8192;

impl SessionParams {
    /// The parameters of the sequence of a session on a model. `threads` are those of the CPU if
    /// they are left open.
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
