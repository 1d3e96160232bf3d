//! A small DiffusionGemma (3.9 million parameters, Q8_0), trained from scratch. `README.md` next to
//! the file describes what it can answer.

#![warn(missing_docs)]

/// The model, a GGUF file.
pub static MODEL: &[u8] = include_bytes!("../demo-q8_0.gguf");

/// The path of the file on the machine that compiled this, for tests.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo-q8_0.gguf");

/// The path of its card, for tests.
pub const CARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
