//! What a build needs from the system, and the messages if something is missing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Something the build needs from the system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tool {
    Cmake,
    CCompiler,
    CxxCompiler,
    Libclang,
    Ninja,
    Nvcc,
    CudaLibraries,
    VulkanHeaders,
    NewVulkanHeaders,
    VulkanLoader,
    Glslc,
    SpirvHeaders,
    HipCompiler,
    Hip,
    Hipblas,
    Rocblas,
    SyclCompiler,
    OneMkl,
    OpenCl,
    Python,
}

/// How to get a tool.
#[derive(Clone, Copy, PartialEq)]
enum Remedy {
    /// The package of Debian, the one of Fedora, and what macOS has.
    Package(&'static str, &'static str, Macos),
    /// An instruction in words.
    Toolkit(&'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum Macos {
    Brew(&'static str),
    Xcode,
    Nothing,
}

const CUDA: Remedy = Remedy::Toolkit(
    "install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads) and put nvcc on PATH or name \
     it in CUDACXX",
);
const NEWER_VULKAN: Remedy = Remedy::Toolkit(
    "install the headers of Debian 13 or of the Vulkan SDK (https://vulkan.lunarg.com) and name the SDK's \
     directory in VULKAN_SDK",
);
const ROCM: Remedy = Remedy::Toolkit(
    "install ROCm 6.1 or newer (https://rocm.docs.amd.com) and name its directory in ROCM_PATH unless it is \
     /opt/rocm",
);
const ONEAPI: Remedy = Remedy::Toolkit(
    "install the oneAPI Base Toolkit (https://www.intel.com/oneapi), run `source /opt/intel/oneapi/setvars.sh` \
     and set CC=icx and CXX=icpx",
);

impl Tool {
    /// The tool that build/probe/CMakeLists.txt calls `name`.
    pub fn from_probe(name: &str) -> Result<Self, String> {
        Ok(match name {
            "cuda-libraries" => Self::CudaLibraries,
            "vulkan-headers" => Self::VulkanHeaders,
            "new-vulkan-headers" => Self::NewVulkanHeaders,
            "vulkan-loader" => Self::VulkanLoader,
            "glslc" => Self::Glslc,
            "spirv-headers" => Self::SpirvHeaders,
            "hip-compiler" => Self::HipCompiler,
            "hip" => Self::Hip,
            "hipblas" => Self::Hipblas,
            "rocblas" => Self::Rocblas,
            "sycl-compiler" => Self::SyclCompiler,
            "onemkl" => Self::OneMkl,
            "opencl" => Self::OpenCl,
            "python" => Self::Python,
            _ => {
                return Err(format!(
                    "build/probe reports '{name}', which build/tools.rs does not know"
                ));
            }
        })
    }

    /// Its name, and how to get it.
    fn describe(self) -> (&'static str, Remedy) {
        use Macos::{Brew, Nothing, Xcode};
        use Remedy::Package;
        match self {
            Self::Cmake => ("cmake", Package("cmake", "cmake", Brew("cmake"))),
            Self::CCompiler => ("a C compiler", Package("gcc", "gcc", Xcode)),
            Self::CxxCompiler => ("a C++ compiler", Package("g++", "gcc-c++", Xcode)),
            Self::Libclang => (
                "libclang",
                Package("libclang-dev", "clang-devel", Brew("llvm")),
            ),
            Self::Ninja => (
                "ninja",
                Package("ninja-build", "ninja-build", Brew("ninja")),
            ),
            Self::Nvcc => ("the CUDA compiler nvcc", CUDA),
            Self::CudaLibraries => ("the CUDA library cublas or cudart", CUDA),
            Self::VulkanHeaders => (
                "the Vulkan header vulkan.hpp",
                Package("libvulkan-dev", "vulkan-headers", Brew("vulkan-headers")),
            ),
            Self::NewVulkanHeaders => (
                "a Vulkan header with `vk::LayerSettingEXT` (the one found is too old)",
                NEWER_VULKAN,
            ),
            Self::VulkanLoader => (
                "the Vulkan loader libvulkan",
                Package(
                    "libvulkan-dev",
                    "vulkan-loader-devel",
                    Brew("vulkan-loader"),
                ),
            ),
            Self::Glslc => (
                "the shader compiler glslc",
                Package("glslc", "glslc", Brew("shaderc")),
            ),
            Self::SpirvHeaders => (
                "SPIRV-Headers",
                Package(
                    "spirv-headers",
                    "spirv-headers-devel",
                    Brew("spirv-headers"),
                ),
            ),
            Self::HipCompiler => ("a HIP compiler", ROCM),
            Self::Hip => ("HIP 6.1 or newer", ROCM),
            Self::Hipblas => ("hipBLAS", ROCM),
            Self::Rocblas => ("rocBLAS", ROCM),
            Self::SyclCompiler => ("a C++ compiler that accepts `-fsycl`", ONEAPI),
            Self::OneMkl => ("oneMKL", ONEAPI),
            Self::OpenCl => (
                "OpenCL's loader with its headers",
                Package(
                    "ocl-icd-opencl-dev",
                    "opencl-headers ocl-icd-devel",
                    Nothing,
                ),
            ),
            Self::Python => ("Python 3", Package("python3", "python3", Brew("python"))),
        }
    }
}

/// One sentence: what is missing and what installs it.
pub fn missing(tools: &[Tool]) -> String {
    let described = || tools.iter().map(|tool| tool.describe());
    let mut toolkits = Vec::new();
    for (_, remedy) in described() {
        if matches!(remedy, Remedy::Toolkit(_)) && !toolkits.contains(&remedy) {
            toolkits.push(remedy);
        }
    }
    let names = |wanted: &dyn Fn(Remedy) -> bool| -> Vec<&str> {
        let chosen = described().filter(|(_, remedy)| wanted(*remedy));
        chosen.map(|(name, _)| name).collect()
    };
    let packaged = names(&|remedy| matches!(remedy, Remedy::Package(..)));
    let mut clauses = Vec::new();
    if !packaged.is_empty() {
        let commands = commands(described().map(|(_, remedy)| remedy));
        let object = if packaged.len() == 1 { "it" } else { "them" };
        clauses.push(format!(
            "{}: install {object} with {commands}",
            are_missing(&packaged)
        ));
    }
    for toolkit in toolkits {
        if let Remedy::Toolkit(text) = toolkit {
            let names = names(&|remedy| remedy == toolkit);
            clauses.push(format!("{}: {text}", are_missing(&names)));
        }
    }
    clauses.join("; ")
}

fn are_missing(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => format!("{name} is missing"),
        [first @ .., last] => format!("{} and {last} are missing", first.join(", ")),
    }
}

/// The commands that install the packages, for each system that has all of them.
fn commands(remedies: impl Iterator<Item = Remedy>) -> String {
    let (mut apt, mut dnf, mut brew): (Vec<&str>, Vec<&str>, Vec<&str>) = Default::default();
    let (mut xcode, mut on_macos) = (false, true);
    for remedy in remedies {
        let Remedy::Package(debian, fedora, macos) = remedy else {
            continue;
        };
        apt.push(debian);
        dnf.push(fedora);
        match macos {
            Macos::Brew(name) => brew.push(name),
            Macos::Xcode => xcode = true,
            Macos::Nothing => on_macos = false,
        }
    }
    apt.dedup(); // the loader and the headers of Vulkan are one package
    let mut commands = vec![
        format!("`apt-get install {}` (Debian, Ubuntu)", apt.join(" ")),
        format!("`dnf install {}` (Fedora)", dnf.join(" ")),
    ];
    if on_macos && xcode {
        commands.push("`xcode-select --install` (macOS)".to_owned());
    }
    if on_macos && !brew.is_empty() {
        commands.push(format!("`brew install {}` (macOS)", brew.join(" ")));
    }
    let last = commands.pop().unwrap_or_default();
    format!("{} or {last}", commands.join(", "))
}

/// The file of a program name: the name itself if it has a directory, else the first match in
/// `path`.
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
