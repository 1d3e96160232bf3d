//! Builds llama.cpp with cmake and reports to Cargo what to link.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::options::{Options, extra_cmake_args, is_plug_in, profile_directory};
use crate::source::Source;
use crate::tools::{self, Tool, find_program};

/// Builds the libraries under `out_dir` and prints the link directives.
pub fn build(options: &Options, source: &Source, out_dir: &Path) -> Result<(), String> {
    check_tools(options)?;
    let build_dir = out_dir.join("build");
    let mut defines: Vec<(String, OsString)> = options
        .cmake_options()
        .into_iter()
        .map(|(name, on)| (name.to_owned(), if on { "ON" } else { "OFF" }.into()))
        .collect();
    defines.push(("LLAMA_CPP_DIR".to_owned(), source.root.clone().into()));
    if options.cuda {
        defines.push(("CMAKE_CUDA_COMPILER".to_owned(), nvcc()?.into()));
    }
    let extra = env::var("LLAMA_DIFFUSION_CMAKE_ARGS").unwrap_or_default();
    defines.extend(
        extra_cmake_args(&extra)?
            .into_iter()
            .map(|(name, value)| (name, value.into())),
    );
    let use_ninja = cfg!(unix) && !is_set(options, "CMAKE_GENERATOR") && on_path("ninja").is_some();
    let generator = use_ninja.then_some("Ninja");
    let environment: Vec<(String, OsString)> = options
        .variables()
        .into_iter()
        .filter_map(|name| env::var_os(&name).map(|value| (name, value)))
        .collect();
    if options.has_toolkit() {
        probe(generator, &defines, &out_dir.join("probe"))?;
    }
    let package = env::current_dir().map_err(|error| error.to_string())?;
    start_afresh_if_changed(
        &build_dir,
        &format!("{package:?} {build_dir:?} {generator:?} {environment:?} {defines:?}"),
    )?;

    project("build", generator, &defines)
        .build_target("native")
        .build();

    for directive in options.link_directives(&link_line(&build_dir)?, &build_dir) {
        println!("cargo:{directive}");
    }
    // For this package's tests, and as DEP_LLAMA_DIFFUSION_* for the packages that link it.
    for directive in options.rpath_directives() {
        println!("cargo:{directive}");
        println!("cargo:RPATH={directive}");
    }
    for directive in options.soname_directives() {
        println!("cargo:SONAME={directive}");
    }
    if options.dynamic_backends {
        install_beside_binaries(&build_dir.join("bin"), out_dir)?;
    }
    Ok(())
}

/// A cmake project of this package.
fn project(
    directory: &str,
    generator: Option<&str>,
    defines: &[(String, OsString)],
) -> cmake::Config {
    let mut config = cmake::Config::new(directory);
    config.profile("Release");
    if let Some(generator) = generator {
        config.generator(generator);
    }
    for (name, value) in defines {
        config.define(name, value);
    }
    config
}

/// Checks for what the backends need, before cmake fails in ggml with pages of output. It starts in
/// an empty directory, because cmake remembers what it did not find.
fn probe(
    generator: Option<&str>,
    defines: &[(String, OsString)],
    out_dir: &Path,
) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if out_dir.exists() {
        fs::remove_dir_all(out_dir).map_err(|error| failed(out_dir, error))?;
    }
    fs::create_dir_all(out_dir).map_err(|error| failed(out_dir, error))?;
    project("build/probe", generator, defines)
        .build_target("probe")
        .out_dir(out_dir)
        .build();
    let report = out_dir.join("build/missing.txt");
    let names = fs::read_to_string(&report).map_err(|error| failed(&report, error))?;
    let missing = names.lines().map(Tool::from_probe);
    let missing: Vec<Tool> = missing.collect::<Result<_, _>>()?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(tools::missing(&missing))
}

fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    find_program(name.as_ref(), env::var_os("PATH").as_deref())
}

fn is_set(options: &Options, variable: &str) -> bool {
    let mut forms = options.variable_forms(variable).into_iter();
    forms.any(|name| env::var_os(name).is_some())
}

fn check_tools(options: &Options) -> Result<(), String> {
    // cmake uses what the user names in these variables.
    let need = |variable: &str, program: &str, tool: Tool| {
        if is_set(options, variable) || on_path(program).is_some() {
            Ok(())
        } else {
            Err(tools::missing(&[tool]))
        }
    };
    need("CMAKE", "cmake", Tool::Cmake)?;
    // Visual Studio's compiler is not on PATH, and a cross compiler has a name of its own.
    if cfg!(unix) && !options.cross {
        need("CC", "cc", Tool::CCompiler)?;
        need("CXX", "c++", Tool::CxxCompiler)?;
    }
    if cfg!(unix) && on_path("make").is_none() {
        need("CMAKE_GENERATOR", "ninja", Tool::Ninja)?;
    }
    Ok(())
}

/// The CUDA compiler; NVIDIA's installer does not put it on PATH.
fn nvcc() -> Result<PathBuf, String> {
    env::var_os("CUDACXX")
        .and_then(on_path)
        .or_else(|| on_path("nvcc"))
        .or_else(|| on_path(Path::new(&env::var_os("CUDA_PATH")?).join("bin/nvcc")))
        .or_else(|| on_path("/usr/local/cuda/bin/nvcc"))
        .ok_or_else(|| tools::missing(&[Tool::Nvcc]))
}

/// cmake caches options that are no longer given, and rejects a directory that was moved or copied,
/// so other `options`, which include the paths, need an empty directory. Also requests the answer
/// of the file API, which cmake writes when it configures.
fn start_afresh_if_changed(build_dir: &Path, options: &str) -> Result<(), String> {
    let io = |error: std::io::Error| format!("{}: {error}", build_dir.display());
    let stamp = build_dir.join("options.txt");
    if fs::read_to_string(&stamp).is_ok_and(|old| old == options) {
        return Ok(());
    }
    if build_dir.exists() {
        fs::remove_dir_all(build_dir).map_err(io)?;
    }
    let query = build_dir.join(".cmake/api/v1/query");
    fs::create_dir_all(&query).map_err(io)?;
    fs::write(query.join("codemodel-v2"), "").map_err(io)?;
    fs::write(stamp, options).map_err(io)
}

/// What cmake would link into an executable that uses the libraries, from the answer of its file
/// API: an index names the model of the project, which names the description of each target.
fn link_line(build_dir: &Path) -> Result<Vec<String>, String> {
    let reply = build_dir.join(".cmake/api/v1/reply");
    let failed = |file: &Path, error: &dyn Display| format!("{}: {error}", file.display());
    let read = |name: &str| -> Result<Value, String> {
        let file = reply.join(name);
        let text = fs::read(&file).map_err(|error| failed(&file, &error))?;
        serde_json::from_slice(&text).map_err(|error| failed(&file, &error))
    };
    let entry = |list: &Value, key: &str, value: &str| -> Result<Value, String> {
        let entries = list.as_array().into_iter().flatten();
        let mut matching = entries.filter(|entry| entry[key] == value);
        let found = matching.next().cloned();
        found.ok_or_else(|| failed(&reply, &format!("cmake lists no {value}")))
    };
    let open = |list: &Value, key: &str, value: &str| {
        read(
            entry(list, key, value)?["jsonFile"]
                .as_str()
                .unwrap_or_default(),
        )
    };

    let index = fs::read_dir(&reply)
        .map_err(|error| failed(&reply, &error))?
        .filter_map(|file| file.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("index-"))
        .max() // the newest, says cmake's manual
        .ok_or_else(|| failed(&reply, &"no answer: cmake 3.14 or newer is needed"))?;
    let model = open(&read(&index)?["objects"], "kind", "codemodel")?;
    let release = entry(&model["configurations"], "name", "Release")?;
    let probe = open(&release["targets"], "name", "link_probe")?;
    let fragments = probe["link"]["commandFragments"].as_array();
    Ok(fragments
        .into_iter()
        .flatten()
        .filter(|fragment| fragment["role"] != "flags")
        .filter_map(|fragment| fragment["fragment"].as_str().map(str::to_owned))
        .collect())
}

/// Copies the shared libraries to where Cargo puts binaries, tests and benches: plug-ins are loaded
/// from the directory of the program or of the package's shared library.
fn install_beside_binaries(libraries: &Path, out_dir: &Path) -> Result<(), String> {
    let profile = profile_directory(out_dir).ok_or_else(|| {
        format!(
            "the feature `dynamic-backends` puts libraries next to the binaries, but Cargo's OUT_DIR \
             does not show where those are: {} is not of the form PROFILE/build/PACKAGE/out",
            out_dir.display()
        )
    })?;
    let names = |directory: &Path| -> Result<Vec<OsString>, String> {
        let entries = fs::read_dir(directory).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.file_name()));
            names.collect()
        });
        entries.map_err(|error| format!("{}: {error}", directory.display()))
    };
    let built = names(libraries)?;
    for directory in [profile.to_owned(), profile.join("deps")] {
        let failed = |name: &OsString, error: std::io::Error| {
            format!("{}: {error}", directory.join(name).display())
        };
        // ggml would also load plug-ins of another build. A process that has mapped an old file
        // keeps it.
        for name in &names(&directory)? {
            if built.contains(name) || name.to_str().is_some_and(is_plug_in) {
                fs::remove_file(directory.join(name)).map_err(|error| failed(name, error))?;
            }
        }
        for name in &built {
            fs::copy(libraries.join(name), directory.join(name))
                .map_err(|error| failed(name, error))?;
        }
    }
    Ok(())
}
