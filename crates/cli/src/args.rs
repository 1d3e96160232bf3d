//! The flags: llama.cpp's spelling, parsed by clap.

mod cache;
mod chat;
mod common;
mod constraint;
mod edit;
mod escape;
mod files;
mod form;
mod infill;
mod jobs;
mod output;
mod scoring;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser};
use clap_complete::Shell;
use llama_diffusion::{
    DiffusionParams, Error, MaskedParams, Result, SamplerOverrides, SessionParams,
};

use cache::CacheArgs;
pub use cache::Saves;
pub use chat::ChatArgs;
pub use common::PromptSource;
pub use constraint::ConstraintArgs;
pub use edit::EditArgs;
pub use files::Named;
pub use infill::InfillArgs;
use output::{OutputArgs, PaceArgs};

use crate::cross_entropy::CrossEntropyArgs;
use crate::flags::FLAGS;
use crate::quantize::QuantizeArgs;
use crate::rpc_server::RpcServerArgs;
use crate::view::Show;
use common::CommonArgs;
use form::FormArgs;
use llama_diffusion_flags::devices::SplitMode;
use llama_diffusion_flags::diffusion::DiffusionArgs;
use llama_diffusion_flags::masked::MaskedArgs;
use llama_diffusion_flags::names;
use llama_diffusion_flags::parse::Parsed;
use llama_diffusion_flags::placement::PlacementArgs;
use llama_diffusion_flags::streams::print;
use scoring::ScoringArgs;

/// This version, the source of the llama.cpp inside, and what it was built with.
fn version() -> String {
    let mut backends = vec!["CPU"];
    for (built_in, name) in [
        (cfg!(feature = "cuda"), "CUDA"),
        (cfg!(feature = "hip"), "HIP"),
        (cfg!(feature = "metal"), "Metal"),
        (cfg!(feature = "opencl"), "OpenCL"),
        (cfg!(feature = "rpc"), "RPC"),
        (cfg!(feature = "sycl"), "SYCL"),
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
/// Masked models (Dream, LLaDA, LLaDA-MoE, RND1) run as well: an answer is unmasked token by token.
///
/// The answer goes to the standard output, everything else to the standard error. A prompt is put
/// into the chat template of the model, as llama.cpp does; --raw gives it to the model as it is.
/// Control tokens that a message spells out, such as <turn|>, are text; with --raw they are control
/// tokens.
///
/// Flags may be spelled as for llama.cpp, with a single dash (-ngl, -cnv). A flag of llama.cpp that
/// is not listed here is accepted with a warning that it has no effect, or rejected by name. A flag
/// takes precedence over its environment variable.
///
/// Exit status: 0 success, 1 error, 130 interrupted (Ctrl-C; press it twice to exit at once), 143
/// and 129 after SIGTERM and SIGHUP.
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
    pub common: CommonArgs,

    #[command(flatten)]
    pub cache: CacheArgs,

    #[command(flatten)]
    diffusion: DiffusionArgs,

    #[command(flatten)]
    pub scoring: ScoringArgs,

    #[command(flatten)]
    pub edit: EditArgs,

    #[command(flatten)]
    pub form: FormArgs,

    #[command(flatten)]
    pub infill: InfillArgs,

    #[command(flatten)]
    pub masked: MaskedArgs,

    #[command(flatten)]
    pub constraint: ConstraintArgs,

    #[command(flatten)]
    pub placement: PlacementArgs,

    #[command(flatten)]
    pub chat: ChatArgs,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(subcommand)]
    pub command: Option<Subcommand>,

    /// A line for each flag that has no effect.
    #[arg(skip)]
    pub warnings: Vec<String>,

    /// The same for canvas models.
    #[arg(skip)]
    pub canvas_warnings: Vec<String>,

    /// The same for masked models.
    #[arg(skip)]
    pub masked_warnings: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Print how well models denoise known answers: what a smaller type costs
    CrossEntropy(CrossEntropyArgs),

    /// Write a model with its matrices in a smaller type, as llama.cpp's llama-quantize does for
    /// other architectures
    Quantize(QuantizeArgs),

    /// Show a recording of --record again, without its model
    Replay(ReplayArgs),

    /// Serve this machine's devices to programs on other machines, for their --rpc
    RpcServer(RpcServerArgs),
}

#[derive(Debug, clap::Args)]
#[command(mut_arg("delay", |delay| delay.visible_alias("delay").default_value("100")))]
pub struct ReplayArgs {
    /// File that --record wrote
    pub file: PathBuf,

    #[command(flatten)]
    pub pace: PaceArgs,

    /// Write after each answer how many accepted tokens later steps replaced
    #[arg(long = "diffusion-stats")]
    pub corrections: bool,

    /// Write an animated picture instead, for a web page or a README
    #[arg(long, value_name = "OUT.svg")]
    pub svg: Option<PathBuf>,
}

/// The command line's definition, with the flags that have no effect.
fn definition() -> Command {
    FLAGS
        .define(Args::command())
        .mut_args(|arg| arg.hide_env_values(true))
}

/// An error in the words of the command line.
pub fn message(error: &Error) -> String {
    names::message(error, &definition())
}

impl Args {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// What clap has to say, which may be the help that was asked for.
    pub fn parse_from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = definition();
        let parsed = FLAGS.parse(command.clone(), line)?;
        jobs::check(&command, &parsed.matches)?;
        let mut args = Self::from_arg_matches(&parsed.matches)?;
        args.warn(&parsed);
        args.warnings.splice(..0, parsed.warnings);
        args.canvas_warnings.extend(parsed.canvas_warnings);
        args.masked_warnings = parsed.masked_warnings;
        Ok(args)
    }

    /// Adds a line for each flag that has no effect because of its value or that of another one.
    fn warn(&mut self, parsed: &Parsed) {
        match self.placement.devices.split_mode {
            SplitMode::Row | SplitMode::Tensor => self
                .warnings
                .push("--split-mode: GPUs share the model by layers".into()),
            SplitMode::Layer | SplitMode::None => {}
        }
        self.warnings.extend(self.placement.metadata_warnings());
        self.warnings.extend(self.chat.variable_warnings());
        if parsed.is_chosen("main_gpu") && self.placement.devices.split_mode != SplitMode::None {
            self.warnings
                .push("--main-gpu has no effect without --split-mode none".into());
        }
        let is_one_prompt = !self.is_chat(true) && self.cache.prompt_cache.is_none();
        if parsed.is_chosen("ctx_checkpoints") && is_one_prompt {
            let line = "--ctx-checkpoints has no effect without --conversation or --prompt-cache";
            self.canvas_warnings.push(line.into());
        }
    }

    /// Prints the completion of a shell. The names with a single dash are not in it.
    ///
    /// # Errors
    /// The standard output cannot be written.
    pub fn print_completion(shell: Shell) -> Result<()> {
        let mut command = definition();
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut script);
        print(&String::from_utf8_lossy(&script))
    }

    /// The system prompt of the command line itself.
    pub fn system(&self) -> Option<String> {
        self.chat
            .system
            .as_ref()
            .map(|text| self.common.unescaped(text))
    }

    /// What is shown of an answer.
    pub fn show(&self) -> Show {
        let output = &self.output;
        Show {
            drafts: output.drafts,
            progress: output.progress,
            pace: output.pace.pace(),
            thoughts: self.chat.show_thinking,
            colors: output.log.has_colors(io::stdout().is_terminal()),
            logs_details: output.logs_details(),
            quiet: output.log.is_quiet(),
        }
    }

    /// Whether several messages are to be answered.
    pub fn is_chat(&self, stdin_is_terminal: bool) -> bool {
        let chat = &self.chat;
        let one = chat.raw || self.common.prompt().is_some();
        !chat.single_turn && (chat.conversation || (stdin_is_terminal && !one))
    }

    /// How an answer is generated, where `model` is what its file recommends and the length of its
    /// canvases.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn diffusion(
        &self,
        model: (&SamplerOverrides, usize),
        seed: u64,
    ) -> Result<DiffusionParams> {
        let params = self.diffusion.params(model, self.common.predict, seed)?;
        Ok(DiffusionParams {
            scoring: self.scoring.scoring(),
            constrain_at: self.constraint.at(),
            ..params
        })
    }

    /// How a session of a canvas model runs.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn session(&self) -> Result<SessionParams> {
        Ok(SessionParams {
            checkpoints: self.cache.ctx_checkpoints,
            ..self.common.session.canvas()?
        })
    }

    /// How a masked model generates an answer.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn masked(&self, seed: u64) -> Result<MaskedParams> {
        let common = &self.common;
        self.masked.params(
            common.predict,
            common.session.compute.ubatch_size,
            &self.diffusion,
            seed,
        )
    }
}

#[cfg(test)]
mod tests;
