//! Which product this processor runs.

use super::format::{Format, GROUP};
use super::panel::Panel;
use crate::gguf::TensorType;

/// Rows of weights that are multiplied together; the last strip of a matrix may have fewer.
pub(super) const STRIP: usize = 16;

/// A strip of weights and the activations that it is multiplied with.
pub(super) struct Strip<'a> {
    pub(super) format: Format,
    /// The first row.
    pub(super) weights: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Rows, 1 to [`STRIP`].
    pub(super) rows: usize,
    /// Elements of a row.
    pub(super) k: usize,
    /// Rows of F32 for float formats, else quantized rows.
    pub(super) inputs: &'a [*const u8],
}

/// The functions for one set of instructions.
pub(super) struct Instructions {
    /// Quantizes a row of whole groups.
    ///
    /// Safety: the processor has the instructions, and the target is a
    /// [`QuantizedRow`](super::format::QuantizedRow) of as many elements.
    pub(super) quantize: unsafe fn(&[f32], *mut u8),
    /// Multiplies a strip: [`STRIP`] results for each input, of which those beyond the rows of the
    /// strip have no meaning.
    ///
    /// Safety: the processor has the instructions, and the strip's pointers are valid.
    pub(super) product: unsafe fn(&Strip<'_>, &mut Panel, &mut [f32]),
}

impl Instructions {
    /// The best ones that this processor has.
    pub(super) fn of_this_processor() -> Option<&'static Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(&super::avx2::INSTRUCTIONS);
        }
        None
    }
}

/// Whether the kernels multiply experts with rows of `k` elements of type `ty` in host memory,
/// faster than ggml.
pub(crate) fn multiplies_experts(ty: TensorType, k: usize) -> bool {
    let faster = match ty {
        // ggml rearranges these, and multiplies them with AVX-512.
        TensorType::Q4_0 | TensorType::Q4_K => !has_avx512(),
        _ => true,
    };
    faster
        && Format::of(ty).is_some()
        && k.is_multiple_of(GROUP)
        && Instructions::of_this_processor().is_some()
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return true;
    }
    false
}
