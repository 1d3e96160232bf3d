//! What a generation reports while it runs, and how it is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::Token;
use super::score::TokenScore;

/// Whether a canvas needs another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CanvasStatus {
    /// It does.
    Running,
    /// It does not: the argmax canvas is stable and its mean entropy below the threshold.
    Converged,
    /// It gets none: all steps are used up.
    OutOfSteps,
}

/// A canvas before its first denoising step.
#[derive(Debug, Clone, Copy)]
pub struct NewCanvas<'a> {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Maximum number of steps that the canvas gets.
    pub max_steps: u32,
    /// What the first step reads: random tokens, or mask tokens; one entry per canvas position.
    pub tokens: &'a [Token],
}

/// A canvas after one denoising step, for a live view or a trace. Slices have one entry per canvas
/// position.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Maximum number of steps that the canvas gets.
    pub max_steps: u32,
    /// Temperature of the step.
    pub temperature: f32,
    /// Most likely tokens: the best guess at the finished canvas so far.
    pub argmax: &'a [Token],
    /// Tokens drawn in this step.
    pub sampled: &'a [Token],
    /// Entropies in nats.
    pub entropy: &'a [f32],
    /// Probabilities of the tokens drawn.
    pub probability: &'a [f32],
    /// Positions whose drawn token was accepted.
    pub accepted: &'a [bool],
    /// Input of the next step: accepted tokens, and noise elsewhere.
    pub canvas: &'a [Token],
    /// Mean of the entropies, in nats.
    pub mean_entropy: f32,
    /// Whether the argmax canvas equals those of the previous steps, for as many steps as the
    /// stability threshold requires.
    pub stable: bool,
    /// Whether another step follows.
    pub status: CanvasStatus,
}

/// A denoised block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedCanvas {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Denoising steps it took.
    pub steps: u32,
    /// Whether it stopped because it was stable and confident, and not for lack of steps.
    pub converged: bool,
    /// The whole canvas, as it is committed to the prefix and as the reference returns it: the
    /// first end token stays, what follows it is padding.
    pub tokens: Vec<Token>,
    /// What a reader sees: the tokens before the first end token, without padding, cut to the
    /// answer's limit.
    pub answer: Vec<Token>,
    /// Tokens of the canvas that are not padding; the first end token counts.
    pub generated: usize,
    /// Whether the answer ends with it: it contains an end token, or what the answer is constrained
    /// to is complete.
    pub ended: bool,
}

impl FinishedCanvas {
    /// Whether it ends what it is a part of: it says so, or has nothing but padding.
    pub(super) fn is_last(&self) -> bool {
        self.ended || self.generated == 0
    }
}

/// How much of a prompt is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptProgress {
    /// Tokens that were already cached.
    pub reused: usize,
    /// Tokens that are in the cache now, including the reused ones.
    pub encoded: usize,
    /// Tokens of the prompt.
    pub total: usize,
}

/// A canvas whose steps are done, with what the model says about it. Slices have one entry per canvas
/// position.
#[derive(Debug, Clone, Copy)]
pub struct ScoredCanvas<'a> {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Repairs that it has had.
    pub round: u32,
    /// The canvas.
    pub tokens: &'a [Token],
    /// The score of each token.
    pub scores: &'a [TokenScore],
    /// The tokens that are doubted: if there are any and another round is left, drafts of a repair
    /// follow.
    pub doubted: &'a [bool],
}

/// What a generation reports while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A pass over a part of the prompt is complete.
    PromptEncoded(PromptProgress),
    /// A canvas is about to be denoised.
    CanvasBegun(NewCanvas<'a>),
    /// A denoising step is complete.
    Draft(Draft<'a>),
    /// A finished canvas is scored, before its repair or its end.
    Scored(ScoredCanvas<'a>),
    /// A canvas is finished; [`answer`](FinishedCanvas::answer) holds the tokens to show.
    CanvasDone(&'a FinishedCanvas),
}

/// An owned [`Draft`], to be kept, sent or stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of `Draft`")]
pub struct OwnedDraft {
    pub block: u32,
    pub step: u32,
    pub max_steps: u32,
    pub temperature: f32,
    pub mean_entropy: f32,
    pub stable: bool,
    #[serde(rename = "progress")]
    pub status: CanvasStatus,
    pub canvas: Vec<Token>,
    pub argmax: Vec<Token>,
    pub sampled: Vec<Token>,
    pub accepted: Vec<bool>,
    pub entropy: Vec<f32>,
    /// Empty if an older version wrote it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probability: Vec<f32>,
}

impl OwnedDraft {
    /// The draft.
    pub fn view(&self) -> Draft<'_> {
        Draft {
            block: self.block,
            step: self.step,
            max_steps: self.max_steps,
            temperature: self.temperature,
            argmax: &self.argmax,
            sampled: &self.sampled,
            entropy: &self.entropy,
            probability: &self.probability,
            accepted: &self.accepted,
            canvas: &self.canvas,
            mean_entropy: self.mean_entropy,
            stable: self.stable,
            status: self.status,
        }
    }
}

/// An owned [`NewCanvas`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedNewCanvas {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Maximum number of steps that the canvas gets.
    pub max_steps: u32,
    /// What the first step reads.
    pub tokens: Vec<Token>,
}

impl OwnedNewCanvas {
    /// The canvas.
    pub fn view(&self) -> NewCanvas<'_> {
        NewCanvas {
            block: self.block,
            max_steps: self.max_steps,
            tokens: &self.tokens,
        }
    }
}

impl From<NewCanvas<'_>> for OwnedNewCanvas {
    fn from(canvas: NewCanvas<'_>) -> Self {
        Self {
            block: canvas.block,
            max_steps: canvas.max_steps,
            tokens: canvas.tokens.to_vec(),
        }
    }
}

/// An owned [`ScoredCanvas`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnedScoredCanvas {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Repairs that it has had.
    pub round: u32,
    /// The canvas.
    pub tokens: Vec<Token>,
    /// The score of each token.
    pub scores: Vec<TokenScore>,
    /// The tokens that are doubted.
    pub doubted: Vec<bool>,
}

impl From<ScoredCanvas<'_>> for OwnedScoredCanvas {
    fn from(canvas: ScoredCanvas<'_>) -> Self {
        Self {
            block: canvas.block,
            round: canvas.round,
            tokens: canvas.tokens.to_vec(),
            scores: canvas.scores.to_vec(),
            doubted: canvas.doubted.to_vec(),
        }
    }
}

/// An owned [`Event`], to be kept, sent or stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OwnedEvent {
    /// [`Event::PromptEncoded`].
    PromptEncoded(PromptProgress),
    /// [`Event::CanvasBegun`].
    CanvasBegun(OwnedNewCanvas),
    /// [`Event::Draft`].
    Draft(OwnedDraft),
    /// [`Event::Scored`].
    Scored(OwnedScoredCanvas),
    /// [`Event::CanvasDone`].
    CanvasDone(FinishedCanvas),
}

impl From<Draft<'_>> for OwnedDraft {
    fn from(draft: Draft<'_>) -> Self {
        Self {
            block: draft.block,
            step: draft.step,
            max_steps: draft.max_steps,
            temperature: draft.temperature,
            argmax: draft.argmax.to_vec(),
            sampled: draft.sampled.to_vec(),
            entropy: draft.entropy.to_vec(),
            probability: draft.probability.to_vec(),
            accepted: draft.accepted.to_vec(),
            canvas: draft.canvas.to_vec(),
            mean_entropy: draft.mean_entropy,
            stable: draft.stable,
            status: draft.status,
        }
    }
}

impl From<Event<'_>> for OwnedEvent {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::PromptEncoded(progress) => Self::PromptEncoded(progress),
            Event::CanvasBegun(canvas) => Self::CanvasBegun(canvas.into()),
            Event::Draft(draft) => Self::Draft(draft.into()),
            Event::Scored(canvas) => Self::Scored(canvas.into()),
            Event::CanvasDone(canvas) => Self::CanvasDone(canvas.clone()),
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model generated an end token, a canvas of padding only, or padding up to a limit.
    EndOfText,
    /// The limit on tokens or canvases was reached.
    Length,
    /// The context has no room for another canvas.
    ContextFull,
    /// An event handler returned [`ControlFlow::Break`](std::ops::ControlFlow::Break) or the
    /// [`CancelFlag`] was set.
    Cancelled,
}

/// Cancels a generation from another thread, before its next step. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Requests the end of the generation.
    pub fn cancel(&self) {
        // The flag guards no other data.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the flag usable for another generation.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
