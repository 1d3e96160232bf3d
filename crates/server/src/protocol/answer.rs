//! What the engine gives back, whatever the protocol.

use std::time::Duration;

use llama_diffusion::Token;
use llama_diffusion::diffusion::LengthScore;

/// What the texts of an answer belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Thoughts, without their marks and without the name of the channel.
    Thought,
    /// The answer itself. It spells out the marks of tool calls if the request says so.
    Answer,
}

/// A finished canvas, as far as it is part of the answer: a run of texts in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Canvas {
    /// In order; neighbours may have the same channel. Texts are whole characters: bytes of one that
    /// the next canvas completes come with that canvas.
    pub spans: Vec<Span>,
}

/// A text of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Whose text it is.
    pub channel: Channel,
    /// The text.
    pub text: String,
    /// The tokens that it consists of.
    pub tokens: Vec<AnswerToken>,
}

/// A token of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerToken {
    /// Its id.
    pub id: Token,
    /// Its bytes; they need not be UTF-8.
    pub bytes: Vec<u8>,
    /// What the model says about it, if the request asks for that.
    pub score: Option<Score>,
}

/// What the model says about a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Its log-probability, in nats.
    pub logprob: f32,
    /// The most likely tokens, the most likely one first: id, bytes, log-probability.
    pub top: Vec<(Token, Vec<u8>, f32)>,
}

/// Why the engine ended an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it, or what it is constrained to is complete.
    EndOfText,
    /// The limit on tokens or canvases, or the context.
    Length,
    /// The limit on time: the last canvas is a draft.
    Time,
    /// It was stopped: a stop string or a tool call is complete, or the server drains.
    Stopped,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Counts of tokens.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
    /// What only text diffusion has.
    pub statistics: Statistics,
    /// The slot that answered.
    pub slot: usize,
    /// The seed that was used.
    pub seed: u64,
    /// What is known about the gap that the answer fills, if it fills one.
    pub gap: Option<GapEnd>,
}

/// What is known at the end about a gap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GapEnd {
    /// Whether the model has read only a part of the texts around it.
    pub truncated: bool,
    /// The lengths that were compared, if the request asks for them.
    pub lengths: Vec<LengthScore>,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, the ones that were cached.
    pub cached: usize,
    /// Tokens of the answer, including thoughts and its end token.
    pub completion: usize,
    /// Of these, the ones of thoughts.
    pub reasoning: usize,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Encoding the prompt.
    pub prompt: Duration,
    /// Everything after it.
    pub predicted: Duration,
}

/// What only text diffusion has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Finished canvases.
    pub canvases: usize,
    /// Denoising steps.
    pub steps: u64,
    /// Generated tokens per denoising step.
    pub tokens_per_step: f64,
    /// Encoding the prompt.
    pub prefill: Duration,
    /// Denoising steps.
    pub denoise: Duration,
    /// Committing canvases.
    pub commit: Duration,
    /// Waiting for a slot.
    pub queue: Duration,
    /// Mean number of canvases in the steps.
    pub batch_mean: f64,
}
