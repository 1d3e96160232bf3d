//! The text side of a gap: the prompt, and which tokens of the texts around it are on the canvas.

use std::ops::ControlFlow;

use serde_json::{Map, Value};

use crate::chat::{ChatTemplate, Message, Role};
use crate::constrained::empty_thought;
use crate::constraint::{self, ByteAutomaton, Constraint, TokenAutomaton};
use crate::diffusion::{
    CANVAS_UNIT, CancelFlag, DiffusionParams, Event, FinishReason, Gap, Infill, Token,
};
use crate::error::{Error, Result};
use crate::infill::{InfillAnswer, InfillExtra, InfillRequest, InfillStop, InfillTimings};
use crate::infill_room::GapTexts;
use crate::parameter::Parameter;
use crate::session::{Answer, Session};
use crate::text_model::TextModel;

/// Marks the gap in a message of the user.
const MARK: &str = "____";

/// Opens a message of the user with a gap.
const INSTRUCTION: &str = "Fill in the gap:";

/// How often texts are cut until they fit: their tokens depend a little on where they are cut.
const CUTS: usize = 4;

/// Maximum number of tokens on each side of a gap that its language spells: the shortest canvas has room for
/// them, a gap, and tokens that its length is found by.
const EDGE: usize = CANVAS_UNIT / 4;

/// How the texts around a gap are put to a model.
#[derive(Debug, Clone)]
pub enum GapPrompt<'a> {
    /// As a message of the user, with a mark at the gap. The model's turn begins with what comes before.
    Chat {
        /// The template.
        template: &'a ChatTemplate,
        /// The messages before.
        opening: Vec<Message>,
        /// Variables of the template.
        variables: Map<String, Value>,
    },
    /// What comes before, as it is. What comes after is on the canvas, as far as it fits.
    Document,
}

/// What an answer puts into a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapContent {
    /// The text.
    pub text: String,
    /// About how many tokens it has: those at the edges may be shared with the texts around.
    pub tokens: usize,
    /// Whether the answer reaches what comes after the gap.
    pub is_closed: bool,
}

/// A gap in a text, ready for a model.
#[derive(Debug, Clone)]
pub struct TextGap {
    prompt: Vec<Token>,
    gap: Gap,
    /// Bytes of the language before the gap and after it.
    before: usize,
    after: usize,
    is_truncated: bool,
}

impl TextGap {
    /// The prompt.
    pub fn prompt(&self) -> &[Token] {
        &self.prompt
    }

    /// Whether the texts around the gap are not all in the prompt, for want of room.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// The answer to a request for no tokens.
    fn unfilled(&self, seed: u64, reused: usize) -> InfillAnswer {
        InfillAnswer {
            content: String::new(),
            tokens_predicted: 0,
            stop: InfillStop::Limit,
            truncated: self.is_truncated,
            seed,
            timings: InfillTimings {
                cache_n: reused,
                prompt_n: self.prompt.len() - reused,
                ..InfillTimings::default()
            },
            lengths: Vec::new(),
        }
    }

    /// The parameters of answer number `index`: those of `request`, otherwise `params`.
    pub fn recipe(&self, request: &InfillRequest, params: &DiffusionParams, index: u32) -> Infill {
        let seed = u64::try_from(request.seed).unwrap_or(params.seed);
        let params = DiffusionParams {
            max_tokens: request.limit(),
            seed: seed.wrapping_add(index.into()),
            ..params.clone()
        };
        let length = request.infill_tokens.given();
        Infill::new(params, self.gap.clone(), length).within(request.time())
    }
}

impl TextModel {
    /// Fills the gap of a request: as many answers as it asks for, or one without text if the gap may have
    /// no tokens, which only reads the prompt.
    ///
    /// `on_event` receives the events of all answers, and may stop them, as `cancel` may from another
    /// thread: then the last answer is [cancelled](InfillStop::Cancelled).
    ///
    /// # Errors
    /// The request is out of range, the model is of a masked family, the context is too small for any text or
    /// the canvas for the edges of the gap, or the device fails.
    pub fn infill(
        &self,
        session: &mut Session,
        request: &InfillRequest,
        prompt: &GapPrompt<'_>,
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<InfillAnswer>> {
        request.check()?;
        let context = session.limits().context;
        let gap = self.text_gap_within(request, prompt, params, context)?;
        if request.limit() == Some(0) {
            let reused = session.prefill(gap.prompt())?;
            return Ok(vec![gap.unfilled(params.seed, reused)]);
        }
        let mut answers = Vec::new();
        for index in 0..request.n_cmpl {
            let recipe = gap.recipe(request, params, index);
            let answer = session.generate(gap.prompt(), &recipe, cancel, on_event)?;
            let filled = self.gap_text(&gap, request, &recipe, &answer)?;
            let is_cancelled = filled.stop == InfillStop::Cancelled;
            answers.push(filled);
            if is_cancelled {
                break;
            }
        }
        Ok(answers)
    }

    /// Prepares the gap of a request: for several answers at once, or a batch.
    ///
    /// # Errors
    /// The model is of a masked family, the vocabulary cannot spell the texts, or the template rejects them.
    pub fn text_gap(&self, request: &InfillRequest, prompt: &GapPrompt<'_>) -> Result<TextGap> {
        let before = request.before();
        let texts = GapTexts::new(&request.input_extra, &before, &request.input_suffix);
        self.gap_of(self.laid_out(&texts, prompt)?, prompt)
    }

    /// As [`text_gap`](Self::text_gap), with a prompt after which a context of `context` tokens has room for
    /// the canvases of `params` that the request may fill; half of the context is enough for them, if that is
    /// a canvas. Of texts that are too long for it, the prompt has what is nearest to the gap: three quarters of
    /// its room are for the text before it. Without room for any text it is longer.
    ///
    /// # Errors
    /// As [`text_gap`](Self::text_gap).
    pub fn text_gap_within(
        &self,
        request: &InfillRequest,
        prompt: &GapPrompt<'_>,
        params: &DiffusionParams,
        context: usize,
    ) -> Result<TextGap> {
        let canvas = params.canvas.or(self.model().canvas_length());
        let room = prompt_room(context, canvas.unwrap_or(1), request);
        let before = request.before();
        let all = GapTexts::new(&request.input_extra, &before, &request.input_suffix);
        // Twice as long as what may have room: cut, it is too long for the room still.
        let near = all.nearest(room.saturating_mul(2 * self.constraint_vocabulary()?.longest()));
        let whole = match prompt {
            GapPrompt::Chat { .. } => near,
            // The text after the gap is not in the prompt.
            GapPrompt::Document => GapTexts {
                after: all.after,
                ..near
            },
        };
        let mut layout = self.laid_out(&whole, prompt)?;
        let is_truncated = layout.prompt.len() > room;
        if is_truncated {
            let nothing = self.laid_out(&GapTexts::new(&[], "", ""), prompt)?;
            let mut goal = room.saturating_sub(nothing.prompt.len());
            for _ in 0..CUTS {
                let cut = match prompt {
                    GapPrompt::Chat { .. } => whole.within(goal, true, self)?,
                    GapPrompt::Document => GapTexts {
                        after: whole.after,
                        ..GapTexts { after: "", ..whole }.within(goal, false, self)?
                    },
                };
                layout = self.laid_out(&cut, prompt)?;
                let Some(excess) = layout.prompt.len().checked_sub(room + 1) else {
                    break;
                };
                goal = goal.saturating_sub(excess + 1);
            }
        }
        Ok(TextGap {
            is_truncated,
            ..self.gap_of(layout, prompt)?
        })
    }

    /// The tokens of a prompt, and of the texts at the edges of its gap.
    fn laid_out(&self, texts: &GapTexts<'_>, prompt: &GapPrompt<'_>) -> Result<Layout> {
        if self.model().mask().is_some() {
            let problem =
                "this model is of a masked family, which cannot fill gaps: use a canvas model";
            return Err(Error::parameter(Parameter::Recipe, problem));
        }
        let (mut tokens, begin) = match prompt {
            GapPrompt::Chat {
                template,
                opening,
                variables,
            } => {
                let text = message(texts);
                let messages = [&opening[..], &[Message::new(Role::User, text)]].concat();
                let mut tokens = self.chat_prompt(template, &messages, variables.clone())?;
                tokens.extend(self.thought(template, &tokens)?);
                (tokens, self.last_lines(texts.before, texts.turn)?)
            }
            GapPrompt::Document => {
                let extra = extra_text(texts.extra);
                (self.vocab().tokenize(&extra, true, false)?, 0)
            }
        };
        let before = Spelled::new(self, &texts.before[begin..])?;
        let after = Spelled::new(self, texts.after)?;
        let tail = before.edge(|from_edge| before.pieces.len() - 1 - from_edge);
        tokens.extend(&before.tokens[..before.tokens.len() - tail]);
        Ok(Layout {
            prompt: tokens,
            tail: before.pieces[before.pieces.len() - tail..].to_vec(),
            head: after.edge(|from_edge| from_edge),
            after,
        })
    }

    fn gap_of(&self, layout: Layout, prompt: &GapPrompt<'_>) -> Result<TextGap> {
        let Layout {
            prompt: tokens,
            tail,
            after,
            head,
        } = layout;
        let end = self.gap_end(prompt)?;
        let tail_bytes = tail.concat();
        let head_bytes = after.pieces[..head].concat();
        let limits = constraint::Limits::default();
        let language = ByteAutomaton::around_gap(&tail_bytes, &head_bytes, &limits);
        let vocabulary = self.constraint_vocabulary()?;
        let automaton = language.and_then(|l| TokenAutomaton::filling(&l, vocabulary, &limits));
        let automaton =
            automaton.map_err(|e| Error::parameter(Parameter::Constraint, e.to_string()))?;
        let rest = after.tokens[head..].to_vec();
        Ok(TextGap {
            prompt: tokens,
            gap: Gap::new(Constraint::new(automaton), tail.len() + head, rest, end),
            before: tail_bytes.len(),
            after: head_bytes.len(),
            is_truncated: false,
        })
    }

    /// The answer to a request, by what `recipe` has generated.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn gap_text(
        &self,
        gap: &TextGap,
        request: &InfillRequest,
        recipe: &Infill,
        answer: &Answer,
    ) -> Result<InfillAnswer> {
        let generation = &answer.generation;
        let report = recipe.report();
        let GapContent {
            text: content,
            tokens,
            is_closed,
        } = self.gap_content(gap, recipe, &generation.tokens)?;
        let stop = match generation.finish {
            FinishReason::Cancelled => InfillStop::Cancelled,
            _ if report.timed_out => InfillStop::Time,
            _ if report.doubtful || !is_closed => InfillStop::Limit,
            _ => InfillStop::Complete,
        };
        let timing = generation.timing;
        let milliseconds = |time: std::time::Duration| 1e3 * time.as_secs_f64();
        Ok(InfillAnswer {
            content,
            tokens_predicted: tokens,
            stop,
            truncated: gap.is_truncated,
            seed: recipe.params().seed,
            timings: InfillTimings {
                cache_n: answer.reused,
                prompt_n: gap.prompt.len() - answer.reused,
                prompt_ms: milliseconds(timing.prefill),
                predicted_n: tokens,
                predicted_ms: milliseconds(timing.denoise + timing.commit),
                steps: generation.steps,
            },
            lengths: match request.infill_lengths {
                true => report.lengths,
                false => Vec::new(),
            },
        })
    }

    /// What the `tokens` of an answer that `recipe` has generated put into the gap. If the time was up, it
    /// ends after its last whole line.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn gap_content(
        &self,
        gap: &TextGap,
        recipe: &Infill,
        tokens: &[Token],
    ) -> Result<GapContent> {
        let is_closed = gap.gap.is_closed_by(tokens);
        let pieces = tokens.iter().map(|t| self.vocab().piece(*t, false));
        let mut bytes = pieces.collect::<Result<Vec<_>>>()?.concat();
        if is_closed {
            bytes.truncate(bytes.len() - gap.after);
        }
        bytes.drain(..gap.before.min(bytes.len()));
        let mut text = whole_characters(bytes);
        if recipe.report().timed_out {
            text.truncate(text.rfind('\n').map_or(text.len(), |line_end| line_end + 1));
        }
        Ok(GapContent {
            text,
            tokens: tokens.len().saturating_sub(gap.gap.around()),
            is_closed,
        })
    }

    /// An empty thought, for a model whose template can ask for thoughts.
    fn thought(&self, template: &ChatTemplate, prompt: &[Token]) -> Result<Vec<Token>> {
        let splitter = self.splitter(prompt);
        if splitter.is_thinking() {
            let problem =
                "it asks for thoughts, before which a gap cannot be filled: switch them off";
            return Err(Error::ChatTemplate(problem.into()));
        }
        match splitter.channel() {
            Some(channel)
                if template.reads("enable_thinking") && prompt.last() != Some(&channel.close()) =>
            {
                empty_thought(channel, self.vocab())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The token that ends a text.
    fn gap_end(&self, prompt: &GapPrompt<'_>) -> Result<Option<Token>> {
        match prompt {
            GapPrompt::Chat {
                template,
                variables,
                ..
            } => self.answer_end(Some(*template), variables.clone()),
            GapPrompt::Document => self.answer_end(None, Map::new()),
        }
    }

    /// The bytes of each token of a text.
    pub(crate) fn spelled(&self, text: &str) -> Result<Vec<Vec<u8>>> {
        Ok(Spelled::new(self, text)?.pieces)
    }
}

/// Maximum number of tokens of a prompt after which there is room for the gap, in half of the context if the
/// gap may be long.
fn prompt_room(context: usize, canvas: usize, request: &InfillRequest) -> usize {
    let canvas = canvas.max(1);
    let wanted = request.limit().unwrap_or(canvas);
    let wanted = wanted.div_ceil(canvas).saturating_mul(canvas);
    context.saturating_sub(wanted.min(context / 2).max(canvas))
}

/// A prompt with a gap, in tokens.
struct Layout {
    prompt: Vec<Token>,
    /// The tokens before the gap that its language spells.
    tail: Vec<Vec<u8>>,
    /// What comes after the gap, and how many of its tokens the language spells.
    after: Spelled,
    head: usize,
}

/// A text in tokens.
struct Spelled {
    tokens: Vec<Token>,
    /// The bytes of each.
    pieces: Vec<Vec<u8>>,
}

impl Spelled {
    fn new(model: &TextModel, text: &str) -> Result<Self> {
        let tokens = model.vocab().tokenize(text, false, false)?;
        let pieces = tokens
            .iter()
            .map(|token| model.vocab().piece(*token, false));
        let pieces = pieces.collect::<Result<Vec<_>>>()?;
        if pieces.concat() != text.as_bytes() {
            let problem = "the vocabulary cannot spell the text around the gap".into();
            return Err(Error::Tokenizer(problem));
        }
        Ok(Self { tokens, pieces })
    }

    /// How many tokens at an edge belong to the language of a gap: the one that touches the gap, and those
    /// that continue its word, as another token may hold it together with text of the gap. `at` counts from
    /// the edge.
    fn edge(&self, at: impl Fn(usize) -> usize) -> usize {
        let count = self.pieces.len().min(EDGE);
        let continues = |next: &usize| {
            let (a, b) = (at(*next - 1), at(*next));
            let (first, second) = (&self.pieces[a.min(b)], &self.pieces[a.max(b)]);
            first.last().is_some_and(is_of_word) && second.first().is_some_and(is_of_word)
        };
        match count {
            0 => 0,
            count => 1 + (1..count).take_while(continues).count(),
        }
    }
}

/// Whether a byte is part of a word; those of characters beyond ASCII are, so that none is split.
fn is_of_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii()
}

/// The message of the user that asks for a gap to be filled.
fn message(texts: &GapTexts<'_>) -> String {
    let GapTexts { before, after, .. } = texts;
    format!(
        "{}{INSTRUCTION}\n{before}{MARK}{after}",
        extra_text(texts.extra)
    )
}

/// Other texts, each after its name.
fn extra_text(extra: &[InfillExtra]) -> String {
    extra.iter().map(InfillExtra::shown).collect()
}

/// Text up to the last whole character.
fn whole_characters(mut bytes: Vec<u8>) -> String {
    let valid = match std::str::from_utf8(&bytes) {
        Ok(text) => text.len(),
        Err(error) => error.valid_up_to(),
    };
    bytes.truncate(valid);
    String::from_utf8_lossy(&bytes).into_owned()
}
