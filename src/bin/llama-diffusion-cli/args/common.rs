//! What every run may need: the prompt, sizes, threads, the seed, attention and the cache.

use std::path::PathBuf;

use llama_diffusion::{Error, FlashAttention, KvType, MaskedSessionParams, Result, SessionParams};

use super::escape::unescape;
use super::values::{Limit, Seed, When, parse_limit, parse_seed};

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
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", value_parser = parse_limit, env = "LLAMA_ARG_N_PREDICT")]
    pub predict: Option<Limit>,

    /// Tokens that prompt and answer may have together, 0 for what the model was trained for.
    /// Default: the same, at most 8192
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE")]
    ctx_size: Option<usize>,

    /// Most tokens of a prompt that are encoded in one pass
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_BATCH")]
    batch_size: Option<usize>,

    /// As --batch-size; the smaller one counts. For a masked model, the tokens of prompt and answer
    /// together (default 512), unless -n is given [-ub]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_UBATCH")]
    pub ubatch_size: Option<usize>,

    /// Threads of the CPU; 0 or less is one for each core, fewer for a small model
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        env = "LLAMA_ARG_THREADS"
    )]
    threads: i32,

    /// Seed of the randomness, -1 for a random one. The same seed gives the same answer, whatever
    /// the number of threads
    #[arg(short, long, value_name = "SEED", default_value = "-1", value_parser = parse_seed)]
    seed: Seed,

    /// Fused attention: auto uses it where the devices have it [-fa]
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on",
        env = "LLAMA_ARG_FLASH_ATTN"
    )]
    flash_attn: When,

    /// Element type of the KV cache: f16, f32 or q8_0 [-ctk]
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "f16",
        env = "LLAMA_ARG_CACHE_TYPE_K"
    )]
    cache_type_k: KvType,

    /// The same for V; both must be the same type [-ctv]
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "f16",
        env = "LLAMA_ARG_CACHE_TYPE_V"
    )]
    cache_type_v: KvType,
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

    /// How a session of a masked model runs.
    pub fn masked_session(&self) -> MaskedSessionParams {
        MaskedSessionParams {
            context: self.ctx_size.filter(|size| *size > 0),
            threads: self.threads(),
            flash_attention: self.flash_attention(),
        }
    }

    fn threads(&self) -> Option<usize> {
        usize::try_from(self.threads).ok().filter(|n| *n > 0)
    }

    fn flash_attention(&self) -> FlashAttention {
        match self.flash_attn {
            When::On => FlashAttention::On,
            When::Off => FlashAttention::Off,
            When::Auto => FlashAttention::Auto,
        }
    }

    /// How a session runs on a model that was trained for `trained_context` positions.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn session(&self, trained_context: usize) -> Result<SessionParams> {
        if self.cache_type_k != self.cache_type_v {
            return Err(Error::InvalidParameter {
                parameter: "-ctk, -ctv".into(),
                problem: format!(
                    "{:?} and {:?} differ, but keys and values share one type: give both",
                    self.cache_type_k, self.cache_type_v
                ),
            });
        }
        Ok(SessionParams {
            context: self.ctx_size.map(|size| match size {
                0 => trained_context,
                _ => size,
            }),
            batch: [self.batch_size, self.ubatch_size]
                .into_iter()
                .flatten()
                .min(),
            threads: self.threads(),
            kv_type: self.cache_type_k,
            flash_attention: self.flash_attention(),
        })
    }
}
