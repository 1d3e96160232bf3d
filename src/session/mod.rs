//! A session: one sequence with its KV cache, on a shared model.

mod ahead;
mod batch;
mod check;
mod edit;
mod events;
mod fill;
mod parts;
mod rows;
mod snapshot;

use std::ops::ControlFlow;
use std::time::Instant;

use crate::diffusion::generation::check_prompt;
use crate::diffusion::{
    CancelFlag, CounterNoise, Denoiser, EndTokens, Event, Generation, Generator, Limits,
    NoiseSource, Recipe, Scorer, Scoring, Token, advance,
};
use crate::error::{Error, Result};
use crate::model::hparams::{Hparams, LayerHparams};
use crate::model::{
    AnyModel, FlashAttention, MaskedDenoiser, MemoryReport, SequenceDenoiser, SessionParams,
};
use crate::parallel;
use crate::parameter::Parameter;

pub use batch::{FinishedMember, MemberId, SessionBatch};
pub use events::Events;
pub use fill::FormRun;
pub use rows::{CanvasRow, OnLogits, RowsReport, RowsRun};
pub use snapshot::Snapshot;

/// Operations of a denoising step that are worth a thread: some 10 ms of work. Threads synchronize
/// after each of a few hundred operations, which takes longer with each further thread.
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

/// The result of [`Session::generate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Tokens, canvases, steps, times, and why it ended.
    pub generation: Generation,
    /// Tokens of the prompt that were already in the cache.
    pub reused: usize,
}

/// The sequence of either family.
enum Sequence {
    Canvas(Box<SequenceDenoiser>),
    Masked(Box<MaskedDenoiser>),
}

/// A conversation with a model. The keys and values of everything encoded stay cached, so a longer
/// prompt with the same beginning costs only its new tokens. (The masked families have no cache.)
pub struct Session {
    model: AnyModel,
    sequence: Sequence,
    end: EndTokens,
    params: SessionParams,
}

impl Session {
    /// Reserves the memory of a session. `end` are the tokens that end an answer, for example
    /// [`AnyModel::end_tokens`] and those of the vocabulary.
    ///
    /// # Errors
    /// Invalid parameters, or not enough memory.
    pub fn new(model: impl Into<AnyModel>, end: EndTokens, params: &SessionParams) -> Result<Self> {
        let model = model.into();
        let sequence = match &model {
            AnyModel::Canvas(model) => {
                let hparams = model.hparams();
                let threads = params.threads.unwrap_or_else(|| default_threads(hparams));
                let params = params.resolve(hparams, threads);
                Sequence::Canvas(Box::new(SequenceDenoiser::new(model, &params)?))
            }
            AnyModel::Masked(model) => {
                let context = params.context.filter(|context| *context > 0);
                let fused = match params.flash_attention {
                    FlashAttention::Auto => None,
                    FlashAttention::On => Some(true),
                    FlashAttention::Off => Some(false),
                };
                Sequence::Masked(Box::new(MaskedDenoiser::new(
                    model,
                    context.unwrap_or(model.context_length()),
                    params.threads.unwrap_or_else(parallel::cores),
                    fused,
                )?))
            }
        };
        Ok(Self {
            model,
            sequence,
            end,
            params: params.clone(),
        })
    }

    /// The model.
    pub fn model(&self) -> &AnyModel {
        &self.model
    }

    /// The tokens that end an answer.
    pub fn end_tokens(&self) -> &EndTokens {
        &self.end
    }

    /// The sequence, for callers that run their own loop.
    pub fn denoiser(&mut self) -> &mut dyn Denoiser {
        match &mut self.sequence {
            Sequence::Canvas(denoiser) => &mut **denoiser,
            Sequence::Masked(denoiser) => &mut **denoiser,
        }
    }

    /// The sequence of a canvas model, with what only such a model has: logits, counters, keys and
    /// values.
    ///
    /// # Errors
    /// The model is of a masked family.
    pub fn canvas_denoiser(&mut self) -> Result<&mut SequenceDenoiser> {
        match &mut self.sequence {
            Sequence::Canvas(denoiser) => Ok(denoiser),
            Sequence::Masked(_) => Err(Error::parameter(
                Parameter::Session,
                "its model is of a masked family, which has no KV cache",
            )),
        }
    }

    /// What the sequence can do.
    pub fn limits(&self) -> Limits {
        match &self.sequence {
            Sequence::Canvas(denoiser) => denoiser.limits(),
            Sequence::Masked(denoiser) => denoiser.limits(),
        }
    }

    /// What the model and this session need in the memory of each device; `None` for models that
    /// libllama runs, which keeps its own account.
    pub fn memory_report(&self) -> Option<MemoryReport> {
        match &self.sequence {
            Sequence::Canvas(denoiser) => Some(denoiser.memory_report()),
            Sequence::Masked(_) => None,
        }
    }

    /// The tokens that are cached.
    pub fn cached(&self) -> &[Token] {
        match &self.sequence {
            Sequence::Canvas(denoiser) => denoiser.cached(),
            Sequence::Masked(_) => &[],
        }
    }

    /// Clears the cache.
    ///
    /// # Errors
    /// The device fails.
    pub fn reset(&mut self) -> Result<()> {
        self.keep(0)
    }

    /// How many tokens of a prompt are cached and need not be encoded again.
    pub fn usable_prefix(&self, prompt: &[Token]) -> usize {
        let Sequence::Canvas(denoiser) = &self.sequence else {
            // Every step reads the prompt.
            return 0;
        };
        let pairs = prompt.iter().zip(denoiser.cached());
        denoiser.usable_prefix(pairs.take_while(|(a, b)| a == b).count())
    }

    fn keep(&mut self, count: usize) -> Result<()> {
        match &mut self.sequence {
            Sequence::Canvas(denoiser) => denoiser.truncate(count).map(drop),
            Sequence::Masked(denoiser) => {
                denoiser.truncate(count);
                Ok(())
            }
        }
    }

    /// Keeps the first `reused` tokens of the cache for a prompt, and records where it ends.
    fn keep_for(&mut self, prompt: &[Token], reused: usize) -> Result<()> {
        self.keep(reused)?;
        if let Sequence::Canvas(denoiser) = &mut self.sequence {
            denoiser.protect(prompt.len());
        }
        Ok(())
    }

    /// Encodes a prompt, reusing its cached part. Returns the number of reused tokens.
    ///
    /// # Errors
    /// The prompt is empty or too long for the context, or the device fails.
    pub fn prefill(&mut self, prompt: &[Token]) -> Result<usize> {
        let limits = self.limits();
        check_prompt(prompt.len(), limits.canvas.unwrap_or(1), &limits)?;
        let reused = self.usable_prefix(prompt);
        self.keep_for(prompt, reused)?;
        for pass in prompt[reused..].chunks(limits.pass) {
            self.denoiser().prefill(pass)?;
        }
        Ok(reused)
    }

    /// Begins an answer to a prompt: returns the generator that says what comes next. The cached
    /// part of the prompt stays, the rest of the cache is dropped.
    ///
    /// # Errors
    /// As [`Generator::new`]; the canvases are scored by an encoder that is not trained to predict tokens.
    pub fn begin(&mut self, prompt: &[Token], params: &dyn Recipe) -> Result<Generator> {
        let reused = self.usable_prefix(prompt);
        let mut generator =
            Generator::new(params.boxed(), prompt, reused, &self.end, self.limits())?;
        let is_by_encoder = |scoring: Scoring| scoring.by == Scorer::Encoder;
        if params.scoring().is_some_and(is_by_encoder) {
            let start = Instant::now();
            self.encode_checked(prompt, Parameter::MinLogprob)?;
            let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
            generator.prefilled(prompt.len() - reused, start, go_on);
        } else {
            self.keep_for(prompt, reused)?;
        }
        Ok(generator)
    }

    /// Answers a prompt with randomness from the seed of `params`.
    ///
    /// `on_event` receives every draft and every finished canvas, and may stop the generation, as
    /// `cancel` may from another thread.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), or the device fails.
    pub fn generate(
        &mut self,
        prompt: &[Token],
        params: &dyn Recipe,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let noise = CounterNoise::new(params.seed(), self.model.vocab_size())?;
        self.generate_with(prompt, params, &noise, cancel, on_event)
    }

    /// Like [`generate`](Self::generate), with randomness from any source.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and the errors of `noise`.
    pub fn generate_with(
        &mut self,
        prompt: &[Token],
        params: &dyn Recipe,
        noise: &dyn NoiseSource,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let mut generator = self.begin(prompt, params)?;
        while self
            .advance(&mut generator, noise, cancel, on_event)?
            .is_continue()
        {}
        Ok(Answer {
            reused: generator.reused(),
            generation: generator.finish(),
        })
    }

    /// Performs the next action of an answer that [`begin`](Self::begin) returned. Breaks when it
    /// is done.
    ///
    /// # Errors
    /// The device fails, or `noise` does.
    pub fn advance(
        &mut self,
        generator: &mut Generator,
        noise: &dyn NoiseSource,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        advance(generator, self.denoiser(), noise, cancel, on_event)
            .map_err(|error| self.explain(error))
    }

    /// Answers a prompt like [`generate`](Self::generate), as an iterator of events.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn events(&mut self, prompt: &[Token], params: &dyn Recipe) -> Result<Events<'_>> {
        Events::new(self, prompt, params)
    }

    /// Names the damaged tensor if draws are not finite.
    fn explain(&self, error: Error) -> Error {
        self.model.file().explain(error)
    }
}
