//! Flags of gaps to fill.

use std::path::PathBuf;

use llama_diffusion::GapTokens;
use llama_diffusion_flags::numbers::whole;

/// Flags of gaps to fill.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Infill")]
pub struct InfillArgs {
    /// Fill the gap after the text of this file, and print what belongs there. Without --infill-suffix the gap
    /// ends the text
    #[arg(long, value_name = "FILE")]
    pub infill_prefix: Option<PathBuf>,

    /// Fill the gap before the text of this file. Without --infill-prefix the gap begins the text
    #[arg(long, value_name = "FILE")]
    pub infill_suffix: Option<PathBuf>,

    /// Tokens of the gap; auto finds their number by the text after it
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = parse_gap_tokens)]
    pub infill_tokens: GapTokens,

    /// Fill gaps for another program: each line of the standard input is a request in JSON, with the fields of
    /// llama-server's /infill, and each line of the standard output its answer
    #[arg(long)]
    pub infill_json: bool,
}

impl InfillArgs {
    /// The flag that asks for gaps, if one does.
    pub fn flag(&self) -> Option<&'static str> {
        match (&self.infill_prefix, &self.infill_suffix) {
            (Some(_), _) => Some("--infill-prefix"),
            (None, Some(_)) => Some("--infill-suffix"),
            (None, None) => self.infill_json.then_some("--infill-json"),
        }
    }
}

fn parse_gap_tokens(text: &str) -> Result<GapTokens, String> {
    match text {
        "auto" => Ok(GapTokens::Auto),
        _ => whole(0..=usize::MAX)(text)
            .map(GapTokens::Given)
            .map_err(|range| format!("{range}, or auto to find it")),
    }
}
