//! DiffusionGemma, block text diffusion, on llama.cpp's ggml; and the masked families that libllama
//! runs (Dream, LLaDA, LLaDA-MoE, RND1), sampled by the same loop.
//!
//! The way of the data, file by file:
//!
//! ```text
//! gguf ─▶ model::file ─▶ model::hparams ─▶ model::tensors ─▶ model::weights
//! chat ─▶ llama::vocab ─▶ tokens ─┐                             │
//!                          ┌──────┘       ┌─────────────────────┘
//!                          ▼              ▼
//!        session, session_batch ─▶ model::denoiser, model::batch
//!                          │                     └─▶ model::graph ─▶ ggml
//!                          │
//!        diffusion::scheduler ─▶ canvas ─▶ sampler, schedule, random
//!                          │   └▶ masked ─▶ transfer, candidates, random
//!                   masked_session ─▶ model::masked ─▶ llama ─▶ libllama
//! ```
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//! use llama_diffusion::chat::{Message, Role};
//! use llama_diffusion::{CancelFlag, DiffusionParams, Overrides, SessionParams, TextModel};
//!
//! # fn main() -> llama_diffusion::Result<()> {
//! let path = Path::new("model.gguf");
//! let text = TextModel::load(path, &Default::default(), &mut |_| ControlFlow::Continue(()))?;
//! let question = "What is the capital of Norway?";
//! let prompt = match text.chat_template()? {
//!     Some(template) => text.chat_prompt(&template, &[Message::new(Role::User, question)], Default::default())?,
//!     None => text.raw_prompt(question)?,
//! };
//! let mut session = text.session(&SessionParams::default())?;
//! let params = DiffusionParams::resolve(&Overrides::default(), &text.model().overrides())?;
//! let answer = session.generate(&prompt, &params, &CancelFlag::default(), &mut |_| ControlFlow::Continue(()))?;
//! println!("{}", text.answer_text(&prompt, &answer.generation.tokens)?.text);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

pub mod chat;
pub mod diffusion;
mod error;
#[allow(unsafe_code, reason = "ggml is C")]
mod ggml;
pub mod gguf;
mod host_memory;
#[allow(unsafe_code, reason = "libllama is C")]
mod llama;
mod masked_session;
mod measure;
pub mod model;
mod parallel;
pub mod quantize;
mod session;
mod session_batch;
mod synthetic;
mod sys;
mod temporary;
mod text;
mod text_model;

pub use diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Event, FinishReason, Generation, MaskedParams,
    Overrides, Token,
};
pub use error::{Error, Result};
pub use ggml::device::{Device, DeviceKind};
pub use ggml::plugins::load_backends;
pub use ggml::remote::RPC_TIMEOUT;
pub use gguf::{MetadataOverride, MetadataValue};
pub use llama::Vocab;
pub use masked_session::{AnswerLength, MaskedSession, MaskedSessionParams};
pub use model::{
    DEFAULT_CONTEXT, DeviceMemory, Fit, FlashAttention, KvType, MaskedModel, MemoryReport, Model,
    ModelParams, SessionParams, TensorOverride,
};
pub use session::{Answer, Session};
pub use session_batch::{FinishedMember, MemberId, SessionBatch};
pub use text::Utf8Stream;
pub use text_model::TextModel;

/// What the programs, the C library and the tests of this repository need besides: not for others, and no
/// promise.
#[doc(hidden)]
pub mod internal {
    pub use crate::error::ErrorKind;
    pub use crate::ggml::log::capture as capture_log;
    pub use crate::ggml::remote::serve_rpc;
    pub use crate::temporary::{Tracked, remove_all};

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
