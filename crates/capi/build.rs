//! Passes on what the engine's build found out.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Where plug-ins are looked for; only the feature `dynamic-backends` has any.
    if let Ok(directive) = env::var("DEP_LLAMA_DIFFUSION_RPATH") {
        println!("cargo:{directive}");
    }
    // The name by which programs ask for the library at run time.
    if let Ok(directive) = env::var("DEP_LLAMA_DIFFUSION_SONAME") {
        println!("cargo:{directive}");
    }
}
