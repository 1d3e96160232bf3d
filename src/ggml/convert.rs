//! Conversion of stored rows to numbers, by ggml's own routines.

use super::types::TensorType;
use crate::error::{Error, Result};
use crate::sys;

/// Converts whole rows of any type to F32: `out` holds as many elements as `bytes` encode.
pub(crate) fn to_f32(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::Ggml(format!(
            "{} bytes of type {} are not {} elements",
            bytes.len(),
            ty.name(),
            out.len()
        )));
    }
    if ty == TensorType::F32 {
        for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        return Ok(());
    }
    // SAFETY: the traits are a static table and the type is one that ggml has.
    let traits = unsafe { &*sys::ggml_get_type_traits(ty.id() as sys::ggml_type) };
    let to_float = traits
        .to_float
        .ok_or_else(|| Error::Ggml(format!("{} cannot be converted to f32", ty.name())))?;
    // SAFETY: `bytes` holds exactly the blocks of `out.len()` elements.
    unsafe { to_float(bytes.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64) };
    Ok(())
}
