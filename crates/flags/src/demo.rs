//! The model that answers if no `-m` is given.
//!
//! It is embedded, not loaded from the directory of the program, so that the one file that
//! `cargo install` copies is enough.

use std::ops::ControlFlow;

use llama_diffusion::{ModelParams, Result, TextModel};

/// Loads the demo model, and reports it unless `quiet`.
///
/// # Errors
/// As [`TextModel::load`], or the temporary file cannot be written.
#[cfg(feature = "demo-model")]
pub fn load(
    params: &ModelParams,
    quiet: bool,
    progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<TextModel> {
    use std::io::Write as _;

    use llama_diffusion::Error;
    use llama_diffusion::internal::Tracked;

    use crate::streams::say;
    use llama_diffusion_demo_model::MODEL;

    if !quiet {
        say(
            "no -m: using the small demo model, which answers only a few kinds of questions (crates/demo-model/README.md)",
        );
    }
    let failed = |source| Error::Io {
        path: std::env::temp_dir(),
        source,
    };
    // libllama reads vocabularies only from files. Where the file can be opened without its name,
    // the name is removed before anything is written, so that nothing stays however this program
    // ends. Elsewhere it is removed at the end of this function; a mapping of the file stays valid.
    let file = tempfile::Builder::new()
        .prefix("llama-diffusion-demo-")
        .suffix(".gguf")
        .tempfile();
    let (mut file, name) = file.map_err(failed)?.into_parts();
    let _tracked = Tracked::new(&name);
    let path = match nameless(&file) {
        Some(path) => {
            name.close().map_err(failed)?;
            path
        }
        None => name.to_path_buf(),
    };
    file.write_all(MODEL).map_err(failed)?;
    TextModel::load(&path, params, progress).map_err(named)
}

/// An error about the file, by the name that the user knows it by.
#[cfg(feature = "demo-model")]
fn named(mut error: llama_diffusion::Error) -> llama_diffusion::Error {
    use llama_diffusion::Error::{File, Gguf, Io, Metadata, Tensor, Unsupported};
    match &mut error {
        Io { path, .. }
        | Gguf { path, .. }
        | File { path, .. }
        | Metadata { path, .. }
        | Tensor { path, .. }
        | Unsupported { path, .. } => *path = "the demo model".into(),
        _ => {}
    }
    error
}

/// The path by which an open file can be opened again without its name.
#[cfg(all(feature = "demo-model", target_os = "linux"))]
fn nameless(file: &std::fs::File) -> Option<std::path::PathBuf> {
    use std::os::fd::AsRawFd as _;

    let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.exists().then_some(path)
}

#[cfg(all(feature = "demo-model", not(target_os = "linux")))]
fn nameless(_: &std::fs::File) -> Option<std::path::PathBuf> {
    None
}

/// The error of a program without the demo model.
///
/// # Errors
/// Always.
#[cfg(not(feature = "demo-model"))]
pub fn load(
    _: &ModelParams,
    _: bool,
    _: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<TextModel> {
    Err(llama_diffusion::Error::Input {
        name: "model".into(),
        problem: "give a GGUF file with -m: this program was built without its demo model".into(),
    })
}
