//! libllama's own language models, for comparison: what upstream computes with the same layers, and
//! how long it takes.

use std::path::Path;
use std::sync::Arc;

use super::batch::{Batch, Outputs};
use super::context::Context;
use super::model::Model;
use crate::diffusion::Token;
use crate::error::{Error, Result};
use crate::parameter::Parameter;
use crate::sys;

/// How a model is run by libllama.
#[derive(Clone, Copy, Debug)]
pub struct CausalParams {
    /// Positions of the KV cache.
    pub context: usize,
    /// Maximum number of tokens in a pass.
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
pub struct CausalModel {
    context: Context,
    position: usize,
    params: CausalParams,
}

impl CausalModel {
    /// Loads a file of an architecture that libllama supports.
    ///
    /// # Errors
    /// libllama rejects the file or has not enough memory.
    pub fn load(path: &Path, params: CausalParams) -> Result<Self> {
        let refused =
            |what: &str| Error::Ggml(format!("{}: libllama refused the {what}", path.display()));
        // SAFETY: sets no pointers.
        let model = unsafe { Model::load(path, |raw| raw.n_gpu_layers = params.gpu_layers) }?
            .ok_or_else(|| refused("model"))?;
        let context = Context::new(Arc::new(model), |raw| {
            raw.n_ctx = params.context as u32;
            raw.n_batch = params.batch as u32;
            raw.n_ubatch = params.batch as u32;
            raw.n_threads = params.threads as i32;
            raw.n_threads_batch = params.threads as i32;
            raw.op_offload = params.gpu_layers != 0; // without layers on GPUs: the CPU alone
            if params.f32_attention {
                raw.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
                raw.type_k = sys::GGML_TYPE_F32;
                raw.type_v = sys::GGML_TYPE_F32;
            }
        })
        .ok_or_else(|| refused("context"))?;
        Ok(Self {
            context,
            position: 0,
            params,
        })
    }

    /// Removes all tokens from the cache.
    pub fn clear(&mut self) {
        // SAFETY: a live context.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.context.as_ptr()), false) };
        self.position = 0;
    }

    /// Encodes tokens after those encoded before, with logits for all of them or only the last.
    ///
    /// # Errors
    /// More tokens than fit a pass, or libllama fails.
    pub fn decode(&mut self, tokens: &[Token], all_logits: bool) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.params.batch {
            return Err(Error::parameter(
                Parameter::Tokens,
                format!("give 1 to {}", self.params.batch),
            ));
        }
        let outputs = match all_logits {
            true => Outputs::All,
            false => Outputs::Last,
        };
        let status = self
            .context
            .decode(&mut Batch::new(tokens, self.position, outputs));
        if status != 0 {
            return Err(Error::Ggml(format!(
                "llama_decode failed with status {status}"
            )));
        }
        self.position += tokens.len();
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
                    Parameter::Logits,
                    format!("there are none at {index}"),
                ));
            }
            let n = self.context.model().vocab_size();
            Ok(std::slice::from_raw_parts(row, n).to_vec())
        }
    }
}
