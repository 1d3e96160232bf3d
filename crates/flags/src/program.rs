//! How a program begins and ends.

use std::fmt::Display;
use std::process::ExitCode;

use crate::signals::report_large_files;
use crate::streams::say;

/// The exit status of a program that failed.
pub const ERROR: u8 = 1;

/// Begins a program with its parsed flags. Otherwise prints clap's message, and returns the exit status.
///
/// # Errors
/// The flags are wrong, or ask for help.
pub fn begin<A>(parsed: Result<A, clap::Error>) -> Result<A, ExitCode> {
    report_large_files();
    parsed.map_err(|message| {
        // Help and version are not errors, and go to the standard output.
        let status = if message.use_stderr() { ERROR } else { 0 };
        // If the output is closed, nothing can be reported.
        let _ = message.print();
        status.into()
    })
}

/// Reports why a program failed, and returns its exit status.
pub fn failed(problem: impl Display) -> ExitCode {
    say(format_args!("error: {problem}"));
    ERROR.into()
}
