//! The programs a build needs, and what to say when one is missing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Something the build needs from the system.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    Cmake,
    CCompiler,
    CxxCompiler,
    Libclang,
    Ninja,
    Nvcc,
}

impl Tool {
    /// One sentence: what is missing and what installs it.
    pub fn missing(self) -> String {
        let (name, apt, dnf, macos) = match self {
            Self::Cmake => ("cmake", "cmake", "cmake", "brew install cmake"),
            Self::CCompiler => ("a C compiler", "gcc", "gcc", "xcode-select --install"),
            Self::CxxCompiler => ("a C++ compiler", "g++", "gcc-c++", "xcode-select --install"),
            Self::Libclang => (
                "libclang",
                "libclang-dev",
                "clang-devel",
                "brew install llvm",
            ),
            Self::Ninja => ("ninja", "ninja-build", "ninja-build", "brew install ninja"),
            Self::Nvcc => {
                return "the CUDA compiler nvcc is missing: install the CUDA toolkit \
                        (https://developer.nvidia.com/cuda-downloads) and put nvcc on PATH or name it in CUDACXX"
                    .to_owned();
            }
        };
        format!(
            "{name} is missing: install it with `apt-get install {apt}` (Debian, Ubuntu), \
             `dnf install {dnf}` (Fedora) or `{macos}` (macOS)"
        )
    }
}

/// The file that a program name stands for: itself if it has a directory, else looked for in `path`.
pub fn find_program(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(|file| file.is_file());
    }
    let mut file_name = OsString::from(name);
    file_name.push(env::consts::EXE_SUFFIX);
    env::split_paths(path?)
        .map(|directory| directory.join(&file_name))
        .find(|file| file.is_file())
}
