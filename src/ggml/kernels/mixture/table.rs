//! The table whose rows are mixed: embeddings as the file stores them.

use std::ffi::c_void;
use std::slice::from_raw_parts;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use super::super::super::tensor::Tensor;
use super::q6_k;
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::sys;

/// The shape `[d, positions]` of a mixture of the rows of `table [d, vocab]`, of any type, by F32
/// `weights [vocab, positions]`.
///
/// # Errors
/// The kernel `name` cannot mix them.
pub(super) fn shape(name: &str, table: &Tensor, weights: &Tensor) -> Result<[usize; 2]> {
    let ([d, vocab, ..], [width, positions, ..]) = (table.ne(), weights.ne());
    let plain = weights.is(TensorType::F32) && weights.is_contiguous();
    let readable = table.ty().is_some_and(|ty| Conversion::of(ty).is_some());
    if !plain || !readable || !table.is_contiguous() || width != vocab {
        return Err(Error::Ggml(format!(
            "{name}: {} and {} do not fit",
            table.label(),
            weights.label()
        )));
    }
    Ok([d, positions])
}

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

/// Reads rows of a table.
pub(super) struct Reader<'a> {
    table: &'a sys::ggml_tensor,
    ty: TensorType,
    conversion: Conversion,
}

impl<'a> Reader<'a> {
    /// `None` if the elements cannot be converted.
    ///
    /// # Safety
    /// The table is contiguous, in host memory that lives for `'a`.
    pub(super) unsafe fn of(table: &'a sys::ggml_tensor) -> Option<Self> {
        #[allow(
            clippy::unnecessary_cast,
            reason = "C enums are signed on some systems"
        )]
        let ty = TensorType::from_id(table.type_ as u32)?;
        Some(Self {
            table,
            ty,
            conversion: Conversion::of(ty)?,
        })
    }

    /// Elements that are stored together: reading begins and ends with whole blocks.
    pub(super) fn block_len(&self) -> usize {
        self.ty.block_len()
    }

    /// Converts the elements of a row from `first` on.
    ///
    /// # Panics
    /// They are not whole blocks of a row of the table.
    pub(super) fn read(&self, row: usize, first: usize, to: &mut [f32]) {
        let ([d, rows, ..], len) = (self.table.ne, self.block_len());
        assert!(row < rows as usize && first + to.len() <= d as usize);
        assert!(first.is_multiple_of(len) && to.len().is_multiple_of(len));
        let offset = row * self.table.nb[1] + first / len * self.ty.block_bytes();
        // SAFETY: the elements are whole blocks of the table, whose memory is valid by the contract
        // of `of`.
        unsafe {
            let stored = self.table.data.cast::<u8>().add(offset);
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
