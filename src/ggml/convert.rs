//! Conversion between stored rows and numbers, by ggml's own routines.

use crate::error::{Error, Result};
use crate::gguf::TensorType;
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

/// Quantizes rows of `row_len` elements to `ty`, which must be
/// [quantizable](TensorType::is_quantizable). `importance` weights the errors of a row's columns,
/// one weight for each element of a row. A row's bytes depend only on that row and its weights.
///
/// `out` holds as many rows as `values`.
pub(crate) fn from_f32(
    ty: TensorType,
    values: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<()> {
    let rows = values.len().checked_div(row_len).unwrap_or(0);
    let bytes = ty
        .row_bytes(row_len)
        .and_then(|bytes| bytes.checked_mul(rows));
    if !ty.is_quantizable() || rows * row_len != values.len() || bytes != Some(out.len()) {
        return Err(Error::Ggml(format!(
            "{} elements in rows of {row_len} are not {} bytes of type {ty}",
            values.len(),
            out.len()
        )));
    }
    if importance.is_some_and(|weights| weights.len() != row_len) {
        return Err(Error::Ggml(format!(
            "importances are not {row_len}, the elements of a row"
        )));
    }
    // SAFETY: ggml reads `rows · row_len` numbers and `row_len` weights, and writes `out.len()`
    // bytes, all checked above; the type is one that it quantizes, with or without weights.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            ty.id() as sys::ggml_type,
            values.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            rows as i64,
            row_len as i64,
            importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
        )
    };
    if written != out.len() {
        return Err(Error::Ggml(format!(
            "quantization to {ty} wrote {written} of {} bytes",
            out.len()
        )));
    }
    Ok(())
}

/// Whether the scales (or the numbers) of stored rows are finite.
pub(crate) fn is_finite(ty: TensorType, bytes: &[u8]) -> bool {
    // SAFETY: ggml reads `bytes.len()` bytes, and rejects a length that is not a multiple of the
    // block size.
    unsafe {
        sys::ggml_validate_row_data(
            ty.id() as sys::ggml_type,
            bytes.as_ptr().cast(),
            bytes.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantizable_type_comes_back_near() {
        let values: Vec<f32> = (0..512)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
            .collect();
        for &ty in TensorType::ALL.iter().filter(|ty| ty.is_quantizable()) {
            let mut bytes = vec![0; ty.row_bytes(256).unwrap() * 2];
            from_f32(ty, &values, 256, None, &mut bytes).unwrap();
            assert!(is_finite(ty, &bytes), "{ty}");
            let mut back = vec![0.0; values.len()];
            to_f32(ty, &bytes, &mut back).unwrap();
            let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            // Two bits, the minimum: steps of a third of the range.
            assert!(worst <= 0.34, "{ty}: {worst}");
        }
    }

    #[test]
    fn what_ggml_would_stop_the_process_for_is_refused() {
        let values = [0.5; 64];
        let quantize = |ty, row_len, weights: Option<&[f32]>, bytes: usize| {
            from_f32(ty, &values, row_len, weights, &mut vec![0; bytes]).is_err()
        };
        assert!(!quantize(TensorType::Q8_0, 64, None, 68));
        assert!(quantize(TensorType::Q8_0, 64, None, 67));
        assert!(quantize(TensorType::Q8_0, 64, Some(&[1.0; 32]), 68));
        assert!(quantize(TensorType::Q8_0, 48, None, 68));
        assert!(quantize(TensorType::Q8_0, 0, None, 0));
        assert!(quantize(TensorType::Q4_K, 64, None, 36));
        assert!(quantize(TensorType::IQ2_XXS, 64, None, 66));
    }

    #[test]
    fn numbers_that_are_not_finite_are_seen() {
        let mut bytes = vec![0; 8];
        assert!(is_finite(TensorType::F32, &bytes));
        bytes[4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(!is_finite(TensorType::F32, &bytes));
    }
}
