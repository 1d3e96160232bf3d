//! libllama's own language models, for comparison: what upstream computes on the same backbone,
//! how long it takes, and how it quantizes.

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use crate::Token;
use crate::error::{Error, Result};
use crate::sys;

/// How a model is run by libllama.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamParams {
    /// Positions of the KV cache.
    pub context: usize,
    /// Most tokens of a pass.
    pub batch: usize,
    /// Threads of the CPU.
    pub threads: usize,
    /// Keys, values and attention in F32. (Fused attention, libllama's choice otherwise, converts
    /// them to F16 whatever the cache holds.)
    pub f32_attention: bool,
    /// Layers on GPUs; all if negative.
    pub gpu_layers: i32,
}

/// A causal language model run by libllama.
pub struct UpstreamModel {
    context: NonNull<sys::llama_context>,
    model: NonNull<sys::llama_model>,
    position: usize,
    params: UpstreamParams,
}

// SAFETY: libllama's objects are not bound to a thread; `&mut self` keeps uses apart.
unsafe impl Send for UpstreamModel {}

impl Drop for UpstreamModel {
    fn drop(&mut self) {
        // SAFETY: both are owned; the context goes first.
        unsafe {
            sys::llama_free(self.context.as_ptr());
            sys::llama_model_free(self.model.as_ptr());
        }
    }
}

impl UpstreamModel {
    /// Loads a file of an architecture that libllama knows.
    ///
    /// # Errors
    /// libllama refuses the file or has no memory.
    pub fn load(path: &Path, params: UpstreamParams) -> Result<Self> {
        super::processor::check()?;
        super::log::capture();
        let refused =
            |what: &str| Error::Ggml(format!("{}: libllama refused the {what}", path.display()));
        let text = c_path(path)?;
        // SAFETY: a terminated path and parameters that start from libllama's defaults.
        unsafe {
            sys::llama_backend_init();
            let mut model_params = sys::llama_model_default_params();
            model_params.n_gpu_layers = params.gpu_layers;
            let model = sys::llama_model_load_from_file(text.as_ptr(), model_params);
            let model = NonNull::new(model).ok_or_else(|| refused("model"))?;
            let mut context_params = sys::llama_context_default_params();
            context_params.n_ctx = params.context as u32;
            context_params.n_batch = params.batch as u32;
            context_params.n_ubatch = params.batch as u32;
            context_params.n_threads = params.threads as i32;
            context_params.n_threads_batch = params.threads as i32;
            if params.f32_attention {
                context_params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
                context_params.type_k = sys::GGML_TYPE_F32;
                context_params.type_v = sys::GGML_TYPE_F32;
            }
            let Some(context) =
                NonNull::new(sys::llama_init_from_model(model.as_ptr(), context_params))
            else {
                sys::llama_model_free(model.as_ptr());
                return Err(refused("context"));
            };
            Ok(Self {
                context,
                model,
                position: 0,
                params,
            })
        }
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        // SAFETY: a live context.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context.as_ptr()), false) };
        self.position = 0;
    }

    /// Encodes tokens behind those encoded before, with logits for all of them or the last alone.
    ///
    /// # Errors
    /// More tokens than a pass takes, or libllama fails.
    pub fn decode(&mut self, tokens: &[Token], all_logits: bool) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.params.batch {
            return Err(Error::parameter(
                "tokens",
                format!("give 1 to {}", self.params.batch),
            ));
        }
        let n = tokens.len();
        let mut tokens = tokens.to_vec();
        let mut positions: Vec<i32> = (self.position..self.position + n)
            .map(|p| p as i32)
            .collect();
        let mut sequence = 0;
        let mut counts = vec![1; n];
        let mut sequences = vec![&raw mut sequence; n];
        let mut outputs: Vec<i8> = (0..n).map(|i| i8::from(all_logits || i + 1 == n)).collect();
        let batch = sys::llama_batch {
            n_tokens: n as i32,
            token: tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: outputs.as_mut_ptr(),
        };
        // SAFETY: every array has an entry per token and outlives the call.
        let status = unsafe {
            let status = sys::llama_decode(self.context.as_ptr(), batch);
            sys::llama_synchronize(self.context.as_ptr());
            status
        };
        if status != 0 {
            return Err(Error::Ggml(format!(
                "llama_decode failed with status {status}"
            )));
        }
        self.position += n;
        Ok(())
    }

    /// The logits of the last token.
    ///
    /// # Errors
    /// Nothing was decoded.
    pub fn last_logits(&mut self) -> Result<Vec<f32>> {
        self.row(-1)
    }

    /// The logits of a token of the last pass, counted from 0.
    ///
    /// # Errors
    /// There are no logits for it.
    pub fn logits(&mut self, index: usize) -> Result<Vec<f32>> {
        self.row(i32::try_from(index).unwrap_or(i32::MAX))
    }

    fn row(&mut self, index: i32) -> Result<Vec<f32>> {
        // SAFETY: the row has as many logits as the vocabulary has tokens.
        unsafe {
            let row = sys::llama_get_logits_ith(self.context.as_ptr(), index);
            if row.is_null() {
                return Err(Error::parameter(
                    "logits",
                    format!("there are none at {index}"),
                ));
            }
            let vocab = sys::llama_model_get_vocab(self.model.as_ptr());
            let n = sys::llama_vocab_n_tokens(vocab) as usize;
            Ok(std::slice::from_raw_parts(row, n).to_vec())
        }
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Ggml(format!("{}: libllama refused the path", path.display())))
}

/// Quantizes a file of an architecture that libllama knows. `file_type` is libllama's number of a
/// mixture; `importance` has names of tensors with the weights of their columns, and may be empty.
///
/// # Errors
/// libllama refuses.
pub fn quantize(
    input: &Path,
    output: &Path,
    file_type: u32,
    pure: bool,
    importance: &[(CString, Vec<f32>)],
) -> Result<()> {
    super::processor::check()?;
    super::log::capture();
    let (from, to) = (c_path(input)?, c_path(output)?);
    let mut entries: Vec<_> = importance
        .iter()
        .map(|(name, weights)| sys::llama_model_imatrix_data {
            name: name.as_ptr(),
            data: weights.as_ptr(),
            size: weights.len(),
        })
        .collect();
    entries.push(sys::llama_model_imatrix_data {
        name: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
    });
    // SAFETY: terminated paths, parameters that start from libllama's defaults, and a list of
    // importances that ends with a null name; all outlive the call.
    let status = unsafe {
        sys::llama_backend_init();
        let mut params = sys::llama_model_quantize_default_params();
        params.nthread = 1;
        params.ftype = file_type as sys::llama_ftype;
        params.pure_ = pure;
        if !importance.is_empty() {
            params.imatrix = entries.as_ptr();
        }
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    match status {
        0 => Ok(()),
        _ => Err(Error::Ggml(format!(
            "{}: libllama refused to quantize it",
            input.display()
        ))),
    }
}
