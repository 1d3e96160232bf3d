//! Texts that follow a constraint by construction: a regular language, read token by token.
//!
//! A canvas of uniform noise commits nothing before its end, so that each step can be projected onto
//! the language exactly: the most likely canvas of the language, a canvas drawn from the step's
//! distribution given the language, and the distribution of each position given the language.
//!
//! Nothing here knows ggml, models or files. Imports point one way:
//!
//! ```text
//! error ◀─ bytes ─▶ determinize, minimize
//! ```

pub mod bytes;
mod determinize;
pub mod error;
mod minimize;

pub use bytes::ByteAutomaton;
pub use error::{ConstraintError, Limits};
