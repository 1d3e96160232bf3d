//! What is shown, and where.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap_complete::Shell;
use tracing::level_filters::LevelFilter;

use crate::view::Pace;
use llama_diffusion_flags::log::LogArgs;
use llama_diffusion_flags::numbers::whole;

/// Which drafts are shown, and for how long.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct PaceArgs {
    /// Show every N-th step only
    #[arg(long = "diffusion-visual-interval", value_name = "N", default_value = "1", value_parser = whole(1..=u32::MAX))]
    pub interval: u32,

    /// Milliseconds for which each draft is shown at least; the times that are reported do not
    /// include them
    #[arg(
        long = "diffusion-visual-delay",
        value_name = "MS",
        default_value = "0",
        value_parser = whole(0..=u64::MAX)
    )]
    delay: u64,
}

impl PaceArgs {
    /// Which drafts are shown, and for how long.
    pub fn pace(&self) -> Pace {
        Pace {
            interval: self.interval,
            delay: Duration::from_millis(self.delay),
        }
    }
}

/// What is shown, and where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Show each draft of a canvas: newly accepted tokens in green, kept ones plain, noise dim, and
    /// red where the step before accepted a token. Without a terminal or colours, one line per step on the standard error
    #[arg(long = "diffusion-visual")]
    pub drafts: bool,

    /// Show how far the steps of a canvas are
    #[arg(long = "diffusion-visual-progress")]
    pub progress: bool,

    #[command(flatten)]
    pub pace: PaceArgs,

    /// Write after each answer how many accepted tokens later steps replaced, in which steps, and the last
    /// of them
    #[arg(long = "diffusion-stats")]
    pub corrections: bool,

    /// Write every draft with its entropies to a file, for `llama-diffusion-cli replay FILE`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    #[command(flatten)]
    pub log: LogArgs,

    /// Write time and number of tokens after each answer; this is the default
    #[arg(
        long,
        overrides_with = "no_perf",
        hide = true,
        num_args = 0,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    perf: Option<bool>,

    /// Write no lines about time and tokens after an answer
    #[arg(
        long,
        overrides_with = "perf",
        value_parser = BoolishValueParser::new()
    )]
    no_perf: bool,

    /// Print the completion script for bash and exit
    #[arg(long)]
    completion_bash: bool,

    /// Print the completion script for a shell and exit
    #[arg(long, value_name = "SHELL")]
    completion: Option<Shell>,
}

impl OutputArgs {
    /// Whether each answer is followed by what it took.
    pub fn shows_summary(&self) -> bool {
        !self.no_perf && self.perf != Some(false) && !self.log.is_quiet()
    }

    /// Whether log lines may appear on the terminal while an answer is written.
    pub fn logs_details(&self) -> bool {
        self.log.level() > LevelFilter::WARN && self.log.log_file.is_none()
    }

    /// The shell whose completion is to be printed instead of an answer.
    pub fn completion(&self) -> Option<Shell> {
        self.completion
            .or(self.completion_bash.then_some(Shell::Bash))
    }
}
