//! Quantization of model files: the matrices of a DiffusionGemma model in smaller types, everything
//! else as it is.
//!
//! A [`Mix`] decides which tensor gets which type, [`imatrix`] reads what weighs the errors,
//! `stream` converts the data of one tensor. Here they meet: a [`Plan`] is made of an open, checked
//! model and says what its file would hold, and [`Plan::write`] writes it.

pub mod imatrix;
mod stream;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;

pub use crate::model::mix::{FileType, Mix, TypeOverride};
pub use imatrix::ImportanceMatrix;
use stream::{Conversion, Failure};

use crate::error::{Error, Result};
use crate::gguf::TensorType;
use crate::gguf::writer::GgufWriter;
use crate::model::file::ModelFile;
use crate::model::hparams::{ARCHITECTURE, Hparams, embedding_scale};
use crate::model::mix::Backbone;
use crate::model::tensors::{Expected, TOKEN_EMBD, TensorTable, TensorUse};
use crate::parallel;
use crate::sys;
use crate::temporary::Tracked;

const ARCHITECTURE_KEY: &str = "general.architecture";

/// What shall become of a model.
#[derive(Clone, Debug)]
pub struct QuantizeParams {
    /// The types.
    pub mix: Mix,
    /// Take matrices that are quantized already, which adds their errors to the new ones. Without
    /// it they may only go back to F32.
    pub allow_requantize: bool,
    /// What weighs the errors of the columns.
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

/// What a file will hold of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Elements in each dimension, row length first.
    pub shape: [usize; 4],
    /// The type that it has.
    pub from: TensorType,
    /// The type that it gets.
    pub to: TensorType,
}

impl PlannedTensor {
    fn bytes_in(&self, ty: TensorType) -> usize {
        let rows: usize = self.shape[1..].iter().product();
        ty.row_bytes(self.shape[0]).map_or(0, |bytes| bytes * rows)
    }
}

/// A model and the types that its tensors shall get.
#[derive(Debug)]
pub struct Plan {
    file: ModelFile,
    params: QuantizeParams,
    tensors: Vec<PlannedTensor>,
    writer: GgufWriter,
}

impl Plan {
    /// Opens a model, all parts of a split one, and decides on the types.
    ///
    /// # Errors
    /// The file is no model of architecture `diffusion-gemma`; it is quantized already and
    /// `allow_requantize` is not set; an override matches no matrix or asks for a type that nothing
    /// can be quantized to; the importance matrix is one of another model.
    pub fn new(input: &Path, params: QuantizeParams) -> Result<Self> {
        check_params(&params)?;
        let file = ModelFile::open(input)?;
        check_architecture(&file)?;
        let hparams = Hparams::from_file(&file)?;
        // What it gives is not needed here: every tensor is there and has its shape.
        TensorTable::locate(&file, &hparams)?;
        let expected = TensorTable::expected(&hparams, |name| file.tensor(name).is_some());
        let expected = expected.into_vec();
        for TypeOverride { pattern, .. } in &params.mix.overrides {
            let matches = |t: &Expected| t.usage == TensorUse::Matrix && pattern.is_match(&t.name);
            if !expected.iter().any(matches) {
                return Err(Error::parameter(
                    TENSOR_TYPE,
                    format!("'{pattern}' matches none of the model's matrices"),
                ));
            }
        }
        let backbone = Backbone {
            n_layers: hparams.layers.len(),
            n_experts: hparams.n_experts,
            weighted: params.importance.is_some(),
        };
        let types = params.mix.types(&expected, &backbone);
        let tensors: Vec<_> = file
            .tensors()
            .map(|(_, tensor)| {
                let info = tensor.info;
                // Tensors that nothing here knows stay as they are.
                let at = expected.iter().position(|e| e.name == info.name);
                PlannedTensor {
                    name: info.name.clone(),
                    shape: info.shape,
                    from: info.ty,
                    to: at.and_then(|at| types[at]).unwrap_or(info.ty),
                }
            })
            .collect();
        let mut writer = GgufWriter::new();
        set_metadata(&mut writer, &file, &hparams, &params, &tensors);
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

    /// Bytes of the tensors' data, as it is and as it will be.
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

    /// Quantized tensors lose again when they are quantized once more.
    fn check_sources(&self) -> Result<()> {
        let loses =
            |t: &&PlannedTensor| t.from != t.to && t.from.is_quantized() && t.to != TensorType::F32;
        match self.tensors.iter().find(loses) {
            Some(tensor) if !self.params.allow_requantize => {
                let problem = format!(
                    "is quantized already ({}): start from a file in F32, F16 or BF16, or accept \
                     the loss with --allow-requantize",
                    tensor.from
                );
                Err(self.file.tensor_error(&tensor.name, problem))
            }
            _ => Ok(()),
        }
    }

    /// Every entry that the model has a tensor for must fit it, and there must be some.
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

    /// Writes the file to `output`, which is replaced when all is written and not before: a run
    /// that is stopped leaves nothing behind. Memory is taken for some rows of one tensor at a
    /// time.
    ///
    /// `progress` hears the share that is done, from 0 to 1, and may stop.
    ///
    /// # Errors
    /// `output` is the model itself or no regular file, or cannot be written; a tensor holds a
    /// number that is not finite; [`Error::Cancelled`] if `progress` stopped.
    pub fn write(
        &self,
        output: &Path,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_output(output)?;
        let directory = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Else the error would name the temporary file.
        fs::metadata(directory).map_err(Error::io(directory))?;
        let file = temporary_file(directory).map_err(Error::io(directory))?;
        let _tracked = Tracked::new(file.path());
        let failed = |failure| match failure {
            Failure::Output(source) => self.output_error(output, source),
            Failure::Other(error) => error,
        };
        self.write_to(BufWriter::new(file.as_file()), progress)
            .map_err(failed)?;
        file.as_file()
            .sync_all()
            .and_then(|()| Ok(file.persist(output)?))
            .map_err(|source| self.output_error(output, source))?;
        Ok(())
    }

    fn write_to<W: Write>(
        &self,
        out: W,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let threads = self.params.threads.unwrap_or_else(parallel::cores);
        let total = self.bytes().0.max(1);
        let mut data = self.writer.clone().begin(out)?;
        let mut behind = 0;
        for ((part, tensor), planned) in self.file.tensors().zip(&self.tensors) {
            let importance = match &self.params.importance {
                Some(all) if planned.to != planned.from => {
                    all.weights(&planned.name, &planned.shape)?
                }
                _ => None,
            };
            let conversion = Conversion {
                path: self.file.parts()[part].path(),
                tensor,
                ty: planned.to,
                importance,
            };
            let (gguf, start) = (&self.file.parts()[part], tensor.info.range.start);
            let mut released = start;
            let mut done = |bytes: usize| {
                // The pages of the old file count as memory of this process.
                gguf.release(released..start + bytes);
                released = start + bytes;
                match progress((behind + bytes) as f32 / total as f32) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(Error::Cancelled),
                }
            };
            data.write_with(|out| conversion.run(threads, out, &mut done))?;
            behind += tensor.data.len();
        }
        data.finish()?;
        Ok(())
    }

    fn check_output(&self, output: &Path) -> Result<()> {
        let Ok(metadata) = fs::metadata(output) else {
            return Ok(()); // Not there yet; what else may be wrong shows when it is written.
        };
        let refused = |problem: &str| Err(Error::parameter(output.display().to_string(), problem));
        if metadata.is_dir() {
            return refused("is a directory: give the name of a file");
        }
        if !metadata.is_file() {
            return refused("is no regular file: give the name of one");
        }
        let path = fs::canonicalize(output).map_err(Error::io(output))?;
        for part in self.file.parts() {
            if fs::canonicalize(part.path()).is_ok_and(|input| input == path) {
                return refused("is the model itself: give another name");
            }
        }
        Ok(())
    }

    fn output_error(&self, output: &Path, source: io::Error) -> Error {
        let source = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => io::Error::new(
                source.kind(),
                format!(
                    "{source}: the file needs {} MiB",
                    self.bytes().1.div_ceil(1 << 20)
                ),
            ),
            _ => source,
        };
        Error::io(output)(source)
    }
}

/// What errors call the parameters, which are also flags.
const TENSOR_TYPE: &str = "tensor type (--tensor-type)";
const OUTPUT_TYPE: &str = "type of the output head (--output-tensor-type)";
const EMBEDDING_TYPE: &str = "type of the embedding (--token-embedding-type)";

fn check_params(params: &QuantizeParams) -> Result<()> {
    if params
        .threads
        .is_some_and(|threads| !(1..=512).contains(&threads))
    {
        return Err(Error::parameter("threads (-t)", "use 1 to 512"));
    }
    let mix = &params.mix;
    let overrides = mix.overrides.iter().map(|o| (TENSOR_TYPE, Some(o.ty)));
    let others = [(OUTPUT_TYPE, mix.output), (EMBEDDING_TYPE, mix.embedding)];
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

/// Says more than the loader would: the other architectures have a quantizer.
fn check_architecture(file: &ModelFile) -> Result<()> {
    let found: &str = file.metadata().require(ARCHITECTURE_KEY)?;
    if found == ARCHITECTURE {
        return Ok(());
    }
    Err(file.metadata().metadata_error(
        ARCHITECTURE_KEY,
        format!(
            "'{found}' is not quantized here, only '{ARCHITECTURE}' is: use llama.cpp's \
             llama-quantize for the architectures that it knows"
        ),
    ))
}

/// Copies the metadata, without what describes the parts of a split model, and adds what describes
/// the quantization.
fn set_metadata(
    writer: &mut GgufWriter,
    file: &ModelFile,
    hparams: &Hparams,
    params: &QuantizeParams,
    tensors: &[PlannedTensor],
) {
    for (key, value) in file.metadata().metadata() {
        if !key.starts_with("split.") {
            writer.set(key, value);
        }
    }
    writer.set("general.file_type", params.mix.file_type.id());
    writer.set("general.quantization_version", sys::GGML_QNT_VERSION);
    // Without this key, the type of the embedding tells what the checkpoint's factor was.
    let implied = tensors
        .iter()
        .find(|tensor| tensor.name == TOKEN_EMBD)
        .map(|tensor| embedding_scale(hparams.d, tensor.to));
    if implied != Some(hparams.embedding_scale) {
        writer.set(
            format!("{ARCHITECTURE}.embedding_scale"),
            hparams.embedding_scale,
        );
    }
    if let Some(importance) = &params.importance {
        // Without its directory, which is nobody's business.
        if let Some(name) = importance.path().file_name() {
            let name = name.to_string_lossy();
            writer.set("quantize.imatrix.file", name.as_ref());
        }
        if let Some(dataset) = importance.dataset() {
            writer.set("quantize.imatrix.dataset", dataset);
        }
        writer.set("quantize.imatrix.entries_count", importance.len() as u32);
        if let Some(chunks) = importance.chunks() {
            writer.set("quantize.imatrix.chunks_count", chunks);
        }
    }
}

/// A shape without the ones at its end, as files have it.
fn file_shape(shape: &[usize; 4]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|&&n| n == 1).count();
    &shape[..(shape.len() - ones).max(1)]
}

/// A file in the directory of the output, so that it can be renamed to it. Dropped, it is deleted.
fn temporary_file(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".quantize-").suffix(".tmp");
    // As any new file: what the user's mask leaves, not the privacy of temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::{Geometry, WeightTypes, write_synthetic};

    /// Fails after so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let n = data.len().min(self.0);
            self.0 -= n;
            match n {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(n),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_with_the_size_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let types = WeightTypes::Uniform(TensorType::F32);
        write_synthetic(&path, &Geometry::tiny(), types, 1).unwrap();
        let plan = Plan::new(&path, QuantizeParams::new(FileType::Q8_0)).unwrap();
        let size = plan.bytes().1;
        for room in [0, 1000, size / 2, size] {
            let failure = plan.write_to(Full(room), &mut |_| ControlFlow::Continue(()));
            let Err(Failure::Output(source)) = failure else {
                panic!("{room} bytes were enough");
            };
            let message = plan.output_error(Path::new("out.gguf"), source).to_string();
            assert!(message.starts_with("out.gguf: "), "{message}");
            assert!(message.ends_with("the file needs 1 MiB"), "{message}");
        }
    }
}
