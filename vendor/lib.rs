//! The source of llama.cpp that `llama-diffusion` builds. It is in the registry package
//! [`PACKAGE`], which this package makes Cargo download without compiling it.
#![no_std]

/// The registry package that carries llama.cpp's source.
pub const PACKAGE: &str = "llama-cpp-sys-2";

/// The version of [`PACKAGE`].
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
