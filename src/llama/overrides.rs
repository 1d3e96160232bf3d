//! Metadata that the user gives instead of the file's, passed to libllama.

use std::ffi::c_char;

use crate::gguf::{MetadataOverride, MetadataValue};
use crate::sys;

/// The overrides as libllama needs them: the list ends with an empty key.
pub(super) fn for_libllama(overrides: &[MetadataOverride]) -> Vec<sys::llama_model_kv_override> {
    // SAFETY: a plain struct of numbers, for which zeros are an empty key.
    let empty: sys::llama_model_kv_override = unsafe { std::mem::zeroed() };
    let mut list = vec![empty; overrides.len() + 1];
    for (to, from) in list.iter_mut().zip(overrides) {
        fill(&mut to.key, &from.key);
        let value = &mut to.__bindgen_anon_1;
        to.tag = match &from.value {
            MetadataValue::Integer(number) => {
                value.val_i64 = *number;
                sys::LLAMA_KV_OVERRIDE_TYPE_INT
            }
            MetadataValue::Float(number) => {
                value.val_f64 = *number;
                sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT
            }
            MetadataValue::Bool(is) => {
                value.val_bool = *is;
                sys::LLAMA_KV_OVERRIDE_TYPE_BOOL
            }
            MetadataValue::Text(text) => {
                // SAFETY: all bytes are zeros, which is a valid array of characters.
                fill(unsafe { &mut value.val_str }, text);
                sys::LLAMA_KV_OVERRIDE_TYPE_STR
            }
        };
    }
    list
}

/// Writes a string, checked to fit, into one of libllama's fixed arrays of zeros.
fn fill(array: &mut [c_char], text: &str) {
    for (to, from) in array.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}
