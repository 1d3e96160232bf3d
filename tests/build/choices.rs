//! The decisions of build.rs: cmake options per Cargo feature, and link directives per target.

use std::collections::BTreeMap;
use std::path::Path;

use crate::options::{Options, extra_cmake_args, is_plug_in, profile_directory};

/// Options as Cargo's environment gives them for `features` on `target_os`.
fn options(target_os: &str, features: &[&str]) -> Options {
    Options::from_env(|name| match name {
        "HOST" | "TARGET" => Some("some-target".to_owned()),
        "CARGO_CFG_TARGET_OS" => Some(target_os.to_owned()),
        _ => {
            let feature = name.strip_prefix("CARGO_FEATURE_")?;
            features.contains(&feature).then(|| "1".to_owned())
        }
    })
}

/// The cmake options that `features` change from the default build's.
fn changed(features: &[&str]) -> BTreeMap<&'static str, bool> {
    let default = options("linux", &[]).cmake_options();
    let mut changed: BTreeMap<_, _> = options("linux", features)
        .cmake_options()
        .into_iter()
        .collect();
    changed.retain(|name, on| !default.contains(&(*name, *on)));
    changed
}

fn fragments(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn the_default_is_a_static_cpu_build_for_this_machine() {
    let on: Vec<_> = options("linux", &[])
        .cmake_options()
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
    assert_eq!(on, ["GGML_NATIVE"]);
}

#[test]
fn nothing_but_the_libraries_is_built_and_openmp_is_off() {
    let all = options(
        "linux",
        &["CUDA", "VULKAN", "RPC", "DYNAMIC_BACKENDS", "PORTABLE"],
    )
    .cmake_options();
    for name in [
        "GGML_OPENMP",
        "GGML_CUDA_NCCL",
        "LLAMA_ALL_WARNINGS",
        "LLAMA_BUILD_APP",
        "LLAMA_BUILD_COMMON",
        "LLAMA_BUILD_EXAMPLES",
        "LLAMA_BUILD_SERVER",
        "LLAMA_BUILD_TESTS",
        "LLAMA_BUILD_TOOLS",
    ] {
        assert!(all.contains(&(name, false)), "{name}");
    }
}

#[test]
fn each_feature_changes_its_cmake_options_and_no_others() {
    assert_eq!(changed(&["CUDA"]), BTreeMap::from([("GGML_CUDA", true)]));
    assert_eq!(
        changed(&["VULKAN"]),
        BTreeMap::from([("GGML_VULKAN", true)])
    );
    assert_eq!(
        changed(&["METAL"]),
        BTreeMap::from([("GGML_METAL", true), ("GGML_METAL_EMBED_LIBRARY", true)])
    );
    for (feature, option) in [
        ("HIP", "GGML_HIP"),
        ("SYCL", "GGML_SYCL"),
        ("OPENCL", "GGML_OPENCL"),
    ] {
        assert_eq!(changed(&[feature]), BTreeMap::from([(option, true)]));
        assert!(options("linux", &[feature]).has_toolkit());
    }
    assert_eq!(changed(&["RPC"]), BTreeMap::from([("GGML_RPC", true)]));
    assert_eq!(
        changed(&["PORTABLE"]),
        BTreeMap::from([("GGML_NATIVE", false)])
    );
    let plug_ins = BTreeMap::from([
        ("BUILD_SHARED_LIBS", true),
        ("GGML_BACKEND_DL", true),
        ("GGML_NATIVE", false),
    ]);
    assert_eq!(changed(&["DYNAMIC_BACKENDS"]), plug_ins);
    let mut portable_plug_ins = plug_ins;
    portable_plug_ins.insert("GGML_CPU_ALL_VARIANTS", true);
    assert_eq!(
        changed(&["DYNAMIC_BACKENDS", "PORTABLE"]),
        portable_plug_ins
    );
}

#[test]
fn openmp_is_left_to_compilers_without_weak_symbols() {
    let msvc = Options {
        target_env: "msvc".to_owned(),
        ..options("windows", &[])
    };
    assert!(msvc.cmake_options().contains(&("GGML_OPENMP", true)));
}

#[test]
fn the_shared_library_has_a_versioned_name() {
    let linux = ["rustc-cdylib-link-arg=-Wl,-soname,libllama_diffusion.so.0"];
    assert_eq!(options("linux", &[]).soname_directives(), linux);
    let macos = ["rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libllama_diffusion.0.dylib"];
    assert_eq!(options("macos", &[]).soname_directives(), macos);
    assert!(options("windows", &[]).soname_directives().is_empty());
}

#[test]
fn a_cross_build_is_not_tuned_for_the_host() {
    let cross = Options {
        cross: true,
        ..options("linux", &[])
    };
    assert!(cross.cmake_options().contains(&("GGML_NATIVE", false)));
    let environment = |name: &str| match name {
        "HOST" => Some("x86_64-unknown-linux-gnu".to_owned()),
        "TARGET" => Some("aarch64-unknown-linux-gnu".to_owned()),
        _ => None,
    };
    assert!(Options::from_env(environment).cross);
}

#[test]
fn metal_is_refused_where_there_is_none() {
    assert!(
        options("linux", &["METAL"])
            .check()
            .unwrap_err()
            .contains("linux")
    );
    assert_eq!(options("macos", &["METAL"]).check(), Ok(()));
}

#[test]
fn backends_that_exclude_each_other_or_static_linking_are_refused() {
    let refused = |features: &[&str]| options("linux", features).check().unwrap_err();
    assert!(refused(&["CUDA", "HIP"]).contains("choose one"));
    assert!(refused(&["SYCL"]).contains("dynamic-backends"));
    for allowed in [&["HIP"][..], &["SYCL", "DYNAMIC_BACKENDS"], &["OPENCL"]] {
        assert_eq!(options("linux", allowed).check(), Ok(()));
    }
}

#[test]
fn static_libraries_are_linked_in_order_with_the_systems() {
    // cmake's link line of the `cuda` build, shortened.
    let line = fragments(&[
        "-Wl,-rpath,\"\\$$ORIGIN\"",
        "llama.cpp/src/libllama.a",
        "llama.cpp/ggml/src/libggml-base.a",
        "llama.cpp/ggml/src/ggml-cuda/libggml-cuda.a",
        "/usr/local/cuda/lib64/libcudart.so",
        "/opt/cublas/libcublas.so.13",
        "\"/opt/with space/libcuda.so\"",
        "-pthread",
        "llama.cpp/ggml/src/libggml-base.a",
        "-lm",
    ]);
    assert_eq!(
        options("linux", &["CUDA"]).link_directives(&line, Path::new("/b")),
        [
            "rustc-link-search=native=/b/llama.cpp/src",
            "rustc-link-lib=static=llama",
            "rustc-link-search=native=/b/llama.cpp/ggml/src/ggml-cuda",
            "rustc-link-lib=static=ggml-cuda",
            "rustc-link-search=native=/usr/local/cuda/lib64",
            "rustc-link-lib=dylib=cudart",
            "rustc-link-search=native=/opt/cublas",
            "rustc-link-lib=dylib:+verbatim=libcublas.so.13",
            "rustc-link-search=native=/opt/with space",
            "rustc-link-lib=dylib=cuda",
            "rustc-link-lib=dylib=pthread",
            "rustc-link-search=native=/b/llama.cpp/ggml/src",
            "rustc-link-lib=static=ggml-base",
            "rustc-link-lib=dylib=m",
            "rustc-link-lib=dylib=stdc++",
        ]
    );
}

#[test]
fn frameworks_are_linked_on_apple_systems() {
    let line = fragments(&[
        "-framework Metal",
        "/System/Library/Frameworks/Accelerate.framework",
    ]);
    assert_eq!(
        options("macos", &["METAL"]).link_directives(&line, Path::new("/b")),
        [
            "rustc-link-lib=framework=Metal",
            "rustc-link-lib=framework=Accelerate",
            "rustc-link-lib=dylib=c++",
        ]
    );
}

#[test]
fn import_libraries_of_windows_are_distinguished_from_static_ones() {
    let line = fragments(&["src/llama.lib", "kernel32.lib"]);
    let windows = |features| Options {
        target_env: "msvc".to_owned(),
        ..options("windows", features)
    };
    let links = |features| windows(features).link_directives(&line, Path::new("b"));
    assert_eq!(
        links(&[]),
        [
            "rustc-link-search=native=b/src",
            "rustc-link-lib=static=llama",
            "rustc-link-lib=dylib=kernel32"
        ]
    );
    assert_eq!(
        links(&["DYNAMIC_BACKENDS"])[1],
        "rustc-link-lib=dylib=llama"
    );
}

#[test]
fn shared_libraries_are_found_next_to_the_binary_and_bring_their_own_cxx_runtime() {
    let plug_ins = options("linux", &["DYNAMIC_BACKENDS"]);
    assert_eq!(
        plug_ins.link_directives(&fragments(&["bin/libllama.so"]), Path::new("/b")),
        [
            "rustc-link-search=native=/b/bin",
            "rustc-link-lib=dylib=llama"
        ]
    );
    assert_eq!(
        plug_ins.rpath_directives(),
        ["rustc-link-arg=-Wl,-rpath,$ORIGIN"]
    );
    let rpath = |target_os, features| options(target_os, features).rpath_directives();
    assert_eq!(
        rpath("macos", &["DYNAMIC_BACKENDS"]),
        ["rustc-link-arg=-Wl,-rpath,@loader_path"]
    );
    assert!(rpath("windows", &["DYNAMIC_BACKENDS"]).is_empty());
    assert!(rpath("linux", &[]).is_empty());
}

#[test]
fn the_environment_is_watched_under_all_names_that_the_crates_cc_and_cmake_read() {
    let environment = |name: &str| (name == "TARGET").then(|| "thumbv8m.main-none-eabi".to_owned());
    let options = Options::from_env(environment);
    assert_eq!(
        options.variable_forms("CC"),
        [
            "CC",
            "CC_thumbv8m.main-none-eabi",
            "CC_thumbv8m_main_none_eabi",
            "TARGET_CC",
            "HOST_CC",
        ]
    );
    let watched = options.variables();
    for name in ["CXXFLAGS", "TARGET_CFLAGS", "CUDAARCHS", "LLAMA_CPP_DIR"] {
        assert!(watched.contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn shared_libraries_go_where_cargo_puts_binaries() {
    let profile = |out_dir| profile_directory(Path::new(out_dir));
    assert_eq!(
        profile("/t/x86_64-unknown-linux-gnu/release/build/llama-diffusion-1f/out"),
        Some(Path::new("/t/x86_64-unknown-linux-gnu/release"))
    );
    assert_eq!(profile("/t/release/build/llama-diffusion/1f/out"), None);
    assert_eq!(profile("/t/release/build/llama-diffusion-1f/output"), None);
    assert_eq!(profile("out"), None);
}

#[test]
fn plug_ins_are_distinguished_from_other_libraries() {
    for name in ["libggml-cpu-haswell.so", "libggml-cuda.so", "ggml-cpu.dll"] {
        assert!(is_plug_in(name), "{name}");
    }
    for name in ["libllama_diffusion.so", "libllama.so", "libggml-1f.rlib"] {
        assert!(!is_plug_in(name), "{name}");
    }
}

#[test]
fn extra_arguments_of_cmake_are_split_and_checked() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        extra_cmake_args(" -DGGML_HIP=ON  -DX:STRING=a=b "),
        Ok(vec![pair("GGML_HIP", "ON"), pair("X:STRING", "a=b")])
    );
    let error = extra_cmake_args("-DA=1 --trace").unwrap_err();
    assert!(
        error.contains("LLAMA_DIFFUSION_CMAKE_ARGS") && error.contains("'--trace'"),
        "{error}"
    );
}
