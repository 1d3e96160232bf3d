//! The flags, spelled as for llama-bench.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use llama_diffusion::model::synthetic::{Geometry, WeightTypes};

use crate::shared::compute::{ComputeArgs, When};
use crate::shared::devices::DeviceArgs;
use crate::shared::numbers::count;
use crate::shared::spelling::{name_variable, respell};

/// Measures how fast a DiffusionGemma model reads prompts and denoises canvases.
///
/// Every combination of -p, -t and -fa is one test: a prompt of that many tokens is encoded (pp), then
/// canvases are denoised behind it (dn), each in exactly --steps steps. --synthetic needs no file:
/// the weights are made where they are used.
///
/// Flags may be spelled as for llama-bench, with a single dash (-ngl, -fa).
#[derive(Debug, Parser)]
#[command(
    name = "llama-diffusion-bench",
    version,
    max_term_width = 100,
    args_override_self = true
)]
pub struct Args {
    /// Model file (GGUF), the first part of a split one
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    pub model: Option<PathBuf>,

    /// Random weights instead of a file: a geometry (tiny, small, 200m, 26b-a4b) and the type of
    /// its weights, such as 26b-a4b:q4_k_m or 200m:q8_0
    #[arg(long, value_name = "GEOMETRY:TYPE", conflicts_with = "model")]
    pub synthetic: Option<Synthetic>,

    /// Lengths of the prompt, separated by commas; 0 denoises behind nothing
    #[arg(
        short = 'p',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512", value_parser = count::<usize>)]
    pub n_prompt: Vec<usize>,

    /// Canvases of an answer
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub canvases: usize,

    /// Denoising steps of each canvas
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    pub steps: usize,

    /// Sequences that are denoised together
    #[arg(long, value_name = "N", default_value = "1", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub parallel: usize,

    /// Threads of the CPU, separated by commas. Default: one for each core
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', value_parser = at_least_one, env = "LLAMA_ARG_THREADS")]
    pub threads: Vec<usize>,

    /// Fused attention, separated by commas: auto uses it where the devices have it [-fa]
    #[arg(
        long,
        value_name = "WHEN,…",
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_value = "auto",
        default_missing_value = "on",
        env = "LLAMA_ARG_FLASH_ATTN"
    )]
    pub flash_attn: Vec<When>,

    /// How often each test is repeated
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    pub repetitions: usize,

    /// Leave out the first, untimed repetition
    #[arg(long)]
    pub no_warmup: bool,

    /// Time by part of a step and of a prefill, beside the least that memory and arithmetic of
    /// this machine allow
    #[arg(long, conflicts_with = "parallel")]
    pub profile: bool,

    /// Measure libllama in turn with this crate: the same backbone as gemma4, its prefill and its
    /// decoding token by token. Writes a model file to the directory for temporary files (TMPDIR)
    #[arg(long, conflicts_with = "parallel")]
    pub compare_upstream: bool,

    /// How results are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: Format,

    /// Print the devices and end
    #[arg(long)]
    pub list_devices: bool,

    /// Say more about what happens
    #[arg(short, long)]
    pub verbose: bool,

    #[command(flatten, next_help_heading = "Computation")]
    pub compute: ComputeArgs,

    #[command(flatten, next_help_heading = "Devices")]
    pub devices: DeviceArgs,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people, in Markdown.
    Md,
    /// One table for each kind of result, an empty line between them.
    Csv,
    /// An object with a list for each kind of result.
    Json,
    /// One object for each result.
    Jsonl,
}

/// A generated model.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// As it was written.
    pub name: String,
    pub geometry: Geometry,
    pub types: WeightTypes,
}

impl FromStr for Synthetic {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (geometry, types) = name
            .split_once(':')
            .ok_or("give a geometry and a type, such as 200m:q8_0")?;
        Ok(Self {
            name: name.to_owned(),
            geometry: geometry.parse()?,
            types: types.parse()?,
        })
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("give a number of at least 1".into()),
    }
}

impl Args {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// What clap has to say, which may be the help that was asked for.
    pub fn parse_from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_args(|arg| arg.hide_env_values(true));
        let line = respell(&command, line);
        let matches = command
            .try_get_matches_from_mut(line)
            .map_err(|error| name_variable(&command, error))?;
        let mut args = Self::from_arg_matches(&matches)?;
        if args.threads.is_empty() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            args.threads.push(cores);
        }
        Ok(args)
    }
}
