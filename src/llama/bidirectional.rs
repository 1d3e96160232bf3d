//! libllama's models without causal mask and without cache: every pass reads a whole text and
//! returns the logits of all its positions.

use std::ffi::{CString, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::batch::{Batch, Outputs};
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
    capacity: usize,
}

impl BidirectionalContext {
    /// Reserves memory for texts of at most `capacity` tokens. `fused` is fused attention: libllama
    /// decides if it is `None`.
    ///
    /// # Errors
    /// There is not enough memory, or a device does not support the request.
    pub(crate) fn new(
        model: &Arc<BidirectionalModel>,
        capacity: usize,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        let too_many = |_| {
            Error::parameter(
                Parameter::Context,
                format!("{capacity} tokens are too many"),
            )
        };
        let positions = u32::try_from(capacity).map_err(too_many)?;
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let context = Context::new(Arc::clone(&model.model), |raw| {
            raw.n_ctx = positions;
            raw.n_batch = positions;
            raw.n_ubatch = positions;
            raw.n_threads = threads;
            raw.n_threads_batch = threads;
            raw.flash_attn_type = match fused {
                None => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                Some(true) => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                Some(false) => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
        });
        let context = context.ok_or_else(|| {
            let problem =
                format!("libllama made no context for texts of {capacity} tokens: lower `length`");
            let lost = model.servers.check().err();
            lost.unwrap_or(Error::Ggml(problem))
        })?;
        // SAFETY: a live context.
        unsafe { sys::llama_set_causal_attn(context.as_ptr(), false) };
        Ok(Self {
            context,
            model: Arc::clone(model),
            capacity,
        })
    }

    /// Maximum number of tokens in a text.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The logits of every position of a text: as many rows as tokens, each as long as the
    /// vocabulary. The caller may change them until the next pass.
    ///
    /// # Errors
    /// The text is empty or too long, a token is not in the vocabulary, or libllama fails.
    pub(crate) fn logits(&mut self, text: &[Token]) -> Result<&mut [f32]> {
        let vocab = self.model.vocab_size;
        let count = text.len();
        if count == 0 || count > self.capacity {
            return Err(Error::parameter(
                Parameter::Tokens,
                format!("has {count} tokens: give 1 to {}", self.capacity),
            ));
        }
        if let Some(token) = text
            .iter()
            .find(|&&t| usize::try_from(t).map_or(true, |t| t >= vocab))
        {
            return Err(Error::parameter(
                Parameter::Tokens,
                format!("token {token} is not in the vocabulary of {vocab}"),
            ));
        }
        let _turns = self.model.servers.turns();
        let status = self.context.decode(&mut Batch::new(text, 0, Outputs::All));
        // SAFETY: a live context.
        let logits = unsafe { sys::llama_get_logits(self.context.as_ptr()) };
        self.model.servers.check()?;
        if status != 0 || logits.is_null() {
            return Err(Error::Ggml(format!(
                "libllama failed with status {status} on a text of {count} tokens"
            )));
        }
        // SAFETY: a row for each token, because every one was requested, in a buffer of the context
        // that nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(logits, count * vocab) })
    }
}
