//! DiffusionGemma, block text diffusion, on llama.cpp's ggml; and the masked families that libllama
//! runs (Dream, LLaDA, LLaDA-MoE, RND1), sampled by the same loop.
//!
//! ```no_run
//! # fn main() -> llama_diffusion::Result<()> {
//! let model = llama_diffusion::open("model.gguf")?;
//! println!("{}", model.chat()?.ask("Why is the sky blue?")?);
//! # Ok(())
//! # }
//! ```
//!
//! The flow of the data, file by file:
//!
//! ```text
//! gguf ─▶ model::file ─▶ model::hparams ─▶ model::tensors ─▶ model::weights
//! conversation, text_edit, text_form, text_infill ─▶ text_model ─▶ chat, llama::vocab ─▶ tokens
//!      └▶ session ─▶ diffusion::generation ─▶ run ─▶ canvas ─▶ acceptance, temperature, random
//!            │                                  └▶ masked ─▶ transfer, draw, random
//!            └▶ diffusion::step ◀─ model::denoiser, model::batch ─▶ model::graph ─▶ ggml
//!                               ◀─ model::masked ─▶ llama::bidirectional ─▶ libllama
//! ```

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

mod changes;
pub mod chat;
mod constrained;
pub mod constraint;
mod conversation;
pub mod diffusion;
mod error;
pub mod form;
mod form_request;
#[allow(unsafe_code, reason = "ggml is C")]
mod ggml;
pub mod gguf;
mod host_memory;
pub mod hub;
mod infill;
mod infill_room;
mod json;
mod json_fields;
#[allow(unsafe_code, reason = "libllama is C")]
mod llama;
mod measure;
pub mod model;
mod parallel;
mod parameter;
pub mod quantize;
pub mod recording;
mod session;
mod synthetic;
mod sys;
mod temporary;
mod text;
mod text_edit;
mod text_form;
mod text_infill;
mod text_model;
mod token;

pub use changes::{Change, changes};
pub use constrained::Thoughts;
pub use conversation::{Conversation, Reply};
pub use diffusion::{
    AnswerLength, CancelFlag, DiffusionParams, EndTokens, Event, FinishReason, Generation,
    MaskedParams, OwnedEvent, SamplerOverrides, Token,
};
pub use error::{Error, Result};
pub use form_request::{BLANK, BlankAnswer, BlankRequest, ChoiceAnswer, FormAnswer, FormRequest};
pub use ggml::device::{Device, DeviceKind};
pub use ggml::plugins::load_backends;
pub use ggml::remote::RPC_TIMEOUT;
pub use gguf::{MetadataOverride, MetadataValue};
pub use infill::{GapTokens, InfillAnswer, InfillExtra, InfillRequest, InfillStop, InfillTimings};
pub use llama::Vocab;
pub use model::{
    AnyModel, DEFAULT_CHECKPOINTS, DEFAULT_CONTEXT, DeviceMemory, Fit, FlashAttention, KvType,
    MaskedModel, MemoryReport, Model, ModelParams, SessionParams, TensorOverride,
};
pub use parameter::Parameter;
pub use session::{
    Answer, CanvasRow, Events, FinishedMember, FormRun, MemberId, OnLogits, RowsReport, RowsRun,
    Session, SessionBatch, Snapshot,
};
pub use text::Utf8Stream;
pub use text_edit::edit_message;
pub use text_form::TextForm;
pub use text_infill::{GapContent, GapPrompt, TextGap};
pub use text_model::TextModel;

/// Opens a GGUF file of any supported model with the defaults: on the devices of this machine, with
/// as much of it on GPUs as fits. [`TextModel::load`] takes parameters.
///
/// # Errors
/// As [`TextModel::load`].
pub fn open(path: impl AsRef<std::path::Path>) -> Result<TextModel> {
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    TextModel::load(path.as_ref(), &ModelParams::default(), go_on)
}

/// What the programs, the C library and the tests of this repository need in addition: not for
/// other users, and without any promise of stability.
#[doc(hidden)]
pub mod internal {
    pub use crate::error::ErrorKind;
    pub use crate::ggml::log::capture as capture_log;
    pub use crate::ggml::remote::serve_rpc;
    pub use crate::json::{parse as parse_json, read as read_json};
    pub use crate::temporary::{Tracked, remove_all};

    /// Metadata keys, and a writer of files.
    pub mod gguf {
        /// Metadata keys.
        pub mod keys {
            pub use crate::gguf::keys::*;
        }
        pub use crate::gguf::writer::*;
    }

    /// Hyperparameters, tensors and masks of a model.
    pub mod model {
        pub use crate::model::hparams::*;
        pub use crate::model::mask::*;
        pub use crate::model::tensors::*;
    }

    /// libllama, for comparison.
    pub mod llama {
        pub use crate::llama::{CausalModel, CausalParams, check_tokenizer, quantize};
    }

    /// How well a model denoises, and how fast its device is.
    pub mod measure {
        pub use crate::measure::*;
    }

    /// Generated models.
    pub mod synthetic {
        pub use crate::synthetic::*;
    }
}

/// Compiles the example of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
