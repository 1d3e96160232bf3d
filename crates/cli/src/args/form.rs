//! Flags of texts that are known in part.

use std::path::PathBuf;

/// Flags of texts that are known in part.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Forms")]
pub struct FormArgs {
    /// Fill a form, which is a JSON file with a text and its blanks, as the answer to the prompt, and
    /// print what stands in each blank as JSON, with probabilities
    #[arg(long, value_name = "FILE")]
    pub form: Option<PathBuf>,

    /// Begin the answer with the text of a file; each ▢ in it is an unknown token
    #[arg(
        id = "known_text",
        long = "template",
        value_name = "FILE",
        conflicts_with = "ar"
    )]
    pub template: Option<PathBuf>,
}
