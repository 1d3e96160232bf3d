//! The safe layer over libllama: the only caller of `llama_*`, with all `unsafe` that concerns it.
//!
//! * `model` loads and frees a file's model, `context` the memory that it runs in.
//! * `batch` holds what one pass decodes.
//! * [`Vocab`] has the tokens, and [`check_tokenizer`] checks a file before it is loaded.
//! * `bidirectional` runs models of masked diffusion.
//! * [`CausalModel`] runs libllama's own language models, and [`quantize()`] quantizes them, for
//!   comparison.
//! * `overrides` passes on metadata that the user replaces, `log` libllama's messages.

mod batch;
pub(crate) mod bidirectional;
mod causal;
mod context;
mod log;
mod model;
mod overrides;
mod quantize;
mod vocab;
mod vocab_check;

pub use causal::{CausalModel, CausalParams};
pub use quantize::quantize;
pub use vocab::Vocab;
pub use vocab_check::check_tokenizer;
