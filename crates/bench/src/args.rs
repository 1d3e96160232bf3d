//! The flags, spelled as for llama-bench.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes};
use llama_diffusion::{Error, ModelParams, Result, SessionParams, hub};

use crate::flags::FLAGS;
use crate::lists::{self, Numbers, numbers};
use crate::server::args::{ServerArgs, WITH_SERVER};
use llama_diffusion_flags::compute::{ComputeArgs, When};
use llama_diffusion_flags::devices::DeviceArgs;
use llama_diffusion_flags::names;
use llama_diffusion_flags::numbers::whole;
use llama_diffusion_flags::streams::say;

/// Measures how fast a DiffusionGemma model encodes prompts and denoises canvases.
///
/// Every combination of -m, -p, -n, -t, -fa, --canvas and --parallel is one test: a prompt of this number of
/// tokens is encoded (pp), then canvases are denoised after it (dn), each in exactly --steps steps.
/// --synthetic needs no file: the weights are generated. --server measures a running server: every
/// combination of -n, --drafts and --parallel is one test.
///
/// Flags may be spelled as for llama-bench, with a single dash (-ngl, -fa). Lists are separated by
/// commas, or the flag is given again; 1-4, 0-512+128 and 64-512*2 are ranges of numbers. Other
/// flags of llama-bench are accepted with a warning that they have no effect, or rejected.
#[derive(Debug, Parser)]
#[command(name = "llama-diffusion-bench", version, max_term_width = 100)]
pub struct Args {
    /// Model files (GGUF), or the first parts of split ones
    #[arg(short, long, value_name = "FILE,…", value_delimiter = ',')]
    model: Vec<PathBuf>,

    /// Model files in Hugging Face's cache
    #[arg(long, value_name = "USER/MODEL[:QUANT],…", value_delimiter = ',')]
    hf_repo: Vec<String>,

    /// File in the repository of --hf-repo, instead of one by its quantization
    #[arg(long, value_name = "FILE", requires = "hf_repo")]
    hf_file: Option<String>,

    /// Random weights instead of files: a geometry (tiny, small, 200m, 26b-a4b) and the type of
    /// its weights, such as 26b-a4b:q4_k_m or 200m:q8_0
    #[arg(long, value_name = "GEOMETRY:TYPE,…", value_delimiter = ',')]
    synthetic: Vec<Synthetic>,

    /// Lengths of the prompt; 0 denoises without a prompt
    #[arg(
        short = 'p',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512",
        value_parser = numbers(0..=usize::MAX)
    )]
    n_prompt: Vec<Numbers>,

    /// Tokens of the answer: as many canvases as hold them; 0 only encodes the prompt. Default: one
    /// canvas. With --server the maximum number of tokens in an answer, by default without limit
    #[arg(
        short = 'n',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        conflicts_with = "canvases",
        value_parser = numbers(0..=usize::MAX)
    )]
    n_gen: Vec<Numbers>,

    /// Canvases of the answer, instead of its tokens
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX))]
    canvases: Option<usize>,

    /// Tokens of a canvas: a multiple of 16 below the length that the model was trained with, or this
    /// length, which is the default
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        conflicts_with_all = ["profile", "compare_upstream"],
        value_parser = numbers(1..=usize::MAX)
    )]
    canvas: Vec<Numbers>,

    /// Denoising steps of each canvas. With --server by default as many as the model needs
    #[arg(long, value_name = "N", default_value = "8", value_parser = whole(1..=usize::MAX))]
    pub steps: usize,

    /// Sequences that are denoised together; with --server, streams at once
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1",
        value_parser = numbers(1..=256)
    )]
    parallel: Vec<Numbers>,

    /// Threads of the CPU. Default: one for each core
    #[arg(
        short,
        long,
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = numbers(1..=usize::MAX)
    )]
    threads: Vec<Numbers>,

    /// Fused attention: auto uses it if the devices support it
    #[arg(
        long,
        value_name = "WHEN,…",
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_value = "auto",
        default_missing_value = "on"
    )]
    pub flash_attn: Vec<When>,

    /// How often each test is repeated
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = whole(1..=usize::MAX))]
    pub repetitions: usize,

    /// Leave out the first, untimed repetition
    #[arg(long)]
    pub no_warmup: bool,

    /// After each test, answer its prompt once without timing, and report how many accepted tokens later
    /// steps replaced (JSON and CSV)
    #[arg(long)]
    pub diffusion_stats: bool,

    /// Time by part of a step and of a prefill, next to the minimum that memory and arithmetic of
    /// this machine allow
    #[arg(long, conflicts_with = "parallel")]
    pub profile: bool,

    /// Measure libllama in turn with this crate: the same layers as gemma4, its prefill and its
    /// decoding token by token. Writes a model file to the directory for temporary files (TMPDIR)
    #[arg(long, conflicts_with = "parallel")]
    pub compare_upstream: bool,

    /// Seconds to wait before each test
    #[arg(long, value_name = "SECONDS", default_value = "0", hide_default_value = true, value_parser = whole(0..=u32::MAX))]
    pub delay: u32,

    /// Print the name of each test on the standard error before it runs
    #[arg(long)]
    pub progress: bool,

    /// Format of the results
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: Format,

    /// Also print the results to the standard error, in this format
    #[arg(long, value_name = "FORMAT")]
    pub output_err: Option<Format>,

    /// Print the devices and exit
    #[arg(long)]
    pub list_devices: bool,

    /// Print more messages
    #[arg(short, long)]
    pub verbose: bool,

    /// A line for each flag that has no effect.
    #[arg(skip)]
    pub warnings: Vec<String>,

    /// --steps, if it was given.
    #[arg(skip)]
    pub chosen_steps: Option<usize>,

    #[command(flatten, next_help_heading = "Server")]
    pub server: ServerArgs,

    #[command(flatten, next_help_heading = "Computation")]
    pub compute: ComputeArgs,

    #[command(flatten, next_help_heading = "Devices")]
    pub devices: DeviceArgs,
}

/// The format of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for readers, in Markdown.
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
    /// As written on the command line.
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

/// A model to measure.
pub enum Source {
    File(PathBuf),
    Synthetic(Synthetic),
}

/// The command line's definition, with the flags that have no effect.
fn definition() -> Command {
    let command = FLAGS.define(Args::command());
    let command = command.mut_args(|arg| arg.hide_env_values(true));
    // Switches of the other tools take a value in llama-bench.
    let takes_value = |arg: Arg| {
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
    };
    command
        .mut_arg("no_kv_offload", takes_value)
        .mut_arg("no_op_offload", takes_value)
}

/// An error in the words of the command line.
pub fn message(error: &Error) -> String {
    names::message(error, &definition())
}

impl Args {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// clap's error, which may be the help that was asked for.
    pub fn parse_from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let parsed = FLAGS.parse(definition(), line)?;
        let mut args = Self::from_arg_matches(&parsed.matches)?;
        let chosen = |id: &str| parsed.is_chosen(id);
        if args.server.server.is_some() {
            // The model is the server's, and so is the machine.
            let flags = Self::command();
            let other = flags.get_arguments().find(|flag| {
                let id = flag.get_id().as_str();
                chosen(id) && !WITH_SERVER.contains(&id)
            });
            if let Some(name) = other.and_then(clap::Arg::get_long) {
                let problem = format!(
                    "--{name} cannot be used with --server: give it to the server, or remove it"
                );
                return Err(definition().error(ErrorKind::ArgumentConflict, problem));
            }
        }
        args.chosen_steps = chosen("steps").then_some(args.steps);
        if !chosen("model") && (chosen("synthetic") || chosen("hf_repo")) {
            args.model.clear();
        }
        args.warnings = parsed.warnings;
        Ok(args)
    }

    /// The models, in the order in which the flags are listed.
    ///
    /// # Errors
    /// None was chosen, or one is not in the cache.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let files = self.model.iter().cloned().map(Source::File);
        let mut sources: Vec<Source> = files.collect();
        for repo in &self.hf_repo {
            let path = hub::find(repo, self.hf_file.as_deref())?;
            say(format_args!("model: {}", path.display()));
            sources.push(Source::File(path));
        }
        sources.extend(self.synthetic.iter().cloned().map(Source::Synthetic));
        match sources.is_empty() {
            true => Err(Error::Input {
                name: "model".into(),
                problem: "give a file with -m, or random weights with --synthetic 200m:q8_0".into(),
            }),
            false => Ok(sources),
        }
    }

    /// Lengths of the prompt.
    pub fn prompts(&self) -> Vec<usize> {
        lists::all(&self.n_prompt)
    }

    /// Lengths of the canvas, of a model that was trained with `trained` tokens.
    pub fn canvas(&self, trained: usize) -> Vec<usize> {
        match self.canvas.is_empty() {
            true => vec![trained],
            false => lists::all(&self.canvas),
        }
    }

    /// Canvases of the answers, of `length` tokens each.
    pub fn answers(&self, length: usize) -> Vec<usize> {
        match self.n_gen.is_empty() {
            true => vec![self.canvases.unwrap_or(1)],
            false => {
                let tokens = lists::all(&self.n_gen).into_iter();
                tokens.map(|count| count.div_ceil(length)).collect()
            }
        }
    }

    /// Maximum numbers of tokens in an answer of a server.
    pub fn tokens(&self) -> Vec<Option<usize>> {
        match self.n_gen.is_empty() {
            true => vec![None],
            false => lists::all(&self.n_gen).into_iter().map(Some).collect(),
        }
    }

    /// Numbers of sequences, or of streams.
    pub fn parallel(&self) -> Vec<usize> {
        lists::all(&self.parallel)
    }

    /// Numbers of threads.
    pub fn threads(&self) -> Vec<usize> {
        match self.threads.is_empty() {
            true => vec![std::thread::available_parallelism().map_or(1, usize::from)],
            false => lists::all(&self.threads),
        }
    }

    /// How the models are loaded.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn model_params(&self) -> Result<ModelParams> {
        // Of the public models.
        const CANVAS: usize = 256;
        let prompt = self.prompts().into_iter().max().unwrap_or(0);
        let canvases = self.answers(CANVAS).into_iter().max().unwrap_or(0);
        let answer = canvases.saturating_mul(CANVAS);
        Ok(self.devices.params(SessionParams {
            context: Some(answer.saturating_add(prompt).saturating_add(1)),
            batch: self.compute.batch(),
            kv_type: self.compute.kv_type()?,
            swa_full: self.compute.swa_full,
            ..SessionParams::default()
        }))
    }
}
