//! Canvases that follow one prompt and share its cache: they are denoised together, as many at once as
//! a canvas of the trained length has room for, and do not see each other.

use super::Session;
use crate::diffusion::generation::check_prompt;
use crate::diffusion::{
    AcceptanceRule, Allowed, CancelFlag, CanvasRun, CounterNoise, Denoiser as _, DiffusionParams,
    DrawRule, Draws, Filter, Recipe, Run as _, StepInput, Template, Token, TokenSet,
};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// One of several canvases that follow the same prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct CanvasRow {
    /// What is known about it.
    pub template: Template,
    /// Which canvas of an answer has its noise: rows with the same number begin with the same noise.
    pub noise: u32,
    /// The positions whose logits are read after the last step.
    pub read: Vec<usize>,
}

/// What it took to denoise rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsReport {
    /// Tokens of the prompt that were already in the cache.
    pub reused: usize,
    /// Forward passes over canvases.
    pub passes: usize,
}

/// What takes the logits of a row's position: the index of the row, the position, and the soft-capped logits
/// `[vocab]` before the temperature.
pub type OnLogits<'a> = dyn FnMut(usize, usize, &[f32]) -> Result<()> + 'a;

impl Session {
    /// Denoises canvases that all follow `prompt`, each for exactly [`DiffusionParams::max_steps`] steps
    /// with the noise of the seed of `params`, and reads logits of their last step. What a row holds does
    /// not depend on the others. Limits on tokens and canvases, templates and scores of `params` do not
    /// apply.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); the model is of a masked family; a row reads a position that its
    /// canvas does not have; [`Error::Cancelled`]; the errors of `on_logits`.
    pub fn denoise_rows(
        &mut self,
        prompt: &[Token],
        rows: &[CanvasRow],
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_logits: &mut OnLogits<'_>,
    ) -> Result<RowsReport> {
        let limits = self.limits();
        let is_bounded = rows.iter().any(|row| row.template.fixes_any());
        let params = DiffusionParams {
            // One rule for all rows, which are one canvas for the model.
            acceptance: match (params.acceptance, is_bounded) {
                (AcceptanceRule::Auto, true) => AcceptanceRule::Bounded,
                (rule, _) => rule,
            },
            templates: rows.iter().map(|row| row.template.clone()).collect(),
            constraint: None,
            scoring: None,
            ..params.clone()
        };
        Recipe::validate(&params, &limits)?;
        let params = DiffusionParams {
            // Each row is made with its own template and a copy of the parameters.
            templates: Vec::new(),
            ..params
        };
        let len = params.canvas_len(prompt.len(), &limits)?;
        check_prompt(prompt.len(), len, &limits)?;
        let beyond = rows.iter().flat_map(|row| &row.read).find(|p| **p >= len);
        if let Some(position) = beyond {
            let problem = format!("{position} is not one of the {len} of the canvas");
            return Err(Error::parameter(Parameter::Position, problem));
        }
        let reused = self.encode(prompt, cancel)?;
        let room = limits
            .canvas
            .unwrap_or(len)
            .min(limits.context - prompt.len());
        let mut passes = 0;
        for (group, first) in rows.chunks(room / len).zip((0..).step_by(room / len)) {
            let on_logits =
                &mut |row, position, logits: &[f32]| on_logits(first + row, position, logits);
            let denoised = self.denoise_group(group, len, &params, cancel, on_logits);
            passes += denoised.map_err(|error| self.explain(error))?;
        }
        Ok(RowsReport { reused, passes })
    }

    /// Encodes a prompt, reusing its cached part. Returns the number of reused tokens.
    fn encode(&mut self, prompt: &[Token], cancel: &CancelFlag) -> Result<usize> {
        let (reused, pass) = (self.usable_prefix(prompt), self.limits().pass);
        self.keep_for(prompt, reused)?;
        for tokens in prompt[reused..].chunks(pass) {
            check_cancelled(cancel)?;
            self.denoiser().prefill(tokens)?;
        }
        Ok(reused)
    }

    /// Denoises rows that fit a canvas of the trained length. Returns the number of passes.
    fn denoise_group(
        &mut self,
        rows: &[CanvasRow],
        len: usize,
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_logits: &mut OnLogits<'_>,
    ) -> Result<usize> {
        let noise = CounterNoise::new(params.seed, self.model().vocab_size())?;
        let begun = rows.iter().map(|row| {
            let template = row.template.clone();
            CanvasRun::with_template(params, template, row.noise, len, &noise)
        });
        let mut runs: Vec<CanvasRun> = begun.collect::<Result<_>>()?;
        let denoiser = self.canvas_denoiser()?;
        denoiser.begin_canvases(len, rows.len())?;
        for _ in 0..params.max_steps {
            check_cancelled(cancel)?;
            let begun = runs.iter_mut().map(|run| run.begin_step(&noise));
            let (inputs, draws): (Vec<_>, Vec<_>) =
                begun.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let joined = Joined::new(&inputs);
            let mut all = Draws::new(len * rows.len(), 0);
            denoiser.step(&joined.input(), &mut all)?;
            for (index, (draws, input)) in draws.into_iter().zip(&inputs).enumerate() {
                draws.copy_free(&all, index * len, input.free);
            }
            for run in &mut runs {
                run.end_step(&noise)?;
            }
        }
        let mut logits = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            for &position in &row.read {
                denoiser.logits_row(index * len + position, &mut logits)?;
                on_logits(index, position, &logits)?;
            }
        }
        Ok(params.max_steps as usize)
    }
}

fn check_cancelled(cancel: &CancelFlag) -> Result<()> {
    match cancel.is_cancelled() {
        true => Err(Error::Cancelled),
        false => Ok(()),
    }
}

/// The inputs of several canvases as those of one.
struct Joined {
    canvas: Vec<Token>,
    free: Vec<bool>,
    uniforms: Vec<f32>,
    sets: Vec<TokenSet>,
    /// For each position the index of its set.
    of: Vec<Option<usize>>,
    temperature: f32,
    average: f32,
}

impl Joined {
    /// Of inputs that agree in everything but their positions.
    fn new(inputs: &[StepInput<'_>]) -> Self {
        let mut this = Self {
            canvas: Vec::new(),
            free: Vec::new(),
            uniforms: Vec::new(),
            sets: Vec::new(),
            of: Vec::new(),
            temperature: 1.0,
            average: 0.0,
        };
        for input in inputs {
            this.canvas.extend(input.canvas);
            this.free.extend(input.free);
            if let Allowed::Sets { sets, of } = input.allowed {
                let before = this.sets.len();
                this.sets.extend_from_slice(sets);
                this.of
                    .extend(of.iter().map(|set| set.map(|index| before + index)));
            }
            this.of.resize(this.canvas.len(), None);
            if let DrawRule::Inverse {
                temperature,
                uniforms,
            } = input.rule
            {
                this.uniforms.extend(uniforms);
                this.temperature = temperature;
            }
            this.average = input.average;
        }
        this
    }

    fn input(&self) -> StepInput<'_> {
        StepInput {
            canvas: &self.canvas,
            free: &self.free,
            allowed: match self.sets.is_empty() {
                true => Allowed::All,
                false => Allowed::Sets {
                    sets: &self.sets,
                    of: &self.of,
                },
            },
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature: self.temperature,
                uniforms: &self.uniforms,
            },
            guidance: 0.0,
            average: self.average,
            language: None,
            targets: &[],
        }
    }
}
