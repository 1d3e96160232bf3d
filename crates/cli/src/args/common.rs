//! What every run may need: the prompt, sizes, threads, the seed, attention and the cache.

use std::path::PathBuf;

use super::escape::unescape;
use llama_diffusion_flags::session::SessionArgs;
use llama_diffusion_flags::values::{Limit, Seed, parse_limit, parse_seed};

/// What every run may need.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common")]
pub struct CommonArgs {
    /// Prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,

    /// File with the prompt, in UTF-8; one newline at its end is left out. Without -p and -f the
    /// prompt is read from the standard input; on a terminal, a chat begins
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,

    /// Replace \n, \t, \r, \", \', \\ and \xHH in -p and -sys, which is the default
    #[arg(short, long, overrides_with = "no_escape")]
    escape: bool,

    /// Leave backslashes in -p and -sys alone
    #[arg(long, overrides_with = "escape")]
    no_escape: bool,

    /// Maximum number of tokens in an answer, -1 for no limit. Whole canvases are denoised, and the
    /// last one is cut. Default: 256, or no limit if --diffusion-blocks is given. For a masked
    /// model, the number of tokens in its answer; without -n, -ub is the number in prompt and
    /// answer together
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_limit)]
    pub predict: Option<Limit>,

    /// Seed of the randomness, -1 for a random one. The same seed gives the same answer with any
    /// number of threads; -b, -ub, -fa, -ctk, -ctv and another device may change it
    #[arg(short, long, value_name = "SEED", default_value = "-1", value_parser = parse_seed)]
    seed: Seed,

    #[command(flatten)]
    pub session: SessionArgs,
}

/// Where a prompt comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum PromptSource {
    Text(String),
    File(PathBuf),
}

impl CommonArgs {
    /// The prompt of the command line.
    pub fn prompt(&self) -> Option<PromptSource> {
        match (&self.prompt, &self.file) {
            (Some(text), _) => Some(PromptSource::Text(self.unescaped(text))),
            (None, file) => file.clone().map(PromptSource::File),
        }
    }

    /// Text of the command line, with its backslash sequences replaced unless the user keeps them.
    pub fn unescaped(&self, text: &str) -> String {
        match self.no_escape {
            true => text.to_owned(),
            false => unescape(text),
        }
    }

    /// The seed, if the user chose one.
    pub fn seed(&self) -> Option<u64> {
        self.seed.0
    }
}
