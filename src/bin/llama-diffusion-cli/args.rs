//! The flags: llama.cpp's spelling, parsed by clap.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use llama_diffusion::{
    DiffusionParams, Error, FlashAttention, KvType, Overrides, PlacementParams, Result,
    SessionParams, TensorOverride,
};
use regex::Regex;

/// This version, and the source of the llama.cpp inside.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (llama.cpp from ",
    env!("LLAMA_DIFFUSION_LLAMA_CPP"),
    ")"
);

/// Answers a prompt with a DiffusionGemma model: text is denoised canvas by canvas.
///
/// The answer goes to the standard output, everything else to the standard error. A prompt is put
/// into the chat template of the model, as llama.cpp does; --raw gives it to the model as it is.
///
/// Exit status: 0 done, 1 error, 130 interrupted (Ctrl-C; press it twice to end at once).
#[derive(Debug, Parser)]
#[command(
    name = "llama-diffusion-cli",
    version = VERSION,
    max_term_width = 100,
    args_override_self = true // the last one counts, as for llama.cpp
)]
pub struct Args {
    /// Say more about what happens
    #[arg(short, long)]
    pub verbose: bool,

    /// Model file (GGUF), the first part of a split one. Without it, a small demo model inside
    /// this program is used, if it was built in
    #[arg(short, long, value_name = "FILE", help_heading = "Model")]
    pub model: Option<PathBuf>,

    /// Prompt
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompt")]
    pub prompt: Option<String>,

    /// File with the prompt, in UTF-8; one newline at its end is left out
    #[arg(
        short,
        long,
        value_name = "FILE",
        conflicts_with = "prompt",
        help_heading = "Prompt"
    )]
    pub file: Option<PathBuf>,

    /// System prompt [-sys]
    #[arg(
        long = "system-prompt",
        value_name = "TEXT",
        conflicts_with = "raw",
        help_heading = "Prompt"
    )]
    pub system: Option<String>,

    /// File with a Jinja chat template to use instead of the model's
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "raw",
        help_heading = "Prompt"
    )]
    pub chat_template_file: Option<PathBuf>,

    /// Give the prompt to the model without a chat template [-no-cnv]. This is also what happens
    /// when the model has no template
    #[arg(
        long,
        visible_alias = "no-conversation",
        conflicts_with = "single_turn",
        help_heading = "Prompt"
    )]
    pub raw: bool,

    /// Answer one prompt and end [-st]: the only mode so far, taken for compatibility
    #[arg(long, help_heading = "Prompt")]
    pub single_turn: bool,

    /// Most tokens of the answer, -1 for no limit. Whole canvases are denoised, and the last one
    /// is cut. Default: 256, or no limit if --diffusion-blocks is given
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", value_parser = parse_limit, help_heading = "Generation")]
    predict: Option<Limit>,

    /// Seed of the randomness, -1 for a random one. The same seed gives the same answer, whatever
    /// the number of threads
    #[arg(short, long, value_name = "SEED", default_value = "-1", value_parser = parse_seed, help_heading = "Generation")]
    seed: Seed,

    #[command(flatten)]
    diffusion: DiffusionArgs,

    #[command(flatten)]
    pub view: ViewArgs,

    #[command(flatten)]
    compute: ComputeArgs,

    #[command(flatten)]
    placement: PlacementArgs,
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

/// What is shown while a canvas is denoised.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Diffusion")]
pub struct ViewArgs {
    /// Show each draft of a canvas: newly accepted tokens in green, kept ones plain, noise dim.
    /// Where the standard output is no terminal, one line per step on the standard error
    #[arg(long = "diffusion-visual")]
    pub drafts: bool,

    /// Show how far the steps of a canvas are
    #[arg(long = "diffusion-visual-progress")]
    pub progress: bool,

    /// Show every N-th step only
    #[arg(long = "diffusion-visual-interval", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub interval: u32,
}

/// How the engine computes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
struct ComputeArgs {
    /// Tokens that prompt and answer may have together, 0 for what the model was trained for.
    /// Default: the same, at most 8192
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,

    /// Most tokens of a prompt that are encoded in one pass
    #[arg(short, long, value_name = "N")]
    batch_size: Option<usize>,

    /// As --batch-size; the smaller one counts [-ub]
    #[arg(long, value_name = "N")]
    ubatch_size: Option<usize>,

    /// Threads of the CPU; 0 or less is one for each core, fewer for a small model
    #[arg(
        short,
        long,
        value_name = "N",
        default_value = "0",
        hide_default_value = true
    )]
    threads: i32,

    /// Fused attention: auto uses it where the devices have it [-fa]
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    flash_attn: When,

    /// Element type of the KV cache: f16, f32 or q8_0 [-ctk]
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_k: KvType,

    /// The same for V; both must be the same type [-ctv]
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_v: KvType,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    On,
    Off,
    Auto,
}

/// Where the model lies.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Devices")]
struct PlacementArgs {
    /// Print the devices and end
    #[arg(long)]
    list_devices: bool,

    /// Layers on GPUs, counted from the last one; the output head counts as one. auto and all are
    /// all of them [-ngl]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = parse_layers)]
    gpu_layers: Layers,

    /// Devices to use, separated by commas, or none [-dev]
    #[arg(long, value_name = "NAMES")]
    device: Option<String>,

    /// Shares of the layers for each GPU, separated by commas [-ts]
    #[arg(long, value_name = "SHARES", value_delimiter = ',')]
    tensor_split: Vec<f32>,

    /// Keep all experts in host memory [-cmoe]
    #[arg(long, conflicts_with = "n_cpu_moe")]
    cpu_moe: bool,

    /// Keep the experts of the first N layers in host memory [-ncmoe]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    n_cpu_moe: usize,

    /// Keep the tensors whose names match a regular expression in that memory; several are
    /// separated by commas, the first match counts [-ot]
    #[arg(long, value_name = "REGEX=MEMORY", value_delimiter = ',', value_parser = parse_override)]
    override_tensor: Vec<TensorOverride>,

    /// Keep the KV cache in host memory [-nkvo]
    #[arg(long)]
    no_kv_offload: bool,

    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    no_mmap: bool,
}

/// llama.cpp's long names with a single dash, which clap would take for a row of short flags.
const SINGLE_DASH: [(&str, &str); 14] = [
    ("-cmoe", "--cpu-moe"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-dev", "--device"),
    ("-fa", "--flash-attn"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ngl", "--gpu-layers"),
    ("-nkvo", "--no-kv-offload"),
    ("-no-cnv", "--no-conversation"),
    ("-ot", "--override-tensor"),
    ("-st", "--single-turn"),
    ("-sys", "--system-prompt"),
    ("-ts", "--tensor-split"),
    ("-ub", "--ubatch-size"),
];

/// Spells the arguments as clap wants them. A flag that takes a value is joined with whatever
/// follows it, so that a value may begin with a dash, as for llama.cpp.
fn respell(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut respelled: Vec<OsString> = args.next().into_iter().collect();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.to_str().filter(|text| text.starts_with('-')) else {
            respelled.push(arg);
            continue;
        };
        let flag = match SINGLE_DASH.iter().find(|(single, _)| *single == flag) {
            Some((_, long)) => (*long).to_owned(),
            // Not a row of short flags either: clap shall name the whole of it as unknown.
            None if flag.len() > 2 && !flag.starts_with("--") => format!("-{flag}"),
            None => flag.to_owned(),
        };
        let takes_value = find(command, &flag).is_some_and(|f| f.get_action().takes_values());
        let mut flag = OsString::from(flag);
        if takes_value && let Some(value) = args.next() {
            flag.push("=");
            flag.push(value);
        }
        respelled.push(flag);
    }
    respelled
}

/// The definition of a flag, by one of its names with the dashes.
fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let is_it = |argument: &&Arg| match flag.strip_prefix("--") {
        Some(name) => {
            let aliases = argument.get_all_aliases().unwrap_or_default();
            argument.get_long() == Some(name) || aliases.contains(&name)
        }
        None => argument
            .get_short()
            .is_some_and(|c| flag == format!("-{c}")),
    };
    command.get_arguments().find(is_it)
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

impl Args {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// What clap has to say, which may be the help that was asked for.
    pub fn parse_from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Self::command();
        let line = respell(&command, line);
        Self::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    /// Whether the devices are to be printed instead of an answer.
    pub fn list_devices(&self) -> bool {
        self.placement.list_devices
    }

    /// The seed, if the user chose one.
    pub fn seed(&self) -> Option<u64> {
        self.seed.0
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
        let max_tokens = match (self.predict, flags.blocks) {
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
        let compute = &self.compute;
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
        let devices = placement.device.as_ref().map(|names| match names.as_str() {
            "none" => Vec::new(),
            _ => names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect(),
        });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        let line = ["llama-diffusion-cli"].iter().chain(line);
        Args::parse_from_line(line.map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn single_dash_names_stand_for_flags_that_exist() {
        let command = Args::command();
        for (single, long) in SINGLE_DASH {
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
        assert_eq!(
            parse(&["-p", "-5 degrees"]).unwrap().prompt.unwrap(),
            "-5 degrees"
        );
        assert_eq!(parse(&["-p", "=x="]).unwrap().prompt.unwrap(), "=x=");
        assert_eq!(parse(&["-p", ""]).unwrap().prompt.unwrap(), "");
        assert_eq!(parse(&["--prompt", "-p"]).unwrap().prompt.unwrap(), "-p");
        assert_eq!(parse(&["-sys", "-p"]).unwrap().system.unwrap(), "-p");
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
