//! `llama-diffusion-bench`: how fast a DiffusionGemma model is on this machine.

mod args;
mod cost;
mod output;
mod run;
#[path = "../shared/mod.rs"]
mod shared;
mod stats;
mod upstream;

use std::io::IsTerminal as _;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use llama_diffusion::model::synthetic::synthetic_file;
use llama_diffusion::{Error, Model, Result};
use tracing::level_filters::LevelFilter;

use args::Args;
use output::{Report, print};
use run::{Bench, Setting};
use shared::streams::{tell, without_colors};

const ERROR: u8 = 1;

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
    let level = match args.verbose {
        true => LevelFilter::DEBUG,
        false => LevelFilter::WARN,
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(args.verbose)
        .with_ansi(std::io::stderr().is_terminal() && !without_colors())
        .log_internal_errors(false) // it would print them where nothing can be written
        .without_time()
        .init();
    let end = |status: u8| {
        upstream::clean_up();
        std::process::exit(status.into());
    };
    if let Err(error) = shared::signals::on_signal(end) {
        tracing::warn!("signals will leave temporary files behind: {error}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            ERROR.into()
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.list_devices {
        return shared::devices::list();
    }
    let (name, model) = load(args)?;
    let bench = Bench {
        args,
        name,
        model: Arc::new(model),
    };
    let mut report = Report::default();
    let settings = args.threads.iter().flat_map(|&threads| {
        let with = move |&flash_attn| Setting {
            threads,
            flash_attn,
        };
        args.flash_attn.iter().map(with)
    });
    for setting in settings {
        let mut upstream = match args.compare_upstream {
            true => Some(upstream::Upstream::new(&bench, setting.threads)?),
            false => None,
        };
        for &prompt in &args.n_prompt {
            bench.test(setting, prompt, upstream.as_mut(), &mut report)?;
        }
        if let Some(upstream) = upstream {
            report.comparisons.extend(upstream.compare(&bench));
        }
        if args.profile {
            bench.profile(setting, &mut report)?;
        }
    }
    print(&report, args.output)
}

fn load(args: &Args) -> Result<(String, Model)> {
    args.devices.warn()?;
    let params = args.devices.params();
    let progress = &mut |_: f32| ControlFlow::Continue(());
    match (&args.model, &args.synthetic) {
        (_, Some(synthetic)) => {
            let file = synthetic_file(&synthetic.geometry, synthetic.types, 1)?;
            let model = Model::from_file(file, &params, progress)?;
            Ok((synthetic.name.clone(), model))
        }
        (Some(path), None) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            let name = name.to_string_lossy().into_owned();
            Ok((name, Model::load(path, &params, progress)?))
        }
        (None, None) => Err(Error::InvalidParameter {
            parameter: "model".into(),
            problem: "give a file with -m, or random weights with --synthetic 200m:q8_0".into(),
        }),
    }
}
