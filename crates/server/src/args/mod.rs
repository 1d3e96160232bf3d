//! The flags: llama-server's spelling, parsed by clap.

mod http;
mod slots;
mod tls;

use std::ffi::OsString;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser};
use llama_diffusion::{
    DiffusionParams, Error, MaskedParams, Result, SamplerOverrides, SessionParams,
};
use llama_diffusion_flags::devices::SplitMode;
use llama_diffusion_flags::diffusion::DiffusionArgs;
use llama_diffusion_flags::log::LogArgs;
use llama_diffusion_flags::masked::MaskedArgs;
use llama_diffusion_flags::names;
use llama_diffusion_flags::numbers::whole;
use llama_diffusion_flags::placement::PlacementArgs;
use llama_diffusion_flags::session::SessionArgs;
use llama_diffusion_flags::template::TemplateArgs;
use llama_diffusion_flags::values::{Limit, Seed, parse_limit, parse_seed};

use crate::flags::FLAGS;
pub use http::{HttpArgs, Origins};
pub use slots::SlotArgs;
pub use tls::Tls;
use tls::TlsArgs;

/// Serves a text diffusion model by HTTP: OpenAI's chat, completions and responses, Anthropic's
/// messages, and llama-server's own endpoints.
///
/// Without -m, a small demo model answers. Flags may be spelled as for llama-server, with a single
/// dash (-ngl, -np). A flag of llama-server that is not listed here is accepted with a warning that
/// it has no effect, or rejected by name. A flag takes precedence over its environment variable.
///
/// SIGTERM and Ctrl-C end the server after the answers in progress, within --drain-timeout; a second
/// one ends it at once. Exit status: 0 ended by a signal, 1 error.
#[derive(Debug, Parser)]
#[command(
    name = "llama-diffusion-server",
    version,
    max_term_width = 100,
    args_override_self = true, // the last one counts, as for llama.cpp
    mut_arg("log_verbosity", |arg| arg.default_value("3"))
)]
pub struct Args {
    #[command(flatten)]
    pub http: HttpArgs,

    #[command(flatten)]
    #[command(next_help_heading = "Server")]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub slots: SlotArgs,

    /// Answer by lines on the standard output instead of HTTP: each line of the standard input names a
    /// file with a request, as for the visual server of llama.cpp's draft of DiffusionGemma
    #[arg(long, help_heading = "Server")]
    pub visual_stdio: bool,

    /// Maximum number of tokens in an answer whose request sets none, -1 for no limit. For a masked
    /// model, the tokens of its answer (default 256)
    #[arg(short = 'n', long, value_name = "N", default_value = "-1", value_parser = parse_limit, help_heading = "Answers")]
    pub predict: Limit,

    /// Seed of answers whose request sets none, -1 for a random one each time
    #[arg(short, long, value_name = "SEED", default_value = "-1", value_parser = parse_seed, help_heading = "Answers")]
    pub seed: Seed,

    #[command(flatten)]
    #[command(next_help_heading = "Answers")]
    diffusion: DiffusionArgs,

    #[command(flatten)]
    masked: MaskedArgs,

    #[command(flatten)]
    #[command(next_help_heading = "Chat")]
    pub template: TemplateArgs,

    /// Maximum number of tokens in the thoughts of an answer whose request sets none; 0 asks the model not
    /// to think, -1 means unlimited
    #[arg(long, value_name = "N", default_value = "-1", value_parser = whole(-1..=i64::from(u32::MAX)), help_heading = "Chat")]
    reasoning_budget: i64,

    #[command(flatten)]
    #[command(next_help_heading = "Sessions")]
    pub session: SessionArgs,

    #[command(flatten)]
    pub placement: PlacementArgs,

    #[command(flatten)]
    #[command(next_help_heading = "Log")]
    pub log: LogArgs,

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
        let parsed = FLAGS.parse(definition(), line)?;
        let mut args = Self::from_arg_matches(&parsed.matches)?;
        args.warnings.extend(args.placement.metadata_warnings());
        args.warnings.extend(args.template.warnings(args.thinks()));
        if let SplitMode::Row | SplitMode::Tensor = args.placement.devices.split_mode {
            let line = "--split-mode: GPUs share the model by layers";
            args.warnings.push(line.into());
        }
        args.warnings.extend(args.http.warning());
        args.warnings.splice(..0, parsed.warnings);
        args.canvas_warnings = parsed.canvas_warnings;
        args.masked_warnings = parsed.masked_warnings;
        Ok(args)
    }

    /// Whether the model is asked to think, if a flag says so.
    pub fn thinks(&self) -> Option<bool> {
        match self.reasoning_budget {
            0 => Some(false),
            _ => self.template.thinks(),
        }
    }

    /// Maximum number of tokens in the thoughts of an answer.
    pub fn thought_budget(&self) -> Option<usize> {
        let budget = usize::try_from(self.reasoning_budget);
        budget.ok().filter(|budget| *budget > 0)
    }

    /// How a slot on a canvas model is set up, if there are `slots` of them.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn canvas_session(&self, slots: usize) -> Result<SessionParams> {
        let session = self.session.canvas()?;
        Ok(SessionParams {
            checkpoints: self.slots.checkpoints,
            context: self.slots.share_of(session.context, slots),
            ..session
        })
    }

    /// How a canvas model answers, where `model` is what its file recommends and the length of its
    /// canvases.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn canvas(&self, model: (&SamplerOverrides, usize)) -> Result<DiffusionParams> {
        self.diffusion.params(model, Some(self.predict), 0)
    }

    /// How a masked model answers.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn masked(&self) -> Result<MaskedParams> {
        const DEFAULT: usize = 256;
        let tokens = Limit(Some(self.predict.0.unwrap_or(DEFAULT)));
        self.masked.params(Some(tokens), None, &self.diffusion, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = ["llama-diffusion-server"]
            .into_iter()
            .chain(line.split_whitespace());
        Args::parse_from_line(words.map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
        assert_eq!(FLAGS.problems(&Args::command()), [""; 0]);
    }

    #[test]
    fn command_lines_of_llama_server() {
        let args = parse(
            "-m model.gguf --host 0.0.0.0 --port 9090 -np 2 -c 4096 -ngl 99 -fa on -a b,a --api-key k \
             --metrics --no-slots -n 64 -cram 100 --jinja -cb --no-webui",
        );
        let args = args.unwrap();
        assert_eq!(args.warnings, [""; 0]);
        assert_eq!(args.http.aliases(), ["a", "b"]);
        assert!(args.http.metrics && !args.http.has_slots() && !args.http.has_page());
        assert_eq!(args.slots.parallel(), Some(2));
        let session = args.canvas_session(2).unwrap();
        assert_eq!(session.context, Some(2048));
        for (line, warnings) in [
            ("--warmup", 1),
            ("--cache-reuse 256", 1),
            ("--max-per-key 3", 1),
            ("--max-per-key 3 --api-key k", 0),
            ("-sps 0.5", 1),
            ("--top-k 40 -b 64", 0),
        ] {
            assert_eq!(parse(line).unwrap().warnings.len(), warnings, "{line}");
        }
        for (line, thinks, budget) in [
            ("", None, None),
            ("--reasoning-budget -1 -rea on", Some(true), None),
            ("--reasoning-budget 0", Some(false), None),
            ("--reasoning-budget 0 -rea on", Some(false), None),
            ("--reasoning-budget 64", None, Some(64)),
        ] {
            let args = parse(line).unwrap();
            assert_eq!(
                (args.thinks(), args.thought_budget()),
                (thinks, budget),
                "{line}"
            );
        }
        for line in [
            "--reasoning-budget -2",
            "--embedding",
            "--lora f",
            "--mmproj f",
            "--grammar g",
        ] {
            let error = parse(line).unwrap_err().to_string();
            let flag = line.split(' ').next().unwrap();
            assert!(error.contains(flag), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_of_http_has_a_warning_beside_lines() {
        for line in "--host ::1|--port 9|--reuse-port|-a x|--tags x|--api-key k|--api-key-file k|\
            --api-prefix /x|--cors-origins *|--slots|--no-slots|--metrics|--no-ui|--path p|-to 9|\
            --sse-ping-interval 9|--threads-http 2|--max-connections 9|--drain-timeout 9|-np 2|\
            --queue 9|--queue-tokens 9|--responses-kept 9|--responses-ram 9|--slot-save-path p|--cache-prompt|--no-cache-prompt|-cram 9"
            .split('|')
        {
            assert_eq!(parse(line).unwrap().warnings, [""; 0], "{line}");
            let warnings = parse(&format!("--visual-stdio {line}")).unwrap().warnings;
            assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
            let warning = &warnings[0];
            assert!(
                warning.ends_with(" has no effect beside --visual-stdio"),
                "{warning}"
            );
        }
        for line in [
            "--max-body 9",
            "-s 3",
            "-n 9",
            "-c 512",
            "-ctxcp 2",
            "--reasoning-budget 0",
        ] {
            let warnings = parse(&format!("--visual-stdio {line}")).unwrap().warnings;
            assert_eq!(warnings, [""; 0], "{line}");
        }
    }
}
