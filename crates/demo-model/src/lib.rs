//! A small DiffusionGemma (3.8 million parameters, Q8_0), trained from scratch. `README.md` beside the
//! file says what it can answer.

#![warn(missing_docs)]

/// The model, a GGUF file.
pub static MODEL: &[u8] = include_bytes!("../demo-q8_0.gguf");

/// Where the file is on the machine that compiled this, for tests.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo-q8_0.gguf");

/// Where its card is, for tests.
pub const CARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
