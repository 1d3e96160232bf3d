//! One canvas on its way from noise to a finished block, whatever the noise: what a step reads and
//! writes, what a caller sees of it, and what a kind of diffusion has to implement.
//!
//! A [`Run`] does not call the model. It says what the next step needs and takes what the step gave,
//! so that one loop can drive one canvas and another one a whole batch.

use super::Token;
use super::candidates::{Filter, VocabularyNoise};
use super::random::NoiseSource;
use crate::error::Result;

/// What one denoising step reads. Slices have one entry per canvas position.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// The canvas to denoise.
    pub canvas: &'a [Token],
    /// Divides the logits.
    pub temperature: f32,
    /// In [0, 1); the inverse CDF at these points gives the sampled tokens.
    pub uniforms: &'a [f32],
    /// Which positions are drawn, and from what part of the distribution. `None` is all positions,
    /// each from all of it.
    pub selection: Option<Selection<'a>>,
}

/// A draw of some positions from a part of their distribution.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    /// The positions to draw. Entries of the output at the others are left as they are.
    pub wanted: &'a [bool],
    /// Which tokens of a position may be drawn.
    pub filter: Filter,
    /// A token that is never drawn: the one that stands for no token.
    pub excluded: Token,
    /// Weight w of classifier-free guidance: with the logits c of the whole text and u of the text
    /// without its prompt, u + (w + 1)(c − u) is drawn from. 0 is none, and costs no second pass.
    pub guidance: f32,
    /// Draws by the largest noised logit instead of by the inverse CDF.
    pub gumbel: Option<VocabularyNoise<'a>>,
}

impl std::fmt::Debug for Selection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selection")
            .field("wanted", &self.wanted)
            .field("filter", &self.filter)
            .field("guidance", &self.guidance)
            .finish_non_exhaustive()
    }
}

/// What one denoising step writes, every entry. Slices have one entry per canvas position; all of
/// it follows from the logits divided by the temperature.
#[derive(Debug)]
pub struct StepOutput<'a> {
    /// The most likely token.
    pub argmax: &'a mut [Token],
    /// A token drawn from the distribution.
    pub sampled: &'a mut [Token],
    /// Entropy of the distribution, in nats.
    pub entropy: &'a mut [f32],
    /// How likely the tokens are, for a step with a [`Selection`].
    pub likelihood: Option<Likelihood<'a>>,
}

/// Probabilities of the distribution that a position is drawn from, one entry per canvas position.
#[derive(Debug)]
pub struct Likelihood<'a> {
    /// Of the drawn token.
    pub sampled: &'a mut [f32],
    /// Of the most likely token, less that of the second.
    pub margin: &'a mut [f32],
}

impl StepOutput<'_> {
    /// The same slices, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> StepOutput<'_> {
        StepOutput {
            argmax: self.argmax,
            sampled: self.sampled,
            entropy: self.entropy,
            likelihood: self.likelihood.as_mut().map(|l| Likelihood {
                sampled: l.sampled,
                margin: l.margin,
            }),
        }
    }
}

/// Whether a canvas needs another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
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
    /// Most steps that the canvas gets.
    pub max_steps: u32,
    /// Temperature of the step.
    pub temperature: f32,
    /// Most likely tokens: the best guess at the finished canvas so far.
    pub argmax: &'a [Token],
    /// Tokens drawn in this step.
    pub sampled: &'a [Token],
    /// Entropies in nats.
    pub entropy: &'a [f32],
    /// Positions whose drawn token was accepted.
    pub accepted: &'a [bool],
    /// Input of the next step: accepted tokens, and noise elsewhere.
    pub canvas: &'a [Token],
    /// Mean of the entropies, in nats.
    pub mean_entropy: f32,
    /// Whether the argmax canvas equals those of the previous steps, as many as the stability
    /// threshold asks for.
    pub stable: bool,
    /// Whether another step follows.
    pub progress: Progress,
}

/// A canvas on its way to a finished block, whatever the kind of noise it starts from.
///
/// While it is [`Running`](Progress::Running), each step is [`begin_step`](Self::begin_step), the
/// model, [`end_step`](Self::end_step); then comes [`finish`](Self::finish).
pub trait Run {
    /// Draws the randomness of the next step, and lends what the model reads and where it writes.
    ///
    /// # Errors
    /// Those of `noise`.
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, StepOutput<'a>)>;

    /// Takes what the model wrote: keeps some of it, and decides whether the canvas is done.
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) if an entropy is not finite: sorting by it would mean nothing, and a canvas
    /// of arbitrary tokens would look like an answer. Those of `noise`.
    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()>;

    /// Whether the canvas needs another step.
    fn progress(&self) -> Progress;

    /// The canvas as the latest [`end_step`](Self::end_step) left it. Before the first one it is
    /// that of [`new_canvas`](Self::new_canvas), and what steps write has no meaning.
    fn draft(&self) -> Draft<'_>;

    /// The canvas before its first step.
    fn new_canvas(&self) -> NewCanvas<'_> {
        let draft = self.draft();
        NewCanvas {
            block: draft.block,
            max_steps: draft.max_steps,
            tokens: draft.canvas,
        }
    }

    /// The finished block, cut at its first end token. Nothing is left in the run.
    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas;
}

/// Parameters of a generation, and the kind of diffusion that they are for.
pub trait Sampler {
    /// Checks every parameter.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`](crate::Error::InvalidParameter) names the first parameter that cannot work, with its flag.
    fn validate(&self) -> Result<()>;

    /// Most tokens of the answer; `None` is no limit.
    fn max_tokens(&self) -> Option<usize>;

    /// Most canvases of `canvas_len` tokens; `None` is no limit.
    fn canvas_limit(&self, canvas_len: usize) -> Option<usize>;

    /// Canvas number `block` of an answer, before its first step. `end` are the tokens that end the
    /// answer.
    ///
    /// # Errors
    /// Those of `noise`.
    fn begin(
        &self,
        block: u32,
        canvas_len: usize,
        end: &EndTokens,
        noise: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>>;
}

/// Which tokens end an answer, and what fills a canvas behind them.
///
/// They come from the generation config (or what a GGUF says of it), and a checkpoint may have
/// several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndTokens {
    /// Each of these ends the answer.
    pub ids: Vec<Token>,
    /// Replaces what follows the first end token of a canvas. Never part of an answer.
    pub pad: Option<Token>,
}

impl EndTokens {
    /// Whether `token` ends the answer.
    pub fn is_end(&self, token: Token) -> bool {
        self.ids.contains(&token)
    }
}

/// A denoised block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedCanvas {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Denoising steps it took.
    pub steps: u32,
    /// Whether it stopped because it was stable and confident, and not for lack of steps.
    pub converged: bool,
    /// The whole canvas, as it is committed to the KV cache and as the reference returns it: the
    /// first end token stays, what follows it is padding.
    pub tokens: Vec<Token>,
    /// What a reader wants of it: the tokens before the first end token, without padding, and no
    /// more than the answer's limit allows.
    pub answer: Vec<Token>,
    /// Tokens of the canvas that are not padding; the first end token counts.
    pub generated: usize,
    /// Whether it holds an end token.
    pub ended: bool,
}
