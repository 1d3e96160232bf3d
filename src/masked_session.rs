//! What one caller owns of a masked model: memory for one text at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::diffusion::{
    CancelFlag, CounterNoise, EndTokens, Event, MaskedParams, MaskedSampler, NoiseSource, Token,
    generate,
};
use crate::error::{Error, Result};
use crate::model::{Backbone as _, FlashAttention, MaskedDenoiser, MaskedModel};
use crate::parallel;
use crate::session::Answer;

/// How a session of a masked model runs. The default suits the model.
#[derive(Clone, Debug, Default)]
pub struct MaskedSessionParams {
    /// Most tokens of a text, prompt and answer; `None` is what the model was trained for.
    pub context: Option<usize>,
    /// Threads of the CPU; `None` is one for each core.
    pub threads: Option<usize>,
    /// Fused attention; libllama decides if it is left open.
    pub flash_attention: FlashAttention,
}

/// How many positions are denoised behind a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLength {
    /// So many (`-n`).
    Tokens(usize),
    /// As many as the prompt leaves of a text of so many tokens (`-ub`, as llama.cpp has it).
    Text(usize),
}

impl AnswerLength {
    /// The number that the user gave, which the blocks of a schedule divide.
    pub fn given(self) -> usize {
        match self {
            Self::Tokens(count) | Self::Text(count) => count,
        }
    }

    /// Positions to denoise behind a prompt of so many tokens.
    ///
    /// # Errors
    /// The prompt leaves none.
    fn behind(self, prompt: usize) -> Result<usize> {
        match self {
            Self::Tokens(0) => Err(Error::parameter("-n", "is 0, but must be at least 1")),
            Self::Tokens(count) => Ok(count),
            Self::Text(text) if text > prompt => Ok(text - prompt),
            Self::Text(text) => Err(Error::parameter(
                "-ub",
                format!(
                    "the prompt has {prompt} tokens, but prompt and answer have {text} together: \
                     raise -ub, give the answer's length with -n, or shorten the prompt"
                ),
            )),
        }
    }
}

/// Memory that is reserved in steps of so many tokens, so that a growing chat seldom needs more.
const GRANULE: usize = 256;

/// Texts of a masked model, one at a time.
#[derive(Debug)]
pub struct MaskedSession {
    model: Arc<MaskedModel>,
    end: EndTokens,
    context: usize,
    threads: usize,
    fused: Option<bool>,
    /// Made for the first text, and again for a longer one.
    denoiser: Option<MaskedDenoiser>,
}

impl MaskedSession {
    /// A session. `end` are the tokens that end an answer.
    pub fn new(model: &Arc<MaskedModel>, end: EndTokens, params: MaskedSessionParams) -> Self {
        let threads = params.threads.unwrap_or_else(parallel::cores);
        parallel::warn_if_more_than_cores(threads);
        Self {
            model: Arc::clone(model),
            end,
            context: params.context.unwrap_or(model.context_length()),
            threads,
            fused: match params.flash_attention {
                FlashAttention::Auto => None,
                FlashAttention::On => Some(true),
                FlashAttention::Off => Some(false),
            },
            denoiser: None,
        }
    }

    /// The sequence, begun for an answer of this length behind a prompt.
    fn begin(&mut self, prompt: &[Token], length: AnswerLength) -> Result<&mut MaskedDenoiser> {
        if prompt.is_empty() {
            return Err(Error::parameter(
                "prompt",
                "it is empty: give at least one token",
            ));
        }
        let canvas = length.behind(prompt.len())?;
        let text = prompt.len().saturating_add(canvas);
        if text > self.context {
            return Err(Error::AnswerTooLong {
                prompt: prompt.len(),
                answer: canvas,
                context: self.context,
            });
        }
        let denoiser = match self.denoiser.take() {
            Some(denoiser) if denoiser.capacity() >= text => denoiser,
            // The old one's memory is free by now.
            _ => {
                let capacity = text.next_multiple_of(GRANULE).min(self.context);
                MaskedDenoiser::new(&self.model, capacity, self.threads, self.fused)?
            }
        };
        let denoiser = self.denoiser.insert(denoiser);
        denoiser.begin(prompt, canvas)?;
        Ok(denoiser)
    }

    /// Answers a prompt with randomness from `params.seed`.
    ///
    /// `on_event` sees every draft and the finished canvas, and may stop the generation, as `cancel`
    /// may from another thread.
    ///
    /// # Errors
    /// Parameters out of range, a prompt that is empty or too long, or the device fails.
    pub fn generate(
        &mut self,
        prompt: &[Token],
        length: AnswerLength,
        params: &MaskedParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let noise = CounterNoise::new(params.seed, self.model.vocab_size())?;
        self.generate_with(prompt, length, params, &noise, cancel, on_event)
    }

    /// Like [`generate`](Self::generate), with randomness from anywhere.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and those of `noise`.
    pub fn generate_with(
        &mut self,
        prompt: &[Token],
        length: AnswerLength,
        params: &MaskedParams,
        noise: &dyn NoiseSource,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        params.validate()?;
        let end = self.end.clone();
        let sampler = MaskedSampler {
            params: params.clone(),
            mask: self.model.mask(),
        };
        let model = Arc::clone(&self.model);
        let denoiser = self.begin(prompt, length)?;
        Ok(Answer {
            generation: generate(denoiser, noise, &sampler, &end, cancel, on_event)
                .map_err(|error| model.file().explain(error))?,
            // Every step reads the prompt.
            reused: 0,
            prefill: Duration::ZERO,
        })
    }
}
