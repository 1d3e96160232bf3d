//! What every run may need: the prompt, sizes, threads, the seed, attention and the cache.

use std::path::PathBuf;

use llama_diffusion::{Result, SessionParams};

use super::escape::unescape;
use super::values::{Limit, Seed, parse_limit, parse_seed};
use llama_diffusion_flags::compute::{ComputeArgs, When};
use llama_diffusion_flags::numbers::whole;

/// What every run may need.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common")]
pub struct CommonArgs {
    /// Prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,

    /// File with the prompt, in UTF-8; one newline at its end is left out. Without -p and -f the
    /// prompt is read from the standard input; a terminal begins a chat
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,

    /// Replace \n, \t, \r, \", \', \\ and \xHH in -p and -sys, which is the default
    #[arg(short, long, overrides_with = "no_escape")]
    escape: bool,

    /// Leave backslashes in -p and -sys alone
    #[arg(long, overrides_with = "escape")]
    no_escape: bool,

    /// Most tokens of an answer, -1 for no limit. Whole canvases are denoised, and the last one
    /// is cut. Default: 256, or no limit if --diffusion-blocks is given. For a masked model, the
    /// tokens of its answer; without -n, prompt and answer together have those of -ub
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_limit)]
    pub predict: Option<Limit>,

    /// Tokens that prompt and answer may have together, 0 for what the model was trained for.
    /// Default: the same, at most 8192
    #[arg(short, long, value_name = "N", value_parser = whole(0..=usize::MAX))]
    ctx_size: Option<usize>,

    /// Threads of the CPU; 0 or less is one for each core, fewer for a small model
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(i32::MIN..=i32::MAX))]
    threads: i32,

    /// The same for passes over a prompt; 0 or less is as many as -t
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(i32::MIN..=i32::MAX))]
    threads_batch: i32,

    /// Seed of the randomness, -1 for a random one. The same seed gives the same answer with any
    /// number of threads; -b, -ub, -fa, -ctk, -ctv and another device may change it
    #[arg(short, long, value_name = "SEED", default_value = "-1", value_parser = parse_seed)]
    seed: Seed,

    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Fused attention: auto uses it where the devices have it
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on"
    )]
    flash_attn: When,
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

    /// Warns of a context beyond the one that the model was trained for.
    pub fn warn_of_long_context(&self, trained: usize) {
        if let Some(size) = self.ctx_size.filter(|size| *size > trained) {
            tracing::warn!(
                "-c {size} is more than the {trained} tokens that the model was trained for: \
                 what stands behind them may make no sense, or be empty"
            );
        }
    }

    /// How a session of a masked model runs: without what concerns the KV cache.
    pub fn masked_session(&self) -> SessionParams {
        SessionParams {
            context: self.ctx_size,
            threads: given(self.threads),
            flash_attention: self.flash_attn.into(),
            ..SessionParams::default()
        }
    }

    /// How a session of a canvas model runs.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn session(&self) -> Result<SessionParams> {
        Ok(SessionParams {
            context: self.ctx_size,
            batch: self.compute.batch(),
            threads: given(self.threads),
            prefill_threads: given(self.threads_batch),
            kv_type: self.compute.kv_type()?,
            flash_attention: self.flash_attn.into(),
            swa_full: self.compute.swa_full,
            ..SessionParams::default()
        })
    }
}

/// A number of threads, unless it is left open by 0 or less.
fn given(threads: i32) -> Option<usize> {
    usize::try_from(threads).ok().filter(|n| *n > 0)
}
