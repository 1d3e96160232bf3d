//! `llama-diffusion-server`: text diffusion models behind OpenAI-compatible HTTP.

#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use llama_diffusion::Result;
use llama_diffusion_flags::{devices, program};
use llama_diffusion_server::args::{Args, message};
use llama_diffusion_server::run::run;
use llama_diffusion_server::visual;

fn main() -> ExitCode {
    let args = match program::begin(Args::parse_from_line(std::env::args_os())) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => program::failed(message(&error)),
    }
}

fn start(args: Args) -> Result<()> {
    args.log.start(io::stderr, true)?;
    if args.placement.list_devices {
        args.placement.devices.connect()?;
        return devices::list();
    }
    match args.visual_stdio {
        true => visual::run(args),
        false => run(args),
    }
}
