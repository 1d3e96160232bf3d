//! Recordings of drafts: one JSON object per line, which need no model to be shown again.

mod read;
mod write;

use llama_diffusion::Token;
use llama_diffusion::chat::thinking::Channel;
use llama_diffusion::diffusion::{Draft, FinishedCanvas, NewCanvas, Progress};
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
    Begin(RecordedStart),
    /// A denoising step.
    Draft(RecordedDraft),
    /// A finished canvas.
    Canvas(RecordedCanvas),
    /// The end of an answer.
    End,
}

/// A [`NewCanvas`] with its own memory.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedStart {
    block: u32,
    max_steps: u32,
    tokens: Vec<Token>,
}

impl From<NewCanvas<'_>> for RecordedStart {
    fn from(canvas: NewCanvas<'_>) -> Self {
        Self {
            block: canvas.block,
            max_steps: canvas.max_steps,
            tokens: canvas.tokens.to_vec(),
        }
    }
}

impl RecordedStart {
    fn canvas(&self) -> NewCanvas<'_> {
        NewCanvas {
            block: self.block,
            max_steps: self.max_steps,
            tokens: &self.tokens,
        }
    }
}

/// A [`Draft`] with its own memory. Entropies are in nats.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedDraft {
    block: u32,
    step: u32,
    max_steps: u32,
    temperature: f32,
    mean_entropy: f32,
    stable: bool,
    progress: RecordedProgress,
    canvas: Vec<Token>,
    argmax: Vec<Token>,
    sampled: Vec<Token>,
    accepted: Vec<bool>,
    entropy: Vec<f32>,
}

impl From<Draft<'_>> for RecordedDraft {
    fn from(draft: Draft<'_>) -> Self {
        Self {
            block: draft.block,
            step: draft.step,
            max_steps: draft.max_steps,
            temperature: draft.temperature,
            mean_entropy: draft.mean_entropy,
            stable: draft.stable,
            progress: draft.progress.into(),
            canvas: draft.canvas.to_vec(),
            argmax: draft.argmax.to_vec(),
            sampled: draft.sampled.to_vec(),
            accepted: draft.accepted.to_vec(),
            entropy: draft.entropy.to_vec(),
        }
    }
}

impl RecordedDraft {
    fn draft(&self) -> Draft<'_> {
        Draft {
            block: self.block,
            step: self.step,
            max_steps: self.max_steps,
            temperature: self.temperature,
            mean_entropy: self.mean_entropy,
            stable: self.stable,
            progress: self.progress.into(),
            canvas: &self.canvas,
            argmax: &self.argmax,
            sampled: &self.sampled,
            accepted: &self.accepted,
            entropy: &self.entropy,
        }
    }
}

/// A [`FinishedCanvas`].
#[derive(Debug, Serialize, Deserialize)]
struct RecordedCanvas {
    block: u32,
    steps: u32,
    converged: bool,
    tokens: Vec<Token>,
    answer: Vec<Token>,
    generated: usize,
    ended: bool,
}

impl From<&FinishedCanvas> for RecordedCanvas {
    fn from(canvas: &FinishedCanvas) -> Self {
        Self {
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged,
            tokens: canvas.tokens.clone(),
            answer: canvas.answer.clone(),
            generated: canvas.generated,
            ended: canvas.ended,
        }
    }
}

impl From<&RecordedCanvas> for FinishedCanvas {
    fn from(canvas: &RecordedCanvas) -> Self {
        Self {
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged,
            tokens: canvas.tokens.clone(),
            answer: canvas.answer.clone(),
            generated: canvas.generated,
            ended: canvas.ended,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RecordedProgress {
    Running,
    Converged,
    OutOfSteps,
}

impl From<Progress> for RecordedProgress {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Running => Self::Running,
            Progress::Converged => Self::Converged,
            Progress::OutOfSteps => Self::OutOfSteps,
        }
    }
}

impl From<RecordedProgress> for Progress {
    fn from(progress: RecordedProgress) -> Self {
        match progress {
            RecordedProgress::Running => Self::Running,
            RecordedProgress::Converged => Self::Converged,
            RecordedProgress::OutOfSteps => Self::OutOfSteps,
        }
    }
}
