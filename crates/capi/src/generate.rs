//! Generation: a prompt into an answer.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ops::ControlFlow;

use super::border::{
    Failure, Result, StructOutput, Versioned, fill, guard, output, read, reference, require, slice,
};
use super::context::diffusion_context;
use super::error::{diffusion_error, diffusion_status};
use super::model::diffusion_model;
use super::scores::{Scores, diffusion_scores_callback};
use llama_diffusion::diffusion::{
    Algorithm, CanvasStatus, Correction, Draft, Filter, FinishedCanvas, Limits, Recipe, Scoring,
    TransferSchedule,
};
use llama_diffusion::{
    Answer, AnswerLength, AnyModel, DiffusionParams, Event, FinishReason, MaskedParams,
    SamplerOverrides, Session, Token,
};

/// Why a generation ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_finish {
    /// The model ended the answer.
    EndOfText = 0,
    /// A limit of the parameters was reached.
    Length = 1,
    /// The context has no space for another canvas.
    ContextFull = 2,
}

/// Whether a canvas needs another denoising step.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_progress {
    /// It does.
    Running = 0,
    /// It does not: it is stable and its mean entropy below the threshold, or, for a masked model,
    /// the answer is unmasked.
    Converged = 1,
    /// It does not get one: all steps are used up.
    OutOfSteps = 2,
}

/// What decides which masked positions a step unmasks first.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_algorithm {
    /// Each with the probability of the schedule.
    Origin = 0,
    /// Lowest entropy first.
    Entropy = 1,
    /// Largest margin between the two most likely tokens first.
    Margin = 2,
    /// Random order.
    Random = 3,
    /// Most likely token first.
    Confidence = 4,
}

/// A canvas after one denoising step. Valid only during the callback.
#[repr(C)]
pub struct diffusion_draft {
    /// Size of the struct in the library.
    pub struct_size: usize,
    /// Tokens of a canvas: entries of each array below.
    pub length: usize,
    /// The most likely tokens: the current estimate of the finished canvas.
    pub argmax: *const i32,
    /// The tokens that were drawn in this step.
    pub sampled: *const i32,
    /// Input of the next step: accepted tokens, and noise elsewhere.
    pub canvas: *const i32,
    /// Entropy of the distribution at each position, in nats.
    pub entropy: *const f32,
    /// Which drawn tokens were accepted.
    pub accepted: *const bool,
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Maximum number of steps of the canvas.
    pub max_steps: u32,
    /// Temperature of the step.
    pub temperature: f32,
    /// Mean of `entropy`, in nats.
    pub mean_entropy: f32,
    /// A `diffusion_progress`.
    pub progress: i32,
    /// Probability of each drawn token.
    pub probability: *const f32,
}

impl diffusion_draft {
    fn new(draft: &Draft<'_>) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            length: draft.argmax.len(),
            argmax: draft.argmax.as_ptr(),
            sampled: draft.sampled.as_ptr(),
            canvas: draft.canvas.as_ptr(),
            entropy: draft.entropy.as_ptr(),
            accepted: draft.accepted.as_ptr(),
            block: draft.block,
            step: draft.step,
            max_steps: draft.max_steps,
            temperature: draft.temperature,
            mean_entropy: draft.mean_entropy,
            progress: match draft.status {
                CanvasStatus::Running => diffusion_progress::Running,
                CanvasStatus::Converged => diffusion_progress::Converged,
                CanvasStatus::OutOfSteps => diffusion_progress::OutOfSteps,
            } as i32,
            probability: draft.probability.as_ptr(),
        }
    }
}

/// A finished canvas. Valid only during the callback.
#[repr(C)]
pub struct diffusion_canvas {
    /// Size of the struct in the library.
    pub struct_size: usize,
    /// The tokens that it adds to the answer.
    pub tokens: *const i32,
    /// Number of these tokens.
    pub count: usize,
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Number of its denoising steps.
    pub steps: u32,
    /// 1 if it converged, 0 if its steps were used up.
    pub converged: i32,
    /// 1 if the answer ends in this canvas, else 0.
    pub ended: i32,
}

impl diffusion_canvas {
    fn new(canvas: &FinishedCanvas) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            tokens: canvas.answer.as_ptr(),
            count: canvas.answer.len(),
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged.into(),
            ended: canvas.ended.into(),
        }
    }
}

/// Called after each denoising step with the canvas. Returns false to cancel.
pub type diffusion_step_callback =
    Option<unsafe extern "C" fn(draft: *const diffusion_draft, user_data: *mut c_void) -> bool>;

/// Called with each finished canvas. Returns false to cancel, which has no effect after the last
/// one.
pub type diffusion_canvas_callback =
    Option<unsafe extern "C" fn(canvas: *const diffusion_canvas, user_data: *mut c_void) -> bool>;

/// How an answer is generated. Set by `diffusion_params_init`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_params {
    /// Size of the struct, which identifies its version.
    pub struct_size: usize,
    /// The same seed, prompt and parameters give the same answer on the same machine. Default 0.
    pub seed: u64,
    /// Maximum number of tokens in the answer; 0 means no limit. Default 256. A masked model
    /// denoises exactly this many tokens; with 0, as many as its trained context leaves after the
    /// prompt.
    pub max_tokens: usize,
    /// Maximum number of canvases; 0 is as many as `max_tokens` needs. Default 0.
    pub max_canvases: usize,
    /// Called after each denoising step; may be NULL. Both callbacks are called by the thread that
    /// generates.
    pub on_step: diffusion_step_callback,
    /// Called with each finished canvas; may be NULL.
    pub on_canvas: diffusion_canvas_callback,
    /// Passed to both callbacks.
    pub user_data: *mut c_void,
    /// Maximum number of denoising steps of a canvas, at least 1.
    pub max_steps: u32,
    /// Number of steps for which a canvas must stay the same to count as stable; 0 is always
    /// stable.
    pub stability_threshold: u32,
    /// Temperature that the last step approaches; 0 or more.
    pub t_min: f32,
    /// Temperature of the first step; at least `t_min`, and 1e-20 or more.
    pub t_max: f32,
    /// Entropy bound, in nats; above 0: a step accepts positions in ascending order of entropy
    /// while the entropies before them sum to no more than this.
    pub entropy_bound: f32,
    /// A stable canvas is finished once its mean entropy is below this, in nats; 0 or more. With 0
    /// every canvas uses all its steps.
    pub confidence_threshold: f32,
    /// This field and those below are for masked models. Which positions a step unmasks first, a
    /// `diffusion_algorithm`. Default `CONFIDENCE`.
    pub algorithm: i32,
    /// Temperature of that choice; 0 always takes the best positions. Default 0.
    pub algorithm_temperature: f32,
    /// Temperature of the draws; 0 takes the most likely token. Default 0.8.
    pub temperature: f32,
    /// Draw only from this number of most likely tokens; 0 is all. Default 40.
    pub top_k: u32,
    /// Draw only from the most likely tokens whose total probability reaches this; 1 is all.
    /// Default 0.95.
    pub top_p: f32,
    /// Weight of classifier-free guidance; 0 is none. Default 0.
    pub guidance: f32,
    /// Epsilon of the schedule over the whole answer, if `block_length` is 0; above 0, below 1.
    /// Default 0.001.
    pub eps: f32,
    /// Block length of the block schedule: it divides the length of the answer, and the number of
    /// blocks divides `max_steps`. 0 selects the schedule over the whole answer. Default 0.
    pub block_length: u32,
    /// 1 draws with Gumbel noise, 0 with the inverse CDF. Default 0.
    pub gumbel_noise: i32,
    /// Reserved; 0.
    pub reserved: i32,
    /// Tokens of a canvas: `diffusion_model_canvas_length`, or a multiple of 16 below it; shorter
    /// canvases take less time, and are less often right. 0 is `diffusion_model_canvas_length`. Not
    /// for masked models. Default 0.
    pub canvas: usize,
    /// This field and those below are for canvas models. Tokens of a finished canvas whose
    /// log-probability, in nats, is below this are denoised again with their neighbours, which takes a
    /// step to check the canvas and at most two repairs of 8 steps; 0 repairs nothing. Default 0.
    pub min_logprob: f32,
    /// Called with the scores of each canvas, which take a step; may be NULL, as `on_step`.
    pub on_scores: diffusion_scores_callback,
    /// Number of the most likely tokens of each position that `on_scores` receives. Default 0.
    pub top_logprobs: usize,
}

/// Epsilon of the schedule of Dream.
const MASKED_EPS: f32 = 0.001;

// SAFETY: numbers, pointers and optional functions in C's layout, the size first.
unsafe impl Versioned for diffusion_params {
    const NAME: &'static str = "diffusion_params";
    const FIRST_SIZE: usize = offset_of!(Self, confidence_threshold) + size_of::<f32>();
}

impl diffusion_params {
    /// What the model recommends, else the reference's defaults.
    pub(super) fn of_model(shared: &diffusion_model) -> Result<Self> {
        let params =
            DiffusionParams::resolve(&SamplerOverrides::default(), &shared.model.overrides())?;
        let masked = MaskedParams::default();
        Ok(Self {
            struct_size: size_of::<Self>(),
            seed: params.seed,
            max_tokens: params.max_tokens.unwrap_or(0),
            max_canvases: params.max_canvases.unwrap_or(0),
            on_step: None,
            on_canvas: None,
            user_data: std::ptr::null_mut(),
            max_steps: match &shared.model {
                AnyModel::Canvas(_) => params.max_steps,
                AnyModel::Masked(_) => masked.schedule.steps(1),
            },
            stability_threshold: params.stability_threshold,
            t_min: params.t_min,
            t_max: params.t_max,
            entropy_bound: params.entropy_bound,
            confidence_threshold: params.confidence_threshold,
            algorithm: diffusion_algorithm::Confidence as i32,
            algorithm_temperature: masked.algorithm_temperature,
            temperature: masked.temperature,
            top_k: u32::try_from(masked.filter.top_k).unwrap_or(0),
            top_p: masked.filter.top_p,
            guidance: masked.guidance,
            eps: MASKED_EPS,
            block_length: 0,
            gumbel_noise: 0,
            reserved: 0,
            canvas: 0,
            min_logprob: 0.0,
            on_scores: None,
            top_logprobs: 0,
        })
    }

    /// How this model answers.
    pub(super) fn recipe(&self, model: &AnyModel) -> Result<Box<dyn Recipe>> {
        Ok(match model {
            AnyModel::Canvas(_) => Box::new(self.diffusion()?),
            AnyModel::Masked(model) => Box::new(self.masked(model.context_length())?),
        })
    }

    fn masked(&self, context: usize) -> Result<MaskedParams> {
        let length = match self.max_tokens {
            0 => AnswerLength::Text(context),
            tokens => AnswerLength::Tokens(tokens),
        };
        let algorithm = usize::try_from(self.algorithm).ok();
        let algorithm = algorithm.and_then(|number| Algorithm::ALL.get(number).copied());
        let algorithm = algorithm.ok_or_else(|| {
            Failure::argument("algorithm", format_args!("{} is none", self.algorithm))
        })?;
        let block_length = self.block_length as usize;
        let eps = if block_length > 0 { 0.0 } else { self.eps };
        let params = MaskedParams {
            length,
            schedule: TransferSchedule::new(eps, block_length, self.max_steps, length.given())?,
            algorithm,
            algorithm_temperature: self.algorithm_temperature,
            temperature: self.temperature,
            filter: Filter {
                top_k: self.top_k as usize,
                top_p: self.top_p,
            },
            guidance: self.guidance,
            gumbel_noise: self.gumbel_noise != 0,
            seed: self.seed,
            ..MaskedParams::default()
        };
        params.validate()?;
        Ok(params)
    }

    fn diffusion(&self) -> Result<DiffusionParams> {
        let limit = |number: usize| (number > 0).then_some(number);
        let params = DiffusionParams {
            max_steps: self.max_steps,
            t_min: self.t_min,
            t_max: self.t_max,
            entropy_bound: self.entropy_bound,
            stability_threshold: self.stability_threshold,
            confidence_threshold: self.confidence_threshold,
            max_tokens: limit(self.max_tokens),
            max_canvases: limit(self.max_canvases),
            canvas: limit(self.canvas),
            seed: self.seed,
            scoring: self.scoring(),
            ..DiffusionParams::default()
        };
        params.validate()?;
        Ok(params)
    }

    fn scoring(&self) -> Option<Scoring> {
        let is_wanted = self.on_scores.is_some() || self.min_logprob != 0.0;
        is_wanted.then_some(Scoring {
            min_logprob: (self.min_logprob != 0.0).then_some(self.min_logprob),
            top: self.top_logprobs,
        })
    }

    /// # Safety
    /// The callbacks are as documented.
    unsafe fn report(&self, event: Event<'_>) -> ControlFlow<()> {
        // SAFETY: as the caller promises.
        let go_on = unsafe {
            match (event, self.on_step, self.on_canvas) {
                (Event::Draft(draft), Some(callback), _) => {
                    callback(&diffusion_draft::new(&draft), self.user_data)
                }
                (Event::CanvasDone(canvas), _, Some(callback)) => {
                    callback(&diffusion_canvas::new(canvas), self.user_data)
                }
                (Event::Scored(canvas), ..) => match self.on_scores {
                    Some(callback) => {
                        let scores = Scores::new(&canvas);
                        callback(&scores.view(&canvas), self.user_data)
                    }
                    None => true,
                },
                _ => true,
            }
        };
        if go_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

/// Sets the defaults: what the model recommends, or else the defaults of the reference.
///
/// `struct_size`: `sizeof(diffusion_params)`.
///
/// Errors: `INVALID_ARGUMENT` if the model's recommendations are invalid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_params_init(
    model: *const diffusion_model,
    params: *mut diffusion_params,
    struct_size: usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, out) = unsafe {
            let shared = reference(model, "model")?;
            (
                shared,
                StructOutput::with_size(params, struct_size, "params")?,
            )
        };
        out.write(&diffusion_params::of_model(shared)?);
        Ok(())
    })
}

/// An accepted token that a later step replaced.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct diffusion_correction {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Position in the canvas, from 0.
    pub canvas_position: u32,
    /// The token that was accepted.
    pub from: i32,
    /// The token that replaced it.
    pub to: i32,
    /// Reserved.
    pub reserved: i32,
}

impl diffusion_correction {
    fn new(correction: Correction) -> Self {
        Self {
            block: correction.block,
            step: correction.step,
            canvas_position: saturated(correction.position),
            from: correction.from,
            to: correction.to,
            reserved: 0,
        }
    }
}

/// A count as C has it.
fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The statistics of a generation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_result {
    /// Set it to `sizeof(diffusion_result)` before the call.
    pub struct_size: usize,
    /// Number of tokens in the answer.
    pub tokens: usize,
    /// Number of tokens of the prompt that were already cached.
    pub reused: usize,
    /// Number of denoising steps of all canvases.
    pub steps: u64,
    /// Number of canvases.
    pub blocks: usize,
    /// Time to encode the rest of the prompt.
    pub prefill_seconds: f64,
    /// Time of all denoising steps, without callbacks.
    pub denoise_seconds: f64,
    /// Time to append finished canvases to the cache.
    pub commit_seconds: f64,
    /// A `diffusion_finish`.
    pub finish: i32,
    /// Reserved.
    pub reserved: i32,
    /// Number of positions that were corrected: a step accepted a token, and a later one accepted
    /// another, or the finished canvas has another. 0 for masked models, which keep what they have
    /// unmasked.
    pub corrected_positions: usize,
    /// Number of corrections. A position can be corrected several times.
    pub corrections: usize,
    /// Corrections by the index of their step in its canvas, from 0; the last entry counts those of
    /// all later steps, too.
    pub corrections_by_step: [u32; DIFFUSION_CORRECTION_STEPS],
    /// The last correction; zeros if there is none.
    pub last_correction: diffusion_correction,
}

/// Entries of `corrections_by_step` of `diffusion_result`.
pub const DIFFUSION_CORRECTION_STEPS: usize = 64;

// SAFETY: numbers in C's layout, the size first.
unsafe impl Versioned for diffusion_result {
    const NAME: &'static str = "diffusion_result";
    const FIRST_SIZE: usize = offset_of!(Self, reserved) + size_of::<i32>();
}

/// # Safety
/// `result` is NULL or points to a struct whose first field is its size.
pub(super) unsafe fn optional_result(
    result: *mut diffusion_result,
) -> Result<Option<StructOutput<diffusion_result>>> {
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { StructOutput::new(result, "result") }.map(Some)
}

/// A generation that came to its end: a cancelled one is a failure here.
pub(super) struct Finished {
    pub(super) tokens: Vec<Token>,
    pub(super) result: diffusion_result,
}

impl Finished {
    fn new(answer: Answer) -> Result<Self> {
        let Answer { generation, reused } = answer;
        let finish = match generation.finish {
            FinishReason::EndOfText => diffusion_finish::EndOfText,
            FinishReason::Length => diffusion_finish::Length,
            FinishReason::ContextFull => diffusion_finish::ContextFull,
            FinishReason::Cancelled => {
                let (blocks, steps) = (generation.canvases.len(), generation.steps);
                let message = format!("cancelled after {steps} steps, {blocks} canvases finished");
                return Err(Failure::new(diffusion_status::Cancelled, message));
            }
        };
        let corrections = &generation.corrections;
        let mut by_step = [0; DIFFUSION_CORRECTION_STEPS];
        for (step, count) in corrections.by_step.iter().enumerate() {
            let entry: &mut u32 = &mut by_step[step.min(DIFFUSION_CORRECTION_STEPS - 1)];
            *entry = entry.saturating_add(saturated(*count));
        }
        let result = diffusion_result {
            struct_size: 0,
            tokens: generation.tokens.len(),
            reused,
            steps: generation.steps,
            blocks: generation.canvases.len(),
            prefill_seconds: generation.timing.prefill.as_secs_f64(),
            denoise_seconds: generation.timing.denoise.as_secs_f64(),
            commit_seconds: generation.timing.commit.as_secs_f64(),
            finish: finish as i32,
            reserved: 0,
            corrected_positions: corrections.positions,
            corrections: corrections.total(),
            corrections_by_step: by_step,
            last_correction: corrections
                .last
                .map(diffusion_correction::new)
                .unwrap_or_default(),
        };
        Ok(Self {
            tokens: generation.tokens,
            result,
        })
    }
}

impl diffusion_context {
    /// # Safety
    /// The parameters' callbacks are as documented.
    pub(super) unsafe fn generate(
        &self,
        session: &mut Session,
        prompt: &[Token],
        callbacks: &diffusion_params,
        recipe: &dyn Recipe,
    ) -> Result<Finished> {
        // SAFETY: as the caller promises.
        let on_event = &mut |event: Event<'_>| unsafe { callbacks.report(event) };
        Finished::new(session.generate(prompt, recipe, &self.cancel, on_event)?)
    }
}

/// The maximum number of tokens in an answer to a prompt of `prompt` tokens; 0 if there is no room
/// for any.
fn most_tokens(limits: &Limits, prompt: usize, recipe: &dyn Recipe) -> usize {
    let Ok(canvas) = recipe.canvas_len(prompt, limits) else {
        // The generation reports why.
        return 0;
    };
    let room = limits.context.saturating_sub(prompt) / canvas.max(1);
    let canvases = recipe
        .canvas_limit(canvas)
        .map_or(room, |limit| limit.min(room));
    let tokens = canvases.saturating_mul(canvas);
    recipe.max_tokens().map_or(tokens, |max| max.min(tokens))
}

/// Generates an answer to a prompt, canvas by canvas.
///
/// The context caches the prompt and the answer (except the last canvas): a prompt that begins with
/// the tokens of the previous call costs only its new tokens.
///
/// `prompt`, `prompt_length`: tokens, at least one. `params`: NULL for the model's defaults.
/// `tokens`, `capacity`, `count`: receive the answer, without the token that ended it. The
/// capacity must suffice for the longest possible answer, which `max_tokens` bounds; if it does
/// not, that length is written to `count`, and nothing is computed. `result`: receives the
/// statistics; may be NULL.
///
/// Errors: `INVALID_ARGUMENT` for parameters out of range, an empty prompt or tokens that are not
/// in the vocabulary, `CONTEXT_FULL` if no canvas fits after the prompt, `BUFFER_TOO_SMALL`,
/// `CANCELLED` (the canvas callback has received the finished canvases), `OUT_OF_MEMORY`,
/// `BACKEND`, `BUSY`, `POISONED`. After all of these except `POISONED`, the context can be used
/// again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_generate(
    context: *mut diffusion_context,
    prompt: *const i32,
    prompt_length: usize,
    params: *const diffusion_params,
    tokens: *mut i32,
    capacity: usize,
    count: *mut usize,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let prompt = slice(prompt, prompt_length, "prompt")?;
            let count = output(count, "count")?;
            let result = optional_result(result)?;
            let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
            let recipe = callbacks.recipe(&context.model.model)?;
            let session = &mut *context.lock()?;
            context.cancel.reset();
            let needed = most_tokens(&session.limits(), prompt.len(), &*recipe);
            require(needed, capacity, count)?;
            if needed > 0 {
                output(tokens, "tokens")?;
            }
            let finished = context.generate(session, prompt, &callbacks, &*recipe)?;
            fill(&finished.tokens, tokens, capacity, count)?;
            if let Some(result) = result {
                result.write(&finished.result);
            }
            Ok(())
        }
    })
}
