//! Flags of llama.cpp that do nothing here. Those that cannot change an answer are taken, so that its
//! command lines work; each use is answered by a warning, unless what it asks for is so anyway. Those
//! that would change it are refused.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::shared::compute::When;

#[derive(Clone, Copy)]
enum Effect {
    /// What it asks for is always so.
    Given,
    /// Why it has none.
    None(&'static str),
    /// What is always so, and why `off` has no effect.
    GivenUnlessOff(&'static str),
    /// Why it has none, and `off` is always so.
    NoneUnlessOff(&'static str),
    /// Why an answer would be another one, and what to do.
    Refused(&'static str),
}

use Effect::{Given, GivenUnlessOff, None as Without, NoneUnlessOff, Refused};

/// Flags with what becomes of them. Each is written as llama.cpp's help has it: names, what values are
/// called, and the variable of the environment.
const FLAGS: &[(Effect, &[&str])] = &[
    (
        GivenUnlessOff("canvas models have no other sampler than the entropy-bound one"),
        &["--diffusion-eb [on|off|auto]"],
    ),
    (
        GivenUnlessOff("keys and values are always cached"),
        &["--diffusion-kv-cache [on|off|auto]"],
    ),
    (
        GivenUnlessOff("tokens are always drawn on the device that computes the logits"),
        &["--diffusion-gpu-sampling [on|off|auto]"],
    ),
    (
        GivenUnlessOff("logits are always reduced on the device that computes them"),
        &["--diffusion-gpu-sample-reduce [on|off|auto]"],
    ),
    (
        Given,
        &[
            "--jinja LLAMA_ARG_JINJA",
            "--no-warmup",
            "--no-display-prompt",
            "--perf",
            "--show-timings",
            "--offline",
            "--no-log-prefix",
            "--no-log-timestamps",
            "--no-log-jsonl",
            "--no-context-shift",
            "--repack",
            "--op-offload",
            "--no-mmproj --no-mmproj-auto",
            "--no-mmproj-offload",
            "--no-skip-chat-parsing",
            "--no-reasoning-preserve",
            "--no-spec-draft-backend-sampling",
            "--simple-io",
        ],
    ),
    (Without("chat templates are always Jinja"), &["--no-jinja"]),
    (
        Without("this tool does not connect to RPC servers"),
        &["--rpc SERVERS LLAMA_ARG_RPC"],
    ),
    (Without("there is no warm-up"), &["--warmup"]),
    (
        Without("the prompt is not printed"),
        &["--display-prompt", "--verbose-prompt"],
    ),
    (
        Without("the lines behind an answer are always written to the standard error"),
        &[
            "--no-perf",
            "--no-show-timings",
            "-ptc --print-token-count N",
        ],
    ),
    (
        Without("log lines have one form"),
        &["--log-prefix", "--log-timestamps", "--log-jsonl"],
    ),
    (
        Without("prompts are not logged"),
        &["--log-prompts-dir PATH"],
    ),
    (
        Without("this tool downloads nothing"),
        &["-hft --hf-token TOKEN"],
    ),
    (
        Without("this tool does not choose the cores and priorities of its threads"),
        &[
            "-C --cpu-mask M",
            "-Cr --cpu-range LO-HI",
            "--cpu-strict 0|1",
            "--prio N",
            "--poll 0-100",
            "-Cb --cpu-mask-batch M",
            "-Crb --cpu-range-batch LO-HI",
            "--cpu-strict-batch 0|1",
            "--prio-batch N",
            "--poll-batch 0|1",
            "--numa TYPE LLAMA_ARG_NUMA",
        ],
    ),
    (
        Without("a text is never shifted: what does not fit the context is an error"),
        &["--keep N", "--context-shift"],
    ),
    (
        Without("the size of the KV cache is that of -c, in one form"),
        &[
            "-ctxcp --ctx-checkpoints --swa-checkpoints N LLAMA_ARG_CTX_CHECKPOINTS",
            "-cram --cache-ram N LLAMA_ARG_CACHE_RAM",
            "--prompt-cache FNAME",
            "--prompt-cache-all",
            "--prompt-cache-ro",
        ],
    ),
    (
        Without("prompts are answered one after another"),
        &["-np --parallel N", "-cb --cont-batching"],
    ),
    (
        Without("ggml lays out the weights and chooses where operations run"),
        &[
            "-nr --no-repack",
            "--no-host LLAMA_ARG_NO_HOST",
            "--no-op-offload",
            "-lzm --lazy-mode [on|off|auto] LLAMA_ARG_LAZY_MODE",
        ],
    ),
    (
        Without("it is for dense models; -ot keeps any tensor in host memory"),
        &["-ncffn --n-cpu-ffn N LLAMA_ARG_N_CPU_FFN"],
    ),
    (
        NoneUnlessOff("it is not looked whether the layers fit their devices: choose with -ngl"),
        &["-fit --fit [on|off] LLAMA_ARG_FIT"],
    ),
    (
        Without("it is not looked whether the layers fit their devices: choose with -ngl"),
        &[
            "-fitt --fit-target MIB LLAMA_ARG_FIT_TARGET",
            "-fitc --fit-ctx N LLAMA_ARG_FIT_CTX",
        ],
    ),
    (
        Without("no sampler of token-by-token models takes part in denoising"),
        &[
            "--samplers SAMPLERS",
            "--sampler-seq --sampling-seq SEQUENCE",
            "--ignore-eos",
            "--min-p N LLAMA_ARG_MIN_P",
            "--top-nsigma --top-n-sigma N",
            "--xtc-probability N",
            "--xtc-threshold N",
            "--typical --typical-p N",
            "--repeat-last-n N",
            "--repeat-penalty N LLAMA_ARG_REPEAT_PENALTY",
            "--presence-penalty N LLAMA_ARG_PRESENCE_PENALTY",
            "--frequency-penalty N LLAMA_ARG_FREQUENCY_PENALTY",
            "--dry-multiplier N",
            "--dry-base N",
            "--dry-allowed-length N",
            "--dry-penalty-last-n N",
            "--dry-sequence-breaker STRING",
            "--adaptive-target N",
            "--adaptive-decay N",
            "--dynatemp-range N",
            "--dynatemp-exp N",
            "--mirostat N",
            "--mirostat-lr N",
            "--mirostat-ent N",
            "-bs --backend-sampling LLAMA_ARG_BACKEND_SAMPLING",
        ],
    ),
    (
        Without("a canvas is denoised as a whole, without a draft model"),
        &[
            "-hfd --hf-repo-draft -hfrd --spec-draft-hf REPO",
            "-td --threads-draft --spec-draft-threads N",
            "-tbd --threads-batch-draft --spec-draft-threads-batch N",
            "-Cd --cpu-mask-draft --spec-draft-cpu-mask M",
            "-Crd --cpu-range-draft --spec-draft-cpu-range LO-HI",
            "--cpu-strict-draft --spec-draft-cpu-strict 0|1",
            "--prio-draft --spec-draft-prio N",
            "--poll-draft --spec-draft-poll 0|1",
            "-Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch M",
            "--cpu-strict-batch-draft --spec-draft-cpu-strict-batch 0|1",
            "--prio-batch-draft --spec-draft-prio-batch N",
            "--poll-batch-draft --spec-draft-poll-batch 0|1",
            "-ctkd --cache-type-k-draft --spec-draft-type-k TYPE",
            "-ctvd --cache-type-v-draft --spec-draft-type-v TYPE",
            "-otd --override-tensor-draft --spec-draft-override-tensor REGEX=MEMORY",
            "-cmoed --cpu-moe-draft --spec-draft-cpu-moe",
            "-ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe N",
            "--spec-draft-n-max N",
            "--spec-draft-n-min N",
            "--spec-synth-len L",
            "--spec-synth-rates RATES",
            "--draft-p-split --spec-draft-p-split P",
            "--draft-p-min --spec-draft-p-min P",
            "--spec-draft-backend-sampling",
            "--spec-draft-sampling HOW",
            "-devd --device-draft --spec-draft-device NAMES",
            "-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl N",
            "-md --model-draft --spec-draft-model FNAME",
            "--spec-type TYPE",
            "--spec-default",
            "--spec-ngram-mod-n-min N",
            "--spec-ngram-mod-n-max N",
            "--spec-ngram-mod-n-match N",
            "--spec-ngram-simple-size-n N",
            "--spec-ngram-simple-size-m N",
            "--spec-ngram-simple-min-hits N",
            "--spec-ngram-map-k-size-n N",
            "--spec-ngram-map-k-size-m N",
            "--spec-ngram-map-k-min-hits N",
            "--spec-ngram-map-k4v-size-n N",
            "--spec-ngram-map-k4v-size-m N",
            "--spec-ngram-map-k4v-min-hits N",
            "--draft --draft-n --draft-max N",
            "--draft-min --draft-n-min N",
        ],
    ),
    (
        Without("images are not read"),
        &[
            "-mm --mmproj FILE",
            "-mmu --mmproj-url URL",
            "--mmproj-auto",
            "--mmproj-offload",
            "--image-min-tokens N",
            "--image-max-tokens N",
            "--video-fps N",
            "--video-timestamp-interval N",
            "--video-ffmpeg-dir DIR",
        ],
    ),
    (
        Without("thoughts are told from the answer by the model's own tokens"),
        &["--reasoning-format FORMAT", "--skip-chat-parsing"],
    ),
    (
        Refused("give text with -p"),
        &["--image FILE", "--audio FILE", "--video FILE"],
    ),
    (
        Refused("answers cannot be constrained"),
        &[
            "--grammar GRAMMAR",
            "--grammar-file FNAME",
            "-j --json-schema SCHEMA",
            "-jf --json-schema-file FILE",
            "-l --logit-bias TOKEN",
        ],
    ),
    (
        Refused("a model is used as its file has it"),
        &[
            "--lora FNAME",
            "--lora-scaled FNAME:SCALE",
            "--control-vector FNAME",
            "--control-vector-scaled FNAME:SCALE",
            "--control-vector-layer-range START END",
        ],
    ),
    (
        Refused("positions are those that the model was trained for"),
        &[
            "--rope-scaling TYPE",
            "--rope-scale N",
            "--rope-freq-base N",
            "--rope-freq-scale N",
            "--yarn-orig-ctx N",
            "--yarn-ext-factor N",
            "--yarn-attn-factor N",
            "--yarn-beta-slow N",
            "--yarn-beta-fast N",
            "-gan --grp-attn-n N",
            "-gaw --grp-attn-w N",
        ],
    ),
    (
        Refused("an answer ends where the model ends it, or at -n"),
        &["-r --reverse-prompt PROMPT"],
    ),
    (
        Refused("special tokens are not printed"),
        &["-sp --special"],
    ),
    (
        Refused("the template makes a prompt of a message: give one with --chat-template-file"),
        &[
            "--in-prefix STRING",
            "--in-suffix STRING",
            "--in-prefix-bos",
        ],
    ),
    (
        Refused("chat with -cnv, a line for each message"),
        &[
            "-i --interactive",
            "-if --interactive-first",
            "-mli --multiline-input",
        ],
    ),
    (
        Refused(
            "--no-thinking asks the model not to think, and --chat-template-kwargs may say more",
        ),
        &[
            "--reasoning-effort LEVEL",
            "--reasoning-budget N",
            "--reasoning-budget-message MESSAGE",
            "--reasoning-preserve",
        ],
    ),
    (
        Refused("give the file of the prompt with -f"),
        &["-bf --binary-file FNAME"],
    ),
    (
        Refused("the answer goes to the standard output: redirect it"),
        &["-o --output --output-file FNAME"],
    ),
    (
        Refused("give a model file with -m: this tool downloads nothing"),
        &[
            "-dr --docker-repo REPO",
            "--server-base URL",
            "--gpt-oss-20b-default",
            "--gpt-oss-120b-default",
            "--vision-gemma-4b-default",
            "--vision-gemma-12b-default",
        ],
    ),
    (Refused("look with: hf cache ls"), &["-cl --cache-list"]),
];

/// A flag, as it is written above.
struct Inert {
    effect: Effect,
    /// The first long one names it.
    longs: Vec<&'static str>,
    /// Of one letter.
    short: Option<char>,
    values: Vec<&'static str>,
    env: Option<&'static str>,
}

fn flags() -> impl Iterator<Item = Inert> {
    let each = |&(effect, flags): &'static (Effect, &'static [&'static str])| {
        flags.iter().map(move |flag| Inert::read(effect, flag))
    };
    FLAGS.iter().flat_map(each)
}

impl Inert {
    fn read(effect: Effect, text: &'static str) -> Self {
        let mut flag = Self {
            effect,
            longs: Vec::new(),
            short: None,
            values: Vec::new(),
            env: None,
        };
        let mut later = Vec::new();
        for word in text.split(' ') {
            if let Some(long) = word.strip_prefix("--") {
                flag.longs.push(long);
            } else if let Some(name) = word.strip_prefix('-') {
                let mut letters = name.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => flag.short = Some(letter),
                    // Respelled with two dashes.
                    _ => later.push(name),
                }
            } else if word.starts_with("LLAMA_ARG_") {
                flag.env = Some(word);
            } else {
                flag.values.push(word);
            }
        }
        flag.longs.extend(later);
        flag
    }

    fn name(&self) -> &'static str {
        self.longs[0]
    }

    fn is_switch(&self) -> bool {
        self.values
            .first()
            .is_some_and(|name| name.starts_with('['))
    }

    fn arg(&self) -> Arg {
        let help = match self.effect {
            Given => "Always so",
            Without(why) | GivenUnlessOff(why) | NoneUnlessOff(why) | Refused(why) => why,
        };
        let mut arg = Arg::new(self.name())
            .long(self.name())
            .aliases(self.longs[1..].iter().copied())
            .help(help)
            // They would bury those that do something.
            .hide(true);
        if let Some(letter) = self.short {
            arg = arg.short(letter);
        }
        if let Some(env) = self.env {
            arg = arg.env(env);
        }
        match self.values.len() {
            0 => {
                let parser = clap::builder::BoolishValueParser::new();
                arg.action(ArgAction::SetTrue).value_parser(parser)
            }
            _ if self.is_switch() => arg.value_name("WHEN").value_parser(value_parser!(When)),
            count => arg
                .value_names(self.values.clone())
                .num_args(count)
                .value_parser(value_parser!(String)),
        }
    }

    /// How the user named it, if so, and why that was in vain.
    fn use_in_vain(&self, matches: &ArgMatches) -> Option<(String, &'static str)> {
        let is_off = || matches.get_one::<When>(self.name()) == Some(&When::Off);
        let why = match self.effect {
            Given => return None,
            Without(why) | Refused(why) => why,
            GivenUnlessOff(why) => is_off().then_some(why)?,
            NoneUnlessOff(why) => (!is_off()).then_some(why)?,
        };
        let name = match (matches.value_source(self.name())?, self.env) {
            (ValueSource::CommandLine, _) => format!("--{}", self.name()),
            (ValueSource::EnvVariable, Some(env)) => env.to_owned(),
            _ => return None,
        };
        Some((name, why))
    }
}

/// Adds the flags to those that do something.
pub fn define(command: Command) -> Command {
    command.args(flags().map(|flag| flag.arg()))
}

/// A line for each flag that was used in vain.
///
/// # Errors
/// One without which the answer is another one.
pub fn warnings(command: &mut Command, matches: &ArgMatches) -> Result<Vec<String>, clap::Error> {
    let mut lines = Vec::new();
    for flag in flags() {
        let Some((name, why)) = flag.use_in_vain(matches) else {
            continue;
        };
        if let Refused(_) = flag.effect {
            let problem = format!("{name} is not supported here: {why}");
            return Err(command.error(ErrorKind::UnknownArgument, problem));
        }
        lines.push(format!("{name} has no effect: {why}"));
    }
    Ok(lines)
}
