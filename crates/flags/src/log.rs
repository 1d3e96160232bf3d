//! The log and its flags.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Mutex;

use llama_diffusion::{Error, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::compute::When;
use crate::numbers::whole;
use crate::streams::without_colors;

/// What is logged, and where.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// Colours: auto uses them on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on"
    )]
    pub color: When,

    /// Print more messages
    #[arg(short, long)]
    pub verbose: bool,

    /// How much is logged: 0 nothing, 1 errors, 2 warnings, 3 information, 4 all
    #[arg(long, value_name = "N", default_value = "2", value_parser = whole(0..=u8::MAX))]
    log_verbosity: u8,

    /// Write the log to a file instead of the standard error
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Write nothing to the standard error but errors, answers to commands of a chat, and what
    /// another flag asks for; as --log-verbosity 0
    #[arg(long)]
    log_disable: bool,
}

impl LogArgs {
    /// How much is logged.
    pub fn level(&self) -> LevelFilter {
        match self.log_verbosity {
            _ if self.log_disable => LevelFilter::OFF,
            _ if self.verbose => LevelFilter::DEBUG,
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        }
    }

    /// Whether the standard error is for errors and what is asked for alone.
    pub fn is_quiet(&self) -> bool {
        self.log_disable || self.log_verbosity == 0 && !self.verbose
    }

    /// Starts the log, which goes to what `stderr` returns unless there is a file for it. Its lines begin
    /// with the time if it is `timed`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn start(&self, stderr: fn() -> io::Stderr, timed: bool) -> Result<()> {
        let (writer, is_terminal) = match &self.log_file {
            Some(path) => {
                let file = File::create(path).map_err(|source| Error::Io {
                    path: path.clone(),
                    source,
                })?;
                (BoxMakeWriter::new(Mutex::new(file)), false)
            }
            None => (BoxMakeWriter::new(stderr), io::stderr().is_terminal()),
        };
        let colors = self.has_colors(is_terminal);
        start(writer, self.level(), (self.verbose, colors, timed));
        Ok(())
    }

    /// Whether an output is coloured that is a terminal or not.
    pub fn has_colors(&self, is_terminal: bool) -> bool {
        match self.color {
            When::On => true,
            When::Off => false,
            When::Auto => is_terminal && !without_colors(),
        }
    }
}

/// Starts the log of a program without these flags, on the standard error.
pub fn start_simple(verbose: bool) {
    let level = match verbose {
        true => LevelFilter::DEBUG,
        false => LevelFilter::WARN,
    };
    let colors = io::stderr().is_terminal() && !without_colors();
    start(
        BoxMakeWriter::new(io::stderr),
        level,
        (verbose, colors, false),
    );
}

/// Lines may have the module that they come from, colours, and the time.
fn start(writer: BoxMakeWriter, level: LevelFilter, (targets, colors, times): (bool, bool, bool)) {
    let log = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(colors)
        .with_max_level(level)
        .with_target(targets)
        .log_internal_errors(false); // it would print them where nothing can be written
    match times {
        true => log.init(),
        false => log.without_time().init(),
    }
}
