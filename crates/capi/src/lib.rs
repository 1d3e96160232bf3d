//! The C interface: the functions and structs of `include/llama_diffusion.h`, which is generated
//! from the modules here (`make header`). Each has one subject of the header, such as `model`,
//! `generate` or `form`; `params` has the parameters of an answer, `border` what crosses from C.
//! The documentation is written for readers of the header, whose opening comment (`cbindgen.toml`)
//! has the rules that hold for all of it.
//!
//! Every exported function that can fail runs in `border::guard`, which turns failures and panics
//! into a status and an error object, and every one that frees in `border::release`; the others
//! only read a field. What comes from C is checked there before Rust types are made of it; ggml
//! never sees it unchecked.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the header's opening comment states once what callers must guarantee"
)]
#![allow(
    clippy::too_many_arguments,
    reason = "inputs, outputs and the error are separate arguments in C"
)]
#![allow(
    non_camel_case_types,
    reason = "types have the names that the header gives them"
)]

mod border;
mod constraint;
mod context;
mod device;
mod draft;
mod edit;
mod error;
mod fault;
mod form;
mod generate;
mod infill;
mod library;
mod log;
mod model;
mod names;
mod params;
mod reply;
mod result;
mod scores;
mod template;
mod text;

#[cfg(test)]
mod tests;

pub use constraint::*;
pub use context::*;
pub use device::*;
pub use draft::*;
pub use edit::*;
pub use error::*;
pub use form::*;
pub use generate::*;
pub use infill::*;
pub use library::*;
pub use log::*;
pub use model::*;
pub use params::*;
pub use reply::*;
pub use result::*;
pub use scores::*;
pub use template::*;
pub use text::*;
