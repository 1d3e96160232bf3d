//! What build.rs needs from the system: how it searches, and what it reports if something is
//! missing.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools::{self, Tool, find_program, missing};

#[test]
fn a_missing_tool_is_named_in_one_sentence_with_the_command_that_installs_it() {
    let cases = [
        (Tool::Cmake, "cmake is missing", "apt-get install cmake"),
        (
            Tool::CCompiler,
            "a C compiler is missing",
            "dnf install gcc`",
        ),
        (
            Tool::CxxCompiler,
            "a C++ compiler is missing",
            "apt-get install g++",
        ),
        (Tool::Libclang, "libclang is missing", "brew install llvm"),
        (
            Tool::Ninja,
            "ninja is missing",
            "apt-get install ninja-build",
        ),
        (Tool::Nvcc, "nvcc is missing", "CUDACXX"),
        (Tool::Hip, "HIP 6.1 or newer is missing", "ROCM_PATH"),
        (Tool::OneMkl, "oneMKL is missing", "setvars.sh"),
        (
            Tool::OpenCl,
            "OpenCL's loader with its headers is missing",
            "apt-get install ocl-icd-opencl-dev",
        ),
    ];
    for (tool, missing, remedy) in cases {
        let message = tools::missing(&[tool]);
        assert!(
            message.contains(missing) && message.contains(remedy),
            "{message}"
        );
        assert!(
            !message.contains('\n') && !message.contains(". "),
            "{message}"
        );
    }
}

#[test]
fn what_a_backend_lacks_is_one_sentence_with_one_command() {
    assert_eq!(
        missing(&[
            Tool::VulkanHeaders,
            Tool::VulkanLoader,
            Tool::Glslc,
            Tool::SpirvHeaders
        ]),
        "the Vulkan header vulkan.hpp, the Vulkan loader libvulkan, the shader compiler glslc and \
         SPIRV-Headers are missing: install them with `apt-get install libvulkan-dev glslc spirv-headers` \
         (Debian, Ubuntu), `dnf install vulkan-headers vulkan-loader-devel glslc spirv-headers-devel` \
         (Fedora) or `brew install vulkan-headers vulkan-loader shaderc spirv-headers` (macOS)"
    );
    let mixed = missing(&[Tool::NewVulkanHeaders, Tool::Glslc]);
    assert!(
        mixed.starts_with(
            "the shader compiler glslc is missing: install it with `apt-get install glslc`"
        ),
        "{mixed}"
    );
    assert!(
        mixed.contains("too old") && mixed.contains("VULKAN_SDK"),
        "{mixed}"
    );
    let rocm = missing(&[Tool::HipCompiler, Tool::Hip, Tool::Hipblas, Tool::Rocblas]);
    assert_eq!(rocm.matches("rocm.docs.amd.com").count(), 1, "{rocm}");
}

/// Runs the probe of build.rs for a backend; returns what it reports, and the sentence about it.
fn probe(option: &str, arguments: &[&str]) -> (Vec<Tool>, String) {
    let directory = tempfile::tempdir().unwrap();
    let configured = Command::new("cmake")
        .args(["-S", "build/probe", &format!("-D{option}=ON"), "-B"])
        .arg(directory.path())
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        configured.status.success(),
        "{}",
        String::from_utf8_lossy(&configured.stderr)
    );
    let report = fs::read_to_string(directory.path().join("missing.txt")).unwrap();
    let tools: Vec<_> = report
        .lines()
        .map(|name| Tool::from_probe(name).unwrap())
        .collect();
    let sentence = missing(&tools);
    (tools, sentence)
}

/// If cmake finds none of the packages, each backend lacks everything that it needs.
#[test]
fn the_probe_reports_what_is_missing() {
    let lacks = |option, packages: &[&str]| {
        let hidden = packages
            .iter()
            .map(|name| format!("-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON"));
        let hidden: Vec<_> = hidden.collect();
        probe(
            option,
            &hidden.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .0
    };
    assert_eq!(lacks("GGML_CUDA", &["CUDAToolkit"]), [Tool::CudaLibraries]);
    assert_eq!(
        lacks("GGML_VULKAN", &["Vulkan", "SPIRV-Headers"]),
        [
            Tool::VulkanHeaders,
            Tool::VulkanLoader,
            Tool::Glslc,
            Tool::SpirvHeaders
        ]
    );
    let hip = lacks("GGML_HIP", &["hip", "hipblas", "rocblas"]);
    assert!(
        hip.ends_with(&[Tool::Hip, Tool::Hipblas, Tool::Rocblas]),
        "{hip:?}"
    );
    assert!(lacks("GGML_SYCL", &["MKL"]).contains(&Tool::OneMkl));
    let opencl = lacks("GGML_OPENCL", &["OpenCL", "Python3"]);
    assert_eq!(opencl, [Tool::OpenCl, Tool::Python]);
    assert_eq!(lacks("GGML_METAL", &[]), []);
}

/// Stand-ins for cmake's own modules: what they find is not missing, but a HIP that is too old is.
#[test]
fn the_probe_accepts_what_cmake_finds() {
    let modules = tempfile::tempdir().unwrap();
    let path = format!("-DCMAKE_MODULE_PATH={}", modules.path().display());
    let write = |package: &str, text: &str| {
        let file = modules.path().join(format!("Find{package}.cmake"));
        fs::write(file, format!("set({package}_FOUND TRUE)\n{text}")).unwrap();
    };
    write(
        "CUDAToolkit",
        "add_library(CUDA::cudart SHARED IMPORTED)\nadd_library(CUDA::cublas SHARED IMPORTED)",
    );
    assert_eq!(probe("GGML_CUDA", &[&path]).0, []);
    write("hipblas", "");
    write("rocblas", "");
    let hip = |version| {
        write("hip", &format!("set(hip_VERSION {version})"));
        probe("GGML_HIP", &[&path, "-DCMAKE_HIP_COMPILER=hipcc"]).0
    };
    assert_eq!(hip("6.0.3"), [Tool::Hip]);
    assert_eq!(hip("6.1.0"), []);
}

/// Stand-ins for Vulkan's development files: the headers' age decides.
#[test]
fn the_probe_distinguishes_old_vulkan_headers_from_new_ones() {
    let sdk = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = sdk.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write("include/vulkan/vulkan.h", "");
    write("include/vulkan/vulkan.hpp", "");
    write("lib/libvulkan.so", "");
    write("glslc", "");
    write("share/cmake/SPIRV-Headers/SPIRV-HeadersConfig.cmake", "");
    let arguments = [
        format!("-DCMAKE_PREFIX_PATH={}", sdk.path().display()),
        format!("-DVulkan_INCLUDE_DIR={}/include", sdk.path().display()),
        format!("-DVulkan_LIBRARY={}/lib/libvulkan.so", sdk.path().display()),
        format!("-DVulkan_GLSLC_EXECUTABLE={}/glslc", sdk.path().display()),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    write(
        "include/vulkan/vulkan_core.h",
        "#define VK_HEADER_VERSION 239\n",
    );
    let (tools, sentence) = probe("GGML_VULKAN", &arguments);
    assert_eq!(tools, [Tool::NewVulkanHeaders], "{sentence}");
    write(
        "include/vulkan/vulkan_core.h",
        "#define VK_HEADER_VERSION 309\ntypedef struct VkLayerSettingEXT {\n",
    );
    assert_eq!(probe("GGML_VULKAN", &arguments).0, []);
}

#[test]
fn a_program_is_found_on_the_path_or_where_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("g++-13.2");
    std::fs::write(&program, "").unwrap();
    let find = |name: &OsStr, path: &Path| find_program(name, Some(path.as_os_str()));
    assert_eq!(
        find(OsStr::new("g++-13.2"), directory.path()),
        Some(program.clone())
    );
    assert_eq!(
        find(program.as_os_str(), Path::new("")),
        Some(program.clone())
    );
    assert_eq!(find(OsStr::new("g++"), directory.path()), None);
    assert_eq!(find_program(OsStr::new("g++"), None), None);
}
