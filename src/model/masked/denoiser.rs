//! Denoising with a masked model.

use std::sync::Arc;

use super::load::MaskedModel;
use crate::diffusion::candidates::{CandidateSampler, Choice, Draw};
use crate::diffusion::{Denoiser, Selection, StepInput, StepOutput, Token};
use crate::error::{Error, Result};
use crate::llama::bidirectional::BidirectionalContext;
use crate::parallel;

/// A text of a masked model: a prompt, and one canvas behind it. Nothing is cached: positions see
/// each other in both directions, so that every step reads the whole text.
pub struct MaskedDenoiser {
    model: Arc<MaskedModel>,
    context: BidirectionalContext,
    prefix: Vec<Token>,
    canvas_len: usize,
    threads: usize,
    samplers: Vec<CandidateSampler>,
}

impl std::fmt::Debug for MaskedDenoiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MaskedDenoiser")
            .field("prefix", &self.prefix.len())
            .field("canvas", &self.canvas_len)
            .finish_non_exhaustive()
    }
}

/// Logits that are worth a thread: about a millisecond of work.
const LOGITS_PER_THREAD: usize = 1 << 17;

impl MaskedDenoiser {
    /// Reserves memory for texts of at most `capacity` tokens. `fused` is fused attention, where
    /// libllama decides if it is left open.
    ///
    /// # Errors
    /// There is no memory, or a device cannot do what is asked.
    pub fn new(
        model: &Arc<MaskedModel>,
        capacity: usize,
        threads: usize,
        fused: Option<bool>,
    ) -> Result<Self> {
        parallel::check_threads(threads, "threads (-t)")?;
        Ok(Self {
            context: BidirectionalContext::new(&model.weights, capacity, threads, fused)?,
            model: Arc::clone(model),
            prefix: Vec::new(),
            canvas_len: 1,
            threads,
            samplers: Vec::new(),
        })
    }

    /// Most tokens of a text.
    pub fn capacity(&self) -> usize {
        self.context.capacity()
    }

    /// Begins a text: `prompt`, and `canvas_len` positions to denoise behind it.
    ///
    /// # Errors
    /// The prompt or the canvas is empty, or both do not fit.
    pub fn begin(&mut self, prompt: &[Token], canvas_len: usize) -> Result<()> {
        if prompt.is_empty() || canvas_len == 0 {
            return Err(Error::parameter(
                "prompt",
                "prompt and canvas need at least one token each",
            ));
        }
        if prompt.len().saturating_add(canvas_len) > self.context.capacity() {
            return Err(Error::AnswerTooLong {
                prompt: prompt.len(),
                answer: canvas_len,
                context: self.context.capacity(),
            });
        }
        self.prefix.clear();
        self.prefix.extend_from_slice(prompt);
        self.canvas_len = canvas_len;
        Ok(())
    }

    /// The logits that positions of a canvas are drawn from, one row for each, before guidance.
    ///
    /// # Errors
    /// The canvas has another length, a token is not in the vocabulary, or libllama fails.
    pub fn logits(&mut self, canvas: &[Token]) -> Result<Vec<Vec<f32>>> {
        let all = vec![true; canvas.len()];
        let rows = self.rows(canvas, &all, None)?;
        Ok(rows.into_iter().map(|(_, row)| row.to_vec()).collect())
    }

    /// The rows of the wanted positions of one pass; with `unprompted`, a mask token stands for each
    /// token of the prompt.
    fn rows(
        &mut self,
        canvas: &[Token],
        wanted: &[bool],
        unprompted: Option<Token>,
    ) -> Result<Vec<(usize, &mut [f32])>> {
        if canvas.len() != self.canvas_len || wanted.len() != canvas.len() {
            return Err(Error::parameter(
                "canvas",
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
            .ok_or_else(|| Error::parameter("prompt", "it is empty: give at least one token"))?;
        let vocab = self.model.vocab_size();
        let rows = self.context.logits(&text)?.chunks_exact_mut(vocab);
        let canvas_rows = rows.skip(first).take(wanted.len()).enumerate();
        Ok(canvas_rows
            .filter(|(position, _)| wanted[*position])
            .collect())
    }
}

impl Denoiser for MaskedDenoiser {
    fn canvas_len(&self) -> usize {
        self.canvas_len
    }

    fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    fn context_len(&self) -> usize {
        self.context.capacity()
    }

    fn begin_canvas(&mut self) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, input: StepInput<'_>, output: StepOutput<'_>) -> Result<()> {
        let (Some(selection), Some(likelihood)) = (input.selection, output.likelihood) else {
            return Err(Error::parameter(
                "sampler",
                "a masked model draws some positions only: use MaskedSampler",
            ));
        };
        let mut samplers = std::mem::take(&mut self.samplers);
        samplers.resize_with(self.threads, CandidateSampler::default);
        let threads = self.threads;
        let unguided = match selection.guidance > 0.0 {
            true => {
                let rows = self.rows(input.canvas, selection.wanted, None)?;
                rows.into_iter().map(|(_, row)| row.to_vec()).collect()
            }
            false => Vec::new(),
        };
        let unprompted = (selection.guidance > 0.0).then_some(self.model.mask);
        let mut rows = self.rows(input.canvas, selection.wanted, unprompted)?;
        for ((_, row), prompted) in rows.iter_mut().zip(&unguided) {
            guide(row, prompted, selection.guidance);
        }
        let choices = choose(&mut samplers, threads, rows, &input, &selection)?;
        self.samplers = samplers;
        for (position, choice) in choices {
            output.argmax[position] = choice.argmax;
            output.sampled[position] = choice.sampled;
            output.entropy[position] = choice.entropy;
            likelihood.sampled[position] = choice.probability;
            likelihood.margin[position] = choice.margin;
        }
        Ok(())
    }

    fn commit(&mut self, tokens: &[Token]) -> Result<()> {
        let prefix = [self.prefix.as_slice(), tokens].concat();
        self.begin(&prefix, self.canvas_len)
    }
}

/// Classifier-free guidance, from the logits without the prompt to those with it and beyond.
fn guide(unprompted: &mut [f32], prompted: &[f32], weight: f32) {
    for (without, with) in unprompted.iter_mut().zip(prompted) {
        *without += (weight + 1.0) * (with - *without);
    }
}

type Chosen = Vec<(usize, Choice)>;

/// Draws a token for each row, on as many threads as the rows are worth.
fn choose(
    samplers: &mut [CandidateSampler],
    threads: usize,
    mut rows: Vec<(usize, &mut [f32])>,
    input: &StepInput<'_>,
    selection: &Selection<'_>,
) -> Result<Chosen> {
    let logits: usize = rows.iter().map(|(_, row)| row.len()).sum();
    let threads = threads.min(logits.div_ceil(LOGITS_PER_THREAD)).max(1);
    let share = rows.len().div_ceil(threads).max(1);
    let work =
        |sampler: &mut CandidateSampler, rows: &mut [(usize, &mut [f32])]| -> Result<Chosen> {
            rows.iter_mut()
                .map(|(position, row)| {
                    if let Some(excluded) = row.get_mut(selection.excluded as usize) {
                        *excluded = f32::NEG_INFINITY;
                    }
                    let draw = draw(*position, input, selection);
                    Ok((*position, sampler.choose(row, selection.filter, draw)?))
                })
                .collect()
        };
    let shares = rows.chunks_mut(share).zip(samplers);
    let parts = parallel::map(shares, threads, |(rows, sampler)| work(sampler, rows));
    Ok(parts.into_iter().collect::<Result<Vec<Chosen>>>()?.concat())
}

fn draw<'a>(position: usize, input: &StepInput<'_>, selection: &Selection<'a>) -> Draw<'a> {
    let temperature = input.temperature;
    match selection.gumbel {
        _ if temperature <= 0.0 => Draw::Greedy,
        Some(noise) => Draw::Gumbel {
            temperature,
            position,
            noise,
        },
        None => Draw::Inverse {
            temperature,
            uniform: input.uniforms[position],
        },
    }
}
