//! `llama-diffusion-cli`: answers a prompt with a text diffusion model.

mod answer;
mod args;
mod chat;
mod constraint;
mod corrections;
mod cross_entropy;
mod edit;
mod ending;
mod engine;
mod flags;
mod form;
mod inert;
mod infill;
mod interrupt;
mod logprobs;
mod overwrite;
mod progress;
mod prompt;
mod prompt_cache;
mod quantize;
mod replay;
mod report;
mod rpc_server;
mod svg;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{CancelFlag, Error, Result, TextModel};

use answer::Answerer;
use args::{Args, Subcommand, message};
use chat::Lines;
use constraint::Language;
use edit::Edit;
use ending::Ending;
use engine::Run;
use form::{FilledIn, Known};
use infill::Gaps;
use interrupt::Interrupt;
use llama_diffusion_flags::program;
use llama_diffusion_flags::streams::say;
use llama_diffusion_flags::values::random_seed;
use prompt::Setting;
use prompt_cache::PromptCache;

fn main() -> ExitCode {
    view::make_way_for_panics();
    let mut args = match program::begin(Args::parse_from_line(std::env::args_os())) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let stderr = || {
        view::make_way();
        io::stderr()
    };
    let ready = overwrite::check(&args).and_then(|()| args.output.log.start(stderr, false));
    match ready.and_then(|()| run(&mut args)) {
        Ok(ending) => ending.status().into(),
        Err(Error::Cancelled) => Ending::Interrupted.status().into(),
        Err(error) => program::failed(message(&error)),
    }
}

fn run(args: &mut Args) -> Result<Ending> {
    for warning in &args.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(shell) = args.output.completion() {
        Args::print_completion(shell)?;
        return Ok(Ending::Done);
    }
    if args.placement.list_devices {
        args.placement.devices.connect()?;
        llama_diffusion_flags::devices::list()?;
        return Ok(Ending::Done);
    }
    // Before the first Ctrl-C may come.
    let interrupt = Interrupt::install();
    if let Some(command) = args.command.take() {
        return run_subcommand(command, args, &interrupt).map(|()| Ending::Done);
    }
    if let Some(edit) = Edit::read(args)? {
        let mut setting = Setting::read(args)?;
        let model = load(args, interrupt.flag())?;
        setting.complete(&model, false)?;
        let seed = args.common.seed().unwrap_or_else(random_seed);
        return edit.run(args, &model, &setting, seed, interrupt.flag());
    }
    if let Some(form) = interrupt.while_waiting(|| FilledIn::read(args))? {
        let mut setting = Setting::read(args)?;
        let model = load(args, interrupt.flag())?;
        setting.complete(&model, false)?;
        return form.run(args, &model, &setting, interrupt.flag());
    }
    if let Some(gaps) = Gaps::read(&args.infill)? {
        let mut setting = Setting::read(args)?;
        let model = load(args, interrupt.flag())?;
        setting.complete(&model, false)?;
        let seed = args.common.seed().unwrap_or_else(random_seed);
        return gaps.run(args, &model, &setting, seed, &interrupt);
    }
    let chat = args.is_chat(io::stdin().is_terminal());
    // What the user got wrong is said before minutes of loading.
    let first = interrupt.while_waiting(|| prompt::first_message(args, chat))?;
    let setting = Setting::read(args)?;
    let cache = PromptCache::read(&args.cache)?;
    let language = Language::read(args)?;
    let known = Known::read(args)?;
    let opened = Opened {
        setting,
        cache,
        language,
        known,
        chat,
        first,
    };
    let model = load(args, interrupt.flag())?;
    answer(args, &model, opened, &interrupt)
}

/// What there is to do.
struct Opened {
    setting: Setting,
    cache: Option<PromptCache>,
    language: Option<Language>,
    known: Option<Known>,
    chat: bool,
    /// The first message.
    first: Option<String>,
}

fn answer(args: &Args, model: &TextModel, opened: Opened, interrupt: &Interrupt) -> Result<Ending> {
    let Opened {
        mut setting,
        cache,
        language,
        known,
        chat,
        first,
    } = opened;
    setting.complete(model, chat)?;
    let seed = args.common.seed().unwrap_or_else(random_seed);
    let run = Run::settle(args, model.model(), language)?.beginning_with(known);
    let mut answerer = Answerer::new(run, model, setting, cache)?;
    match first {
        Some(text) if !chat => {
            let mut messages = answerer.opening();
            messages.push(Message::new(Role::User, text));
            let reply = answerer.answer(&messages, seed, interrupt.flag())?;
            Ok(reply.finish.into())
        }
        first => {
            let lines = Lines::open(args.chat.simple_io)?;
            if lines.is_terminal() && !args.output.log.is_quiet() {
                say("/help lists the commands");
            }
            chat::run(lines, &mut answerer, first, seed, interrupt)
        }
    }
}

fn run_subcommand(command: Subcommand, args: &Args, interrupt: &Interrupt) -> Result<()> {
    match command {
        Subcommand::CrossEntropy(options) => cross_entropy::run(&options, interrupt.flag()),
        Subcommand::Quantize(options) => quantize::run(&options, interrupt.flag()),
        Subcommand::RpcServer(options) => {
            // An interrupt ends it at once: its clients notice.
            interrupt.while_waiting(|| rpc_server::run(&options))
        }
        Subcommand::Replay(options) => {
            interrupt.while_waiting(|| replay::run(&options, args.show(), interrupt.flag()))
        }
    }
}

fn load(args: &Args, cancel: &CancelFlag) -> Result<TextModel> {
    let quiet = args.output.log.is_quiet();
    progress::show("loading", quiet, cancel, |progress| {
        args.placement.load(&|| args.session(), quiet, progress)
    })
}
