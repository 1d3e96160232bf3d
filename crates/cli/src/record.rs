//! Recordings of drafts: one JSON object per line, which need no model to be shown again.

mod read;
mod write;

use llama_diffusion::Token;
use llama_diffusion::chat::thinking::Channel;
use llama_diffusion::diffusion::{FinishedCanvas, OwnedDraft, OwnedNewCanvas};
use serde::{Deserialize, Serialize};

pub use read::{Answer, Canvas, Recording};
pub use write::Recorder;

const FORMAT: u32 = 1;

/// A line of a recording.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    /// The first line.
    Start {
        format: u32,
        channel: Option<Channel>,
    },
    /// The answer below begins inside a thought, which its prompt opened.
    Thinking,
    /// The bytes of tokens that the lines below are the first to use.
    Pieces { pieces: Vec<(Token, Vec<u8>)> },
    /// A canvas before its first step. Recordings of earlier versions do not have it.
    Begin(OwnedNewCanvas),
    /// A denoising step.
    Draft(OwnedDraft),
    /// A finished canvas.
    Canvas(FinishedCanvas),
    /// The end of an answer.
    End,
}
