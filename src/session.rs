//! What one caller owns: a model, its vocabulary, and a sequence with its KV cache.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::diffusion::{
    CancelFlag, CounterNoise, Denoiser as _, DiffusionParams, EndTokens, Event, Generation,
    NoiseSource, Token, generate,
};
use crate::error::{Error, Result};
use crate::model::hparams::{Hparams, LayerHparams};
use crate::model::{MemoryReport, Model, SequenceDenoiser, SessionParams};
use crate::parallel;

/// Operations of a denoising step that are worth a thread: some 10 ms of work. Threads meet after
/// each of a few hundred operations, which takes its time with each thread more.
const OPERATIONS_PER_THREAD: usize = 1 << 30;

fn default_threads(hparams: &Hparams) -> usize {
    let layer = |l: &LayerHparams| {
        let attention = 2 * hparams.d * l.head_dim * (hparams.n_heads + l.n_kv_heads);
        attention + 3 * hparams.d * (hparams.d_ff + hparams.n_experts_used * hparams.d_expert)
    };
    let weights: usize =
        hparams.layers.iter().map(layer).sum::<usize>() + 2 * hparams.d * hparams.vocab_size;
    let operations = weights.saturating_mul(2 * hparams.canvas_length);
    parallel::cores().min(operations.div_ceil(OPERATIONS_PER_THREAD))
}

/// What [`Session::generate`] yields.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Tokens, canvases, steps, and why it ended.
    pub generation: Generation,
    /// Tokens of the prompt that were in the cache already.
    pub reused: usize,
    /// Time to encode the rest of the prompt.
    pub prefill: Duration,
}

/// A conversation with a model. The keys and values of what was read and written stay cached, so
/// that a longer prompt that begins alike costs only its new tokens.
pub struct Session {
    denoiser: SequenceDenoiser,
    end: EndTokens,
}

impl Session {
    /// Reserves the memory of a session. `end` are the tokens that end an answer, for example
    /// [`Model::end_tokens`] and those of the vocabulary.
    ///
    /// # Errors
    /// Parameters that cannot work, or memory that is not there.
    pub fn new(model: &Arc<Model>, end: EndTokens, params: &SessionParams) -> Result<Self> {
        let hparams = model.hparams();
        let threads = params.threads.unwrap_or_else(|| default_threads(hparams));
        let denoiser = SequenceDenoiser::new(model, &params.resolve(hparams, threads))?;
        Ok(Self { denoiser, end })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.denoiser.model()
    }

    /// The tokens that end an answer.
    pub fn end_tokens(&self) -> &EndTokens {
        &self.end
    }

    /// The sequence itself, for callers that run their own loop.
    pub fn denoiser(&mut self) -> &mut SequenceDenoiser {
        &mut self.denoiser
    }

    /// What the model and this session take in the memory of each device.
    pub fn memory_report(&self) -> MemoryReport {
        self.denoiser.memory_report()
    }

    /// Forgets everything read and written.
    pub fn reset(&mut self) {
        self.denoiser.truncate(0);
    }

    /// Encodes a prompt, reusing what is cached of it. Returns how many tokens were.
    ///
    /// # Errors
    /// The prompt is empty or too long for the context, or the device fails.
    pub fn prefill(&mut self, prompt: &[Token]) -> Result<usize> {
        self.prefill_unless(prompt, &CancelFlag::default())
    }

    /// Stops between passes if cancelled; what is encoded by then stays.
    pub(crate) fn prefill_unless(
        &mut self,
        prompt: &[Token],
        cancel: &CancelFlag,
    ) -> Result<usize> {
        if prompt.is_empty() {
            return Err(Error::parameter(
                "prompt",
                "it is empty: give at least one token",
            ));
        }
        let (canvas, context) = (self.denoiser.canvas_len(), self.denoiser.context_len());
        if prompt.len() + canvas > context {
            return Err(Error::ContextFull {
                prompt: prompt.len(),
                canvas,
                context,
            });
        }
        let common = prompt
            .iter()
            .zip(self.denoiser.cached())
            .take_while(|(a, b)| a == b)
            .count();
        let reused = self.denoiser.truncate(common);
        if reused < common {
            tracing::info!(
                "the sliding window has moved on: {common} tokens are read again; --swa-full (swa_full) keeps them"
            );
        }
        for pass in prompt[reused..].chunks(self.denoiser.batch()) {
            if cancel.is_cancelled() {
                break;
            }
            self.denoiser.encode(pass)?;
        }
        Ok(reused)
    }

    /// Answers a prompt with randomness from `params.seed`.
    ///
    /// `on_event` sees every draft and every finished canvas, and may stop the generation, as
    /// `cancel` may from another thread.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill) and [`generate`].
    pub fn generate(
        &mut self,
        prompt: &[Token],
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let noise = CounterNoise::new(params.seed, self.model().hparams().vocab_size)?;
        self.generate_with(prompt, params, &noise, cancel, on_event)
    }

    /// Like [`generate`](Self::generate), with randomness from anywhere.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and those of `noise`.
    pub fn generate_with(
        &mut self,
        prompt: &[Token],
        params: &DiffusionParams,
        noise: &dyn NoiseSource,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        params.validate()?;
        let start = Instant::now();
        let reused = self.prefill_unless(prompt, cancel)?;
        let prefill = start.elapsed();
        let generation = generate(
            &mut self.denoiser,
            noise,
            params,
            &self.end,
            cancel,
            on_event,
        )
        .map_err(|error| self.model().file().explain(error))?;
        Ok(Answer {
            generation,
            reused,
            prefill,
        })
    }
}
