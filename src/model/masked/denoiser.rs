//! Denoising with a masked model.

use std::sync::Arc;
use std::time::Instant;

use super::super::check_tokens;
use super::ahead::Ahead;
use super::constrained;
use super::draws::{choose, guide};
use super::load::MaskedModel;
use crate::diffusion::draw::DrawSampler;
use crate::diffusion::{Denoiser, DrawFeatures, Draws, Guess, Limits, Lookahead, StepInput, Token};
use crate::error::{Error, Result};
use crate::ggml::threads::within_affinity;
use crate::llama::bidirectional::{BidirectionalContext, Room};
use crate::parallel;
use crate::parameter::Parameter;

/// A text of a masked model: a prompt, and one canvas after it. Nothing is cached: positions see
/// each other in both directions, so every step reads the whole text.
pub struct MaskedDenoiser {
    model: Arc<MaskedModel>,
    capacity: usize,
    threads: usize,
    /// Fused attention; libllama decides if it is left open.
    fused: Option<bool>,
    /// Made for the first canvas, and again for a longer text.
    context: Option<BidirectionalContext>,
    prefix: Vec<Token>,
    canvas_len: usize,
    samplers: Vec<DrawSampler>,
    ahead: Ahead,
}

impl std::fmt::Debug for MaskedDenoiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskedDenoiser")
            .field("prefix", &self.prefix.len())
            .field("canvas", &self.canvas_len)
            .finish_non_exhaustive()
    }
}

/// Memory is reserved in units of this number of tokens, so that a growing chat rarely reserves
/// more.
const GRANULE: usize = 256;

impl MaskedDenoiser {
    /// For texts of at most `capacity` tokens. Memory is reserved with the first canvas.
    ///
    /// # Errors
    /// The number of threads is invalid.
    pub fn new(
        model: &Arc<MaskedModel>,
        capacity: usize,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        parallel::check_threads(threads, Parameter::Threads)?;
        Ok(Self {
            model: Arc::clone(model),
            capacity,
            threads: within_affinity(threads),
            fused,
            context: None,
            prefix: Vec::new(),
            canvas_len: 0,
            samplers: Vec::new(),
            ahead: Ahead::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<MaskedModel> {
        &self.model
    }

    /// Maximum number of tokens in a text.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens before the canvas.
    pub fn prefix(&self) -> &[Token] {
        &self.prefix
    }

    /// Replaces the prefix.
    ///
    /// # Errors
    /// They do not fit.
    pub(crate) fn set_prefix(&mut self, tokens: &[Token]) -> Result<()> {
        self.truncate(0);
        self.prefill(tokens)
    }

    /// Keeps the first `count` tokens of the prefix.
    pub fn truncate(&mut self, count: usize) {
        self.prefix.truncate(count);
        self.canvas_len = 0;
        self.ahead.forget();
    }

    /// The logits that positions of a canvas are drawn from, one row each, before guidance.
    ///
    /// # Errors
    /// The canvas has another length, a token is not in the vocabulary, or libllama fails.
    pub fn logits(&mut self, canvas: &[Token]) -> Result<Vec<Vec<f32>>> {
        self.read(canvas, None)?;
        let rows = self.rows(0, &vec![true; canvas.len()])?;
        Ok(rows.into_iter().map(|(_, row)| row.to_vec()).collect())
    }

    /// One pass over a canvas; with `unprompted`, mask tokens replace the tokens of the prompt.
    fn read(&mut self, canvas: &[Token], unprompted: Option<Token>) -> Result<()> {
        self.ahead.forget();
        let mut text = self.text(canvas)?;
        if let Some(mask) = unprompted {
            text[..self.prefix.len()].fill(mask);
        }
        let context = self.context.as_mut().ok_or_else(no_context)?;
        context.logits(&text).map(drop)
    }

    /// The prompt with a canvas after it.
    fn text(&self, canvas: &[Token]) -> Result<Vec<Token>> {
        if self.canvas_len == 0 {
            return Err(Error::parameter(
                Parameter::Canvas,
                "begin_canvas was not called after the prompt",
            ));
        }
        if canvas.len() != self.canvas_len {
            return Err(Error::parameter(
                Parameter::Canvas,
                format!("has {} tokens, expected {}", canvas.len(), self.canvas_len),
            ));
        }
        Ok([&self.prefix[..], canvas].concat())
    }

    /// The logits of some positions of a canvas that the latest pass has read, by its number in the pass.
    fn rows(&mut self, number: usize, wanted: &[bool]) -> Result<Vec<(usize, &mut [f32])>> {
        let prompt = self.prefix.len().checked_sub(self.model.shift);
        let prompt = prompt.ok_or_else(|| {
            Error::parameter(Parameter::Prompt, "it is empty: give at least one token")
        })?;
        let first = number * self.ahead.stride() + prompt;
        let vocab = self.model.vocab_size();
        let context = self.context.as_mut().ok_or_else(no_context)?;
        let rows = context.latest()?.chunks_exact_mut(vocab);
        let canvas_rows = rows.skip(first).take(wanted.len()).enumerate();
        Ok(canvas_rows
            .filter(|(position, _)| wanted[*position])
            .collect())
    }

    /// The positions whose logits a draw needs.
    fn wanted(&self, input: &StepInput<'_>) -> Vec<bool> {
        match input.language {
            // A language is about the tokens that are not final, drawn or not.
            Some(_) => {
                let mask = self.model.mask;
                let tokens = input.canvas.iter().zip(input.free);
                tokens
                    .map(|(token, free)| *free || *token == mask)
                    .collect()
            }
            None => input.free.to_vec(),
        }
    }

    /// Draws from the logits of a canvas that the latest pass has read.
    fn draw(&mut self, number: usize, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        let threads = self.threads;
        let wanted = self.wanted(input);
        if let Some(steering) = &input.language {
            // It is drawn from again, if steps are guessed: the logits must stay.
            let rows = self.rows(number, &wanted)?;
            let mut copies: Vec<(usize, Vec<f32>)> =
                rows.into_iter().map(|(p, row)| (p, row.to_vec())).collect();
            let rows = copies.iter_mut().map(|(p, row)| (*p, &mut row[..]));
            return constrained::draw(rows.collect(), steering, input, threads, draws);
        }
        let mut samplers = std::mem::take(&mut self.samplers);
        samplers.resize_with(threads, DrawSampler::default);
        let choices = choose(&mut samplers, threads, self.rows(number, &wanted)?, input)?;
        self.samplers = samplers;
        for (position, choice) in choices {
            draws.set(position, &choice);
        }
        Ok(())
    }

    /// Logits with guidance, in place of those of the latest pass.
    fn read_guided(&mut self, input: &StepInput<'_>) -> Result<()> {
        let wanted = self.wanted(input);
        self.read(input.canvas, None)?;
        let prompted = self.rows(0, &wanted)?.into_iter();
        let prompted: Vec<Vec<f32>> = prompted.map(|(_, row)| row.to_vec()).collect();
        self.read(input.canvas, Some(self.model.mask))?;
        for ((_, row), prompted) in self.rows(0, &wanted)?.into_iter().zip(&prompted) {
            guide(row, prompted, input.guidance);
        }
        Ok(())
    }

    /// The canvas of the next step, and guesses at those after it by the logits of the latest step: at
    /// most `number` together.
    fn guessed(&mut self, number: usize, guesses: &mut dyn Guess) -> Result<Vec<Vec<Token>>> {
        let mut canvases = vec![guesses.canvas().to_vec()];
        let Some((latest, _)) = self.ahead.latest() else {
            return Ok(canvases);
        };
        while canvases.len() < number {
            let goes_on = guesses.advance(&mut |input, draws| self.draw(latest, input, draws))?;
            if !goes_on {
                break;
            }
            if canvases.last().is_none_or(|last| last != guesses.canvas()) {
                canvases.push(guesses.canvas().to_vec());
            }
        }
        Ok(canvases)
    }

    /// One pass over canvases. The first pass of each number of them has a canvas whose logits are known in
    /// place of the last guess: if these differ in any bit, passes read one canvas from then on. Returns
    /// whether they are the same.
    fn read_several(&mut self, mut canvases: Vec<Vec<Token>>, start: Instant) -> Result<bool> {
        let count = canvases.len();
        let known = match self.ahead.latest() {
            Some((latest, canvas)) if !self.ahead.is_exact(count) => {
                canvases[count - 1] = canvas.to_vec();
                let all = vec![true; self.canvas_len];
                let rows = self.rows(latest, &all)?.into_iter();
                Some(rows.map(|(_, row)| row.to_vec()).collect::<Vec<_>>())
            }
            _ => None,
        };
        let texts = canvases.iter().map(|canvas| self.text(canvas));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let texts: Vec<&[Token]> = texts.iter().map(Vec::as_slice).collect();
        let stride = self.ahead.stride_of(count);
        let context = self.context.as_mut().ok_or_else(no_context)?;
        context.read(&texts, stride)?;
        self.ahead.passed(canvases, stride, start.elapsed());
        let Some(known) = known else {
            return Ok(true);
        };
        let all = vec![true; self.canvas_len];
        let rows = self.rows(count - 1, &all)?;
        let is_exact = rows
            .iter()
            .zip(&known)
            .all(|((_, row), known)| same(row, known));
        self.ahead.compared(count, is_exact);
        if !is_exact {
            // As if nothing had been read.
            self.ahead.forget();
        }
        Ok(is_exact)
    }

    /// Reserves memory for passes of these, unless there is enough. Returns whether it is new.
    fn reserve(&mut self, room: Room) -> Result<bool> {
        let has = self.context.as_ref().map(BidirectionalContext::room);
        if has.is_some_and(|has| has.tokens >= room.tokens && has.texts >= room.texts) {
            return Ok(false);
        }
        // The old one's memory is free before the new one's is reserved.
        self.context = None;
        let weights = &self.model.weights;
        let context = BidirectionalContext::new(weights, room, self.threads, self.fused)?;
        self.context = Some(context);
        Ok(true)
    }
}

fn no_context() -> Error {
    Error::Ggml("the memory of a canvas was not reserved".into())
}

impl Denoiser for MaskedDenoiser {
    fn limits(&self) -> Limits {
        Limits {
            canvas: None,
            context: self.capacity,
            vocab: self.model.vocab_size(),
            pass: usize::MAX,
            mask: Some(self.model.mask),
            draws: DrawFeatures {
                fixed_positions: true,
                allowed_sets: true,
                filters: true,
                greedy: true,
                gumbel: true,
                guidance: true,
                averages: false,
                languages: true,
                scores: false,
            },
        }
    }

    fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    fn prefill(&mut self, tokens: &[Token]) -> Result<()> {
        check_tokens(tokens, self.model.vocab_size())?;
        let prompt = self.prefix.len() + tokens.len();
        if prompt >= self.capacity {
            return Err(Error::ContextFull {
                prompt,
                canvas: 1,
                context: self.capacity,
            });
        }
        self.canvas_len = 0;
        self.prefix.extend_from_slice(tokens);
        Ok(())
    }

    fn begin_canvas(&mut self, len: usize) -> Result<()> {
        if self.prefix.is_empty() || len == 0 {
            return Err(Error::parameter(
                Parameter::Prompt,
                "prompt and canvas need at least one token each",
            ));
        }
        let text = self.prefix.len().saturating_add(len);
        if text > self.capacity {
            return Err(Error::AnswerTooLong {
                prompt: self.prefix.len(),
                answer: len,
                context: self.capacity,
            });
        }
        self.reserve(Room {
            tokens: text.next_multiple_of(GRANULE).min(self.capacity),
            texts: 1,
        })?;
        self.ahead.begin(text);
        self.canvas_len = len;
        Ok(())
    }

    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        draws.check(input.canvas.len())?;
        if input.free.len() != input.canvas.len() {
            let problem = format!("has {} entries of `free`", input.free.len());
            return Err(Error::parameter(Parameter::Canvas, problem));
        }
        let number = match self.ahead.take() {
            Some(number) => number,
            None if input.guidance > 0.0 => {
                self.read_guided(input)?;
                0
            }
            None => {
                self.read(input.canvas, None)?;
                0
            }
        };
        self.draw(number, input, draws)
    }

    fn read_ahead(&mut self, guesses: &mut dyn Guess) -> Result<bool> {
        if self.ahead.finds(guesses.canvas()) {
            return Ok(true);
        }
        let lookahead = guesses.lookahead();
        let limit = self.ahead.limit(lookahead);
        if limit == 1 {
            return Ok(false);
        }
        let room = Room {
            tokens: limit.saturating_mul(self.ahead.stride_of(limit)),
            texts: limit,
        };
        if self.reserve(room)? {
            self.ahead.forget();
        }
        let start = Instant::now();
        let number = self.ahead.number(lookahead);
        let canvases = self.guessed(number, guesses)?;
        let is_exact = self.read_several(canvases, start)?;
        if !is_exact && lookahead != Lookahead::Auto {
            tracing::warn!(
                "a pass of several canvases rounds differently for texts of this length: each step has \
                 a pass of its own"
            );
        }
        Ok(false)
    }
}

/// Whether logits are the same, but for those of tokens that are not allowed.
fn same(row: &[f32], known: &[f32]) -> bool {
    let equal = |(a, b): (&f32, &f32)| a == b || *b == f32::NEG_INFINITY;
    row.iter().zip(known).all(equal)
}
