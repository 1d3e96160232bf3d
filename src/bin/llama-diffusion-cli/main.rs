//! `llama-diffusion-cli`: answers a prompt with a DiffusionGemma model.

mod args;
mod demo;
mod prompt;
mod report;
mod view;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use llama_diffusion::{CancelFlag, Device, DeviceKind, Error, FinishReason, Result, TextModel};
use tracing::Level;

use args::Args;
use prompt::Prompt;
use report::Report;
use view::View;

const ERROR: u8 = 1;
/// 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = match Args::parse_from_line(std::env::args_os()) {
        Ok(args) => args,
        Err(message) => {
            // Help and version are no errors, and go to the standard output.
            let code = if message.use_stderr() { ERROR } else { 0 };
            // A closed output leaves no place to say so.
            let _ = message.print();
            return code.into();
        }
    };
    log_to_stderr(args.verbose);
    match run(&args, &cancel_on_ctrl_c()) {
        Ok(FinishReason::Cancelled) | Err(Error::Cancelled) => INTERRUPTED.into(),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ERROR.into()
        }
    }
}

fn log_to_stderr(verbose: bool) {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let level = if verbose { Level::DEBUG } else { Level::WARN };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_max_level(level)
        .with_target(verbose)
        .without_time()
        .init();
}

/// A flag that the first Ctrl-C sets. The second one ends the program at once.
fn cancel_on_ctrl_c() -> CancelFlag {
    let cancel = CancelFlag::default();
    let flag = cancel.clone();
    let handler = move || {
        if flag.is_cancelled() {
            view::restore_terminal();
            std::process::exit(INTERRUPTED.into());
        }
        flag.cancel();
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will end the program at once: {error}");
    }
    cancel
}

fn run(args: &Args, cancel: &CancelFlag) -> Result<FinishReason> {
    if args.list_devices() {
        list_devices();
        return Ok(FinishReason::EndOfText);
    }
    // What the user got wrong is said before minutes of loading.
    let prompt = Prompt::read(args)?;
    let model = load(args, cancel)?;
    let tokens = prompt.tokens(&model)?;
    let seed = args.seed().unwrap_or_else(random_seed);
    let params = args.diffusion(&model.model().overrides(), seed)?;
    let hparams = model.model().hparams();
    let mut session = model.session(&args.session(hparams.context_length)?)?;

    let mut view = View::new(&args.view, model.vocab(), args.verbose);
    let mut shown = Ok(());
    let result = session.generate(&tokens, &params, cancel, &mut |event| {
        shown = view.show(event);
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    shown?;
    // The canvases that were finished before a failure are shown, too.
    view.finish()?;
    let answer = result?;
    let report = Report {
        answer: &answer,
        canvas: hparams.canvas_length,
        prompt: tokens.len(),
        seed,
    };
    eprintln!("{report}");
    Ok(answer.generation.finish)
}

fn load(args: &Args, cancel: &CancelFlag) -> Result<TextModel> {
    let placement = args.placement();
    let is_gpu =
        |device: Device| matches!(device.kind(), DeviceKind::Gpu | DeviceKind::IntegratedGpu);
    if args.gpu_layers().is_some_and(|layers| layers > 0) && !Device::all().into_iter().any(is_gpu)
    {
        tracing::warn!(
            "-ngl has no effect: there is no GPU, or this program was built without support for it"
        );
    }
    // Hidden where the standard error is no terminal.
    let bar = ProgressBar::new(100).with_message("loading");
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {percent}%") {
        bar.set_style(style.progress_chars("## "));
    }
    let progress = &mut |share: f32| {
        bar.set_position((share * 100.0) as u64);
        match cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let model = match &args.model {
        Some(path) => TextModel::load(path, &placement, progress),
        None => demo::load(&placement, progress),
    };
    bar.finish_and_clear();
    model
}

fn list_devices() {
    println!("Available devices:");
    for device in Device::all() {
        let (free, total) = device.memory();
        println!(
            "  {}: {} ({} MiB, {} MiB free)",
            device.name(),
            device.description(),
            total >> 20,
            free >> 20
        );
    }
}

/// A seed from the operating system, by way of the keys that the standard library's hash maps get.
/// 32 bits are enough to draw from, and short enough to type again.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}
