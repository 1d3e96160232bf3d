//! What the endpoints ask of the engine, whatever the protocol.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use llama_diffusion::chat::Message;
use llama_diffusion::diffusion::{AcceptanceRule, Algorithm, ConstrainAt};
use llama_diffusion::{FormRequest, InfillRequest, SamplerOverrides, Token};
use serde_json::{Map, Value};

use super::turns::StoredResponses;

/// What the server and its model can do: a request that needs more is refused.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The family of the model.
    pub family: Family,
    /// Number of slots: the maximum of [`Request::choices`].
    pub slots: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Whether the chat template describes tools to the model.
    pub tools: bool,
    /// Whether finished canvases can be scored, for log-probabilities.
    pub scores: bool,
    /// The responses that a request may build on, if the server stores any.
    pub responses: Option<Arc<dyn StoredResponses>>,
}

/// The families of models, which have different parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Canvases of random tokens: DiffusionGemma.
    Canvas,
    /// Canvases of mask tokens: Dream, LLaDA.
    Masked,
}

/// Work for the engine. Each of [`inputs`](Self::inputs) gets [`choices`](Self::choices) answers:
/// answer number `input * choices + k` has the seed plus `k`.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// At least one.
    pub inputs: Vec<Input>,
    /// Answers to each input, at least 1.
    pub choices: usize,
    /// Maximum number of tokens in an answer.
    pub tokens: TokenLimit,
    /// Time for the answer after the prompt is encoded. When it is over, the best draft so far is the
    /// answer.
    pub time: Option<Duration>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Key of the randomness; `None` is a random one.
    pub seed: Option<u64>,
    /// Parameters of the sampler.
    pub sampler: Sampler,
    /// What the answer is constrained to.
    pub constraint: Option<Constraint>,
    /// How many of the most likely tokens come with the log-probability of each token; `None` is
    /// without log-probabilities.
    pub logprobs: Option<usize>,
    /// What is known about the first canvas.
    pub known: Option<KnownCanvas>,
    /// Which drafts the client receives.
    pub drafts: Option<Drafts>,
    /// Whether the model thinks; `None` is the server's default.
    pub thoughts: Option<bool>,
    /// Maximum number of tokens in the thoughts.
    pub thought_budget: Option<usize>,
    /// Whether the text of the answer spells out the marks of tool calls.
    pub tool_marks: bool,
    /// Whether the beginning of the prompt may come from a slot's cache.
    pub cache_prompt: bool,
    /// The slot to use, if the client chose one.
    pub slot: Option<usize>,
}

impl Request {
    /// A request with the defaults.
    pub fn new(inputs: Vec<Input>) -> Self {
        Self {
            inputs,
            choices: 1,
            tokens: TokenLimit::Default,
            time: None,
            stop: Vec::new(),
            seed: None,
            sampler: Sampler::default(),
            constraint: None,
            logprobs: None,
            known: None,
            drafts: None,
            thoughts: None,
            thought_budget: None,
            tool_marks: false,
            cache_prompt: true,
            slot: None,
        }
    }

    /// Whether an answer fills a gap.
    pub fn fills_gap(&self) -> bool {
        let is_gap = |input: &Input| matches!(input, Input::Infill(_));
        self.inputs.iter().any(is_gap)
    }
}

/// What an answer answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A conversation.
    Chat(Chat),
    /// A prompt as it is, without a template.
    Prompt(Vec<Piece>),
    /// Text between two others. The limits and the seed are those of the request.
    Infill(InfillRequest),
    /// A text that changes as an instruction asks for.
    Edit(Edit),
    /// A text with blanks, as the answer to something.
    Form(Form),
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The field of the request that has the messages, for errors.
    pub field: &'static str,
    /// The messages, without the one that the answer continues.
    pub messages: Vec<Message>,
    /// Variables of the template, such as `tools`.
    pub variables: Map<String, Value>,
    /// What the answer begins with: it follows the opening of the model's turn, and is not part of the
    /// answer.
    pub prefix: String,
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text, in which special tokens are parsed. The first piece comes after the token that begins a
    /// sequence.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<Token>),
}

/// A text to edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The text, with its line ends.
    pub text: String,
    /// What to change.
    pub instruction: String,
    /// Share of the text that begins as noise.
    pub strength: f32,
    /// Lines that stay, counted from 1.
    pub protected: Vec<RangeInclusive<usize>>,
}

impl Edit {
    /// The text without the line ends after it: an answer does not end with a line end, as a file does.
    pub fn body(&self) -> &str {
        self.text.trim_end_matches(['\r', '\n'])
    }
}

/// A form to fill.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// What it answers: a conversation, or a prompt.
    pub of: Box<Input>,
    /// The form. The seed is that of the request.
    pub request: FormRequest,
}

/// Maximum number of tokens in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenLimit {
    /// The server's.
    #[default]
    Default,
    /// The context is the only one.
    Unlimited,
    /// This number. 0 only encodes the prompt.
    Tokens(usize),
}

/// Parameters of the sampler that a request sets; all others are those of the server and the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampler {
    /// Those of canvases that a GGUF file may recommend as well.
    pub canvas: SamplerOverrides,
    /// Maximum number of canvases.
    pub max_canvases: Option<usize>,
    /// Tokens of a canvas.
    pub canvas_length: Option<usize>,
    /// Which drawn tokens are kept.
    pub acceptance: Option<AcceptanceRule>,
    /// What the constraint changes before the end of a canvas.
    pub constrain_at: Option<ConstrainAt>,
    /// Log-probability below which a token of a finished canvas is doubted.
    pub min_logprob: Option<f32>,
    /// Those of masked models.
    pub masked: MaskedOverrides,
}

/// Parameters of masked models that a request sets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MaskedOverrides {
    /// Denoising steps of the answer.
    pub steps: Option<u32>,
    /// Epsilon of the timestep schedule.
    pub eps: Option<f32>,
    /// Positions of a block of the block schedule.
    pub block_length: Option<usize>,
    /// Which positions are unmasked first.
    pub algorithm: Option<Algorithm>,
    /// Temperature of that choice.
    pub algorithm_temperature: Option<f32>,
    /// Temperature of the tokens.
    pub temperature: Option<f32>,
    /// How many of the most likely tokens may be drawn; 0 is all.
    pub top_k: Option<usize>,
    /// Probability that the tokens which may be drawn have together.
    pub top_p: Option<f32>,
    /// Weight of classifier-free guidance.
    pub guidance: Option<f32>,
    /// Whether tokens are drawn by Gumbel noise.
    pub gumbel_noise: Option<bool>,
}

/// A language that an answer follows, and who asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// Path of the field, for errors.
    pub field: String,
    /// The language.
    pub language: Language,
}

/// A language that an answer follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Language {
    /// Any JSON object.
    JsonObject,
    /// The JSON texts that a schema allows.
    JsonSchema(Value),
    /// The texts that a regular expression matches as a whole.
    Regex(String),
}

/// What is known about a canvas before its first step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCanvas {
    /// The tokens that it begins with, one for each position; without them it begins with noise.
    pub seed: Vec<Token>,
    /// Positions that keep their token.
    pub pinned: Vec<usize>,
    /// What is read of it, if it is not the beginning of an answer.
    pub read: Option<ReadCanvas>,
}

/// What is read of a canvas: the most likely token of each position, with log-probabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadCanvas {
    /// Tokens whose log-probabilities come beside those of the most likely ones.
    pub tokens: Vec<Token>,
    /// Whether all positions that are not pinned hold one of these tokens.
    pub constrained: bool,
}

/// Which drafts a client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafts {
    /// How much of them.
    pub level: DraftLevel,
    /// Minimum time between two of them.
    pub min_interval: Duration,
    /// Every so many steps, at least 1. The last draft of a canvas is always sent.
    pub every: u32,
}

/// How much of a draft a client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DraftLevel {
    /// The text.
    Text,
    /// The most likely tokens, their entropies, and which were accepted.
    Tokens,
    /// Everything that a recording has.
    Full,
}
