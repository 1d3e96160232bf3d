//! `llama-diffusion-bench`: how fast a DiffusionGemma model is on this machine, or a server of one.

mod args;
mod cost;
mod flags;
mod inert;
mod lists;
mod output;
mod run;
mod server;
mod stats;
mod upstream;

use std::mem;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use llama_diffusion::internal::synthetic::synthetic_file;
use llama_diffusion::{Model, Result, internal};

use args::{Args, Source, message};
use llama_diffusion_flags::streams::{self, say_part};
use llama_diffusion_flags::{log, program};
use output::{Report, text};
use run::{Bench, Setting, Work};

fn main() -> ExitCode {
    let args = match program::begin(Args::parse_from_line(std::env::args_os())) {
        Ok(args) => args,
        Err(status) => return status,
    };
    log::start_simple(args.verbose);
    let end = |status: u8| {
        internal::remove_all();
        std::process::exit(status.into());
    };
    if let Err(error) = llama_diffusion_flags::signals::on_signal(end) {
        tracing::warn!("signals will leave temporary files behind: {error}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => program::failed(message(&error)),
    }
}

fn run(args: &Args) -> Result<()> {
    args.devices.connect()?;
    if args.list_devices {
        return llama_diffusion_flags::devices::list();
    }
    for warning in &args.warnings {
        tracing::warn!("{warning}");
    }
    let mut report = Report::default();
    match &args.server.server {
        Some(url) => server::measure(args, url, &mut report)?,
        None => {
            let sources = args.sources()?;
            args.devices.warn()?;
            for source in &sources {
                measure(args, source, &mut report)?;
            }
        }
    }
    if let Some(format) = args.output_err {
        say_part(text(&report, format)?);
    }
    streams::print(&text(&report, args.output)?)
}

/// Runs all tests of a model.
fn measure(args: &Args, source: &Source, report: &mut Report) -> Result<()> {
    let (name, model) = load(args, source)?;
    let bench = Bench {
        args,
        name,
        model: Arc::new(model),
    };
    let trained = bench.model.hparams().canvas_length;
    let settings = args.threads().into_iter().flat_map(|threads| {
        args.flash_attn.iter().flat_map(move |&flash_attn| {
            args.canvas(trained).into_iter().flat_map(move |canvas| {
                let with = move |parallel| Setting {
                    threads,
                    flash_attn,
                    canvas,
                    parallel,
                };
                args.parallel().into_iter().map(with)
            })
        })
    });
    for setting in settings {
        let mut upstream = match args.compare_upstream {
            true => Some(upstream::Upstream::new(&bench, setting.threads)?),
            false => None,
        };
        for prompt in args.prompts() {
            // A prompt is encoded before each of the answers, and reported once.
            let mut reads = prompt > 0;
            for canvases in args.answers(setting.canvas) {
                let work = Work {
                    prompt,
                    reads: mem::take(&mut reads),
                    canvases,
                };
                bench.test(setting, work, upstream.as_mut(), report)?;
            }
        }
        if let Some(upstream) = upstream {
            report.comparisons.extend(upstream.compare(&bench));
        }
        if args.profile {
            bench.profile(setting, report)?;
        }
    }
    Ok(())
}

fn load(args: &Args, source: &Source) -> Result<(String, Model)> {
    let params = args.model_params()?;
    let progress = &mut |_: f32| ControlFlow::Continue(());
    match source {
        Source::Synthetic(synthetic) => {
            let file = synthetic_file(&synthetic.geometry, synthetic.types, 1)?;
            let model = Model::from_file(file, &params, progress)?;
            Ok((synthetic.name.clone(), model))
        }
        Source::File(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            let name = name.to_string_lossy().into_owned();
            Ok((name, Model::load(path, &params, progress)?))
        }
    }
}
