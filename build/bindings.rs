//! Binds the headers of ggml and llama with bindgen.

use std::path::Path;

use crate::source::Source;
use crate::tools::{self, Tool};

const HEADERS: [&str; 7] = [
    "ggml.h",
    "ggml-alloc.h",
    "ggml-backend.h",
    "ggml-cpu.h",
    "ggml-rpc.h",
    "gguf.h",
    "llama.h",
];

/// Functions that wait for a device or give it work, as a regular expression. They are called
/// through src/ggml/guard.rs.
const MAY_THROW: &str = "ggml_backend_(dev_init|free|synchronize|event_record|event_synchronize|\
    tensor_(set|set_async|set_2d|get|memset)|sched_(graph_compute|alloc_graph))";

/// Writes `bindings.rs` into `out_dir`.
pub fn generate(source: &Source, out_dir: &Path) -> Result<(), String> {
    // bindgen panics without libclang; it uses a library that is already loaded.
    clang_sys::load().map_err(|_| tools::missing(&[Tool::Libclang]))?;
    let include = |directory: &str| format!("-I{}", source.root.join(directory).display());
    bindgen::builder()
        .header_contents(
            "llama_diffusion_sys.h",
            &HEADERS
                .map(|header| format!("#include \"{header}\"\n"))
                .concat(),
        )
        .clang_args([include("ggml/include"), include("include")])
        .allowlist_function("(ggml|gguf|llama)_.*")
        .allowlist_type("(ggml|gguf|llama)_.*")
        .allowlist_var("(GGML|GGUF|LLAMA|RPC_PROTO)_.*")
        .override_abi(bindgen::Abi::CUnwind, MAY_THROW)
        // Plain constants: a value that the header does not list is not undefined behaviour.
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_cstr(true)
        .generate_comments(false)
        .layout_tests(false)
        .merge_extern_blocks(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .map_err(|error| {
            format!(
                "bindgen cannot read the headers of {}: {error}",
                source.name
            )
        })?
        .write_to_file(out_dir.join("bindings.rs"))
        .map_err(|error| format!("{}: {error}", out_dir.display()))
}
