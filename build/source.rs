//! Where llama.cpp's source lies: `LLAMA_CPP_DIR`, or the registry package that Cargo.toml pins.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The registry package that carries llama.cpp's source.
const PACKAGE: &str = "llama-cpp-sys-2";

/// A checkout of llama.cpp.
pub struct Source {
    /// Its root directory.
    pub root: PathBuf,
    /// What to call it in version texts.
    pub name: String,
}

impl Source {
    /// Finds the source, or says what to do to have it.
    pub fn find(manifest_dir: &Path) -> Result<Self, String> {
        if let Some(root) = env::var_os("LLAMA_CPP_DIR") {
            return Self::checkout(PathBuf::from(root));
        }
        let manifest = manifest_dir.join("Cargo.toml");
        // `cargo build` downloads only what it compiles, and this package is never compiled.
        pinned(&manifest)
            .or_else(|_| fetch(&manifest).and_then(|()| pinned(&manifest)))
            .map_err(|problem| {
                format!(
                    "the source of llama.cpp (package {PACKAGE}) is not there ({problem}): run \
                     `cargo fetch --locked --manifest-path {}` or set LLAMA_CPP_DIR to a checkout of llama.cpp",
                    manifest.display()
                )
            })
    }

    fn checkout(root: PathBuf) -> Result<Self, String> {
        let header = root.join("include/llama.h");
        if !header.is_file() {
            return Err(format!("LLAMA_CPP_DIR: {} is missing", header.display()));
        }
        // Cargo scans directories for changes; the rest of a checkout does not enter the build.
        for entry in ["CMakeLists.txt", "cmake", "ggml", "include", "src"] {
            println!("cargo:rerun-if-changed={}", root.join(entry).display());
        }
        let name = root.display().to_string();
        Ok(Self { root, name })
    }
}

/// Asks Cargo where it unpacked the package: `--locked` keeps to the checksum in Cargo.lock.
fn pinned(manifest: &Path) -> Result<Source, String> {
    let metadata = cargo(
        &["metadata", "--format-version=1", "--locked", "--offline"],
        manifest,
    )?;
    let metadata: Value = serde_json::from_slice(&metadata).map_err(|error| error.to_string())?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE)
        .ok_or("Cargo.lock does not list it")?;
    let text = |key: &str| {
        package[key]
            .as_str()
            .ok_or(format!("cargo metadata tells no {key}"))
    };
    let root = Path::new(text("manifest_path")?).with_file_name("llama.cpp");
    let name = format!("{PACKAGE} {}", text("version")?);
    Ok(Source { root, name })
}

fn fetch(manifest: &Path) -> Result<(), String> {
    cargo(&["fetch", "--locked"], manifest).map(drop)
}

fn cargo(args: &[&str], manifest: &Path) -> Result<Vec<u8>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(args)
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reason = stderr.lines().find(|line| line.starts_with("error"));
    Err(reason.unwrap_or("cargo failed").to_owned())
}
