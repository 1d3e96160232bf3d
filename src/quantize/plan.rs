//! What a quantized file will contain.

use std::path::Path;

use super::metadata::set_metadata;
use super::mix::{MixShape, TypeOverride};
use super::params::{QuantizeParams, check_params};
use crate::error::{Error, Result};
use crate::gguf::keys::{DIFFUSION_GEMMA, GENERAL_ARCHITECTURE};
use crate::gguf::writer::GgufWriter;
use crate::gguf::{TensorInfo, TensorType};
use crate::model::file::ModelFile;
use crate::model::hparams::Hparams;
use crate::model::keys::TOKEN_EMBD;
use crate::model::tensors::{Expected, TensorTable, TensorUse};
use crate::parameter::Parameter;

/// What a file will contain of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Elements in each dimension, row length first.
    pub shape: [usize; 4],
    /// Its present type.
    pub from: TensorType,
    /// Its new type.
    pub to: TensorType,
}

impl PlannedTensor {
    fn bytes_in(&self, ty: TensorType) -> usize {
        let rows: usize = self.shape[1..].iter().product();
        ty.row_bytes(self.shape[0]).map_or(0, |bytes| bytes * rows)
    }
}

/// A model and the new types of its tensors.
#[derive(Debug)]
pub struct Plan {
    pub(super) file: ModelFile,
    pub(super) params: QuantizeParams,
    tensors: Vec<PlannedTensor>,
    pub(super) writer: GgufWriter,
}

impl Plan {
    /// Opens a model, or all parts of a split one, and decides on the types.
    ///
    /// # Errors
    /// The file is not a model of architecture `diffusion-gemma`; it is already quantized and
    /// `allow_requantize` is not set; an override matches no matrix or asks for a type that nothing
    /// can be quantized to; the importance matrix belongs to another model.
    pub fn new(input: &Path, params: QuantizeParams) -> Result<Self> {
        check_params(&params)?;
        let file = ModelFile::open(input)?;
        check_architecture(&file)?;
        let hparams = Hparams::from_file(&file)?;
        // The result is not needed here: every tensor is present and has its shape.
        TensorTable::locate(&file, &hparams)?;
        let expected = TensorTable::expected(&hparams, |name| file.tensor(name).is_some());
        let expected = expected.into_vec();
        check_overrides(&params.mix.overrides, &expected)?;
        let shape = MixShape {
            n_layers: hparams.layers.len(),
            n_experts: hparams.n_experts,
            weighted: params.importance.is_some(),
        };
        let types = params.mix.types(&expected, &shape);
        let planned = |info: &TensorInfo| {
            // Unknown tensors stay as they are.
            let at = expected.iter().position(|e| e.name == info.name);
            PlannedTensor {
                name: info.name.clone(),
                shape: info.shape,
                from: info.ty,
                to: at.and_then(|at| types[at]).unwrap_or(info.ty),
            }
        };
        let tensors: Vec<_> = file.tensors().map(|(_, t)| planned(t.info)).collect();
        let embedding = tensors.iter().find(|tensor| tensor.name == TOKEN_EMBD);
        let embedding = embedding.map(|tensor| tensor.to);
        let mut writer = GgufWriter::new();
        set_metadata(&mut writer, &file, &hparams, &params, embedding);
        for tensor in &tensors {
            writer.tensor(&tensor.name, file_shape(&tensor.shape), tensor.to);
        }
        let plan = Self {
            file,
            params,
            tensors,
            writer,
        };
        plan.check_sources()?;
        plan.check_importance()?;
        Ok(plan)
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// Bytes of the tensors' data, before and after.
    pub fn bytes(&self) -> (usize, usize) {
        let sum = |ty: fn(&PlannedTensor) -> TensorType| {
            let bytes = self.tensors.iter().map(|t| t.bytes_in(ty(t)));
            bytes.sum()
        };
        (sum(|t| t.from), sum(|t| t.to))
    }

    /// Number of weights.
    pub fn elements(&self) -> usize {
        let elements = self
            .tensors
            .iter()
            .map(|t| t.shape.iter().product::<usize>());
        elements.sum()
    }

    /// Quantized tensors lose precision again when they are quantized once more.
    fn check_sources(&self) -> Result<()> {
        let loses =
            |t: &&PlannedTensor| t.from != t.to && t.from.is_quantized() && t.to != TensorType::F32;
        match self.tensors.iter().find(loses) {
            Some(tensor) if !self.params.allow_requantize => {
                let problem = format!(
                    "is quantized already ({}): start from a file in F32, F16 or BF16, or accept \
                     the loss with `allow_requantize`",
                    tensor.from
                );
                Err(self.file.tensor_error(&tensor.name, problem))
            }
            _ => Ok(()),
        }
    }

    /// Every entry that the model has a tensor for must fit it, and there must be at least one.
    fn check_importance(&self) -> Result<()> {
        let Some(importance) = &self.params.importance else {
            return Ok(());
        };
        let (mut found, mut missing) = (0, Vec::new());
        for tensor in &self.tensors {
            let weights = importance.weights(&tensor.name, &tensor.shape)?;
            if weights.is_some() {
                found += 1;
            } else if tensor.from != tensor.to && tensor.to.is_quantized() {
                missing.push(tensor.name.as_str());
            }
        }
        if found == 0 {
            return Err(Error::Gguf {
                path: importance.path().to_owned(),
                problem: format!(
                    "none of the {} tensors of this importance matrix is one of the model's",
                    importance.len()
                ),
            });
        }
        if !missing.is_empty() {
            tracing::warn!(
                "the importance matrix lacks {} tensors, whose columns count alike: {}",
                missing.len(),
                missing.join(", ")
            );
        }
        Ok(())
    }
}

/// Every override must match a matrix.
fn check_overrides(overrides: &[TypeOverride], expected: &[Expected]) -> Result<()> {
    for TypeOverride { pattern, .. } in overrides {
        let matches = |t: &Expected| t.usage == TensorUse::Matrix && pattern.is_match(&t.name);
        if !expected.iter().any(matches) {
            return Err(Error::parameter(
                Parameter::TensorTypes,
                format!("'{pattern}' matches none of the model's matrices"),
            ));
        }
    }
    Ok(())
}

/// Says more than the loader would: the other architectures have a quantizer of their own.
fn check_architecture(file: &ModelFile) -> Result<()> {
    let found: &str = file.metadata().require(GENERAL_ARCHITECTURE)?;
    if found == DIFFUSION_GEMMA {
        return Ok(());
    }
    let problem = format!(
        "is not quantized here, only '{DIFFUSION_GEMMA}' is: use llama.cpp's llama-quantize for the \
         architectures that it knows"
    );
    Err(file.metadata().unsupported(found, problem))
}

/// A shape without trailing ones, as in files.
fn file_shape(shape: &[usize; 4]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|&&n| n == 1).count();
    &shape[..(shape.len() - ones).max(1)]
}
