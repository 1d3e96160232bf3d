//! Canvases that follow one prompt and share its cache: they are denoised together, as many at once as
//! a canvas of the trained length has room for, and do not see each other.

use std::sync::Arc;

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
    /// What is known about it. Rows may share it.
    pub template: Arc<Template>,
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
        let mut run = self.begin_rows(prompt, rows.to_vec(), params)?;
        while !run.advance(self, cancel, on_logits)? {}
        Ok(run.report())
    }

    /// Prepares to [denoise rows](Self::denoise_rows) one forward pass at a time.
    ///
    /// # Errors
    /// Those of [`denoise_rows`](Self::denoise_rows) that are known before the first pass.
    pub fn begin_rows(
        &self,
        prompt: &[Token],
        rows: Vec<CanvasRow>,
        params: &DiffusionParams,
    ) -> Result<RowsRun> {
        let limits = self.limits();
        let is_bounded = rows.iter().any(|row| row.template.fixes_any());
        let params = DiffusionParams {
            // One rule for all rows, which are one canvas for the model.
            acceptance: match (params.acceptance, is_bounded) {
                (AcceptanceRule::Auto, true) => AcceptanceRule::Bounded,
                (rule, _) => rule,
            },
            templates: Vec::new(), // each row has its own
            constraint: None,
            scoring: None,
            ..params.clone()
        };
        let templates = distinct(&rows);
        params.validate_with(templates.iter().copied(), &limits)?;
        let len = params.canvas_len(prompt.len(), &limits)?;
        check_prompt(prompt.len(), len, &limits)?;
        let beyond = rows.iter().flat_map(|row| &row.read).find(|p| **p >= len);
        if let Some(position) = beyond {
            let problem = format!("{position} is not one of the {len} of the canvas");
            return Err(Error::parameter(Parameter::Position, problem));
        }
        let room = limits
            .canvas
            .unwrap_or(len)
            .min(limits.context - prompt.len());
        Ok(RowsRun {
            prompt: prompt.to_vec(),
            encoded: None,
            rows,
            noise: CounterNoise::new(params.seed, self.model().vocab_size())?,
            params,
            len,
            at_once: room / len,
            begun: 0,
            group: None,
            report: RowsReport {
                reused: 0,
                passes: 0,
            },
            has_failed: false,
        })
    }
}

/// Canvases that are denoised after one prompt, a forward pass at a time. Other sessions may work between
/// the passes.
pub struct RowsRun {
    prompt: Vec<Token>,
    /// Its encoded tokens, after the first call.
    encoded: Option<usize>,
    rows: Vec<CanvasRow>,
    noise: CounterNoise,
    params: DiffusionParams,
    /// Tokens of a canvas.
    len: usize,
    /// Rows that fit a canvas of the trained length.
    at_once: usize,
    /// Rows that have begun.
    begun: usize,
    group: Option<Group>,
    report: RowsReport,
    has_failed: bool,
}

/// Rows that share their passes.
struct Group {
    /// The index of the first one.
    first: usize,
    runs: Vec<CanvasRun>,
    /// Steps that are done.
    steps: u32,
}

impl RowsRun {
    /// Does the next forward pass, over a part of the prompt or over canvases. Returns whether it was the
    /// last one. All calls take the same session, whose prompt and canvases nothing else changes between
    /// them.
    ///
    /// # Errors
    /// As [`Session::denoise_rows`]. Each further call is an error then.
    pub fn advance(
        &mut self,
        session: &mut Session,
        cancel: &CancelFlag,
        on_logits: &mut OnLogits<'_>,
    ) -> Result<bool> {
        if self.has_failed {
            let problem = "its canvases have failed before: begin again";
            return Err(Error::parameter(Parameter::Session, problem));
        }
        let passed = self.pass(session, cancel, on_logits);
        self.has_failed = passed.is_err();
        passed
    }

    fn pass(
        &mut self,
        session: &mut Session,
        cancel: &CancelFlag,
        on_logits: &mut OnLogits<'_>,
    ) -> Result<bool> {
        check_cancelled(cancel)?;
        if self.encode(session)? {
            return Ok(false);
        }
        let denoised = self.denoise(session, on_logits);
        denoised.map_err(|error| session.explain(error))
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// What it has taken so far.
    pub fn report(&self) -> RowsReport {
        self.report
    }

    /// Does a pass over the prompt, of which the cached part is reused. Returns whether one was left.
    fn encode(&mut self, session: &mut Session) -> Result<bool> {
        let encoded = match self.encoded {
            Some(encoded) => encoded,
            None => {
                let reused = session.usable_prefix(&self.prompt);
                session.keep_for(&self.prompt, reused)?;
                self.report.reused = reused;
                reused
            }
        };
        let rest = &self.prompt[encoded..];
        let pass = &rest[..rest.len().min(session.limits().pass)];
        self.encoded = Some(encoded + pass.len());
        if pass.is_empty() {
            return Ok(false);
        }
        session.denoiser().prefill(pass)?;
        Ok(true)
    }

    /// Does a step of the rows at work, or of the next ones. Returns whether it was the last one of all.
    fn denoise(&mut self, session: &mut Session, on_logits: &mut OnLogits<'_>) -> Result<bool> {
        let denoiser = session.canvas_denoiser()?;
        let mut group = match self.group.take() {
            Some(group) => group,
            None => {
                let group = self.next_group()?;
                if group.runs.is_empty() {
                    return Ok(true);
                }
                denoiser.begin_canvases(self.len, group.runs.len())?;
                group
            }
        };
        let begun = group.runs.iter_mut();
        let begun = begun.map(|run| run.begin_step(&self.noise));
        let (inputs, draws): (Vec<_>, Vec<_>) =
            begun.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let joined = Joined::new(&inputs);
        let mut all = Draws::new(joined.canvas.len(), 0);
        denoiser.step(&joined.input(), &mut all)?;
        for (index, (draws, input)) in draws.into_iter().zip(&inputs).enumerate() {
            draws.copy_free(&all, index * self.len, input.free);
        }
        for run in &mut group.runs {
            run.end_step(&self.noise)?;
        }
        group.steps += 1;
        self.report.passes += 1;
        if group.steps < self.params.max_steps {
            self.group = Some(group);
            return Ok(false);
        }
        let mut logits = Vec::new();
        for (index, row) in (group.first..self.begun).enumerate() {
            for &position in &self.rows[row].read {
                denoiser.logits_row(index * self.len + position, &mut logits)?;
                on_logits(row, position, &logits)?;
            }
        }
        Ok(self.begun == self.rows.len())
    }

    /// Begins the next rows, as many as fit.
    fn next_group(&mut self) -> Result<Group> {
        let first = self.begun;
        let rows = self.rows[first..].iter().take(self.at_once);
        let runs = rows.map(|row| {
            let template = (*row.template).clone();
            CanvasRun::with_template(&self.params, template, row.noise, self.len, &self.noise)
        });
        let runs: Vec<CanvasRun> = runs.collect::<Result<_>>()?;
        self.begun += runs.len();
        Ok(Group {
            first,
            runs,
            steps: 0,
        })
    }
}

/// The templates of rows, of which neighbours often share one.
fn distinct(rows: &[CanvasRow]) -> Vec<&Template> {
    let mut templates: Vec<&Template> = rows.iter().map(|row| &*row.template).collect();
    templates.dedup_by(|a, b| std::ptr::eq(*a, *b));
    templates
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
