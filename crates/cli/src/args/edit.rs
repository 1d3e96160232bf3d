//! Flags of an edit.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use llama_diffusion_flags::numbers::real;

/// Flags of an edit.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Edit")]
pub struct EditArgs {
    /// Edit the text of a file as --instruction says, or as an answer to the prompt of -p or -f,
    /// and print the result; on a terminal, changes are in colours
    #[arg(long, value_name = "FILE")]
    pub edit: Option<PathBuf>,

    /// What to change; the model reads it before the text, with a colon between them
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt", "file"])]
    pub instruction: Option<String>,

    /// Share of the text that is replaced by noise at the beginning: 0 shows the model the whole
    /// text, 1 nothing of it
    #[arg(long, value_name = "SHARE", default_value = "0.3", value_parser = real(0.0..=1.0))]
    pub strength: f32,

    /// Lines that stay byte for byte, such as 2,5-7
    #[arg(long, value_name = "LINES", value_parser = parse_lines)]
    protect: Vec<Lines>,
}

impl EditArgs {
    /// The lines that stay.
    pub fn protected(&self) -> Vec<RangeInclusive<usize>> {
        let lines = self.protect.iter().flat_map(|Lines(lines)| lines);
        lines.cloned().collect()
    }
}

/// Lines of a text, counted from 1.
#[derive(Clone, Debug, PartialEq)]
struct Lines(Vec<RangeInclusive<usize>>);

fn parse_lines(text: &str) -> Result<Lines, String> {
    let number = |text: &str| text.trim().parse().ok().filter(|line: &usize| *line > 0);
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(number(first)?..=number(last)?).filter(|r| !r.is_empty()),
        None => number(part).map(|line| line..=line),
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    let wrong = || "give lines counted from 1, such as 2,5-7".to_owned();
    ranges.map(Lines).ok_or_else(wrong)
}
