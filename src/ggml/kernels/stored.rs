//! Rows of elements as a tensor stores them, read as numbers.

use std::ffi::c_void;
use std::slice::from_raw_parts;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use super::q6_k;
use crate::gguf::TensorType;
use crate::sys;

/// How stored elements are converted to numbers.
#[derive(Clone, Copy)]
enum Conversion {
    /// They are F32.
    Plain,
    F16,
    BF16,
    Q6K,
    /// ggml's function for the type.
    By(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
}

impl Conversion {
    /// ggml's functions for F16 and Q6_K convert one element at a time.
    fn of(ty: TensorType) -> Option<Self> {
        match ty {
            TensorType::F32 => Some(Self::Plain),
            TensorType::F16 => Some(Self::F16),
            TensorType::BF16 => Some(Self::BF16),
            TensorType::Q6_K => Some(Self::Q6K),
            _ => {
                // SAFETY: the traits are a static table and the type is one that ggml has.
                let traits = unsafe { &*sys::ggml_get_type_traits(ty.id() as sys::ggml_type) };
                traits.to_float.map(Self::By)
            }
        }
    }
}

/// Whether a [`Reader`] converts elements of this type.
pub(super) fn is_readable(ty: TensorType) -> bool {
    Conversion::of(ty).is_some()
}

/// Reads rows of a tensor of three dimensions, whose rows are contiguous.
pub(super) struct Reader<'a> {
    tensor: &'a sys::ggml_tensor,
    ty: TensorType,
    conversion: Conversion,
}

impl<'a> Reader<'a> {
    /// `None` if the elements cannot be converted.
    ///
    /// # Safety
    /// The rows are contiguous, in host memory that lives for `'a`.
    pub(super) unsafe fn of(tensor: &'a sys::ggml_tensor) -> Option<Self> {
        #[allow(
            clippy::unnecessary_cast,
            reason = "C enums are signed on some systems"
        )]
        let ty = TensorType::from_id(tensor.type_ as u32)?;
        Some(Self {
            tensor,
            ty,
            conversion: Conversion::of(ty)?,
        })
    }

    /// Elements that are stored together: reading begins and ends with whole blocks.
    pub(super) fn block_len(&self) -> usize {
        self.ty.block_len()
    }

    /// Converts the elements of a row of a plane from `first` on.
    ///
    /// # Panics
    /// They are not whole blocks of a row of the tensor.
    pub(super) fn read(&self, [row, plane]: [usize; 2], first: usize, to: &mut [f32]) {
        let ([d, rows, planes, _], len) = (self.tensor.ne.map(|n| n as usize), self.block_len());
        assert!(row < rows && plane < planes && first + to.len() <= d);
        assert!(first.is_multiple_of(len) && to.len().is_multiple_of(len));
        let [_, to_row, to_plane, _] = self.tensor.nb;
        let offset = row * to_row + plane * to_plane + first / len * self.ty.block_bytes();
        // SAFETY: the elements are whole blocks of the tensor, whose memory is valid by the contract
        // of `of`.
        unsafe {
            let stored = self.tensor.data.cast::<u8>().add(offset);
            match self.conversion {
                Conversion::Plain => to.copy_from_slice(from_raw_parts(stored.cast(), to.len())),
                Conversion::F16 => {
                    from_raw_parts(stored.cast::<f16>(), to.len()).convert_to_f32_slice(to)
                }
                Conversion::BF16 => {
                    from_raw_parts(stored.cast::<bf16>(), to.len()).convert_to_f32_slice(to)
                }
                Conversion::Q6K => {
                    let blocks = from_raw_parts(stored.cast(), to.len() / q6_k::LEN);
                    q6_k::decode(blocks, to);
                }
                Conversion::By(convert) => {
                    convert(stored.cast(), to.as_mut_ptr(), to.len() as i64);
                }
            }
        }
    }
}
