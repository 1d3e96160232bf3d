//! The parameters of the quantizer.

use super::imatrix::ImportanceMatrix;
use super::mix::{FileType, Mix};
use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::parameter::Parameter;

/// What to make of a model.
#[derive(Clone, Debug)]
pub struct QuantizeParams {
    /// The types.
    pub mix: Mix,
    /// Accept matrices that are already quantized, which adds their errors to the new ones.
    /// Otherwise they may only be converted to F32.
    pub allow_requantize: bool,
    /// The weights of the errors of the columns.
    pub importance: Option<ImportanceMatrix>,
    /// Threads; `None` is one for each core.
    pub threads: Option<usize>,
}

impl QuantizeParams {
    /// llama.cpp's mixture for a type of file, without an importance matrix.
    pub const fn new(file_type: FileType) -> Self {
        Self {
            mix: Mix::of(file_type),
            allow_requantize: false,
            importance: None,
            threads: None,
        }
    }
}

pub(super) fn check_params(params: &QuantizeParams) -> Result<()> {
    if params
        .threads
        .is_some_and(|threads| !(1..=512).contains(&threads))
    {
        return Err(Error::parameter(Parameter::Threads, "use 1 to 512"));
    }
    let mix = &params.mix;
    let overrides = mix
        .overrides
        .iter()
        .map(|o| (Parameter::TensorTypes, Some(o.ty)));
    let others = [
        (Parameter::OutputType, mix.output),
        (Parameter::EmbeddingType, mix.embedding),
    ];
    for (parameter, ty) in others.into_iter().chain(overrides) {
        if let Some(ty) = ty.filter(|ty| !ty.is_quantizable()) {
            let types = TensorType::ALL.iter().filter(|ty| ty.is_quantizable());
            let names: Vec<_> = types.map(|ty| ty.name()).collect();
            return Err(Error::parameter(
                parameter,
                format!("{ty} is not supported, use one of {}", names.join(", ")),
            ));
        }
    }
    Ok(())
}
