//! What build.rs decides: cmake's options from Cargo features, link directives from cmake's link
//! line. Pure functions, so that tests/build/choices.rs can check them for every target.

use std::path::Path;

/// The environment that the build depends on: this crate's, cmake's, and that of the crates
/// `bindgen`, `cc` and `cmake`.
const VARIABLES: [&str; 28] = [
    "CARGO_HOME",
    "CC",
    "CFLAGS",
    "CMAKE",
    "CMAKE_GENERATOR",
    "CMAKE_PREFIX_PATH",
    "CMAKE_TOOLCHAIN_FILE",
    "CUDAARCHS",
    "CUDACXX",
    "CUDAFLAGS",
    "CUDAHOSTCXX",
    "CUDA_PATH",
    "CXX",
    "CXXFLAGS",
    "DOCS_RS",
    "HIPCXX",
    "HIPFLAGS",
    "HIP_PATH",
    "LDFLAGS",
    "LIBCLANG_PATH",
    "LLAMA_CPP_DIR",
    "LLAMA_DIFFUSION_CMAKE_ARGS",
    "MACOSX_DEPLOYMENT_TARGET",
    "MKLROOT",
    "ONEAPI_ROOT",
    "OpenCL_ROOT",
    "ROCM_PATH",
    "VULKAN_SDK",
];

/// The Cargo features and the target of a build.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Feature `cuda`.
    pub cuda: bool,
    /// Feature `vulkan`.
    pub vulkan: bool,
    /// Feature `metal`.
    pub metal: bool,
    /// Feature `hip`.
    pub hip: bool,
    /// Feature `sycl`.
    pub sycl: bool,
    /// Feature `opencl`.
    pub opencl: bool,
    /// Feature `rpc`.
    pub rpc: bool,
    /// Feature `dynamic-backends`.
    pub dynamic_backends: bool,
    /// Feature `portable`.
    pub portable: bool,
    /// The target is not the machine that builds.
    pub cross: bool,
    /// `TARGET`.
    pub target: String,
    /// `CARGO_CFG_TARGET_OS`.
    pub target_os: String,
    /// `CARGO_CFG_TARGET_ENV`.
    pub target_env: String,
}

impl Options {
    /// Reads the environment that Cargo gives a build script.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Self {
        let feature = |name: &str| var(&format!("CARGO_FEATURE_{name}")).is_some();
        Self {
            cuda: feature("CUDA"),
            vulkan: feature("VULKAN"),
            metal: feature("METAL"),
            hip: feature("HIP"),
            sycl: feature("SYCL"),
            opencl: feature("OPENCL"),
            rpc: feature("RPC"),
            dynamic_backends: feature("DYNAMIC_BACKENDS"),
            portable: feature("PORTABLE"),
            cross: var("HOST") != var("TARGET"),
            target: var("TARGET").unwrap_or_default(),
            target_os: var("CARGO_CFG_TARGET_OS").unwrap_or_default(),
            target_env: var("CARGO_CFG_TARGET_ENV").unwrap_or_default(),
        }
    }

    /// The names of the environment variables that the build depends on.
    pub fn variables(&self) -> Vec<String> {
        let forms = |name| self.variable_forms(name);
        VARIABLES.into_iter().flat_map(forms).collect()
    }

    /// The names under which the crates `cc` and `cmake` look for a variable.
    pub fn variable_forms(&self, name: &str) -> [String; 5] {
        let target = &self.target;
        [
            name.to_owned(),
            format!("{name}_{target}"),
            format!("{name}_{}", target.replace(['-', '.'], "_")),
            format!("TARGET_{name}"),
            format!("HOST_{name}"),
        ]
    }

    /// Rejects what cannot be built, with the reason.
    pub fn check(&self) -> Result<(), String> {
        if self.metal && !self.is_apple() {
            return Err(format!(
                "the feature `metal` needs an Apple system, but the target is {}: build without it",
                self.target_os
            ));
        }
        if self.cuda && self.hip {
            return Err(
                "the features `cuda` and `hip` build the same source under the same names: choose one"
                    .to_owned(),
            );
        }
        if self.sycl && !self.dynamic_backends {
            return Err(
                "the feature `sycl` needs the feature `dynamic-backends`: only the SYCL compiler can link \
                 the code for the GPU, and rustc links a program by another"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Whether a backend is built that needs more than C and C++ compilers.
    pub fn has_toolkit(&self) -> bool {
        self.cuda || self.vulkan || self.hip || self.sycl || self.opencl
    }

    /// The `-D` options of cmake, all of them on or off.
    pub fn cmake_options(&self) -> Vec<(&'static str, bool)> {
        // Plug-ins are chosen at run time by the CPU's features, which ggml does not allow with
        // -march=native.
        let native = !self.portable && !self.cross && !self.dynamic_backends;
        vec![
            ("BUILD_SHARED_LIBS", self.dynamic_backends),
            ("GGML_BACKEND_DL", self.dynamic_backends),
            ("GGML_NATIVE", native),
            // 14 builds of the CPU backend, 11 CPU-minutes: for those who need one binary for all
            // machines.
            (
                "GGML_CPU_ALL_VARIANTS",
                self.dynamic_backends && self.portable,
            ),
            ("GGML_CUDA", self.cuda),
            ("GGML_CUDA_NCCL", false),
            ("GGML_VULKAN", self.vulkan),
            ("GGML_METAL", self.metal),
            ("GGML_METAL_EMBED_LIBRARY", self.metal),
            ("GGML_HIP", self.hip),
            ("GGML_SYCL", self.sycl),
            ("GGML_OPENCL", self.opencl),
            ("GGML_RPC", self.rpc),
            // If it were found by chance on the build machine, it would be missing on other
            // machines.
            ("GGML_RPC_RDMA", false),
            // Ours instead (build/cpu/threads.c), but for MSVC, which lacks weak symbols.
            ("GGML_OPENMP", self.target_env == "msvc"),
            ("GGML_ALL_WARNINGS", false),
            ("LLAMA_ALL_WARNINGS", false),
            ("LLAMA_BUILD_APP", false),
            ("LLAMA_BUILD_COMMON", false),
            ("LLAMA_BUILD_EXAMPLES", false),
            ("LLAMA_BUILD_SERVER", false),
            ("LLAMA_BUILD_TESTS", false),
            ("LLAMA_BUILD_TOOLS", false),
        ]
    }

    /// Cargo's link directives for cmake's link line of an executable that uses the libraries
    /// (`fragments`, relative to `build_dir`), without `cargo:`.
    pub fn link_directives(&self, fragments: &[String], build_dir: &Path) -> Vec<String> {
        let mut directives = Vec::new();
        for fragment in fragments {
            // `-framework Metal` may be one fragment; a path with spaces comes quoted.
            let text = fragment.trim().trim_matches('"');
            if let Some(name) = text.strip_prefix("-framework ") {
                directives.push(format!("rustc-link-lib=framework={}", name.trim()));
            } else if let Some(dir) = text.strip_prefix("-L") {
                directives.push(search(&build_dir.join(dir)));
            } else if let Some(name) = text.strip_prefix("-l") {
                directives.push(format!("rustc-link-lib=dylib={name}"));
            } else if text == "-pthread" {
                directives.push("rustc-link-lib=dylib=pthread".to_owned());
            } else if !text.starts_with('-') {
                directives.extend(self.library_file(Path::new(text), build_dir));
            }
            // The rest are the linker's own switches (-Wl,-rpath, -rdynamic), which rustc sets for
            // itself.
        }
        if !self.dynamic_backends
            && let Some(runtime) = self.cxx_runtime()
        {
            directives.push(format!("rustc-link-lib=dylib={runtime}"));
        }
        keep_last(directives)
    }

    /// The directives for executables and for the C library: where they find llama.cpp's shared
    /// libraries at run time.
    pub fn rpath_directives(&self) -> Vec<String> {
        if !self.dynamic_backends || self.target_os == "windows" {
            return Vec::new();
        }
        let origin = if self.is_apple() {
            "@loader_path"
        } else {
            "$ORIGIN"
        };
        vec![format!("rustc-link-arg=-Wl,-rpath,{origin}")]
    }

    /// The directives of the C library, a package of its own (`crates/capi`): the name by which
    /// programs load it at run time, which ends in `DIFFUSION_ABI_VERSION` of its `library.rs`.
    pub fn soname_directives(&self) -> Vec<String> {
        if self.target_os == "windows" {
            return Vec::new();
        }
        let switch = if self.is_apple() {
            "-install_name,@rpath/libllama_diffusion.0.dylib"
        } else {
            "-soname,libllama_diffusion.so.0"
        };
        vec![format!("rustc-cdylib-link-arg=-Wl,{switch}")]
    }

    fn library_file(&self, file: &Path, build_dir: &Path) -> Vec<String> {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
            return Vec::new();
        };
        let directory = file
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty());
        let stem = |suffix: &str| {
            name.strip_suffix(suffix)
                .map(|stem| stem.strip_prefix("lib").unwrap_or(stem))
        };
        let library = if let Some(name) = name.strip_suffix(".framework") {
            return vec![format!("rustc-link-lib=framework={name}")];
        } else if let Some(name) = stem(".a") {
            format!("static={name}")
        } else if let Some(name) = [".so", ".dylib", ".tbd"].into_iter().find_map(stem) {
            format!("dylib={name}")
        } else if let Some(name) = name.strip_suffix(".lib") {
            // Ours have a relative directory; system libraries such as kernel32.lib have none.
            let ours = file.is_relative() && directory.is_some();
            let kind = if ours && !self.dynamic_backends {
                "static"
            } else {
                "dylib"
            };
            format!("{kind}={name}")
        } else {
            // A versioned name such as libcublas.so.13.
            format!("dylib:+verbatim={name}")
        };
        directory
            .map(|directory| search(&build_dir.join(directory)))
            .into_iter()
            .chain([format!("rustc-link-lib={library}")])
            .collect()
    }

    /// The C++ runtime that static libraries leave to the final link.
    fn cxx_runtime(&self) -> Option<&'static str> {
        match (self.target_os.as_str(), self.target_env.as_str()) {
            (_, "msvc") => None,
            ("android", _) => Some("c++_shared"),
            ("freebsd" | "openbsd", _) => Some("c++"),
            _ if self.is_apple() => Some("c++"),
            _ => Some("stdc++"),
        }
    }

    fn is_apple(&self) -> bool {
        ["macos", "ios", "tvos", "visionos", "watchos"].contains(&self.target_os.as_str())
    }
}

/// Splits `LLAMA_DIFFUSION_CMAKE_ARGS`: extra `-DNAME=VALUE` for cmake, separated by white space.
pub fn extra_cmake_args(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split_whitespace()
        .map(|arg| {
            arg.strip_prefix("-D")
                .and_then(|arg| arg.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .ok_or_else(|| {
                    format!("LLAMA_DIFFUSION_CMAKE_ARGS: '{arg}' is not of the form -DNAME=VALUE")
                })
        })
        .collect()
}

/// The directory of the binaries for a build script's `OUT_DIR`, PROFILE/build/PACKAGE-HASH/out.
pub fn profile_directory(out_dir: &Path) -> Option<&Path> {
    let build = out_dir.parent()?.parent()?;
    (out_dir.ends_with("out") && build.ends_with("build"))
        .then(|| build.parent())
        .flatten()
}

/// Whether ggml treats a file with this name as a plug-in.
pub fn is_plug_in(name: &str) -> bool {
    name.starts_with("libggml-") && name.ends_with(".so")
        || name.starts_with("ggml-") && name.ends_with(".dll")
}

fn search(directory: &Path) -> String {
    format!("rustc-link-search=native={}", directory.display())
}

/// Drops all but the last of equal directives: a static library must come after its users.
fn keep_last(directives: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(directives.len());
    for directive in directives.into_iter().rev() {
        if !kept.contains(&directive) {
            kept.push(directive);
        }
    }
    kept.reverse();
    kept
}
