//! libllama's models without causal mask and without cache: every pass reads a whole text and gives
//! the logits of all its positions.

use std::ffi::{CString, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backend::Device;
use super::rpc::Servers;
use crate::Token;
use crate::error::{Error, Result};
use crate::sys;

/// Where libllama puts the weights.
pub(crate) struct LoadParams {
    /// Layers on GPUs, counted from the last one; all if negative.
    pub(crate) gpu_layers: i32,
    /// Devices to use; libllama's choice if there are none.
    pub(crate) devices: Vec<Device>,
    /// Shares of the layers for each GPU; at most as many as libllama takes.
    pub(crate) split: Vec<f32>,
    /// Tensors, by a regular expression of their names, that lie in the memory of a device.
    pub(crate) overrides: Vec<(CString, Device)>,
    /// Read the weights into memory instead of mapping the file.
    pub(crate) no_mmap: bool,
    /// Keep the weights in host memory from being swapped out.
    pub(crate) lock: bool,
    /// Refuse weights that are not finite.
    pub(crate) check_tensors: bool,
    /// Metadata of the user; the list ends with an empty key.
    pub(crate) metadata: Vec<sys::llama_model_kv_override>,
}

/// The weights of a model, shared by contexts.
pub(crate) struct BidirectionalModel {
    model: NonNull<sys::llama_model>,
    vocab_size: usize,
    /// Those that may hold a part of it.
    servers: Servers,
}

// SAFETY: a loaded model is only read; libllama lets contexts on several threads share it.
unsafe impl Send for BidirectionalModel {}
// SAFETY: as above.
unsafe impl Sync for BidirectionalModel {}

impl Drop for BidirectionalModel {
    fn drop(&mut self) {
        // SAFETY: owned; contexts keep the model alive.
        unsafe { sys::llama_model_free(self.model.as_ptr()) }
    }
}

/// What the progress callback needs.
struct Progress<'a> {
    report: &'a mut dyn FnMut(f32) -> ControlFlow<()>,
    stopped: bool,
}

/// # Safety
/// Called by libllama with the pointer to a [`Progress`] that outlives the loading.
unsafe extern "C" fn report_progress(share: f32, data: *mut c_void) -> bool {
    // SAFETY: by the contract of the callback; nothing else uses it meanwhile.
    let progress = unsafe { &mut *data.cast::<Progress<'_>>() };
    progress.stopped |= (progress.report)(share).is_break();
    !progress.stopped
}

impl BidirectionalModel {
    /// Loads a file whose metadata were checked before.
    ///
    /// # Errors
    /// libllama refuses the file; [`Error::Cancelled`] if `report` stopped.
    pub(crate) fn load(
        path: &Path,
        params: &LoadParams,
        report: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        super::processor::check()?;
        super::log::capture();
        let named = params
            .devices
            .iter()
            .chain(params.overrides.iter().map(|(_, d)| d));
        let servers: Servers = named.filter_map(Device::server).collect();
        let refused = || {
            let problem = format!(
                "{}: libllama refused the model; its reason is in the log (-v)",
                path.display()
            );
            servers.check().err().unwrap_or(Error::Ggml(problem))
        };
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| refused())?;
        let mut devices: Vec<sys::ggml_backend_dev_t> =
            params.devices.iter().map(|d| d.as_ptr()).collect();
        devices.push(std::ptr::null_mut());
        let mut overrides: Vec<sys::llama_model_tensor_buft_override> = params
            .overrides
            .iter()
            .map(|(pattern, device)| sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: device.buffer_type().as_ptr(),
            })
            .collect();
        overrides.push(sys::llama_model_tensor_buft_override {
            pattern: std::ptr::null(),
            buft: std::ptr::null_mut(),
        });
        let mut progress = Progress {
            report,
            stopped: false,
        };
        // SAFETY: takes no arguments.
        let max_devices = unsafe { sys::llama_max_devices() };
        let mut split = params.split.clone();
        split.resize(max_devices.max(1), 0.0);
        // SAFETY: a terminated path, and lists that end as libllama wants them and outlive the call.
        let model = unsafe {
            sys::llama_backend_init();
            let mut model_params = sys::llama_model_default_params();
            model_params.n_gpu_layers = params.gpu_layers;
            // Without a list libllama would choose by itself.
            model_params.devices = devices.as_mut_ptr();
            if split.iter().any(|share| *share > 0.0) {
                model_params.tensor_split = split.as_ptr();
            }
            if !params.overrides.is_empty() {
                model_params.tensor_buft_overrides = overrides.as_ptr();
            }
            match (params.no_mmap, params.lock) {
                (false, false) => {}
                (false, true) => model_params.load_mode = sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
                (true, false) => model_params.load_mode = sys::LLAMA_LOAD_MODE_NONE,
                (true, true) => model_params.load_mode = sys::LLAMA_LOAD_MODE_MLOCK,
            }
            model_params.check_tensors = params.check_tensors;
            model_params.kv_overrides = params.metadata.as_ptr();
            model_params.progress_callback = Some(report_progress);
            model_params.progress_callback_user_data = (&raw mut progress).cast();
            sys::llama_model_load_from_file(name.as_ptr(), model_params)
        };
        let model = match NonNull::new(model) {
            Some(model) => model,
            None if progress.stopped => return Err(Error::Cancelled),
            None => return Err(refused()),
        };
        // SAFETY: a live model; its vocabulary lives as long.
        let count =
            unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(model.as_ptr())) };
        let vocab_size = usize::try_from(count).unwrap_or_default();
        if vocab_size == 0 {
            // SAFETY: owned.
            unsafe { sys::llama_model_free(model.as_ptr()) };
            return Err(refused());
        }
        let this = Self {
            model,
            vocab_size,
            servers,
        };
        for device in &params.devices {
            device.settle()?;
        }
        Ok(this)
    }

    /// Tokens of the vocabulary, which are the logits of a position.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// Memory to run a model in.
pub(crate) struct BidirectionalContext {
    // Goes before the model that it refers to.
    context: NonNull<sys::llama_context>,
    model: Arc<BidirectionalModel>,
    capacity: usize,
}

// SAFETY: libllama's contexts are not bound to a thread; `&mut self` keeps uses apart.
unsafe impl Send for BidirectionalContext {}

impl Drop for BidirectionalContext {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

impl BidirectionalContext {
    /// Reserves memory for texts of at most `capacity` tokens. `fused` is fused attention: libllama
    /// decides if it is left open.
    ///
    /// # Errors
    /// There is no memory, or a device cannot do what is asked.
    pub(crate) fn new(
        model: &Arc<BidirectionalModel>,
        capacity: usize,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        let too_many = |_| Error::parameter("-ub", format!("{capacity} tokens are too many"));
        let positions = u32::try_from(capacity).map_err(too_many)?;
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: a live model, and parameters that start from libllama's defaults.
        let context = unsafe {
            let mut params = sys::llama_context_default_params();
            params.n_ctx = positions;
            params.n_batch = positions;
            params.n_ubatch = positions;
            params.n_threads = threads;
            params.n_threads_batch = threads;
            params.flash_attn_type = match fused {
                None => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                Some(true) => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                Some(false) => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
            sys::llama_init_from_model(model.model.as_ptr(), params)
        };
        let context = NonNull::new(context).ok_or_else(|| {
            let problem = format!(
                "libllama made no context for texts of {capacity} tokens: give fewer with -ub or -n"
            );
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

    /// Most tokens of a text.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The logits of every position of a text: as many rows as tokens, each as long as the
    /// vocabulary. They are the caller's to change until the next pass.
    ///
    /// # Errors
    /// The text is empty or too long, a token is not in the vocabulary, or libllama fails.
    pub(crate) fn logits(&mut self, text: &[Token]) -> Result<&mut [f32]> {
        let vocab = self.model.vocab_size;
        let count = text.len();
        if count == 0 || count > self.capacity {
            return Err(Error::parameter(
                "text",
                format!("has {count} tokens: give 1 to {}", self.capacity),
            ));
        }
        if let Some(token) = text
            .iter()
            .find(|&&t| usize::try_from(t).map_or(true, |t| t >= vocab))
        {
            return Err(Error::parameter(
                "text",
                format!("token {token} is not in the vocabulary of {vocab}"),
            ));
        }
        let mut tokens = text.to_vec();
        let mut positions: Vec<i32> = (0..count).map(|p| p as i32).collect();
        let mut sequence = 0;
        let mut counts = vec![1; count];
        let mut sequences = vec![&raw mut sequence; count];
        let mut outputs = vec![1_i8; count];
        let batch = sys::llama_batch {
            n_tokens: count as i32,
            token: tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: outputs.as_mut_ptr(),
        };
        let _turns = self.model.servers.turns();
        // SAFETY: every array has an entry per token and outlives the call.
        let (status, logits) = unsafe {
            let status = sys::llama_decode(self.context.as_ptr(), batch);
            sys::llama_synchronize(self.context.as_ptr());
            (status, sys::llama_get_logits(self.context.as_ptr()))
        };
        self.model.servers.check()?;
        if status != 0 || logits.is_null() {
            return Err(Error::Ggml(format!(
                "libllama failed with status {status} on a text of {count} tokens"
            )));
        }
        // SAFETY: a row for each token, as every one was asked for, in a buffer of the context
        // that nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(logits, count * vocab) })
    }
}
