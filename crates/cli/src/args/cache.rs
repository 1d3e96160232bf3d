//! Flags of the KV cache: what of it is kept, in memory and in a file.

use std::path::PathBuf;

use llama_diffusion_flags::numbers::whole;

/// What is kept of the KV cache.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common")]
pub struct CacheArgs {
    /// File that keeps the KV cache of the prompt: a prompt that begins like the one in the file
    /// costs only its other tokens. It is written after the first prompt is encoded
    #[arg(long, value_name = "FNAME")]
    pub prompt_cache: Option<PathBuf>,

    /// Write the file of --prompt-cache after each answer instead, with the answer
    #[arg(long)]
    prompt_cache_all: bool,

    /// Read the file of --prompt-cache, but do not write it
    #[arg(long)]
    prompt_cache_ro: bool,

    /// Number of latest prompts to whose ends a chat can return, even beyond the sliding window
    /// (default 3)
    #[arg(
        long,
        value_name = "N",
        value_parser = whole(0..=usize::MAX)
    )]
    pub ctx_checkpoints: Option<usize>,
}

/// When the file of `--prompt-cache` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saves {
    Never,
    /// After the first prompt, if not all of it is in the file.
    Prompt,
    /// After each answer.
    Answers,
}

impl CacheArgs {
    /// When the file is written.
    pub fn saves(&self) -> Saves {
        match (self.prompt_cache_ro, self.prompt_cache_all) {
            (true, _) => Saves::Never,
            (false, true) => Saves::Answers,
            (false, false) => Saves::Prompt,
        }
    }

    /// The file, if it may be written.
    pub fn written(&self) -> Option<&PathBuf> {
        let path = self.prompt_cache.as_ref();
        path.filter(|_| !self.prompt_cache_ro)
    }

    /// The file, if it is not written.
    pub fn only_read(&self) -> Option<&PathBuf> {
        let path = self.prompt_cache.as_ref();
        path.filter(|_| self.prompt_cache_ro)
    }
}
