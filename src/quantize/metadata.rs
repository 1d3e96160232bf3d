//! The metadata of a quantized file.

use super::params::QuantizeParams;
use crate::gguf::writer::GgufWriter;
use crate::gguf::{TensorType, keys};
use crate::model::file::ModelFile;
use crate::model::hparams::{Hparams, embedding_scale};
use crate::model::keys::{EMBEDDING_SCALE, of_model};
use crate::sys;

/// Copies the metadata, except for what describes the parts of a split model, and adds what
/// describes the quantization. `embedding` is the new type of the embedding.
pub(super) fn set_metadata(
    writer: &mut GgufWriter,
    file: &ModelFile,
    hparams: &Hparams,
    params: &QuantizeParams,
    embedding: Option<TensorType>,
) {
    for (key, value) in file.metadata().metadata() {
        if !key.starts_with(keys::SPLIT) {
            writer.set(key, value);
        }
    }
    writer.set(keys::FILE_TYPE, params.mix.file_type.id());
    writer.set(keys::QUANTIZATION_VERSION, sys::GGML_QNT_VERSION);
    // Without this key, the type of the embedding determines the checkpoint's factor.
    let implied = embedding.map(|ty| embedding_scale(hparams.d, ty));
    if implied != Some(hparams.embedding_scale) {
        writer.set(of_model(EMBEDDING_SCALE), hparams.embedding_scale);
    }
    if let Some(importance) = &params.importance {
        // File name only: a path would reveal the user's directories.
        if let Some(name) = importance.path().file_name() {
            let name = name.to_string_lossy();
            writer.set(keys::IMATRIX_FILE, name.as_ref());
        }
        if let Some(dataset) = importance.dataset() {
            writer.set(keys::IMATRIX_DATASET, dataset);
        }
        writer.set(keys::IMATRIX_ENTRIES, importance.len() as u32);
        if let Some(chunks) = importance.chunks() {
            writer.set(keys::IMATRIX_CHUNKS, chunks);
        }
    }
}
