//! The tensor types of a generated model.

use std::str::FromStr;

use super::geometry::Geometry;
use crate::gguf::TensorType;
use crate::model::tensors::{Expected, TensorUse};
use crate::quantize::{FileType, Mix, MixShape};

/// The types of a generated model's matrices. Norms, scales and routers are F32. A type whose
/// blocks do not fit the rows of a tensor [is replaced](TensorType::for_rows_of).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightTypes {
    /// One type.
    Uniform(TensorType),
    /// The mixture of the files called Q4_K_M.
    Q4KM,
}

impl WeightTypes {
    pub(super) fn of(self, tensors: &[Expected], geometry: &Geometry) -> Vec<TensorType> {
        let types: Vec<_> = match self {
            Self::Uniform(ty) => tensors
                .iter()
                .map(|tensor| {
                    let is_matrix = tensor.usage == TensorUse::Matrix;
                    is_matrix.then(|| ty.for_rows_of(tensor.shape[0]))
                })
                .collect(),
            Self::Q4KM => Mix::of(FileType::Q4_K_M).types(
                tensors,
                &MixShape {
                    n_layers: geometry.n_layers,
                    n_experts: geometry.n_experts,
                    weighted: false,
                },
            ),
        };
        let types = types.into_iter();
        types.map(|ty| ty.unwrap_or(TensorType::F32)).collect()
    }
}

impl FromStr for WeightTypes {
    type Err = String;

    /// The name of a tensor type, or `q4_k_m`.
    fn from_str(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("q4_k_m") {
            Ok(Self::Q4KM)
        } else {
            name.parse().map(Self::Uniform)
        }
    }
}
