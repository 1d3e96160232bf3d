//! The flags of `--server`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use llama_diffusion_flags::numbers::whole;

/// What a running server is asked.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Measure a running server instead of a model: chats in --parallel streams, by its address
    /// such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,

    /// Keys of the server; the streams take them in turn
    #[arg(long, value_name = "KEY,…", value_delimiter = ',', requires = "server")]
    pub api_key: Vec<String>,

    /// Requests of each test in each repetition. Default: four times the largest --parallel
    #[arg(long, value_name = "N", requires = "server", value_parser = whole(1..=usize::MAX))]
    pub requests: Option<usize>,

    /// Questions, one a line, instead of the built-in ones
    #[arg(long, value_name = "FILE", requires = "server")]
    pub prompts: Option<PathBuf>,

    /// Let the server reuse what it has cached of prompts
    #[arg(long, requires = "server")]
    pub cache_prompt: bool,

    /// What of the drafts the server sends
    #[arg(
        long,
        value_name = "LEVEL,…",
        value_delimiter = ',',
        default_value = "off",
        requires = "server"
    )]
    pub drafts: Vec<DraftLevel>,

    /// Minimum milliseconds between two drafts. Default: the server's
    #[arg(long, value_name = "MS", requires = "server", value_parser = whole(0..=60_000_u32))]
    pub drafts_interval: Option<u32>,

    /// After the other requests of each test, how often all streams hang up in the middle of an
    /// answer, to measure the time until all slots are free. Nobody else may use the server
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        requires = "server",
        value_parser = whole(0..=usize::MAX)
    )]
    pub cancels: usize,
}

/// What of the drafts the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DraftLevel {
    /// Nothing.
    Off,
    /// Their text.
    Text,
    /// The most likely tokens as well, with their entropies.
    Tokens,
    /// All that a recording has.
    Full,
}

impl DraftLevel {
    /// As requests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Text => "text",
            Self::Tokens => "tokens",
            Self::Full => "full",
        }
    }
}

/// Flags that mean something with `--server`, by clap's names.
pub const WITH_SERVER: &[&str] = &[
    "server",
    "api_key",
    "requests",
    "prompts",
    "cache_prompt",
    "drafts",
    "drafts_interval",
    "cancels",
    "n_gen",
    "steps",
    "parallel",
    "repetitions",
    "no_warmup",
    "delay",
    "progress",
    "output",
    "output_err",
    "verbose",
];
