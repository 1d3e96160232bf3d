//! Turns messages into a prompt, by the Jinja chat template of a model file, and separates thoughts
//! from answers.

pub(crate) mod control;
mod functions;
mod message;
mod tags;
mod template;
pub mod thinking;

pub use message::{Message, Role};
pub use template::{ChatTemplate, RenderOptions};
