//! The model that answers when no `-m` is given.
//!
//! It is embedded, not looked for beside the program, so that the one file that `cargo install`
//! copies is enough.

use std::ops::ControlFlow;

use llama_diffusion::{ModelParams, Result, TextModel};

/// Loads the demo model.
///
/// # Errors
/// As [`TextModel::load`], or the temporary file cannot be written.
#[cfg(feature = "demo-model")]
pub fn load(
    params: &ModelParams,
    progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<TextModel> {
    use std::io::Write as _;

    use llama_diffusion::Error;

    use crate::shared::streams::tell;

    const MODEL: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/demo-q8_0.gguf"
    ));

    tell(
        "no -m: using the small demo model, which knows a few kinds of questions only (models/README.md)",
    );
    // libllama reads vocabularies only from files. The file is deleted when it is dropped, at the
    // end of this function; a mapping of it stays valid.
    let failed = |source| Error::Io {
        path: std::env::temp_dir(),
        source,
    };
    let mut file = tempfile::Builder::new()
        .prefix("llama-diffusion-demo-")
        .suffix(".gguf")
        .tempfile()
        .map_err(failed)?;
    file.write_all(MODEL).map_err(failed)?;
    TextModel::load(file.path(), params, progress)
}

/// Says what to do in a program without the demo model.
///
/// # Errors
/// Always.
#[cfg(not(feature = "demo-model"))]
pub fn load(_: &ModelParams, _: &mut dyn FnMut(f32) -> ControlFlow<()>) -> Result<TextModel> {
    Err(llama_diffusion::Error::InvalidParameter {
        parameter: "model".into(),
        problem: "give a GGUF file with -m: this program was built without its demo model".into(),
    })
}
