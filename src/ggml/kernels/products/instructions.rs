//! Which product this processor runs.

use std::sync::OnceLock;

use super::format::{Format, GROUP};
use super::mixture::Mix;
use super::scratch::Scratch;
use crate::gguf::TensorType;

/// Rows of weights that are multiplied together; the last strip of a matrix may have fewer.
pub(super) const STRIP: usize = 16;

/// A strip of weights and the activations that it is multiplied with.
pub(super) struct Strip<'a> {
    pub(super) format: Format,
    /// The first row.
    pub(super) weights: *const u8,
    /// The first row of the strip that is multiplied next. It need not exist.
    pub(super) next: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Rows, 1 to [`STRIP`].
    pub(super) rows: usize,
    /// Elements of a row.
    pub(super) k: usize,
    /// Rows as [`Instructions::conversion`] makes them for the format.
    pub(super) inputs: &'a [*const u8],
}

impl Strip<'_> {
    /// What is read ahead while this strip is multiplied, in `parts`.
    pub(super) fn ahead(&self, parts: usize) -> Ahead {
        Ahead {
            next: self.next,
            bytes: self.rows * self.stride,
            each: (self.rows * self.stride).div_ceil(parts.max(1)),
            due: 0,
            done: 0,
        }
    }
}

/// Reads the next strip from memory while another one is multiplied: the processor does not foresee where
/// that is, and would wait for every row.
pub(super) struct Ahead {
    next: *const u8,
    /// Of the strip.
    bytes: usize,
    /// Bytes of a part.
    each: usize,
    due: usize,
    done: usize,
}

impl Ahead {
    /// Reads nothing.
    pub(super) fn nothing() -> Self {
        Self {
            next: std::ptr::null(),
            bytes: 0,
            each: 0,
            due: 0,
            done: 0,
        }
    }

    /// Begins to read so many parts. Few at a time are read beside the work; many at once would stop it.
    #[inline(always)]
    pub(super) fn read(&mut self, parts: usize) {
        /// Bytes that are read together.
        const LINE: usize = 64;
        self.due += parts * self.each;
        while self.done < self.due.min(self.bytes) {
            let at = self.next.wrapping_add(self.done);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an instruction of all processors, which ignores what cannot be read.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(at.cast());
            }
            self.done += LINE;
        }
    }
}

/// Converts a row of activations, of whole groups.
///
/// Safety: the processor has the instructions, and the target has room for the result.
pub(super) type Convert = unsafe fn(&[f32], *mut u8);

/// How rows are converted.
pub(super) struct Conversion {
    pub(super) convert: &'static Convert,
    /// Size of a row in bytes.
    pub(super) bytes: usize,
}

/// The functions for one set of instructions.
pub(crate) struct Instructions {
    /// As benchmarks call the set.
    pub(crate) name: &'static str,
    /// Whether vectors have 512 bits.
    pub(super) has_wide_vectors: bool,
    /// Inputs of a strip from which on the set is faster than the next one.
    pub(super) least_inputs: usize,
    /// Whether the product with weights of a format needs inputs that are equally far apart.
    pub(super) wants_contiguous: fn(Format) -> bool,
    /// What rows of `k` activations become before they are multiplied with weights of a format;
    /// `None` if they remain F32.
    pub(super) conversion: fn(Format, usize) -> Option<Conversion>,
    /// Mixes rows as integers, if floats become integers.
    pub(in super::super) mix_integers: Option<Mix>,
    /// Mixes rows in BF16, if the processor multiplies BF16.
    pub(in super::super) mix_bf16: Option<Mix>,
    /// Multiplies a strip: [`STRIP`] results for each input, of which those beyond the rows of the
    /// strip have no meaning.
    ///
    /// Safety: the processor has the instructions, and the strip's pointers are valid.
    pub(super) product: unsafe fn(&Strip<'_>, &mut Scratch, &mut [f32]),
}

impl Instructions {
    /// All that this processor has, the best first.
    pub(crate) fn of_this_processor() -> &'static [&'static Self] {
        static FOUND: OnceLock<Vec<&'static Instructions>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let has_avx2 = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                let has_avx512 = has_avx2
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni");
                if has_avx512 && is_x86_feature_detected!("avx512bf16") {
                    if super::avx512::amx::is_available() {
                        found.push(&super::avx512::amx::INSTRUCTIONS);
                    }
                    found.push(&super::avx512::WITH_BF16);
                }
                if has_avx512 {
                    found.push(&super::avx512::INSTRUCTIONS);
                }
                if has_avx2 {
                    found.push(&super::avx2::INSTRUCTIONS);
                }
            }
            found
        })
    }

    /// This set, or the best one for so few inputs of a strip. Callers pass the number at the usual
    /// length of a canvas, not that of a pass, which is to change no bit of a result.
    pub(super) fn for_inputs(&'static self, inputs: usize) -> &'static Self {
        let mut others = Self::of_this_processor().iter().copied();
        match self.least_inputs <= inputs {
            true => self,
            false => others
                .find(|other| other.least_inputs <= inputs)
                .unwrap_or(self),
        }
    }

    /// Those with which this processor multiplies experts with rows of `k` elements of type `ty`
    /// in host memory, faster than ggml.
    pub(crate) fn of_experts(ty: TensorType, k: usize) -> Option<&'static Self> {
        let best = *Self::of_this_processor().first()?;
        // ggml rearranges these, and multiplies them with AVX-512.
        let is_ggml_faster = matches!(ty, TensorType::Q4_0 | TensorType::Q4_K)
            && has_avx512()
            && !best.has_wide_vectors;
        (Format::of(ty).is_some() && k.is_multiple_of(GROUP) && !is_ggml_faster).then_some(best)
    }

    /// Those with which this processor multiplies a matrix with rows of `k` elements of type `ty` in
    /// host memory faster than ggml, whose product with whole matrices in F16 uses AVX2 well.
    pub(crate) fn of_dense(ty: TensorType, k: usize) -> Option<&'static Self> {
        Self::of_experts(ty, k).filter(|best| best.has_wide_vectors || ty != TensorType::F16)
    }
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return true;
    }
    false
}
