//! How an answer is generated.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ops::ControlFlow;
use std::ptr::{null, null_mut};

use super::border::{Failure, Result, StructOutput, Versioned, guard, reference};
use super::constraint::{constraint, diffusion_constrain_at, diffusion_thoughts};
use super::draft::{
    diffusion_canvas, diffusion_canvas_callback, diffusion_draft, diffusion_step_callback,
};
use super::error::{diffusion_error, diffusion_status};
use super::model::diffusion_model;
use super::scores::{Scores, diffusion_scorer, diffusion_scores_callback};
use super::template::{diffusion_template, templates};
use llama_diffusion::constraint::{Constraint, SchemaOptions};
use llama_diffusion::diffusion::{
    Algorithm, Filter, Lookahead, Parallel, Recipe, Scoring, Template, TransferSchedule,
};
use llama_diffusion::{
    AnswerLength, AnyModel, DiffusionParams, Event, MaskedParams, SamplerOverrides, Token,
};

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
    /// Lowest entropy first, and more than the schedule's while `entropy_bound` allows.
    EntropyBound = 100,
}

impl diffusion_algorithm {
    fn of(number: i32) -> Result<Algorithm> {
        let upstream = usize::try_from(number).ok().and_then(Algorithm::numbered);
        let bounded = number == Self::EntropyBound as i32;
        let algorithm = upstream.or(bounded.then_some(Algorithm::EntropyBound));
        algorithm.ok_or_else(|| Failure::argument("algorithm", format_args!("{number} is none")))
    }
}

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
    /// Number of the most likely tokens of each position that `on_scores` receives, at most
    /// `diffusion_model_vocab_size`. Default 0.
    pub top_logprobs: usize,
    /// The answer is JSON that this JSON Schema allows, by construction; "{}" is any JSON. UTF-8 that
    /// ends at a zero byte. NULL, the default, is no schema. A keyword whose meaning cannot be kept is an
    /// error. Also for masked models, as the five fields below.
    pub json_schema: *const c_char,
    /// The answer is a text that this regular expression matches as a whole, in the syntax of Rust's
    /// regex. UTF-8 that ends at a zero byte. NULL, the default, is none; there is one constraint at most.
    pub regex: *const c_char,
    /// How deep JSON may be nested where `json_schema` sets no limit, at least 1. Default 4.
    pub json_depth: usize,
    /// What a constraint changes, a `diffusion_constrain_at`. Default `STEP`. No effect on a masked model.
    pub constrain_at: i32,
    /// What the model writes before a constrained answer, a `diffusion_thoughts`. Default `OFF`.
    pub thoughts: i32,
    /// What is known about the canvases, from the first one on: pointers to `template_count` templates. A
    /// masked model has one canvas. NULL if there are none, the default.
    pub templates: *const *const diffusion_template,
    /// Number of templates. Default 0.
    pub template_count: usize,
    /// Number of tokens that the causal encoder writes one by one before the first canvas, each the most
    /// likely one; 0 is none. An error if the encoder is not trained to predict tokens, and together with
    /// a constraint or with templates. They are a canvas without steps, and `on_scores` receives the
    /// encoder's scores of them, whatever `scorer` is. Not for masked models. Default 0.
    pub ahead: usize,
    /// This field and the two below are for masked models. An approximation: each step also unmasks the
    /// tokens that are more likely than this, at most 1; 0 is none. Default 0.
    pub unmask_threshold: f32,
    /// An approximation: each step also unmasks the n most likely tokens, for the largest n with
    /// (n + 1)(1 - p) below this, where p is the probability of the n-th; 0 is none. Not together with
    /// `unmask_threshold`. Default 0.
    pub unmask_factor: f32,
    /// An approximation: the answer ends after a step in which each token that was drawn for a masked
    /// position, up to the first end token, had at least this probability, at most 1. 0 never ends it so.
    /// Default 0.
    pub early_stop: f32,
    /// What scores canvases for `min_logprob` and `on_scores`, a `diffusion_scorer`. Not for masked models.
    /// Default `DENOISER`.
    pub scorer: i32,
    /// For masked models. Number of canvases that a pass reads, at most 64: that of the next step, and
    /// guesses at those after it, which save their passes where they are right; the answer is the same.
    /// 1 reads no guesses, and so does every pass with guidance. 0 reads as many as is fastest, by
    /// measurement. Default 0.
    pub lookahead: u32,
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
            user_data: null_mut(),
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
            json_schema: null(),
            regex: null(),
            json_depth: SchemaOptions::default().depth,
            constrain_at: diffusion_constrain_at::Step as i32,
            thoughts: diffusion_thoughts::Off as i32,
            templates: null(),
            template_count: 0,
            ahead: 0,
            unmask_threshold: 0.0,
            unmask_factor: 0.0,
            early_stop: 0.0,
            scorer: diffusion_scorer::Denoiser as i32,
            lookahead: 0,
        })
    }

    /// How this model answers `prompt`.
    ///
    /// # Safety
    /// The pointers are as documented.
    pub(super) unsafe fn recipe(
        &self,
        shared: &diffusion_model,
        prompt: &[Token],
    ) -> Result<Box<dyn Recipe>> {
        // SAFETY: as the caller promises.
        let (constraint, templates) =
            unsafe { (self.constraint(shared, prompt)?, self.templates()?) };
        Ok(match &shared.model {
            AnyModel::Canvas(_) => Box::new(DiffusionParams {
                constraint,
                templates,
                ..self.diffusion()?
            }),
            AnyModel::Masked(model) => Box::new(MaskedParams {
                constraint,
                template: single(templates)?,
                ..self.masked(model.context_length())?
            }),
        })
    }

    /// # Safety
    /// The pointers are as documented.
    unsafe fn constraint(
        &self,
        shared: &diffusion_model,
        prompt: &[Token],
    ) -> Result<Option<Constraint>> {
        // SAFETY: as the caller promises.
        unsafe { constraint(self, shared, prompt) }
    }

    /// # Safety
    /// The pointers are as documented.
    unsafe fn templates(&self) -> Result<Vec<Template>> {
        // SAFETY: as the caller promises.
        unsafe { templates(self.templates, self.template_count) }
    }

    fn masked(&self, context: usize) -> Result<MaskedParams> {
        let length = match self.max_tokens {
            0 => AnswerLength::Text(context),
            tokens => AnswerLength::Tokens(tokens),
        };
        let block_length = self.block_length as usize;
        let eps = if block_length > 0 { 0.0 } else { self.eps };
        let params = MaskedParams {
            length,
            schedule: TransferSchedule::new(eps, block_length, self.max_steps, length.given())?,
            algorithm: diffusion_algorithm::of(self.algorithm)?,
            algorithm_temperature: self.algorithm_temperature,
            entropy_bound: self.entropy_bound,
            parallel: self.parallel()?,
            lookahead: match self.lookahead {
                0 => Lookahead::Auto,
                count => Lookahead::Canvases(count as usize),
            },
            early_stop: (self.early_stop != 0.0).then_some(self.early_stop),
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

    fn parallel(&self) -> Result<Option<Parallel>> {
        match (self.unmask_threshold != 0.0, self.unmask_factor != 0.0) {
            (false, false) => Ok(None),
            (true, false) => Ok(Some(Parallel::Threshold(self.unmask_threshold))),
            (false, true) => Ok(Some(Parallel::Factor(self.unmask_factor))),
            (true, true) => {
                let problem = "goes without `unmask_threshold`: set one of them to 0";
                Err(Failure::argument("unmask_factor", problem))
            }
        }
    }

    /// The parameters of a canvas model, without what pointers lead to.
    pub(super) fn diffusion(&self) -> Result<DiffusionParams> {
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
            scoring: self.scoring()?,
            constrain_at: diffusion_constrain_at::of(self.constrain_at)?,
            ..DiffusionParams::default()
        };
        params.validate()?;
        Ok(params)
    }

    /// Whether the answer follows a constraint.
    pub(super) fn is_constrained(&self) -> bool {
        !self.json_schema.is_null() || !self.regex.is_null()
    }

    /// The parameters for `what`, which begins as a text and not as noise, and follows no constraint.
    pub(super) fn for_text(&self, what: &str) -> Result<DiffusionParams> {
        match self.is_constrained() || self.begins_otherwise() {
            true => Err(unused(
                "`json_schema`, `regex`, `templates` and `ahead`",
                what,
            )),
            false => self.diffusion(),
        }
    }

    /// The parameters for an edit, which `prompt` asks for.
    ///
    /// # Safety
    /// The pointers are as documented.
    pub(super) unsafe fn for_edit(
        &self,
        shared: &diffusion_model,
        prompt: &[Token],
    ) -> Result<DiffusionParams> {
        if self.begins_otherwise() {
            return Err(unused("`templates` and `ahead`", "an edit"));
        }
        Ok(DiffusionParams {
            // SAFETY: as the caller promises.
            constraint: unsafe { self.constraint(shared, prompt)? },
            ..self.diffusion()?
        })
    }

    /// Whether they say what an answer begins with.
    fn begins_otherwise(&self) -> bool {
        self.template_count > 0 || self.ahead > 0
    }

    fn scoring(&self) -> Result<Option<Scoring>> {
        let is_wanted = self.on_scores.is_some() || self.min_logprob != 0.0;
        let by = diffusion_scorer::of(self.scorer)?;
        Ok(is_wanted.then_some(Scoring {
            by,
            min_logprob: (self.min_logprob != 0.0).then_some(self.min_logprob),
            top: self.top_logprobs,
        }))
    }

    /// # Safety
    /// The callbacks are as documented.
    pub(super) unsafe fn report(&self, event: Event<'_>) -> ControlFlow<()> {
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

fn unused(fields: &str, what: &str) -> Failure {
    let problem = format!("{fields} do not apply to {what}: leave them unset");
    Failure::argument("params", problem)
}

/// The template of a model that has one canvas.
fn single(mut templates: Vec<Template>) -> Result<Template> {
    match templates.len() {
        0 | 1 => Ok(templates.pop().unwrap_or_default()),
        count => {
            let problem = format!("there are {count}, but a masked model has one canvas: pass one");
            Err(Failure::argument("templates", problem))
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
