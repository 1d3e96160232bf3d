//! libllama's models without causal mask and without cache: every pass reads whole texts and
//! returns the logits of all their positions.

use std::ffi::{CString, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::batch::Batch;
use super::context::Context;
use super::model::Model;
use super::overrides::for_libllama;
use crate::diffusion::Token;
use crate::error::{Error, Result};
use crate::ggml::device::Device;
use crate::ggml::rpc::Servers;
use crate::gguf::MetadataOverride;
use crate::parameter::Parameter;
use crate::sys;

/// Where libllama puts the weights.
pub(crate) struct LoadParams {
    /// Layers on GPUs, counted from the last one; all if negative.
    pub(crate) gpu_layers: i32,
    /// Devices to use; libllama chooses if there are none.
    pub(crate) devices: Vec<Device>,
    /// Shares of the layers for each GPU; at most as many as libllama supports.
    pub(crate) split: Vec<f32>,
    /// Tensors, by a regular expression of their names, that are placed in the memory of a device.
    pub(crate) overrides: Vec<(CString, Device)>,
    /// Let GPUs compute large products of matrices in host memory.
    pub(crate) op_offload: bool,
    /// Read the weights into memory instead of mapping the file.
    pub(crate) no_mmap: bool,
    /// Lock the weights in host memory.
    pub(crate) lock: bool,
    /// Reject weights that are not finite.
    pub(crate) check_tensors: bool,
    /// Metadata that the user gives instead of the file's.
    pub(crate) metadata: Vec<MetadataOverride>,
}

/// The lists of [`LoadParams`] as libllama needs them.
struct Lists {
    devices: Vec<sys::ggml_backend_dev_t>,
    overrides: Vec<sys::llama_model_tensor_buft_override>,
    split: Vec<f32>,
    metadata: Vec<sys::llama_model_kv_override>,
}

impl Lists {
    fn of(params: &LoadParams) -> Self {
        let devices = params.devices.iter().map(|d| d.as_ptr());
        let overrides = params.overrides.iter().map(|(pattern, device)| {
            sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: device.buffer_type().as_ptr(),
            }
        });
        let last = sys::llama_model_tensor_buft_override {
            pattern: std::ptr::null(),
            buft: std::ptr::null_mut(),
        };
        // SAFETY: takes no arguments.
        let max_devices = unsafe { sys::llama_max_devices() };
        let mut split = params.split.clone();
        split.resize(max_devices.max(1), 0.0);
        Self {
            devices: devices.chain([std::ptr::null_mut()]).collect(),
            overrides: overrides.chain([last]).collect(),
            split,
            metadata: for_libllama(&params.metadata),
        }
    }
}

impl LoadParams {
    /// Servers of the named devices.
    fn servers(&self) -> Servers {
        let overrides = self.overrides.iter().map(|(_, device)| device);
        let named = self.devices.iter().chain(overrides);
        named.filter_map(Device::server).collect()
    }

    /// Sets libllama's parameters, which refer to `lists` afterwards.
    fn set(&self, lists: &mut Lists, raw: &mut sys::llama_model_params) {
        raw.n_gpu_layers = self.gpu_layers;
        // Without a list libllama would choose by itself.
        raw.devices = lists.devices.as_mut_ptr();
        if lists.split.iter().any(|share| *share > 0.0) {
            raw.tensor_split = lists.split.as_ptr();
        }
        if !self.overrides.is_empty() {
            raw.tensor_buft_overrides = lists.overrides.as_ptr();
        }
        match (self.no_mmap, self.lock) {
            (false, false) => {}
            (false, true) => raw.load_mode = sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
            (true, false) => raw.load_mode = sys::LLAMA_LOAD_MODE_NONE,
            (true, true) => raw.load_mode = sys::LLAMA_LOAD_MODE_MLOCK,
        }
        raw.check_tensors = self.check_tensors;
        raw.kv_overrides = lists.metadata.as_ptr();
    }
}

/// The weights of a model, shared by contexts.
pub(crate) struct BidirectionalModel {
    model: Arc<Model>,
    vocab_size: usize,
    op_offload: bool,
    /// Servers that may hold a part of it.
    servers: Servers,
}

/// The state of the progress callback.
struct LoadProgress<'a> {
    report: &'a mut dyn FnMut(f32) -> ControlFlow<()>,
    stopped: bool,
}

/// # Safety
/// Called by libllama with the pointer to a [`LoadProgress`] that outlives the loading.
unsafe extern "C" fn report_progress(share: f32, data: *mut c_void) -> bool {
    // SAFETY: by the contract of the callback; nothing else uses it meanwhile.
    let progress = unsafe { &mut *data.cast::<LoadProgress<'_>>() };
    progress.stopped |= (progress.report)(share).is_break();
    !progress.stopped
}

impl BidirectionalModel {
    /// Loads a file whose metadata was checked before.
    ///
    /// # Errors
    /// libllama rejects the file; [`Error::Cancelled`] if `report` cancelled.
    pub(crate) fn load(
        path: &Path,
        params: &LoadParams,
        report: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let servers = params.servers();
        let refused = || {
            let problem = format!(
                "{}: libllama refused the model; the debug messages of the log say why",
                path.display()
            );
            servers.check().err().unwrap_or(Error::Ggml(problem))
        };
        let mut lists = Lists::of(params);
        let mut progress = LoadProgress {
            report,
            stopped: false,
        };
        // SAFETY: the lists and the progress end as libllama requires and outlive the call.
        let model = unsafe {
            Model::load(path, |raw| {
                params.set(&mut lists, raw);
                raw.progress_callback = Some(report_progress);
                raw.progress_callback_user_data = (&raw mut progress).cast();
            })
        }?;
        let model = match model {
            Some(model) => model,
            None if progress.stopped => return Err(Error::Cancelled),
            None => return Err(refused()),
        };
        let vocab_size = model.vocab_size();
        if vocab_size == 0 {
            return Err(refused());
        }
        let this = Self {
            model: Arc::new(model),
            vocab_size,
            op_offload: params.op_offload,
            servers,
        };
        for device in &params.devices {
            device.settle()?;
        }
        Ok(this)
    }

    /// Tokens of the vocabulary: the number of logits per position.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// Memory to run a model in.
pub(crate) struct BidirectionalContext {
    context: Context,
    model: Arc<BidirectionalModel>,
    room: Room,
    /// Tokens of the latest pass, which have logits.
    read: usize,
}

/// What the passes of a context may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Tokens of all texts of a pass together, with those between them.
    pub(crate) tokens: usize,
    /// Texts of a pass.
    pub(crate) texts: usize,
}

impl BidirectionalContext {
    /// Reserves memory. `fused` is fused attention: libllama decides if it is `None`.
    ///
    /// # Errors
    /// There is not enough memory, or a device does not support the request.
    pub(crate) fn new(
        model: &Arc<BidirectionalModel>,
        room: Room,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        let too_many = |_| {
            let problem = format!("{} tokens are too many", room.tokens);
            Error::parameter(Parameter::Context, problem)
        };
        let positions = u32::try_from(room.tokens).map_err(too_many)?;
        // A further one is for tokens between texts. libllama limits their number.
        let sequences = u32::try_from(room.texts + 1).unwrap_or(u32::MAX);
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let context = Context::new(Arc::clone(&model.model), |raw| {
            raw.n_ctx = positions;
            raw.n_batch = positions;
            raw.n_ubatch = positions;
            raw.n_threads = threads;
            raw.n_threads_batch = threads;
            raw.op_offload = model.op_offload;
            if room.texts > 1 {
                raw.n_seq_max = sequences;
                // Each text may have all positions.
                raw.kv_unified = true;
            }
            raw.flash_attn_type = match fused {
                None => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                Some(true) => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                Some(false) => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
        });
        let context = context.ok_or_else(|| {
            let problem = format!(
                "libllama made no context for {} texts of {} tokens together: lower `length`",
                room.texts, room.tokens
            );
            let lost = model.servers.check().err();
            lost.unwrap_or(Error::Ggml(problem))
        })?;
        // SAFETY: a live context.
        unsafe { sys::llama_set_causal_attn(context.as_ptr(), false) };
        Ok(Self {
            context,
            model: Arc::clone(model),
            room,
            read: 0,
        })
    }

    /// What a pass may have.
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// The logits of every position of a text: as many rows as tokens, each as long as the
    /// vocabulary. The caller may change them until the next pass.
    ///
    /// # Errors
    /// The text is empty or too long, a token is not in the vocabulary, or libllama fails.
    pub(crate) fn logits(&mut self, text: &[Token]) -> Result<&mut [f32]> {
        self.read(&[text], text.len())
    }

    /// As [`logits`](Self::logits), of several texts in one pass: the first rows of every `stride` are
    /// those of a text.
    ///
    /// # Errors
    /// There are no texts or too many, one is empty or longer than `stride`, or as for
    /// [`logits`](Self::logits).
    pub(crate) fn read(&mut self, texts: &[&[Token]], stride: usize) -> Result<&mut [f32]> {
        let vocab = self.model.vocab_size;
        let count = texts.len().saturating_mul(stride);
        let fits = |text: &&[Token]| !text.is_empty() && text.len() <= stride;
        if !texts.iter().all(fits) || count == 0 || count > self.room.tokens {
            let problem = format!("has {count} tokens: give 1 to {}", self.room.tokens);
            return Err(Error::parameter(Parameter::Tokens, problem));
        }
        if texts.len() > self.room.texts {
            let problem = format!("{} texts: give 1 to {}", texts.len(), self.room.texts);
            return Err(Error::parameter(Parameter::Tokens, problem));
        }
        let is_unknown = |t: &&Token| usize::try_from(**t).map_or(true, |t| t >= vocab);
        if let Some(token) = texts.iter().copied().flatten().find(is_unknown) {
            return Err(Error::parameter(
                Parameter::Tokens,
                format!("token {token} is not in the vocabulary of {vocab}"),
            ));
        }
        let turns = self.model.servers.turns();
        self.read = 0;
        let status = self.context.decode(&mut Batch::rows(texts, stride));
        self.model.servers.check()?;
        drop(turns);
        if status != 0 {
            return Err(Error::Ggml(format!(
                "libllama failed with status {status} on a pass of {count} tokens"
            )));
        }
        self.read = count;
        self.latest()
    }

    /// The logits of the latest pass; no rows before the first.
    ///
    /// # Errors
    /// libllama has none.
    pub(crate) fn latest(&mut self) -> Result<&mut [f32]> {
        if self.read == 0 {
            return Ok(&mut []);
        }
        // SAFETY: a live context.
        let logits = unsafe { sys::llama_get_logits(self.context.as_ptr()) };
        if logits.is_null() {
            let problem = format!("libllama has no logits of a pass of {} tokens", self.read);
            return Err(Error::Ggml(problem));
        }
        // SAFETY: a row for each token, because every one was requested, in a buffer of the context
        // that nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(logits, self.read * self.model.vocab_size) })
    }
}
