//! The standard streams: results must be written, messages about them need not be.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;

use llama_diffusion::{Error, Result};

/// Writes to the standard output.
///
/// # Errors
/// It is closed or full.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(output_error)
}

/// An error of the standard output.
pub fn output_error(source: io::Error) -> Error {
    Error::Io {
        path: PathBuf::from("standard output"),
        source,
    }
}

/// Whether the user wants no colours anywhere (no-color.org).
pub fn without_colors() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes a line to the standard error. An error is ignored: an answer must not be lost because
/// nobody reads messages.
pub fn say(line: impl Display) {
    say_part(format_args!("{line}\n"));
}

/// The same without the end of the line.
pub fn say_part(text: impl Display) {
    // At once, so that no output of another thread comes between.
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
