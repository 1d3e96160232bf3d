//! The flags: llama.cpp's spelling, parsed by clap.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use clap_complete::Shell;
use llama_diffusion::{
    Device, DeviceKind, DiffusionParams, Error, FlashAttention, KvType, Overrides, PlacementParams,
    Result, SessionParams, TensorOverride,
};
use regex::Regex;
use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;

use crate::spelling::respell;
use crate::{hub, inert};

/// This version, the source of the llama.cpp inside, and what it was built with.
fn version() -> String {
    let mut backends = vec!["CPU"];
    for (built_in, name) in [
        (cfg!(feature = "cuda"), "CUDA"),
        (cfg!(feature = "metal"), "Metal"),
        (cfg!(feature = "rpc"), "RPC"),
        (cfg!(feature = "vulkan"), "Vulkan"),
    ] {
        backends.extend(built_in.then_some(name));
    }
    let plug_ins = match cfg!(feature = "dynamic-backends") {
        true => ", as plug-ins",
        false => "",
    };
    format!(
        "{} (llama.cpp and ggml from {})\nbackends: {}{plug_ins}",
        env!("CARGO_PKG_VERSION"),
        env!("LLAMA_DIFFUSION_LLAMA_CPP"),
        backends.join(", ")
    )
}

/// Answers a prompt, or chats, with a DiffusionGemma model: text is denoised canvas by canvas.
///
/// The answer goes to the standard output, everything else to the standard error. A prompt is put
/// into the chat template of the model, as llama.cpp does; --raw gives it to the model as it is.
///
/// Flags may be spelled as for llama.cpp, with a single dash (-ngl, -cnv). A flag goes before the
/// environment variable that is named with it.
///
/// Exit status: 0 done, 1 error, 130 interrupted (Ctrl-C; press it twice to end at once).
#[derive(Debug, Parser)]
#[command(
    name = "llama-diffusion-cli",
    version = version(),
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    args_override_self = true // the last one counts, as for llama.cpp
)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    diffusion: DiffusionArgs,

    #[command(flatten)]
    placement: PlacementArgs,

    #[command(flatten)]
    pub chat: ChatArgs,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(subcommand)]
    pub command: Option<Subcommand>,

    /// A line for each flag that was used in vain.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Show a recording of --record again, without its model
    Replay(ReplayArgs),
}

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// File that --record wrote
    pub file: PathBuf,

    /// Milliseconds for which each draft is shown
    #[arg(long, value_name = "MS", default_value = "100")]
    pub delay: u64,
}

/// What every run may need.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common")]
struct CommonArgs {
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
    /// is cut. Default: 256, or no limit if --diffusion-blocks is given
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", value_parser = parse_limit, env = "LLAMA_ARG_N_PREDICT")]
    predict: Option<Limit>,

    /// Tokens that prompt and answer may have together, 0 for what the model was trained for.
    /// Default: the same, at most 8192
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE")]
    ctx_size: Option<usize>,

    /// Most tokens of a prompt that are encoded in one pass
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_BATCH")]
    batch_size: Option<usize>,

    /// As --batch-size; the smaller one counts [-ub]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_UBATCH")]
    ubatch_size: Option<usize>,

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

/// Flags of the sampler: each overrides what the model file recommends.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Diffusion")]
struct DiffusionArgs {
    /// Most canvases
    #[arg(long = "diffusion-blocks", value_name = "N")]
    blocks: Option<usize>,

    /// Most denoising steps per canvas; --diffusion-eb-max-steps goes before it
    #[arg(long = "diffusion-steps", value_name = "N")]
    steps: Option<u32>,

    /// Most denoising steps per canvas [model, else 48]
    #[arg(long = "diffusion-eb-max-steps", value_name = "N")]
    max_steps: Option<u32>,

    /// Temperature towards the last step [model, else 0.4]
    #[arg(long = "diffusion-eb-t-min", value_name = "T")]
    t_min: Option<f32>,

    /// Temperature of the first step [model, else 0.8]
    #[arg(long = "diffusion-eb-t-max", value_name = "T")]
    t_max: Option<f32>,

    /// Entropy in nats that the tokens accepted in a step may have together [model, else 0.1]
    #[arg(long = "diffusion-eb-entropy-bound", value_name = "NATS")]
    entropy_bound: Option<f32>,

    /// Steps for which a canvas must not change before it may be finished [model, else 1]
    #[arg(long = "diffusion-eb-stability", value_name = "N")]
    stability: Option<u32>,

    /// Mean entropy in nats below which a canvas may be finished [model, else 0.005]
    #[arg(long = "diffusion-eb-confidence", value_name = "NATS")]
    confidence: Option<f32>,
}

/// How a conversation is led.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Chat: each line is a message, /help lists the commands [-cnv]. This is what happens on a
    /// terminal when there is no prompt
    #[arg(long, conflicts_with_all = ["raw", "single_turn"])]
    conversation: bool,

    /// Answer one message and end [-st]
    #[arg(long, conflicts_with = "raw")]
    single_turn: bool,

    /// System prompt [-sys]
    #[arg(long = "system-prompt", value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,

    /// File with the system prompt [-sysf]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system"])]
    pub system_prompt_file: Option<PathBuf>,

    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "JINJA", env = "LLAMA_ARG_CHAT_TEMPLATE")]
    pub chat_template: Option<String>,

    /// File with a Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE", env = "LLAMA_ARG_CHAT_TEMPLATE_FILE")]
    pub chat_template_file: Option<PathBuf>,

    /// JSON object with more variables for the chat template
    #[arg(long, value_name = "JSON", value_parser = parse_variables, env = "LLAMA_ARG_CHAT_TEMPLATE_KWARGS")]
    chat_template_kwargs: Option<Variables>,

    /// Ask the model to think, and show its thoughts on the standard error. Unless told, the
    /// template decides, and thoughts are hidden
    #[arg(long, conflicts_with_all = ["raw", "no_thinking"])]
    pub show_thinking: bool,

    /// Ask the model not to think
    #[arg(long, conflicts_with = "raw")]
    no_thinking: bool,

    /// Give the prompt to the model without a chat template [-no-cnv]. This is also what happens
    /// when the model has no template
    #[arg(long, visible_alias = "no-conversation")]
    pub raw: bool,
}

/// What is shown, and where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Show each draft of a canvas: newly accepted tokens in green, kept ones plain, noise dim.
    /// Without a terminal or colours, one line per step on the standard error
    #[arg(long = "diffusion-visual")]
    pub drafts: bool,

    /// Show how far the steps of a canvas are
    #[arg(long = "diffusion-visual-progress")]
    pub progress: bool,

    /// Show every N-th step only
    #[arg(long = "diffusion-visual-interval", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub interval: u32,

    /// Write every draft with its entropies to a file, for `llama-diffusion-cli replay FILE`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Colours: auto uses them on a terminal, unless NO_COLOR is set [-co]
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on",
        env = either("LLAMA_ARG_LOG_COLORS", "LLAMA_LOG_COLORS")
    )]
    pub color: When,

    /// Say more about what happens
    #[arg(short, long)]
    pub verbose: bool,

    /// How much is logged: 0 nothing, 1 errors, 2 warnings, 3 information, 4 all [-lv]
    #[arg(long, visible_alias = "verbosity", value_name = "N", default_value = "2", env = either("LLAMA_ARG_LOG_VERBOSITY", "LLAMA_LOG_VERBOSITY"))]
    log_verbosity: u8,

    /// Write the log to a file instead of the standard error
    #[arg(long, value_name = "FILE", env = either("LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE"))]
    pub log_file: Option<PathBuf>,

    /// Log nothing
    #[arg(long)]
    log_disable: bool,

    /// Print the completion of the bash shell and end
    #[arg(long)]
    completion_bash: bool,

    /// Print the completion of a shell and end
    #[arg(long, value_name = "SHELL")]
    completion: Option<Shell>,
}

impl OutputArgs {
    /// How much is logged.
    pub fn log_level(&self) -> LevelFilter {
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

    /// Whether an output is coloured that is a terminal or not.
    pub fn has_colors(&self, is_terminal: bool) -> bool {
        let no_color = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self.color {
            When::On => true,
            When::Off => false,
            When::Auto => is_terminal && !no_color(),
        }
    }

    /// Whether log lines may appear on the terminal while an answer is written.
    pub fn logs_details(&self) -> bool {
        self.log_level() > LevelFilter::WARN && self.log_file.is_none()
    }

    /// The shell whose completion is to be printed instead of an answer.
    pub fn completion(&self) -> Option<Shell> {
        self.completion
            .or(self.completion_bash.then_some(Shell::Bash))
    }
}

/// The variable that counts of two names of one setting: the older one only if it alone is set.
fn either(name: &'static str, older: &'static str) -> &'static OsStr {
    let is_set = |name| std::env::var_os(name).is_some();
    match !is_set(name) && is_set(older) {
        true => older.as_ref(),
        false => name.as_ref(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    On,
    Off,
    Auto,
}

/// Where the model comes from and where it lies.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model and devices")]
struct PlacementArgs {
    /// Model file (GGUF), the first part of a split one. Without it, a small demo model inside
    /// this program is used, if it was built in
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL")]
    model: Option<PathBuf>,

    /// Model file in Hugging Face's cache (HF_HUB_CACHE, HF_HOME), Q4_K_M unless told [-hf]. If it
    /// is not there, the command is named that fetches it
    #[arg(long, value_name = "USER/MODEL[:QUANT]", env = "LLAMA_ARG_HF_REPO")]
    hf_repo: Option<String>,

    /// File in the repository of --hf-repo, instead of one by its quantization [-hff]
    #[arg(
        long,
        value_name = "FILE",
        requires = "hf_repo",
        env = "LLAMA_ARG_HF_FILE"
    )]
    hf_file: Option<String>,

    /// Address of the model file: the command is named that fetches it [-mu]
    #[arg(long, value_name = "URL", env = "LLAMA_ARG_MODEL_URL")]
    model_url: Option<String>,

    /// Print the devices and end
    #[arg(long)]
    list_devices: bool,

    /// Layers on GPUs, counted from the last one; the output head counts as one. auto and all are
    /// all of them [-ngl]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = parse_layers, env = "LLAMA_ARG_N_GPU_LAYERS")]
    gpu_layers: Layers,

    /// Devices to use, separated by commas, or none [-dev]
    #[arg(long, value_name = "NAMES", env = "LLAMA_ARG_DEVICE")]
    device: Option<String>,

    /// How several GPUs share the model: by layers, or none for one GPU alone. row and tensor are
    /// taken for layer [-sm]
    #[arg(
        long,
        value_name = "HOW",
        default_value = "layer",
        env = "LLAMA_ARG_SPLIT_MODE"
    )]
    split_mode: SplitMode,

    /// Which GPU that is, counted from 0 [-mg]
    #[arg(
        long,
        value_name = "INDEX",
        default_value = "0",
        env = "LLAMA_ARG_MAIN_GPU"
    )]
    main_gpu: usize,

    /// Shares of the layers for each GPU, separated by commas [-ts]
    #[arg(
        long,
        value_name = "SHARES",
        value_delimiter = ',',
        env = "LLAMA_ARG_TENSOR_SPLIT"
    )]
    tensor_split: Vec<f32>,

    /// Keep all experts in host memory [-cmoe]
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_CPU_MOE")]
    cpu_moe: bool,

    /// Keep the experts of the first N layers in host memory [-ncmoe]
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true,
        env = "LLAMA_ARG_N_CPU_MOE"
    )]
    n_cpu_moe: usize,

    /// Keep the tensors whose names match a regular expression in that memory; several are
    /// separated by commas, the first match counts [-ot]
    #[arg(long, value_name = "REGEX=MEMORY", value_delimiter = ',', value_parser = parse_override, env = "LLAMA_ARG_OVERRIDE_TENSOR")]
    override_tensor: Vec<TensorOverride>,

    /// Keep the KV cache in host memory [-nkvo]
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_KV_OFFLOAD")]
    no_kv_offload: bool,

    /// Read the weights into memory instead of mapping the file
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LLAMA_ARG_NO_MMAP")]
    no_mmap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SplitMode {
    None,
    Layer,
    Row,
    Tensor,
}

/// Variables for a chat template.
#[derive(Clone, Debug)]
struct Variables(Map<String, Value>);

fn parse_variables(text: &str) -> Result<Variables, String> {
    serde_json::from_str(text)
        .map(Variables)
        .map_err(|error| format!("this is no JSON object: {error}"))
}

/// A number of tokens, or none.
#[derive(Clone, Copy, Debug)]
struct Limit(Option<usize>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Limit(None)),
        Ok(count @ 1..) => Ok(Limit(usize::try_from(count).ok())),
        _ => Err("-n takes 1 or more tokens, or -1 for no limit".into()),
    }
}

#[derive(Clone, Copy, Debug)]
struct Seed(Option<u64>);

fn parse_seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text
            .parse()
            .map(|seed| Seed(Some(seed)))
            .map_err(|_| "-s takes 0 to 18446744073709551615, or -1 for a random seed".into()),
    }
}

#[derive(Clone, Copy, Debug)]
struct Layers(Option<usize>);

fn parse_layers(text: &str) -> Result<Layers, String> {
    match text {
        "auto" | "all" | "-1" => Ok(Layers(None)),
        _ => text
            .parse()
            .map(|layers| Layers(Some(layers)))
            .map_err(|_| "-ngl takes a number of layers, auto or all".into()),
    }
}

fn parse_override(text: &str) -> Result<TensorOverride, String> {
    let (pattern, memory) = text
        .rsplit_once('=')
        .ok_or("-ot takes REGEX=MEMORY, such as exps=CPU")?;
    Ok(TensorOverride {
        pattern: Regex::new(pattern).map_err(|error| error.to_string())?,
        memory: memory.to_owned(),
    })
}

/// Text with backslash sequences replaced as llama.cpp does; others stay as they are.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let hex = sequence
            .strip_prefix('x')
            .and_then(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok());
        let (byte, length) = match (sequence.as_bytes().first(), hex) {
            (_, Some(byte)) => (byte, 3),
            (Some(b'n'), _) => (b'\n', 1),
            (Some(b't'), _) => (b'\t', 1),
            (Some(b'r'), _) => (b'\r', 1),
            (Some(&quoted @ (b'"' | b'\'' | b'\\')), _) => (quoted, 1),
            _ => (b'\\', 0),
        };
        bytes.push(byte);
        rest = &sequence[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where a prompt comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum PromptSource {
    Text(String),
    File(PathBuf),
}

/// The command line's definition, with the flags that have no effect.
fn definition() -> Command {
    inert::define(Args::command()).mut_args(|arg| arg.hide_env_values(true))
}

impl Args {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// What clap has to say, which may be the help that was asked for.
    pub fn parse_from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = definition();
        let line = respell(&command, line);
        let matches = command.try_get_matches_from_mut(line)?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.warnings = inert::warnings(&matches);
        args.settle(&matches);
        Ok(args)
    }

    /// Settles which of several flags counts that exclude each other: the command line goes before
    /// the environment, and a flag of the command line is not given up silently.
    fn settle(&mut self, matches: &ArgMatches) {
        let is_from = |id, source| matches.value_source(id) == Some(source);
        let chosen = |id| is_from(id, ValueSource::CommandLine);
        let from_env = |id| is_from(id, ValueSource::EnvVariable);

        if chosen("hf_repo") && from_env("model") {
            self.placement.model = None;
        }
        if chosen("chat_template_file") && from_env("chat_template") {
            self.chat.chat_template = None;
        }
        if chosen("n_cpu_moe") && from_env("cpu_moe") {
            self.placement.cpu_moe = false;
        }
        for (flag, id, winner, winner_id) in [
            ("--chat-template", "chat_template", "--raw", "raw"),
            ("--chat-template-file", "chat_template_file", "--raw", "raw"),
            (
                "--chat-template-kwargs",
                "chat_template_kwargs",
                "--raw",
                "raw",
            ),
            (
                "--chat-template-file",
                "chat_template_file",
                "--chat-template",
                "chat_template",
            ),
            ("--hf-repo", "hf_repo", "--model", "model"),
            ("--model-url", "model_url", "--model", "model"),
            ("--model-url", "model_url", "--hf-repo", "hf_repo"),
        ] {
            if chosen(id) && chosen(winner_id) {
                self.warnings
                    .push(format!("{flag} has no effect beside {winner}"));
            }
        }
        match self.placement.split_mode {
            SplitMode::Row | SplitMode::Tensor => self
                .warnings
                .push("--split-mode: GPUs share the model by layers".into()),
            SplitMode::Layer | SplitMode::None => {}
        }
        if chosen("main_gpu") && self.placement.split_mode != SplitMode::None {
            self.warnings
                .push("--main-gpu has no effect without --split-mode none".into());
        }
    }

    /// Prints the completion of a shell. The names with a single dash are not in it.
    pub fn print_completion(shell: Shell) {
        let mut command = definition();
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command, name, &mut std::io::stdout());
    }

    /// The prompt of the command line.
    pub fn prompt(&self) -> Option<PromptSource> {
        match (&self.common.prompt, &self.common.file) {
            (Some(text), _) => Some(PromptSource::Text(self.unescaped(text))),
            (None, file) => file.clone().map(PromptSource::File),
        }
    }

    /// The system prompt of the command line itself.
    pub fn system(&self) -> Option<String> {
        self.chat.system.as_ref().map(|text| self.unescaped(text))
    }

    fn unescaped(&self, text: &str) -> String {
        match self.common.no_escape {
            true => text.to_owned(),
            false => unescape(text),
        }
    }

    /// What the chat template gets besides the messages.
    pub fn template_variables(&self) -> Map<String, Value> {
        let chat = &self.chat;
        let mut variables = match &chat.chat_template_kwargs {
            Some(Variables(given)) => given.clone(),
            None => Map::new(),
        };
        if chat.show_thinking || chat.no_thinking {
            variables.insert("enable_thinking".into(), chat.show_thinking.into());
        }
        variables
    }

    /// Whether several messages are to be answered.
    pub fn is_chat(&self, stdin_is_terminal: bool) -> bool {
        let one = self.chat.raw || self.chat.single_turn || self.prompt().is_some();
        self.chat.conversation || (stdin_is_terminal && !one)
    }

    /// The model file, if the user chose one.
    ///
    /// # Errors
    /// It is not in the cache, or still in the network.
    pub fn model(&self) -> Result<Option<PathBuf>> {
        let flags = &self.placement;
        match (&flags.model, &flags.hf_repo, &flags.model_url) {
            (Some(path), _, _) => Ok(Some(path.clone())),
            (None, Some(repo), _) => hub::find(repo, flags.hf_file.as_deref()).map(Some),
            (None, None, Some(url)) => Err(Error::InvalidParameter {
                parameter: "-mu".into(),
                problem: format!(
                    "this tool downloads nothing. Fetch the model with: curl -LO '{url}' and give \
                     the file with -m"
                ),
            }),
            (None, None, None) => Ok(None),
        }
    }

    /// Whether the devices are to be printed instead of an answer.
    pub fn list_devices(&self) -> bool {
        self.placement.list_devices
    }

    /// The seed, if the user chose one.
    pub fn seed(&self) -> Option<u64> {
        self.common.seed.0
    }

    /// Layers on GPUs, if the user chose a number.
    pub fn gpu_layers(&self) -> Option<usize> {
        self.placement.gpu_layers.0
    }

    /// How an answer is generated, where `model` is what its file recommends.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn diffusion(&self, model: &Overrides, seed: u64) -> Result<DiffusionParams> {
        let flags = &self.diffusion;
        let chosen = Overrides {
            max_steps: flags.max_steps.or(flags.steps),
            t_min: flags.t_min,
            t_max: flags.t_max,
            entropy_bound: flags.entropy_bound,
            stability_threshold: flags.stability,
            confidence_threshold: flags.confidence,
        };
        let resolved = DiffusionParams::resolve(&chosen, model)?;
        let max_tokens = match (self.common.predict, flags.blocks) {
            (Some(Limit(tokens)), _) => tokens,
            (None, Some(_)) => None,
            (None, None) => resolved.max_tokens,
        };
        let params = DiffusionParams {
            max_tokens,
            max_canvases: flags.blocks,
            seed,
            ..resolved
        };
        params.validate()?;
        Ok(params)
    }

    /// How a session runs on a model that was trained for `trained_context` positions.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn session(&self, trained_context: usize) -> Result<SessionParams> {
        let compute = &self.common;
        if compute.cache_type_k != compute.cache_type_v {
            return Err(Error::InvalidParameter {
                parameter: "-ctk, -ctv".into(),
                problem: format!(
                    "{:?} and {:?} differ, but keys and values share one type: give both",
                    compute.cache_type_k, compute.cache_type_v
                ),
            });
        }
        Ok(SessionParams {
            context: compute.ctx_size.map(|size| match size {
                0 => trained_context,
                _ => size,
            }),
            batch: [compute.batch_size, compute.ubatch_size]
                .into_iter()
                .flatten()
                .min(),
            threads: usize::try_from(compute.threads).ok().filter(|n| *n > 0),
            kv_type: compute.cache_type_k,
            flash_attention: match compute.flash_attn {
                When::On => FlashAttention::On,
                When::Off => FlashAttention::Off,
                When::Auto => FlashAttention::Auto,
            },
        })
    }

    /// Where the model lies.
    pub fn placement(&self) -> PlacementParams {
        let placement = &self.placement;
        let devices = match (&placement.device, placement.split_mode) {
            (Some(names), _) if names == "none" => Some(Vec::new()),
            (Some(names), _) => Some(
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect(),
            ),
            (None, SplitMode::None) => gpus()
                .nth(placement.main_gpu)
                .map(|device| vec![device.name()]),
            (None, _) => None,
        };
        PlacementParams {
            gpu_layers: placement.gpu_layers.0,
            devices,
            split: placement.tensor_split.clone(),
            cpu_moe_layers: if placement.cpu_moe {
                usize::MAX
            } else {
                placement.n_cpu_moe
            },
            overrides: placement.override_tensor.clone(),
            kv_on_host: placement.no_kv_offload,
            no_mmap: placement.no_mmap,
        }
    }
}

/// The GPUs of this machine.
pub fn gpus() -> impl Iterator<Item = Device> {
    let is_gpu =
        |device: &Device| matches!(device.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu);
    Device::all().into_iter().filter(is_gpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spelling::{SINGLE_DASH, find};

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        let line = ["llama-diffusion-cli"].iter().chain(line);
        Args::parse_from_line(line.map(OsString::from))
    }

    fn prompt(line: &[&str]) -> String {
        match parse(line).unwrap().prompt() {
            Some(PromptSource::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn single_dash_names_stand_for_flags_that_exist() {
        let command = definition();
        for &(single, long) in SINGLE_DASH {
            assert!(find(&command, long).is_some(), "{single}");
        }
    }

    #[test]
    fn llama_cpp_s_spelling() {
        let args = parse(&[
            "-ngl",
            "3",
            "-ncmoe",
            "2",
            "-dev",
            "CUDA0,CPU",
            "-ts",
            "3,1",
            "-nkvo",
        ]);
        let placement = args.unwrap().placement();
        assert_eq!(placement.gpu_layers, Some(3));
        assert_eq!(placement.cpu_moe_layers, 2);
        assert_eq!(placement.devices.unwrap(), ["CUDA0", "CPU"]);
        assert_eq!(placement.split, [3.0, 1.0]);
        assert!(placement.kv_on_host);
        for line in [["-n", "5"], ["--predict", "5"], ["--n-predict", "5"]] {
            let params = parse(&line)
                .unwrap()
                .diffusion(&Overrides::default(), 0)
                .unwrap();
            assert_eq!(params.max_tokens, Some(5));
        }
    }

    #[test]
    fn values_may_begin_with_a_dash_or_be_empty() {
        assert_eq!(prompt(&["-p", "-5 degrees"]), "-5 degrees");
        assert_eq!(prompt(&["-p", "=x="]), "=x=");
        assert_eq!(prompt(&["-p", ""]), "");
        assert_eq!(prompt(&["--prompt", "-p"]), "-p");
        assert_eq!(parse(&["-sys", "-p"]).unwrap().system().unwrap(), "-p");
        assert_eq!(parse(&["-s", "-1"]).unwrap().seed(), None);
    }

    #[test]
    fn short_flags_are_not_run_together() {
        let message = parse(&["-nope"]).unwrap_err().to_string();
        assert!(message.contains("--nope"), "{message}");
        assert!(parse(&["-n5"]).is_err());
    }

    #[test]
    fn a_flag_goes_before_the_model_and_the_general_one_behind_the_special_one() {
        let model = Overrides {
            max_steps: Some(7),
            t_max: Some(0.9),
            ..Overrides::default()
        };
        let steps = |line: &[&str]| parse(line).unwrap().diffusion(&model, 3).unwrap().max_steps;
        assert_eq!(steps(&[]), 7);
        assert_eq!(steps(&["--diffusion-steps", "9"]), 9);
        assert_eq!(
            steps(&["--diffusion-steps", "9", "--diffusion-eb-max-steps", "8"]),
            8
        );
        let error = parse(&["--diffusion-eb-t-min", "1"])
            .unwrap()
            .diffusion(&model, 3);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("--diffusion-eb-t-max")
        );
    }

    #[test]
    fn limits_of_the_answer() {
        let limits = |line: &[&str]| {
            let params = parse(line)
                .unwrap()
                .diffusion(&Overrides::default(), 0)
                .unwrap();
            (params.max_tokens, params.max_canvases)
        };
        assert_eq!(limits(&[]), (Some(256), None));
        assert_eq!(limits(&["-n", "-1"]), (None, None));
        assert_eq!(limits(&["--diffusion-blocks", "3"]), (None, Some(3)));
        assert_eq!(
            limits(&["--diffusion-blocks", "3", "-n", "9"]),
            (Some(9), Some(3))
        );
        assert!(parse(&["-n", "-2"]).is_err());
    }

    #[test]
    fn the_smaller_batch_and_the_trained_context() {
        let session = |line: &[&str]| parse(line).unwrap().session(131_072);
        assert_eq!(
            session(&["-b", "512", "-ub", "64"]).unwrap().batch,
            Some(64)
        );
        assert_eq!(session(&["-b", "512"]).unwrap().batch, Some(512));
        assert_eq!(session(&["-c", "0"]).unwrap().context, Some(131_072));
        assert_eq!(session(&[]).unwrap().context, None);
        assert_eq!(session(&["-t", "-1"]).unwrap().threads, None);
        let error = session(&["-ctk", "q8_0"]).unwrap_err().to_string();
        assert!(
            error.starts_with("-ctk, -ctv: Q8_0 and F16 differ"),
            "{error}"
        );
    }

    /// The command lines of llama.cpp's documents for its diffusion tools, by what they set.
    #[test]
    fn upstream_s_command_lines() {
        let masked: &[&str] = &[
            "--diffusion-eps",
            "--diffusion-algorithm",
            "--diffusion-steps",
        ];
        let dream = "-m dream7b.gguf -p question --diffusion-eps 0.001 --diffusion-algorithm 3 \
                     --diffusion-steps 256 --diffusion-visual";
        let llada = "-m llada-8b.gguf -p question --diffusion-block-length 32 --diffusion-steps 256 \
                     --diffusion-visual";
        let rnd1 = "-m RND1-Base.gguf -p question --diffusion-algorithm 1 --diffusion-steps 256 \
                    --diffusion-visual --temp 0.5 --diffusion-eps 0.001";
        for (line, steps, inert) in [
            (dream, 256, &masked[..2]),
            (llada, 256, &["--diffusion-block-length"][..]),
            (
                rnd1,
                256,
                &["--temp", "--diffusion-eps", "--diffusion-algorithm"][..],
            ),
            (
                "-m m.gguf -p question --diffusion-steps 64 --diffusion-alg-temp 0.1 \
                 --diffusion-cfg-scale 1.5 --diffusion-add-gumbel-noise 1 --top-k 40 --top-p 0.9 \
                 -ub 512",
                64,
                &[
                    "--top-k",
                    "--top-p",
                    "--diffusion-alg-temp",
                    "--diffusion-cfg-scale",
                    "--diffusion-add-gumbel-noise",
                ][..],
            ),
        ] {
            let args = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
            let params = args.diffusion(&Overrides::default(), 0).unwrap();
            assert_eq!(params.max_steps, steps, "{line}");
            assert_eq!(args.prompt(), Some(PromptSource::Text("question".into())));
            assert!(!args.is_chat(true));
            assert_eq!(args.output.drafts, line.contains("--diffusion-visual"));
            let named: Vec<&str> = args
                .warnings
                .iter()
                .map(|w| w.split(' ').next().unwrap())
                .collect();
            assert_eq!(named, inert, "{line}");
        }

        let gemma = "-m diffusiongemma.gguf -cnv -ngl 99 -c 4096 -n 512 -fa on --jinja -s 7 \
                     --diffusion-blocks 2 --diffusion-eb on --diffusion-eb-max-steps 32 \
                     --diffusion-eb-t-min 0.3 --diffusion-eb-t-max 0.9 \
                     --diffusion-eb-entropy-bound 0.2 --diffusion-eb-stability 2 \
                     --diffusion-eb-confidence 0.01 --diffusion-kv-cache auto \
                     --diffusion-gpu-sampling on --diffusion-gpu-sample-reduce auto \
                     --diffusion-visual-progress --diffusion-visual-interval 4";
        let args = parse(&gemma.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(args.warnings, [""; 0]);
        assert!(args.is_chat(false));
        assert_eq!(args.gpu_layers(), Some(99));
        assert_eq!(args.session(1 << 17).unwrap().context, Some(4096));
        assert!(args.output.progress);
        assert_eq!(args.output.interval, 4);
        assert_eq!(
            args.diffusion(&Overrides::default(), 7).unwrap(),
            DiffusionParams {
                max_steps: 32,
                t_min: 0.3,
                t_max: 0.9,
                entropy_bound: 0.2,
                stability_threshold: 2,
                confidence_threshold: 0.01,
                max_tokens: Some(512),
                max_canvases: Some(2),
                seed: 7,
            }
        );
    }

    /// Every flag of the tools, each with a value of its kind.
    #[test]
    fn every_flag_is_known() {
        let lines = "-m f|-mu u|-hf a/b|-hfr a/b|-hf a/b -hff f|-p t|-f f|-n 3|--predict 3|--n-predict 3|-c 9|\
            --ctx-size 9|-b 9|-ub 9|-t 2|-tb 2|-ngl 3|-ngl auto|-ngl all|--gpu-layers 3|\
            --n-gpu-layers 3|-sm none|-sm row|-ts 1,2|-mg 0|-dev none|--device CPU|--list-devices|\
            -ot a=CPU|--override-tensor a=CPU|-cmoe|--cpu-moe|-ncmoe 2|--n-cpu-moe 2|-fa|-fa on|\
            -fa off|-fa auto|--flash-attn|-ctk f16|-ctv f16|--no-mmap|--mlock|--no-kv-offload|-nkvo|\
            -s 3|--seed -1|--temp 0.5|--temperature 1|--top-k 4|--top-p 0.5|-sys t|-sysf f|-cnv|\
            -no-cnv|-st|--chat-template {{x}}|--chat-template-file f|--jinja|--no-jinja|-e|\
            --no-escape|--rpc h:1|--override-kv a=int:1|--check-tensors|--color|--color on|-co off|\
            --log-file f|--log-verbosity 3|-lv 3|--log-disable|-v|--verbose|--completion-bash|\
            --diffusion-steps 3|--diffusion-visual|--diffusion-eps 0.1|--diffusion-algorithm 4|\
            --diffusion-alg-temp 1|--diffusion-block-length 8|--diffusion-cfg-scale 0|\
            --diffusion-add-gumbel-noise 1|--diffusion-blocks 2|--diffusion-visual-progress|\
            --diffusion-visual-interval 2|--diffusion-eb off|--diffusion-eb-t-min 0|\
            --diffusion-eb-t-max 1|--diffusion-eb-entropy-bound 1|--diffusion-eb-stability 1|\
            --diffusion-eb-confidence 1|--diffusion-eb-max-steps 9|--diffusion-kv-cache off|\
            --diffusion-gpu-sampling off|--diffusion-gpu-sample-reduce off";
        for line in lines.split('|') {
            let parsed = parse(&line.split_whitespace().collect::<Vec<_>>());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "--diffusion-eb maybe",
            "--top-k x",
            "--temp",
            "--diffusion-algorithm 5",
        ] {
            let parsed = parse(&line.split_whitespace().collect::<Vec<_>>());
            assert!(parsed.is_err(), "{line}");
        }
    }

    #[test]
    fn a_value_that_may_be_left_out_does_not_swallow_the_next_flag() {
        let args = parse(&["-fa", "-p", "x", "--color", "-n", "4"]).unwrap();
        assert_eq!(args.session(0).unwrap().flash_attention, FlashAttention::On);
        assert_eq!(args.output.color, When::On);
        assert_eq!(args.prompt(), Some(PromptSource::Text("x".into())));
    }

    #[test]
    fn flags_that_exclude_each_other_are_warned_of() {
        let args = parse(&["-m", "f", "-hf", "a/b", "-mg", "1", "-sm", "row"]).unwrap();
        assert_eq!(args.model().unwrap(), Some("f".into()));
        assert_eq!(args.warnings.len(), 3, "{:?}", args.warnings);
        let url = parse(&["-mu", "https://x/y.gguf"]).unwrap().model();
        let message = url.unwrap_err().to_string();
        assert!(message.contains("curl -LO 'https://x/y.gguf'"), "{message}");
    }

    #[test]
    fn backslashes() {
        for (written, meant) in [
            (r"a\nb", "a\nb"),
            (r"a\tb\r", "a\tb\r"),
            ("\\n", "\n"),
            (r#"\"\'"#, "\"'"),
            (r"\x41\xc3\xa9", "Aé"),
            (r"\d\x4", r"\d\x4"),
            ("end\\", "end\\"),
        ] {
            assert_eq!(unescape(written), meant, "{written}");
        }
        assert_eq!(prompt(&["-p", r"a\nb"]), "a\nb");
        assert_eq!(prompt(&["--no-escape", "-p", r"a\nb"]), r"a\nb");
        assert_eq!(prompt(&["--no-escape", "-e", "-p", r"a\nb"]), "a\nb");
    }

    #[test]
    fn variables_of_the_template() {
        let variables = |line: &[&str]| parse(line).unwrap().template_variables();
        assert!(variables(&[]).is_empty());
        assert_eq!(variables(&["--no-thinking"])["enable_thinking"], false);
        assert_eq!(variables(&["--show-thinking"])["enable_thinking"], true);
        let given = variables(&["--chat-template-kwargs", r#"{"a": 1}"#, "--no-thinking"]);
        assert_eq!(
            (&given["a"], &given["enable_thinking"]),
            (&1.into(), &false.into())
        );
        assert!(parse(&["--chat-template-kwargs", "[1]"]).is_err());
    }

    #[test]
    fn overrides_of_tensors() {
        let args = parse(&["-ot", "blk\\.1=CPU,exps=CUDA0", "-ot", "a=b=c"]).unwrap();
        let overrides = args.placement().overrides;
        let pairs: Vec<(&str, &str)> = overrides
            .iter()
            .map(|o| (o.pattern.as_str(), o.memory.as_str()))
            .collect();
        assert_eq!(pairs, [("blk\\.1", "CPU"), ("exps", "CUDA0"), ("a=b", "c")]);
        for bad in ["exps", "(=CPU"] {
            assert!(parse(&["-ot", bad]).is_err(), "{bad}");
        }
    }
}
