//! libllama's quantizer, for comparison with ours.

use std::ffi::CString;
use std::path::Path;

use super::model::{c_path, start};
use crate::error::{Error, Result};
use crate::sys;

/// Quantizes a file of an architecture that libllama supports. `file_type` is libllama's number of
/// a mixture; `importance` has names of tensors with the weights of their columns, and may be
/// empty.
///
/// # Errors
/// libllama rejects the file or the request.
pub fn quantize(
    input: &Path,
    output: &Path,
    file_type: u32,
    pure: bool,
    importance: &[(CString, Vec<f32>)],
) -> Result<()> {
    start()?;
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
