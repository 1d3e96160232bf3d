//! `-hf USER/MODEL[:QUANT]` and `-hff FILE`: a model file in Hugging Face's cache.

use std::path::PathBuf;

use llama_diffusion::{Error, Result, hub};

/// The file in the cache of this user.
///
/// # Errors
/// As [`hub::find`], with the flags.
pub fn find(repository: &str, file: Option<&str>) -> Result<PathBuf> {
    hub::find(repository, file).map_err(|error| match error {
        Error::InvalidParameter { problem, .. } => Error::InvalidParameter {
            parameter: "-hf (-hff)".into(),
            problem,
        },
        error => error,
    })
}
