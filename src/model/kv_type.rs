//! The element types of cached keys and values, and the unit of slots.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::parameter::Parameter;

/// Element type of cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Half precision, the default.
    #[default]
    F16,
    /// Single precision.
    F32,
    /// Blocks of 32 8-bit numbers with a scale: half the size of F16, needs flash attention.
    Q8_0,
}

impl KvType {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::F16, Self::F32, Self::Q8_0];

    pub(crate) fn tensor_type(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::F32 => TensorType::F32,
            Self::Q8_0 => TensorType::Q8_0,
        }
    }
}

impl FromStr for KvType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(Error::parameter(
                Parameter::KvType,
                format!("'{name}' is not supported: use f16, f32 or q8_0"),
            )),
        }
    }
}

/// Slots are rounded up to this, because GPU attention kernels need keys in such units.
pub(crate) const SLOT_UNIT: usize = 256;
