//! Models: loading, sharing, asking.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::null;
use std::sync::Arc;

use regex::Regex;

use super::border::{
    Failure, Result, StructOutput, Versioned, c_str, fill_text, guard, optional_c_str, output,
    read, reference, release, slice,
};
use super::error::{c_text, diffusion_error, diffusion_status};
use super::fault;
use llama_diffusion::gguf::Value;
use llama_diffusion::internal::gguf::keys::{GENERAL_ARCHITECTURE, TOKENIZER};
use llama_diffusion::{AnyModel, EndTokens, TensorOverride, TextModel};

/// A loaded model: weights, vocabulary, chat template. Immutable: any thread may use it at any
/// time. It is reference-counted; contexts hold references to theirs.
pub struct diffusion_model {
    pub(super) model: AnyModel,
    pub(super) end: EndTokens,
    /// None for files without a tokenizer, which can be run with tokens.
    text: Option<TextModel>,
    architecture: CString,
}

impl diffusion_model {
    fn load(
        path: &Path,
        params: &llama_diffusion::ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        let model = AnyModel::load(path, params, progress)?;
        let metadata = model.file().metadata();
        let architecture = metadata.require(GENERAL_ARCHITECTURE).map(c_text)?;
        let text = match metadata.value(TOKENIZER) {
            Some(_) => Some(TextModel::new(model.clone())?),
            None => None,
        };
        let end = match &text {
            Some(text) => text.end_tokens()?,
            None => model.end_tokens()?,
        };
        Ok(Self {
            model,
            end,
            text,
            architecture,
        })
    }

    /// The model with its vocabulary.
    pub(super) fn text(&self) -> Result<&TextModel> {
        fault::point();
        self.text.as_ref().ok_or_else(|| {
            let path = self.model.file().metadata().path().display();
            let problem = format!("{path}: the file has no tokenizer ({TOKENIZER}): use tokens");
            Failure::new(diffusion_status::Tokenizer, problem)
        })
    }
}

/// Called with the fraction of a model that is loaded, from 0 to 1, by the thread that loads.
/// Returns false to cancel.
pub type diffusion_progress_callback =
    Option<unsafe extern "C" fn(progress: f32, user_data: *mut c_void) -> bool>;

/// How a model is loaded. Set by `diffusion_model_params_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_model_params {
    /// Size of the struct, which identifies its version.
    pub struct_size: usize,
    /// Devices to use, separated by commas, in UTF-8: NULL is every GPU, "none" is the CPU alone.
    pub devices: *const c_char,
    /// Share of the layers for each GPU; NULL distributes them by free memory.
    pub tensor_split: *const f32,
    /// Number of shares.
    pub tensor_split_count: usize,
    /// Memory of individual tensors as "REGEX=MEMORY", separated by commas; the first match
    /// applies. May be NULL.
    pub tensor_overrides: *const c_char,
    /// Progress callback; may be NULL.
    pub progress: diffusion_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
    /// Layers on GPUs, counted from the last one; the output head counts as one. Below 0 is as many
    /// as fit into their free memory together with a context of the default size: experts that do
    /// not fit stay in host memory, and then whole layers.
    pub gpu_layers: i32,
    /// Keep the experts of this many layers, from the first on, in host memory.
    pub cpu_moe_layers: u32,
    /// Nonzero keeps the KV cache in host memory.
    pub kv_on_host: i32,
    /// Nonzero copies the weights instead of using the mapped file.
    pub no_mmap: i32,
    /// Nonzero computes the products of weights in host memory on the CPU. Otherwise a GPU computes
    /// them in passes of at least 32 tokens, and the weights are copied to it for each pass.
    pub no_op_offload: i32,
}

// SAFETY: integers, pointers and optional functions in C's layout, the size first.
unsafe impl Versioned for diffusion_model_params {
    const NAME: &'static str = "diffusion_model_params";
    const FIRST_SIZE: usize = offset_of!(Self, no_mmap) + size_of::<i32>();
}

impl Default for diffusion_model_params {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            devices: null(),
            tensor_split: null(),
            tensor_split_count: 0,
            tensor_overrides: null(),
            progress: None,
            user_data: std::ptr::null_mut(),
            gpu_layers: -1,
            cpu_moe_layers: 0,
            kv_on_host: 0,
            no_op_offload: 0,
            no_mmap: 0,
        }
    }
}

impl diffusion_model_params {
    /// # Safety
    /// The pointers are as documented.
    unsafe fn resolve(&self) -> Result<llama_diffusion::ModelParams> {
        // SAFETY: as the caller promises.
        let (devices, split, overrides) = unsafe {
            (
                optional_c_str(self.devices, "devices")?,
                slice(self.tensor_split, self.tensor_split_count, "tensor_split")?,
                optional_c_str(self.tensor_overrides, "tensor_overrides")?,
            )
        };
        let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect();
        Ok(llama_diffusion::ModelParams {
            gpu_layers: usize::try_from(self.gpu_layers).ok(),
            devices: devices.map(|list| match list {
                "none" => Vec::new(),
                _ => names(list),
            }),
            split: split.to_vec(),
            cpu_moe_layers: self.cpu_moe_layers as usize,
            overrides: overrides
                .into_iter()
                .flat_map(|list| list.split(','))
                .map(tensor_override)
                .collect::<Result<_>>()?,
            kv_on_host: self.kv_on_host != 0,
            no_op_offload: self.no_op_offload != 0,
            no_mmap: self.no_mmap != 0,
            ..llama_diffusion::ModelParams::default()
        })
    }
}

fn tensor_override(text: &str) -> Result<TensorOverride> {
    let wrong = |problem: &str| {
        let problem = format!("'{text}' is not REGEX=MEMORY: {problem}");
        Failure::argument("tensor_overrides", problem)
    };
    let (pattern, memory) = text.rsplit_once('=').ok_or_else(|| wrong("no '='"))?;
    Ok(TensorOverride {
        pattern: Regex::new(pattern).map_err(|error| wrong(&error.to_string()))?,
        memory: memory.to_owned(),
    })
}

/// Sets the defaults.
///
/// `struct_size`: `sizeof(diffusion_model_params)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_params_init(
    params: *mut diffusion_model_params,
    struct_size: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe { StructOutput::with_size(params, struct_size, "params") }?
            .write(&diffusion_model_params::default());
        Ok(())
    })
}

/// Loads a GGUF file, or all parts of a split one given its first part. Any thread may call it.
///
/// `path`: in UTF-8, terminated by a zero byte. `params`: NULL for the defaults. `model`: receives
/// the model; free it with `diffusion_model_free`.
///
/// Errors: `IO`, `BAD_MODEL` or `TOKENIZER` for a problem of the file, `OUT_OF_MEMORY`, and
/// `CANCELLED` if the progress callback cancelled. A file without any tokenizer loads; functions
/// that need one then fail with `TOKENIZER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_load(
    path: *const c_char,
    params: *const diffusion_model_params,
    model: *mut *mut diffusion_model,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        let model = output(model, "model")?;
        // SAFETY: by the rules of the header.
        let (path, params, loading) = unsafe {
            let path = c_str(path, "path")?;
            let params = read(params, diffusion_model_params::default())?;
            (path, params, params.resolve()?)
        };
        let mut progress = |share: f32| match params.progress {
            // SAFETY: the caller's function and data, by the rules of the header.
            Some(callback) if !unsafe { callback(share, params.user_data) } => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        };
        let loaded = diffusion_model::load(Path::new(path), &loading, &mut progress)?;
        // SAFETY: the caller's variable.
        unsafe { model.write(Arc::into_raw(Arc::new(loaded)).cast_mut()) };
        Ok(())
    })
}

/// Increments the reference count; each reference is released with `diffusion_model_free`. Returns
/// `model`, NULL for NULL. Any thread that holds a reference may call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_retain(
    model: *mut diffusion_model,
) -> *mut diffusion_model {
    if !model.is_null() {
        // SAFETY: made by Arc::into_raw and held by the caller.
        unsafe { Arc::increment_strong_count(model) };
    }
    model
}

/// Releases one reference; the last one frees the memory. Contexts keep working. NULL is allowed.
/// Any thread may call it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_free(model: *mut diffusion_model) {
    if !model.is_null() {
        // SAFETY: made by Arc::into_raw and held by the caller, who holds it no longer.
        release(|| unsafe { Arc::decrement_strong_count(model) });
    }
}

/// Architecture as the file names it, such as "diffusion-gemma". Valid as long as the model; NULL
/// for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_architecture(
    model: *const diffusion_model,
) -> *const c_char {
    // SAFETY: NULL or a live model, by the rules of the header.
    unsafe { model.as_ref() }.map_or(null(), |shared| shared.architecture.as_ptr())
}

/// Number of tokens in the vocabulary: tokens are from 0 to this number - 1. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_vocab_size(model: *const diffusion_model) -> usize {
    // SAFETY: NULL or a live model, by the rules of the header.
    unsafe { model.as_ref() }.map_or(0, |shared| shared.model.vocab_size())
}

/// Number of tokens in a canvas, which are denoised together; 0 for a masked model, whose canvas is
/// as long as the answer. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_canvas_length(model: *const diffusion_model) -> usize {
    // SAFETY: NULL or a live model, by the rules of the header.
    unsafe { model.as_ref() }.map_or(0, |shared| shared.model.canvas_length().unwrap_or(0))
}

/// Number of tokens, prompt and answer together, that the model was trained for. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_context_length(model: *const diffusion_model) -> usize {
    // SAFETY: NULL or a live model, by the rules of the header.
    unsafe { model.as_ref() }.map_or(0, |shared| shared.model.context_length())
}

/// Whether a token ends an answer. False for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_is_end_token(
    model: *const diffusion_model,
    token: i32,
) -> bool {
    // SAFETY: NULL or a live model, by the rules of the header.
    unsafe { model.as_ref() }.is_some_and(|shared| shared.end.is_end(token))
}

/// A value of the file's metadata as text: strings unchanged, numbers in decimal, booleans as
/// "true" and "false", arrays as JSON.
///
/// `key`: such as "general.name", terminated by a zero byte. `buffer`, `capacity`, `size`: see
/// "Outputs of unknown size".
///
/// Errors: `NOT_FOUND` if the file has no such key, `BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_model_metadata(
    model: *const diffusion_model,
    key: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, key) = unsafe { (reference(model, "model")?, c_str(key, "key")?) };
        let size = output(size, "size")?;
        let metadata = shared.model.file().metadata();
        let value = metadata.value(key).ok_or_else(|| {
            let path = metadata.path().display();
            let problem = format!("{path}: there is no metadata key '{key}'");
            Failure::new(diffusion_status::NotFound, problem)
        })?;
        // SAFETY: by the rules of the header.
        unsafe { fill_text(plain_text(value).into_bytes(), buffer, capacity, size) }
    })
}

fn plain_text(value: Value<'_>) -> String {
    match value {
        Value::Str(text) => text.to_owned(),
        value => json(value),
    }
}

fn json(value: Value<'_>) -> String {
    match value {
        Value::U8(number) => number.to_string(),
        Value::I8(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Str(text) => serde_json::Value::from(text).to_string(),
        Value::Array(array) => {
            let items: Vec<String> = array.values().map(json).collect();
            format!("[{}]", items.join(","))
        }
    }
}
