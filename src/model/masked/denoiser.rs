//! Denoising with a masked model.

use std::sync::Arc;

use super::super::check_tokens;
use super::constrained;
use super::load::MaskedModel;
use crate::diffusion::draw::{Choice, DrawSampler};
use crate::diffusion::{Denoiser, DrawFeatures, Draws, Limits, StepInput, Token};
use crate::error::{Error, Result};
use crate::ggml::threads::within_affinity;
use crate::llama::bidirectional::BidirectionalContext;
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
}

impl std::fmt::Debug for MaskedDenoiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskedDenoiser")
            .field("prefix", &self.prefix.len())
            .field("canvas", &self.canvas_len)
            .finish_non_exhaustive()
    }
}

/// Number of logits that is worth a thread: about a millisecond of work.
const LOGITS_PER_THREAD: usize = 1 << 17;

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
    }

    /// The logits that positions of a canvas are drawn from, one row each, before guidance.
    ///
    /// # Errors
    /// The canvas has another length, a token is not in the vocabulary, or libllama fails.
    pub fn logits(&mut self, canvas: &[Token]) -> Result<Vec<Vec<f32>>> {
        let all = vec![true; canvas.len()];
        let rows = self.rows(canvas, &all, None)?;
        Ok(rows.into_iter().map(|(_, row)| row.to_vec()).collect())
    }

    /// The rows of the free positions of one pass; with `unprompted`, mask tokens replace the
    /// tokens of the prompt.
    fn rows(
        &mut self,
        canvas: &[Token],
        free: &[bool],
        unprompted: Option<Token>,
    ) -> Result<Vec<(usize, &mut [f32])>> {
        if self.canvas_len == 0 {
            return Err(Error::parameter(
                Parameter::Canvas,
                "begin_canvas was not called after the prompt",
            ));
        }
        if canvas.len() != self.canvas_len || free.len() != canvas.len() {
            return Err(Error::parameter(
                Parameter::Canvas,
                format!("has {} tokens, expected {}", canvas.len(), self.canvas_len),
            ));
        }
        let mut text = match unprompted {
            Some(mask) => vec![mask; self.prefix.len()],
            None => self.prefix.clone(),
        };
        text.extend_from_slice(canvas);
        let first = self
            .prefix
            .len()
            .checked_sub(self.model.shift)
            .ok_or_else(|| {
                Error::parameter(Parameter::Prompt, "it is empty: give at least one token")
            })?;
        let vocab = self.model.vocab_size();
        let context = self.context.as_mut().ok_or_else(no_context)?;
        let rows = context.logits(&text)?.chunks_exact_mut(vocab);
        let canvas_rows = rows.skip(first).take(free.len()).enumerate();
        Ok(canvas_rows
            .filter(|(position, _)| free[*position])
            .collect())
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
        if self.context.as_ref().is_none_or(|c| c.capacity() < text) {
            // The old one's memory is free before the new one's is reserved.
            self.context = None;
            let capacity = text.next_multiple_of(GRANULE).min(self.capacity);
            let weights = &self.model.weights;
            let context = BidirectionalContext::new(weights, capacity, self.threads, self.fused)?;
            self.context = Some(context);
        }
        self.canvas_len = len;
        Ok(())
    }

    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        draws.check(input.canvas.len())?;
        let mut samplers = std::mem::take(&mut self.samplers);
        samplers.resize_with(self.threads, DrawSampler::default);
        let (threads, guidance) = (self.threads, input.guidance);
        // A language is about the tokens that are not final, drawn or not.
        let mask = self.model.mask;
        let open: Vec<bool> = match input.language {
            Some(_) => {
                let tokens = input.canvas.iter().zip(input.free);
                tokens
                    .map(|(token, free)| *free || *token == mask)
                    .collect()
            }
            None => input.free.to_vec(),
        };
        let prompted: Vec<Vec<f32>> = match guidance > 0.0 {
            true => {
                let rows = self.rows(input.canvas, &open, None)?;
                rows.into_iter().map(|(_, row)| row.to_vec()).collect()
            }
            false => Vec::new(),
        };
        let unprompted = (guidance > 0.0).then_some(self.model.mask);
        let mut rows = self.rows(input.canvas, &open, unprompted)?;
        for ((_, row), prompted) in rows.iter_mut().zip(&prompted) {
            guide(row, prompted, guidance);
        }
        if let Some(steering) = &input.language {
            return constrained::draw(rows, steering, input, threads, draws);
        }
        let choices = choose(&mut samplers, threads, rows, input)?;
        self.samplers = samplers;
        for (position, choice) in choices {
            draws.set(position, &choice);
        }
        Ok(())
    }
}

/// Classifier-free guidance: extrapolates from the logits without the prompt to those with it.
fn guide(unprompted: &mut [f32], prompted: &[f32], weight: f32) {
    for (without, with) in unprompted.iter_mut().zip(prompted) {
        *without += (weight + 1.0) * (with - *without);
    }
}

type Chosen = Vec<(usize, Choice)>;

/// Draws a token for each row, on as many threads as the number of rows justifies.
fn choose(
    samplers: &mut [DrawSampler],
    threads: usize,
    mut rows: Vec<(usize, &mut [f32])>,
    input: &StepInput<'_>,
) -> Result<Chosen> {
    let logits: usize = rows.iter().map(|(_, row)| row.len()).sum();
    let threads = threads.min(logits.div_ceil(LOGITS_PER_THREAD)).max(1);
    let share = rows.len().div_ceil(threads).max(1);
    let work = |sampler: &mut DrawSampler, rows: &mut [(usize, &mut [f32])]| -> Result<Chosen> {
        let draw = |(position, row): &mut (usize, &mut [f32])| {
            Ok((*position, sampler.draw(row, *position, input)?))
        };
        rows.iter_mut().map(draw).collect()
    };
    let shares = rows.chunks_mut(share).zip(samplers);
    let parts = parallel::map(shares, threads, |(rows, sampler)| work(sampler, rows));
    Ok(parts.into_iter().collect::<Result<Vec<Chosen>>>()?.concat())
}
