//! Passes on what the engine's build found out.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Where plug-ins are looked for; only the feature `dynamic-backends` has any.
    if let Ok(directive) = env::var("DEP_LLAMA_DIFFUSION_RPATH") {
        println!("cargo:{directive}");
    }
    // For `--version`.
    let source = env::var("DEP_LLAMA_DIFFUSION_LLAMA_CPP").unwrap_or_default();
    println!("cargo:rustc-env=LLAMA_DIFFUSION_LLAMA_CPP={source}");
}
