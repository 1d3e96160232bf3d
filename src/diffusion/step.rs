//! The contract between the loop and a model: which positions a denoising step draws, from which
//! tokens, by which rule, and what comes back.
//!
//! Every implementation of a draw follows it: the kernels of the CPU and of CUDA, ggml's own
//! operations, and [`DrawSampler`](super::draw::DrawSampler), which draws for the masked families
//! and is the reference that the others are tested against.

use super::Token;
use super::random::NoiseSource;
use super::score::TokenScore;
use crate::constraint::CanvasLanguage;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// What one denoising step reads. Slices have one entry per canvas position.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    /// The canvas to denoise.
    pub canvas: &'a [Token],
    /// The positions to draw. Entries of [`Draws`] at other positions do not change.
    pub free: &'a [bool],
    /// The tokens that may be drawn.
    pub allowed: Allowed<'a>,
    /// Which of the allowed tokens take part.
    pub filter: Filter,
    /// How one of them is chosen.
    pub rule: DrawRule<'a>,
    /// Weight w of classifier-free guidance: with the logits c of the whole text and u of the text
    /// without its prompt, the draw uses u + (w + 1)(c − u). 0 is no guidance and costs no second
    /// pass.
    pub guidance: f32,
    /// Share, in [0, 1), of the earlier steps of the canvas in the distributions that give the most
    /// likely tokens and the self-conditioning of the next step: they become `average` times what
    /// they were plus 1 − `average` times those of this step, normalized. What is drawn, and the
    /// entropies, are those of this step. 0 is this step alone.
    pub average: f32,
    /// The language that the canvas belongs to, or its first positions, as many as the language has. The
    /// most likely text of the language takes the place of the most likely tokens there.
    pub language: Option<Steering<'a>>,
    /// Tokens at positions, whose log-probabilities are wanted: whatever is drawn there.
    pub targets: &'a [(usize, Token)],
}

/// A language, and what it changes.
#[derive(Clone, Copy)]
pub struct Steering<'a> {
    /// The canvases that are allowed.
    pub language: CanvasLanguage<'a>,
    /// Which of the draws follow it.
    pub at: ConstrainAt,
}

/// What a language changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConstrainAt {
    /// All of a step: tokens are drawn from the distribution given the language, entropies and the
    /// self-conditioning are its own, and averages are averaged before.
    #[default]
    Step,
    /// The most likely tokens alone, which are committed in the end.
    Commit,
}

/// The tokens that may be drawn. The distribution is that of the allowed tokens alone.
#[derive(Debug, Clone, Copy)]
pub enum Allowed<'a> {
    /// All of the vocabulary, everywhere.
    All,
    /// Everywhere all but one: the token that stands for no token.
    Except(Token),
    /// At each position, the tokens of a set.
    Sets {
        /// The sets.
        sets: &'a [TokenSet],
        /// For each canvas position, the index of its set; `None` is all of the vocabulary.
        of: &'a [Option<usize>],
    },
}

impl Allowed<'_> {
    /// Whether `token` may be drawn at `position`.
    pub fn contains(&self, position: usize, token: Token) -> bool {
        match self {
            Self::All => true,
            Self::Except(excluded) => token != *excluded,
            Self::Sets { sets, of } => of[position].is_none_or(|set| sets[set].contains(token)),
        }
    }

    /// Whether every token may be drawn at `position`.
    pub fn is_all(&self, position: usize) -> bool {
        match self {
            Self::All => true,
            Self::Except(_) => false,
            Self::Sets { of, .. } => of[position].is_none(),
        }
    }
}

/// A set of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TokenSet {
    words: Vec<u64>,
}

impl TokenSet {
    /// Its tokens, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = Token> + '_ {
        // Made of tokens, so that every index is one.
        let all = 0..(self.words.len() * 64) as Token;
        all.filter(|token| self.contains(*token))
    }

    /// Whether `token` is in the set.
    pub fn contains(&self, token: Token) -> bool {
        let Ok(token) = usize::try_from(token) else {
            return false;
        };
        let word = self.words.get(token / 64).copied().unwrap_or(0);
        word >> (token % 64) & 1 == 1
    }
}

impl FromIterator<Token> for TokenSet {
    /// Negative numbers are not tokens, and are left out.
    fn from_iter<I: IntoIterator<Item = Token>>(tokens: I) -> Self {
        let mut words = Vec::new();
        for token in tokens {
            let Ok(token) = usize::try_from(token) else {
                continue;
            };
            if words.len() <= token / 64 {
                words.resize(token / 64 + 1, 0);
            }
            words[token / 64] |= 1_u64 << (token % 64);
        }
        Self { words }
    }
}

/// Which of the allowed tokens of a position take part in the draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    /// The maximum number of tokens, the most likely ones; 0 is all.
    pub top_k: usize,
    /// Of those, the smallest number of most likely tokens that have this probability together, at
    /// temperature 1. 1 is all.
    pub top_p: f32,
}

impl Filter {
    /// Every token.
    pub const NONE: Self = Self {
        top_k: 0,
        top_p: 1.0,
    };
}

/// How a token is chosen at each position.
#[derive(Clone, Copy)]
pub enum DrawRule<'a> {
    /// The most likely one. The distribution is that of temperature 1.
    Greedy,
    /// By the inverse CDF: the first token, in the order of ids, whose cumulative probability is
    /// above the uniform of the position.
    Inverse {
        /// Divides the logits; above 0.
        temperature: f32,
        /// In [0, 1), one per canvas position.
        uniforms: &'a [f32],
    },
    /// The one whose logit divided by the temperature, plus Gumbel noise, is the largest, which
    /// draws from the same distribution, in F64 (Zheng et al. 2024, arXiv:2409.02908, and LLaDA
    /// after them). The reported distribution is that of temperature 1, as in LLaDA.
    Gumbel {
        /// Divides the logits; above 0.
        temperature: f32,
        /// The noise.
        noise: VocabularyNoise<'a>,
    },
}

/// The randomness that is added to all logits of a position in one step.
#[derive(Clone, Copy)]
pub struct VocabularyNoise<'a> {
    /// Where it comes from.
    pub source: &'a dyn NoiseSource,
    /// Index of the canvas in the answer.
    pub block: u32,
    /// Index of the step in the canvas.
    pub step: u32,
}

/// What one denoising step writes, one entry per canvas position but for the targets. All of it is
/// computed from the logits of the tokens that take part, divided by the temperature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// The most likely token; of equally likely ones the lowest id.
    pub argmax: Vec<Token>,
    /// The token drawn.
    pub sampled: Vec<Token>,
    /// Entropy of the distribution, in nats; not finite if the logits are not.
    pub entropy: Vec<f32>,
    /// Probability of the token drawn.
    pub probability: Vec<f32>,
    /// Probability of the most likely token, less that of the second.
    pub margin: Vec<f32>,
    /// Of each [target](StepInput::targets) of the step, its log-probability in nats among all tokens
    /// at temperature 1.
    pub target_logprobs: Vec<f32>,
}

impl Draws {
    /// For a canvas of `len` positions, with `token` everywhere before the first draw.
    pub fn new(len: usize, token: Token) -> Self {
        let mut draws = Self::default();
        draws.resize(len, token);
        draws
    }

    /// Changes the number of positions; new ones have `token`.
    pub(crate) fn resize(&mut self, len: usize, token: Token) {
        for tokens in [&mut self.argmax, &mut self.sampled] {
            tokens.resize(len, token);
        }
        for numbers in [&mut self.entropy, &mut self.probability, &mut self.margin] {
            numbers.resize(len, 0.0);
        }
    }

    /// Sets a position to a token that is certain.
    pub fn fix(&mut self, position: usize, token: Token) {
        self.argmax[position] = token;
        self.sampled[position] = token;
        self.entropy[position] = 0.0;
        self.probability[position] = 1.0;
        self.margin[position] = 1.0;
    }

    /// Copies the draws at the `free` positions of a canvas that begins at position `first` of another
    /// one.
    pub(crate) fn copy_free(&mut self, from: &Self, first: usize, free: &[bool]) {
        for position in (0..free.len()).filter(|position| free[*position]) {
            let other = first + position;
            self.argmax[position] = from.argmax[other];
            self.sampled[position] = from.sampled[other];
            self.entropy[position] = from.entropy[other];
            self.probability[position] = from.probability[other];
            self.margin[position] = from.margin[other];
        }
    }

    /// Rejects buffers whose lengths are not `len`.
    pub(crate) fn check(&self, len: usize) -> Result<()> {
        let lengths = [
            self.argmax.len(),
            self.sampled.len(),
            self.entropy.len(),
            self.probability.len(),
            self.margin.len(),
        ];
        match lengths == [len; 5] {
            true => Ok(()),
            false => Err(Error::parameter(
                Parameter::Draws,
                format!("each of them must have {len} entries, one per canvas position"),
            )),
        }
    }
}

/// Parts of the contract that not every denoiser implements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrawFeatures {
    /// Positions that are not free.
    pub fixed_positions: bool,
    /// Tokens that are not allowed.
    pub allowed_sets: bool,
    /// A [`Filter`] other than [`Filter::NONE`].
    pub filters: bool,
    /// [`DrawRule::Greedy`].
    pub greedy: bool,
    /// [`DrawRule::Gumbel`].
    pub gumbel: bool,
    /// A [`guidance`](StepInput::guidance) other than 0.
    pub guidance: bool,
    /// An [`average`](StepInput::average) other than 0.
    pub averages: bool,
    /// A [`language`](StepInput::language).
    pub languages: bool,
    /// [`Denoiser::score`], and [`targets`](StepInput::targets).
    pub scores: bool,
}

impl DrawFeatures {
    /// Rejects requirements that are not among these.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first feature that is missing.
    pub fn check(&self, needed: &Self) -> Result<()> {
        let features = [
            (
                self.fixed_positions,
                needed.fixed_positions,
                "draws every position",
            ),
            (
                self.allowed_sets,
                needed.allowed_sets,
                "draws from the whole vocabulary",
            ),
            (
                self.filters,
                needed.filters,
                "draws without top-k and top-p",
            ),
            (self.greedy, needed.greedy, "draws at temperatures above 0"),
            (self.gumbel, needed.gumbel, "draws without Gumbel noise"),
            (self.guidance, needed.guidance, "runs without guidance"),
            (self.averages, needed.averages, "does not average its steps"),
            (self.languages, needed.languages, "runs without constraints"),
            (
                self.scores,
                needed.scores,
                "does not score finished canvases",
            ),
        ];
        let missing = features.iter().find(|(has, needs, _)| *needs && !has);
        match missing {
            Some((_, _, what)) => Err(Error::parameter(
                Parameter::Recipe,
                format!("this model {what}: use the parameters of its family"),
            )),
            None => Ok(()),
        }
    }
}

/// What a denoiser can do, stated before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a canvas in training, the default and the maximum, see
    /// [`check_canvas_length`](super::check_canvas_length). `None` is any length.
    pub canvas: Option<usize>,
    /// Positions for the prefix and the canvas after it.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Maximum number of tokens that one [`prefill`](Denoiser::prefill) takes.
    pub pass: usize,
    /// The token that stands for an unknown one, for a model that starts from it.
    pub mask: Option<Token>,
    /// Which draws it supports.
    pub draws: DrawFeatures,
}

/// How many canvases a pass of a masked model reads: that of the next step, and guesses at those of the
/// steps after it. A step whose canvas was guessed needs no pass of its own; which tokens are drawn does
/// not change (self-speculative decoding, Gao et al. 2025, arXiv:2510.04147). A pass reads more than one only
/// where a canvas has the same logits, bit for bit, as in a pass of its own: on CPUs that is so for texts
/// of a multiple of 64 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookahead {
    /// As many as take the least time, by measurement, in short texts.
    Auto,
    /// This number; 1 guesses nothing.
    Canvases(usize),
}

impl Lookahead {
    /// Maximum number of canvases.
    pub const MAX: usize = 64;
}

/// The canvases of the next steps, as far as they can be guessed.
pub trait Guess {
    /// The canvas of the next step; after [`advance`](Self::advance), a guess at that of the step after.
    fn canvas(&self) -> &[Token];

    /// How many canvases a pass reads.
    fn lookahead(&self) -> Lookahead;

    /// Takes a step, for which `draw` draws without a pass. Returns whether another step follows.
    ///
    /// # Errors
    /// The errors of `draw` and of the source of noise.
    fn advance(
        &mut self,
        draw: &mut dyn FnMut(&StepInput<'_>, &mut Draws) -> Result<()>,
    ) -> Result<bool>;
}

/// A model, as the loop sees it: a prefix, and the canvases that are denoised after it.
pub trait Denoiser {
    /// What it can do.
    fn limits(&self) -> Limits;

    /// Tokens of the prefix: the prompt and the canvases committed so far.
    fn prefix_len(&self) -> usize;

    /// Appends tokens to the prefix: at most [`Limits::pass`] of a prompt, or a finished canvas.
    ///
    /// # Errors
    /// There is no room, a token is not in the vocabulary, or the device fails.
    fn prefill(&mut self, tokens: &[Token]) -> Result<()>;

    /// Begins a canvas of `len` tokens: the next step has no self-conditioning.
    ///
    /// # Errors
    /// There is no room, the length is not one of the model's, or the device fails.
    fn begin_canvas(&mut self, len: usize) -> Result<()>;

    /// Begins `count` canvases of `len` tokens each, which all follow the prefix and do not see each other.
    /// For [`step`](Self::step) they are one canvas of `len * count` positions. By default there can be one.
    ///
    /// # Errors
    /// As [`begin_canvas`](Self::begin_canvas); there are none, or more than the model takes at once.
    fn begin_canvases(&mut self, len: usize, count: usize) -> Result<()> {
        match count {
            1 => self.begin_canvas(len),
            _ => {
                let problem = format!("{count} at once: this model begins one");
                Err(Error::parameter(Parameter::Canvas, problem))
            }
        }
    }

    /// One forward pass over the canvas. If the model has self-conditioning, each step is
    /// conditioned on the distribution of the previous one.
    ///
    /// # Errors
    /// The input is beyond the [`limits`](Self::limits) or does not fit the canvas, or the device
    /// fails.
    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()>;

    /// Reads the canvas of the next step, together with guesses at those after it, unless an earlier pass
    /// has read it. Returns whether one has. By default nothing is read ahead.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    fn read_ahead(&mut self, guesses: &mut dyn Guess) -> Result<bool> {
        let _ = guesses;
        Ok(false)
    }

    /// How likely each token of a finished canvas is: by the first step of a new canvas that begins
    /// with these tokens, at temperature 1. Each score lists the `top` most likely tokens.
    ///
    /// # Errors
    /// The model cannot, which is the default; those of [`begin_canvas`](Self::begin_canvas) and
    /// [`step`](Self::step).
    fn score(&mut self, canvas: &[Token], top: usize) -> Result<Vec<TokenScore>> {
        let _ = (canvas, top);
        let needed = DrawFeatures {
            scores: true,
            ..DrawFeatures::default()
        };
        DrawFeatures::default().check(&needed).map(|()| Vec::new())
    }

    /// How likely each token of a finished canvas is after those before it: by the causal encoder. Each score
    /// lists the `top` most likely tokens. The canvas is not appended to the prefix.
    ///
    /// # Errors
    /// The model cannot, which is the default; the errors of [`prefill`](Self::prefill).
    fn score_by_encoder(&mut self, canvas: &[Token], top: usize) -> Result<Vec<TokenScore>> {
        let _ = (canvas, top);
        let problem = "the model has no causal encoder: score by the denoiser";
        Err(Error::parameter(Parameter::Recipe, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_they_were_made_of() {
        let set: TokenSet = [0, 63, 64, 200, -1].into_iter().collect();
        for token in [0, 63, 64, 200] {
            assert!(set.contains(token), "{token}");
        }
        for token in [-1, 1, 62, 65, 199, 201, 256, Token::MAX] {
            assert!(!set.contains(token), "{token}");
        }
        assert!(!TokenSet::default().contains(0));
    }

    #[test]
    fn a_set_lists_its_tokens_in_order() {
        let set: TokenSet = [200, 3, 64, 3].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 64, 200]);
        assert_eq!(TokenSet::default().iter().count(), 0);
    }

    #[test]
    fn each_missing_feature_is_named() {
        let all = DrawFeatures {
            fixed_positions: true,
            allowed_sets: true,
            filters: true,
            greedy: true,
            gumbel: true,
            guidance: true,
            averages: true,
            languages: true,
            scores: true,
        };
        let none = DrawFeatures::default();
        all.check(&all).unwrap();
        none.check(&none).unwrap();
        let with = |set: fn(&mut DrawFeatures)| {
            let mut one = none;
            set(&mut one);
            none.check(&one).unwrap_err().to_string()
        };
        assert!(with(|f| f.fixed_positions = true).contains("every position"));
        assert!(with(|f| f.allowed_sets = true).contains("whole vocabulary"));
        assert!(with(|f| f.filters = true).contains("top-k and top-p"));
        assert!(with(|f| f.greedy = true).contains("temperatures above 0"));
        assert!(with(|f| f.gumbel = true).contains("Gumbel"));
        assert!(with(|f| f.guidance = true).contains("guidance"));
        assert!(with(|f| f.averages = true).contains("average"));
        assert!(with(|f| f.languages = true).contains("constraints"));
        assert!(with(|f| f.scores = true).contains("score"));
    }
}
