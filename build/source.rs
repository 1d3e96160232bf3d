//! Where llama.cpp's source is: `LLAMA_CPP_DIR`, or the registry package that vendor/Cargo.toml
//! pins.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A registry package that contains llama.cpp's source.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Its name.
    pub package: &'static str,
    /// Its exact version.
    pub version: &'static str,
}

/// A checkout of llama.cpp.
#[derive(Debug, PartialEq)]
pub struct Source {
    /// Its root directory.
    pub root: PathBuf,
    /// Its name in version texts.
    pub name: String,
}

impl Source {
    /// Finds the source, or explains how to get it. Nothing is downloaded: Cargo did that before it
    /// ran a build script.
    pub fn find(pin: Pin, manifest_dir: &Path, cargo_home: Option<&Path>) -> Result<Self, String> {
        if let Some(root) = env::var_os("LLAMA_CPP_DIR") {
            return Self::checkout(PathBuf::from(root));
        }
        let directories = package_directories(manifest_dir, cargo_home);
        let unpacked = directories
            .iter()
            .find_map(|directory| pin.unpacked(directory));
        unpacked
            .map_or_else(|| pin.ask_cargo(manifest_dir), Ok)
            .map(|package| Self {
                root: package.join("llama.cpp"),
                name: format!("{} {}", pin.package, pin.version),
            })
            .map_err(|problem| {
                let directories = directories.iter().map(|path| path.display().to_string());
                format!(
                    "the source of llama.cpp, package {} {}, is not in {} ({problem}): run `cargo fetch` in \
                     your project, or set LLAMA_CPP_DIR to a checkout of llama.cpp",
                    pin.package,
                    pin.version,
                    directories.collect::<Vec<_>>().join(", "),
                )
            })
    }

    fn checkout(root: PathBuf) -> Result<Self, String> {
        let header = root.join("include/llama.h");
        if !header.is_file() {
            return Err(format!("LLAMA_CPP_DIR: {} is missing", header.display()));
        }
        // Cargo scans directories for changes; the rest of a checkout does not affect the build.
        for entry in ["CMakeLists.txt", "cmake", "ggml", "include", "src"] {
            println!("cargo:rerun-if-changed={}", root.join(entry).display());
        }
        let name = root.display().to_string();
        Ok(Self { root, name })
    }
}

impl Pin {
    /// The package in a directory of unpacked packages: Cargo's registry appends the version to the
    /// name, `cargo vendor` only on request.
    fn unpacked(self, directory: &Path) -> Option<PathBuf> {
        let versioned = directory.join(format!("{}-{}", self.package, self.version));
        [versioned, directory.join(self.package)]
            .into_iter()
            .find(|package| {
                manifest_version(&package.join("Cargo.toml")).as_deref() == Some(self.version)
                    && package.join("llama.cpp/include/llama.h").is_file()
            })
    }

    /// Asks Cargo, which knows the sources of its configuration.
    fn ask_cargo(self, manifest_dir: &Path) -> Result<PathBuf, String> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .arg("--manifest-path")
            .arg(manifest_dir.join("Cargo.toml"))
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let reason = stderr.lines().find(|line| line.starts_with("error"));
            return Err(reason.unwrap_or("cargo metadata failed").to_owned());
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let packages = metadata["packages"].as_array();
        packages
            .into_iter()
            .flatten()
            .find(|package| package["name"] == self.package && package["version"] == self.version)
            .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
            .map(Path::to_owned)
            .ok_or("Cargo.lock does not list it".to_owned())
    }
}

/// Where packages may be unpacked: in the directory that contains this one, for Cargo's registry
/// and for vendored packages, and in the registries of Cargo's home, for a checkout of this
/// package.
fn package_directories(manifest_dir: &Path, cargo_home: Option<&Path>) -> Vec<PathBuf> {
    let beside = manifest_dir.parent().map(Path::to_owned);
    let registries = cargo_home.and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    let registries = registries.into_iter().flatten().flatten();
    beside
        .into_iter()
        .chain(registries.map(|entry| entry.path()))
        .collect()
}

/// The version in a manifest as Cargo writes it into packages: that of `[package]` comes first.
fn manifest_version(manifest: &Path) -> Option<String> {
    let text = fs::read_to_string(manifest).ok()?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("version = "));
    Some(values.next()?.trim_matches('"').to_owned())
}
