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
mod job;
mod logprobs;
mod output;
mod overwrite;
mod progress;
mod prompt;
mod prompt_cache;
mod quantize;
mod replay;
mod report;
mod rpc_server;
mod run;
mod svg;
mod view;

use std::io;
use std::process::ExitCode;

use llama_diffusion::{Error, Result};

use args::{Args, Subcommand, message};
use ending::Ending;
use interrupt::Interrupt;
use job::Job;
use llama_diffusion_flags::program;
use run::Run;
use view::Show;

fn main() -> ExitCode {
    view::make_way_for_panics();
    let args = match program::begin(Args::parse_from_line(std::env::args_os())) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let stderr = || {
        view::make_way();
        io::stderr()
    };
    let ready = overwrite::check(&args).and_then(|()| args.output.log.start(stderr, false));
    match ready.and_then(|()| run(args)) {
        Ok(ending) => ending.status().into(),
        Err(Error::Cancelled) => Ending::Interrupted.status().into(),
        Err(error) => program::failed(message(&error)),
    }
}

fn run(mut args: Args) -> Result<Ending> {
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
        return run_subcommand(command, args.show(), &interrupt).map(|()| Ending::Done);
    }
    let job = Job::read(&args, &interrupt)?;
    let run = Run::new(args);
    let model = run.load(interrupt.flag())?;
    job.run(&run, &model, &interrupt)
}

fn run_subcommand(command: Subcommand, show: Show, interrupt: &Interrupt) -> Result<()> {
    match command {
        Subcommand::CrossEntropy(options) => cross_entropy::run(&options, interrupt.flag()),
        Subcommand::Quantize(options) => quantize::run(&options, interrupt.flag()),
        Subcommand::RpcServer(options) => {
            // An interrupt ends it at once: its clients notice.
            interrupt.while_waiting(|| rpc_server::run(&options))
        }
        Subcommand::Replay(options) => {
            interrupt.while_waiting(|| replay::run(&options, show, interrupt.flag()))
        }
    }
}
