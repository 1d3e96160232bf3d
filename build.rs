//! Binds and builds llama.cpp (vendor/README.md says where its source comes from).

use std::env;
use std::fs;
use std::path::PathBuf;

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/cpu_features.rs"]
mod cpu_features;
#[path = "build/native.rs"]
mod native;
#[path = "build/options.rs"]
mod options;
#[path = "build/source.rs"]
mod source;
#[path = "build/tools.rs"]
mod tools;

fn main() {
    if let Err(message) = run() {
        println!("cargo::error={message}");
    }
}

fn run() -> Result<(), String> {
    for file in ["build", "src/ggml/cuda", "src/ggml/guard.cpp", "build.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let options = options::Options::from_env(|name| env::var(name).ok());
    for variable in options.variables() {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let directory = |variable| {
        env::var_os(variable)
            .map(PathBuf::from)
            .ok_or(format!("{variable} is not set"))
    };
    let (manifest_dir, out_dir) = (directory("CARGO_MANIFEST_DIR")?, directory("OUT_DIR")?);

    options.check()?;
    let pin = source::Pin {
        package: llama_diffusion_src::PACKAGE,
        version: llama_diffusion_src::VERSION,
    };
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let source = source::Source::find(pin, &manifest_dir, cargo_home.as_deref())?;
    println!("cargo:LLAMA_CPP={}", source.name); // for `--version` of the tool
    bindings::generate(&source, &out_dir)?;
    // docs.rs has libclang but not the time to build: rustdoc needs the bindings only.
    let macros = match env::var_os("DOCS_RS") {
        Some(_) => String::new(),
        None => {
            native::build(&options, &source, &out_dir)?;
            cpu_features::macros(&out_dir.join("build"))?
        }
    };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let file = out_dir.join("cpu_features.rs");
    fs::write(&file, cpu_features::code(&macros, &arch))
        .map_err(|error| format!("{}: {error}", file.display()))
}
