//! `llama-diffusion-server`: text diffusion models behind OpenAI-compatible HTTP.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Mutex;

use llama_diffusion::{Error, Result};
use llama_diffusion_flags::log::LogArgs;
use llama_diffusion_flags::{devices, streams::say};
use llama_diffusion_server::args::{Args, message};
use llama_diffusion_server::run::run;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

fn main() -> ExitCode {
    let args = match Args::parse_from_line(std::env::args_os()) {
        Ok(args) => args,
        Err(message) => {
            // Help and version are no errors, and go to the standard output.
            let is_error = message.use_stderr();
            // A closed output leaves no place to say so.
            let _ = message.print();
            return ExitCode::from(u8::from(is_error));
        }
    };
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {}", message(&error)));
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<()> {
    log(&args.log)?;
    if args.placement.list_devices {
        args.placement.devices.connect()?;
        return devices::list();
    }
    run(args)
}

fn log(options: &LogArgs) -> Result<()> {
    let (writer, is_terminal) = match &options.log_file {
        Some(path) => {
            let file = File::create(path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(options.has_colors(is_terminal))
        .with_max_level(options.level())
        .with_target(options.verbose)
        .log_internal_errors(false) // it would print them where nothing can be written
        .init();
    Ok(())
}
