//! The layers of a DiffusionGemma model as a model that libllama can run, for comparison.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::error::{Error, Result};
use crate::gguf::keys::{DIFFUSION_GEMMA, GENERAL_ARCHITECTURE, SPLIT, TOKENIZER};
use crate::gguf::writer::GgufWriter;
use crate::model::file::ModelFile;
use crate::model::hparams::Hparams;
use crate::model::keys;

/// Writes the layers of a DiffusionGemma model as a model of architecture `gemma4`, which libllama
/// can run: the same weights with the encoder's scalars, without self-conditioning.
///
/// # Errors
/// The file cannot be written.
pub fn write_as_gemma4(model: &ModelFile, path: &Path) -> Result<()> {
    const TARGET: &str = "gemma4";
    let renamed = |name: &str| match name.rsplit_once('.') {
        Some((path, _))
            if path.starts_with(keys::SELF_COND) || keys::stem(name) == keys::DECODER_SCALE =>
        {
            None
        }
        _ => Some(name.replace(keys::ENCODER_SCALE, keys::DECODER_SCALE)),
    };
    let mut writer = GgufWriter::new();
    for (key, value) in model.metadata().metadata() {
        let key = match key.strip_prefix(DIFFUSION_GEMMA) {
            // A canvas is not causal, but a prefix is.
            Some(suffix) if suffix.strip_prefix('.') == Some(keys::ATTENTION_CAUSAL) => continue,
            Some(suffix) => format!("{TARGET}{suffix}"),
            None if key.starts_with(SPLIT) => continue,
            None => key.to_owned(),
        };
        writer.set(key, value);
    }
    writer.set(GENERAL_ARCHITECTURE, TARGET);
    if model.metadata().value(TOKENIZER).is_none() {
        // A file without a tokenizer, such as one for tests, must say so for libllama.
        let vocab_size = Hparams::from_file(model)?.vocab_size;
        writer.set(TOKENIZER, "no_vocab");
        writer.set(format!("{TARGET}.{}", keys::VOCAB_SIZE), vocab_size as u32);
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
