//! Recordings of drafts: one JSON object per line, which can be shown again without a model.

mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::chat::thinking::Channel;
use crate::diffusion::{FinishedCanvas, OwnedDraft, OwnedNewCanvas, Token};

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
    /// The following answer begins inside a thought, which its prompt opened.
    Thinking,
    /// The bytes of tokens that the following lines use for the first time.
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
