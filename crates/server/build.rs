//! Passes on the results of the engine's build script.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The directory of plug-ins; only the feature `dynamic-backends` has any.
    if let Ok(directive) = env::var("DEP_LLAMA_DIFFUSION_RPATH") {
        println!("cargo:{directive}");
    }
}
