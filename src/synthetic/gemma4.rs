//! The backbone of a DiffusionGemma model as one that libllama can run, for comparison.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::error::{Error, Result};
use crate::gguf::writer::GgufWriter;
use crate::model::file::ModelFile;
use crate::model::hparams::{ARCHITECTURE, Hparams};

/// Writes the backbone of a DiffusionGemma model as a model of architecture `gemma4`, which
/// libllama can run: the same weights with the encoder's scalars, without self-conditioning.
///
/// # Errors
/// The file cannot be written.
pub fn write_as_gemma4(model: &ModelFile, path: &Path) -> Result<()> {
    const TARGET: &str = "gemma4";
    let renamed = |name: &str| match name.rsplit_once('.') {
        Some((stem, _))
            if stem.starts_with("self_cond") || stem.ends_with(".layer_output_scale") =>
        {
            None
        }
        _ => Some(name.replace("enc_layer_output_scale", "layer_output_scale")),
    };
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().metadata() {
        let key = match key.strip_prefix(ARCHITECTURE) {
            // A canvas is not causal, a prefix is.
            Some(".attention.causal") => continue,
            Some(suffix) => format!("{TARGET}{suffix}"),
            None if key.starts_with("split.") => continue,
            None => key.to_owned(),
        };
        writer.set(key, value);
    }
    writer.set("general.architecture", TARGET);
    if model.metadata().value("tokenizer.ggml.model").is_none() {
        // A file without a tokenizer, such as one for tests, must say so to libllama.
        let vocab_size = Hparams::from_file(model)?.vocab_size;
        writer.set("tokenizer.ggml.model", "no_vocab");
        writer.set(format!("{TARGET}.vocab_size"), vocab_size as u32);
    }
    let tensors = || {
        model
            .tensors()
            .filter_map(|(part, tensor)| Some((renamed(&tensor.info.name)?, part, tensor.info)))
    };
    for (name, _, info) in tensors() {
        writer.tensor(name, &info.shape, info.ty);
    }
    let out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    let mut data = writer.begin(out).map_err(Error::io(path))?;
    for (_, part, info) in tensors() {
        let weights = model.parts()[part].data(info);
        data.write(&weights).map_err(Error::io(path))?;
    }
    data.finish().map(drop).map_err(Error::io(path))
}
