//! The state of one canvas of uniform-state diffusion: from random tokens, through denoising steps,
//! to the finished block.

use super::Token;
use super::acceptance::accept_forcing;
use super::canvas_length::check_canvas_length;
use super::continued::{Continued, Written, check_constraint};
use super::convergence::{StabilityTracker, mean_entropy};
use super::event::{CanvasStatus, Draft, FinishedCanvas};
use super::params::{AcceptanceRule, DiffusionParams};
use super::random::NoiseSource;
use super::renoise::renoise;
use super::repair::Repair;
use super::run::{Blank, Budget, EndTokens, Recipe, Run, check_finite};
use super::score::Scoring;
use super::step::{Allowed, DrawFeatures, DrawRule, Draws, Filter, Limits, Steering, StepInput};
use super::temperature::TemperatureSchedule;
use super::template::{Slot, Template};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// A constrained canvas is finished when its most likely text is that of so many steps before.
const SETTLED_STEPS: u32 = 3;

/// Share of the earlier steps in the average of [`AcceptanceRule::Bounded`].
const AVERAGE: f32 = 0.9;

/// A canvas of uniform-state diffusion: from random tokens, by entropy-bound acceptance and
/// renoising, to the argmax canvas of the last step.
#[derive(Debug, Clone)]
pub struct CanvasRun {
    params: DiffusionParams,
    schedule: TemperatureSchedule,
    stability: StabilityTracker,
    block: u32,
    /// Steps of the schedule that are complete, or were left out.
    steps: u32,
    canvas: Vec<Token>,
    template: Template,
    /// The positions that are not fixed.
    free: Vec<bool>,
    /// For each position, the index of its set in the template.
    sets: Vec<Option<usize>>,
    /// [`AcceptanceRule::Bounded`] applies.
    bounded: bool,
    constraint: Option<Continued>,
    /// Whether the most likely canvas of the constraint no longer changes.
    settled: StabilityTracker,
    uniforms: Vec<f32>,
    draws: Draws,
    accepted: Vec<bool>,
    noise: Vec<Token>,
    mean_entropy: f32,
    stable: bool,
    status: CanvasStatus,
}

impl CanvasRun {
    /// Canvas number `block` of an answer, of `canvas_len` tokens: those of its template, and
    /// random ones where it has none.
    ///
    /// `params` must be [valid](DiffusionParams::validate).
    ///
    /// # Errors
    /// The errors of `noise`.
    pub fn new(
        params: &DiffusionParams,
        block: u32,
        canvas_len: usize,
        noise: &dyn NoiseSource,
    ) -> Result<Self> {
        let template = params.templates.get(block as usize).cloned();
        Self::with_template(
            params,
            template.unwrap_or_default(),
            block,
            canvas_len,
            noise,
        )
    }

    /// The same with a template of its own.
    pub(crate) fn with_template(
        params: &DiffusionParams,
        template: Template,
        block: u32,
        canvas_len: usize,
        noise: &dyn NoiseSource,
    ) -> Result<Self> {
        let mut canvas = vec![0; canvas_len];
        noise.initial_canvas(block, &mut canvas)?;
        template.fill(&mut canvas);
        let free: Vec<bool> = (0..canvas_len).map(|p| !template.is_fixed(p)).collect();
        let mut draws = Draws::new(canvas_len, 0);
        draws.argmax.copy_from_slice(&canvas);
        for (position, slot) in template.slots().iter().enumerate() {
            if let Slot::Fixed(token) = slot {
                draws.fix(position, *token);
            }
        }
        Ok(Self {
            constraint: None,
            settled: StabilityTracker::new(SETTLED_STEPS),
            params: params.clone(),
            schedule: TemperatureSchedule::new(params),
            stability: StabilityTracker::new(params.stability_threshold),
            block,
            steps: template.first_step(),
            bounded: match params.acceptance {
                AcceptanceRule::Auto => template.fixes_any(),
                AcceptanceRule::Reference => false,
                AcceptanceRule::Bounded => true,
            },
            sets: template.set_indices(canvas_len),
            canvas,
            uniforms: vec![0.0; canvas_len],
            draws,
            accepted: vec![false; canvas_len],
            noise: vec![0; canvas_len],
            mean_entropy: 0.0,
            stable: false,
            status: if !free.contains(&true) {
                // No step would change it.
                CanvasStatus::Converged
            } else if template.first_step() < params.max_steps {
                CanvasStatus::Running
            } else {
                CanvasStatus::OutOfSteps
            },
            free,
            template,
        })
    }

    /// The same canvas in the language of a constraint.
    pub(super) fn following(self, constraint: Option<Continued>) -> Self {
        Self { constraint, ..self }
    }

    /// Decides which of the tokens drawn are kept; fixed ones are. Returns the mean entropy of the
    /// others.
    fn accept(&mut self) -> f32 {
        let positions: Vec<usize> = (0..self.free.len()).filter(|&p| self.free[p]).collect();
        let entropy: Vec<f32> = positions.iter().map(|&p| self.draws.entropy[p]).collect();
        let mut kept = vec![false; entropy.len()];
        let bound = self.params.entropy_bound;
        let forces = |i: usize| !self.bounded && self.template.kept(positions[i]).is_none();
        accept_forcing(&entropy, bound, forces, &mut kept);
        self.accepted.fill(true);
        for (position, kept) in positions.into_iter().zip(kept) {
            self.accepted[position] = kept;
        }
        mean_entropy(&entropy)
    }
}

impl CanvasRun {
    /// The finished block of a constrained answer.
    fn finish_constrained(
        &self,
        mut tokens: Vec<Token>,
        written: &Written,
        end: &EndTokens,
    ) -> FinishedCanvas {
        let generated = written.text + usize::from(written.has_end);
        if let Some(pad) = end.pad {
            tokens[generated..].fill(pad);
        }
        FinishedCanvas {
            block: self.block,
            steps: self.steps - self.template.first_step(),
            converged: self.status == CanvasStatus::Converged,
            answer: tokens[..written.text].to_vec(),
            generated,
            ended: written.is_complete,
            tokens,
        }
    }
}

impl Run for CanvasRun {
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, &'a mut Draws)> {
        noise.uniforms(self.block, self.steps, &mut self.uniforms)?;
        let language = match &self.constraint {
            Some(constraint) => Some(Steering {
                language: constraint.language(self.canvas.len())?,
                at: self.params.constrain_at,
            }),
            None => None,
        };
        let input = StepInput {
            canvas: &self.canvas,
            free: &self.free,
            allowed: match self.template.has_sets() {
                true => Allowed::Sets {
                    sets: self.template.sets(),
                    of: &self.sets,
                },
                false => Allowed::All,
            },
            filter: Filter::NONE,
            rule: DrawRule::Inverse {
                temperature: self.schedule.temperature(self.steps),
                uniforms: &self.uniforms,
            },
            guidance: 0.0,
            average: if self.bounded { AVERAGE } else { 0.0 },
            language,
            targets: &[],
        };
        Ok((input, &mut self.draws))
    }

    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let step = self.steps;
        let free = (0..self.free.len()).filter(|&p| self.free[p]);
        check_finite(&self.draws.entropy, free, self.block, step)?;
        self.mean_entropy = self.accept();
        let draws = &self.draws;
        noise.renoise(self.block, step, &mut self.noise)?;
        for (position, token) in self.noise.iter_mut().enumerate() {
            *token = self.template.kept(position).unwrap_or(*token);
        }
        renoise(
            &self.accepted,
            &draws.sampled,
            &self.noise,
            &mut self.canvas,
        );

        self.stable = self.stability.observe(&draws.argmax);
        // Rounding can leave a certain canvas just below 0, and a threshold of 0 is never reached.
        let confident = self.mean_entropy.max(0.0) < self.params.confidence_threshold;
        // Where model and language disagree, confidence never comes.
        let settled = self.settled.observe(&draws.argmax) && self.constraint.is_some();
        self.steps += 1;
        self.status = if settled || (self.stable && confident) {
            CanvasStatus::Converged
        } else if self.steps >= self.params.max_steps {
            CanvasStatus::OutOfSteps
        } else {
            CanvasStatus::Running
        };
        Ok(())
    }

    fn status(&self) -> CanvasStatus {
        self.status
    }

    fn draft(&self) -> Draft<'_> {
        let step = self.steps.saturating_sub(1);
        Draft {
            block: self.block,
            step,
            max_steps: self.params.max_steps,
            temperature: self.schedule.temperature(step),
            argmax: &self.draws.argmax,
            sampled: &self.draws.sampled,
            entropy: &self.draws.entropy,
            probability: &self.draws.probability,
            accepted: &self.accepted,
            canvas: &self.canvas,
            mean_entropy: self.mean_entropy,
            stable: self.stable,
            status: self.status,
        }
    }

    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas {
        let mut tokens = std::mem::take(&mut self.draws.argmax);
        let read = |constraint: &Continued| constraint.read(&tokens);
        if let Some(written) = self.constraint.as_ref().and_then(read) {
            return self.finish_constrained(tokens, &written, end);
        }
        let from = self.template.end_counts_from(end);
        let first_end = end.pad_after_end(&mut tokens[from..], |_| None);
        let first_end = first_end.map(|position| from + position);
        let is_pad = |token: &Token| Some(*token) == end.pad;
        let before_end = &tokens[..first_end.unwrap_or(tokens.len())];
        FinishedCanvas {
            block: self.block,
            steps: self.steps - self.template.first_step(),
            converged: self.status == CanvasStatus::Converged,
            answer: before_end.iter().copied().filter(|t| !is_pad(t)).collect(),
            generated: tokens.iter().filter(|t| !is_pad(t)).count(),
            ended: first_end.is_some(),
            tokens,
        }
    }
}

impl DiffusionParams {
    /// Checks them for canvases of which these templates are known, in place of their own.
    pub(crate) fn validate_with<'a>(
        &self,
        templates: impl Iterator<Item = &'a Template> + Clone,
        limits: &Limits,
    ) -> Result<()> {
        self.validate_for(limits.vocab)?;
        let fixes_any = templates.clone().any(Template::fixes_any);
        limits.draws.check(&DrawFeatures {
            fixed_positions: fixes_any,
            allowed_sets: templates.clone().any(Template::has_sets),
            averages: match self.acceptance {
                AcceptanceRule::Auto => fixes_any,
                AcceptanceRule::Reference => false,
                AcceptanceRule::Bounded => true,
            },
            languages: self.constraint.is_some(),
            scores: self.scoring.is_some(),
            ..DrawFeatures::default()
        })?;
        let trained = limits.canvas.ok_or_else(|| {
            Error::parameter(
                Parameter::Recipe,
                "this model starts from mask tokens: use the parameters of masked diffusion",
            )
        })?;
        let canvas = self.canvas.unwrap_or(trained);
        check_canvas_length(canvas, trained)?;
        for template in templates {
            template.check(Some(canvas), limits.vocab)?;
            let (first, max) = (template.first_step(), self.max_steps);
            if first > max {
                let problem = format!("it begins at step {first}, but a canvas has {max}");
                return Err(Error::parameter(Parameter::Template, problem));
            }
        }
        Ok(())
    }
}

impl Recipe for DiffusionParams {
    fn validate(&self, limits: &Limits) -> Result<()> {
        self.validate_with(self.templates.iter(), limits)
    }

    fn canvas_len(&self, _: usize, limits: &Limits) -> Result<usize> {
        // Checked above: there is one.
        Ok(self.canvas.or(limits.canvas).unwrap_or(1))
    }

    fn check_budget(&self, budget: Budget) -> Result<()> {
        check_constraint(self.constraint.as_ref(), budget, "raise `max_canvases`")
    }

    fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn boxed(&self) -> Box<dyn Recipe> {
        Box::new(self.clone())
    }

    fn canvas_limit(&self, canvas_len: usize) -> Option<usize> {
        self.canvas_limit(canvas_len)
    }

    fn begin(
        &self,
        block: u32,
        canvas: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>> {
        let run = CanvasRun::new(self, block, canvas.len, noise)?;
        let constraint = Continued::of(self.constraint.as_ref(), canvas)?;
        Ok(Box::new(run.following(constraint)))
    }

    fn scoring(&self) -> Option<Scoring> {
        self.scoring
    }

    fn repair(
        &self,
        canvas: &FinishedCanvas,
        doubted: &[bool],
        round: u32,
        blank: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Option<Box<dyn Run>>> {
        let known = self.templates.get(canvas.block as usize).cloned();
        let known = known.unwrap_or_default();
        Repair::begin(self, &known, canvas, doubted, round, blank, noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{RecordedBlock, RecordedNoise, RecordedStep};

    const VOCAB: usize = 100;

    /// Draws for one canvas of four: it starts as 90 to 93, and step s renoises with 10 s + 50 ….
    fn noise() -> RecordedNoise {
        let steps = (0..4)
            .map(|step| RecordedStep {
                uniforms: vec![0.1 * step as f32; 4],
                renoise: (0..4).map(|i| 50 + 10 * step + i).collect(),
            })
            .collect();
        let block = RecordedBlock {
            initial_canvas: vec![90, 91, 92, 93],
            steps,
        };
        RecordedNoise::new(vec![block], VOCAB).unwrap()
    }

    fn params() -> DiffusionParams {
        DiffusionParams {
            max_steps: 4,
            entropy_bound: 0.5,
            confidence_threshold: 0.1,
            ..DiffusionParams::default()
        }
    }

    fn new_run(params: &DiffusionParams) -> CanvasRun {
        CanvasRun::new(params, 0, 4, &noise()).unwrap()
    }

    /// One step in which the model writes these values.
    fn step(run: &mut CanvasRun, argmax: [Token; 4], entropy: [f32; 4]) -> Result<CanvasStatus> {
        let noise = noise();
        let (_, output) = run.begin_step(&noise)?;
        output.argmax.copy_from_slice(&argmax);
        output
            .sampled
            .copy_from_slice(&argmax.map(|token| token + 10));
        output.entropy.copy_from_slice(&entropy);
        run.end_step(&noise)?;
        Ok(run.status())
    }

    fn temperature_of(input: &StepInput<'_>) -> f32 {
        match input.rule {
            DrawRule::Inverse { temperature, .. } => temperature,
            DrawRule::Greedy | DrawRule::Gumbel { .. } => panic!("another rule"),
        }
    }

    fn uniforms_of<'a>(input: &StepInput<'a>) -> &'a [f32] {
        match input.rule {
            DrawRule::Inverse { uniforms, .. } => uniforms,
            DrawRule::Greedy | DrawRule::Gumbel { .. } => panic!("another rule"),
        }
    }

    #[test]
    fn the_model_is_given_canvas_temperature_and_uniforms() {
        let mut run = new_run(&params());
        let noise = noise();
        let (input, _) = run.begin_step(&noise).unwrap();
        assert_eq!(input.canvas, [90, 91, 92, 93]);
        assert_eq!(temperature_of(&input), 0.8);
        assert_eq!(uniforms_of(&input), [0.0; 4]);

        step(&mut run, [1, 2, 3, 4], [1.0, 0.25, 0.5, 2.0]).unwrap();
        let (input, _) = run.begin_step(&noise).unwrap();
        // Positions 1 and 2 were accepted (0.25 ≤ 0.5), 0 and 3 are noise.
        assert_eq!(input.canvas, [50, 12, 13, 53]);
        assert_eq!(temperature_of(&input), 0.700_000_05);
        assert_eq!(uniforms_of(&input), [0.1; 4]);
    }

    #[test]
    fn acceptance_does_not_last() {
        let mut run = new_run(&params());
        step(&mut run, [1; 4], [0.0, 0.0, 9.0, 9.0]).unwrap();
        assert_eq!(run.draft().canvas, [11, 11, 11, 53]);
        step(&mut run, [2; 4], [9.0, 9.0, 0.0, 0.0]).unwrap();
        assert_eq!(run.draft().canvas, [12, 61, 12, 12]);
    }

    #[test]
    fn bounded_acceptance_forces_no_position_and_asks_for_averages() {
        use AcceptanceRule::{Auto, Bounded, Reference};
        let mut fixed = Template::new();
        fixed.free().free().free().fixed(&[7]);
        for (acceptance, template, is_bounded) in [
            (Reference, &fixed, false),
            (Auto, &Template::new(), false),
            (Auto, &fixed, true),
            (Bounded, &Template::new(), true),
        ] {
            let mut run = new_run(&DiffusionParams {
                acceptance,
                templates: vec![template.clone()],
                ..params()
            });
            let average = run.begin_step(&noise()).unwrap().0.average;
            assert_eq!(average, if is_bounded { 0.9 } else { 0.0 });
            // Each entropy is above the bound.
            step(&mut run, [1, 2, 3, 7], [1.0, 2.0, 3.0, 4.0]).unwrap();
            let fixed = template.is_fixed(3);
            assert_eq!(run.draft().accepted, [!is_bounded, false, false, fixed]);
        }
    }

    #[test]
    fn a_text_that_is_kept_comes_back_where_no_token_is_accepted() {
        let mut template = Template::new();
        template.begin_with(vec![Some(1), Some(2), None, Some(4)]);
        template.keep_beginning();
        let mut run = new_run(&DiffusionParams {
            templates: vec![template],
            ..params()
        });
        assert_eq!(run.draft().canvas, [1, 2, 92, 4]);
        // Position 0 is within the bound, and 1 is not with its own entropy; nothing is left for the rest.
        step(&mut run, [5; 4], [0.25, 0.5, 0.75, 2.0]).unwrap();
        assert_eq!(run.draft().accepted, [true, false, false, false]);
        assert_eq!(run.draft().canvas, [15, 2, 52, 4]);
        // Forced where there is no text.
        step(&mut run, [5; 4], [9.0, 2.0, 0.75, 2.0]).unwrap();
        assert_eq!(run.draft().canvas, [1, 2, 15, 4]);
    }

    #[test]
    fn the_draft_shows_the_step_that_ended() {
        let mut run = new_run(&params());
        step(&mut run, [1, 2, 3, 4], [1.0, 0.25, 0.5, 2.25]).unwrap();
        let draft = run.draft();
        assert_eq!((draft.block, draft.step, draft.max_steps), (0, 0, 4));
        assert_eq!(draft.temperature, 0.8);
        assert_eq!(draft.argmax, [1, 2, 3, 4]);
        assert_eq!(draft.sampled, [11, 12, 13, 14]);
        assert_eq!(draft.entropy, [1.0, 0.25, 0.5, 2.25]);
        assert_eq!(draft.accepted, [false, true, true, false]);
        assert_eq!(draft.mean_entropy, 1.0);
        assert!(!draft.stable);
        assert_eq!(draft.status, CanvasStatus::Running);
        step(&mut run, [1, 2, 3, 4], [1.0; 4]).unwrap();
        assert_eq!(run.draft().step, 1);
        assert!(run.draft().stable);
    }

    #[test]
    fn a_stable_and_confident_canvas_is_done() {
        let mut run = new_run(&params());
        assert_eq!(
            step(&mut run, [1; 4], [0.0; 4]).unwrap(),
            CanvasStatus::Running
        );
        assert_eq!(
            step(&mut run, [1; 4], [0.0; 4]).unwrap(),
            CanvasStatus::Converged
        );
        let done = run.finish(&EndTokens::default());
        assert_eq!((done.steps, done.converged), (2, true));
    }

    #[test]
    fn a_confidence_of_0_takes_all_steps() {
        let mut run = new_run(&DiffusionParams {
            confidence_threshold: 0.0,
            stability_threshold: 0,
            ..params()
        });
        for entropy in [0.0, -0.0, -1e-7] {
            assert_eq!(
                step(&mut run, [1; 4], [entropy; 4]).unwrap(),
                CanvasStatus::Running
            );
        }
        assert_eq!(
            step(&mut run, [1; 4], [0.0; 4]).unwrap(),
            CanvasStatus::OutOfSteps
        );
    }

    #[test]
    fn stable_alone_or_confident_alone_is_not_enough() {
        let mut run = new_run(&params());
        step(&mut run, [1; 4], [0.0; 4]).unwrap();
        assert_eq!(
            step(&mut run, [2; 4], [0.0; 4]).unwrap(),
            CanvasStatus::Running
        );
        assert_eq!(
            step(&mut run, [2; 4], [1.0; 4]).unwrap(),
            CanvasStatus::Running
        );
    }

    #[test]
    fn the_confidence_threshold_itself_is_not_confident() {
        let strict = DiffusionParams {
            stability_threshold: 0,
            confidence_threshold: 0.25,
            ..params()
        };
        let mut run = new_run(&strict);
        assert_eq!(
            step(&mut run, [1; 4], [0.25; 4]).unwrap(),
            CanvasStatus::Running
        );
        assert_eq!(
            step(&mut run, [2; 4], [0.25, 0.25, 0.25, 0.24]).unwrap(),
            CanvasStatus::Converged
        );
    }

    #[test]
    fn steps_run_out() {
        let mut run = new_run(&params());
        for _ in 0..3 {
            assert_eq!(
                step(&mut run, [1; 4], [1.0; 4]).unwrap(),
                CanvasStatus::Running
            );
        }
        assert_eq!(
            step(&mut run, [1; 4], [1.0; 4]).unwrap(),
            CanvasStatus::OutOfSteps
        );
        let done = run.finish(&EndTokens::default());
        assert_eq!((done.steps, done.converged), (4, false));
    }

    #[test]
    fn converging_in_the_last_step_counts_as_converged() {
        let one_step = DiffusionParams {
            max_steps: 1,
            stability_threshold: 0,
            ..params()
        };
        let mut run = new_run(&one_step);
        assert_eq!(
            step(&mut run, [1; 4], [0.0; 4]).unwrap(),
            CanvasStatus::Converged
        );
    }

    #[test]
    fn entropies_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut run = new_run(&params());
            step(&mut run, [1; 4], [0.0; 4]).unwrap();
            let error = step(&mut run, [1; 4], [0.0, 0.0, bad, 0.0]).unwrap_err();
            let expected = "block 0, step 1: the logits at position 2 are not finite";
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    fn finish(argmax: [Token; 4], end: &EndTokens) -> FinishedCanvas {
        let mut run = new_run(&params());
        step(&mut run, argmax, [0.0; 4]).unwrap();
        run.finish(end)
    }

    fn end(ids: &[Token], pad: Option<Token>) -> EndTokens {
        EndTokens {
            ids: ids.to_vec(),
            pad,
        }
    }

    #[test]
    fn the_first_end_token_stays_and_padding_follows() {
        let done = finish([5, 80, 6, 81], &end(&[81, 80], Some(0)));
        assert_eq!(done.tokens, [5, 80, 0, 0]);
        assert_eq!(done.answer, [5]);
        assert_eq!(done.generated, 2);
        assert!(done.ended);
    }

    #[test]
    fn an_end_token_at_either_edge() {
        let done = finish([80, 5, 6, 7], &end(&[80], Some(0)));
        assert_eq!(
            (done.tokens.as_slice(), done.answer.len()),
            ([80, 0, 0, 0].as_slice(), 0)
        );
        let done = finish([5, 6, 7, 80], &end(&[80], Some(0)));
        assert_eq!(done.tokens, [5, 6, 7, 80]);
        assert_eq!(done.answer, [5, 6, 7]);
        assert_eq!(done.generated, 4);
    }

    #[test]
    fn without_an_end_token_all_is_answer() {
        let done = finish([5, 6, 7, 8], &end(&[80], Some(0)));
        assert_eq!(
            (done.tokens, done.answer.len(), done.ended),
            (vec![5, 6, 7, 8], 4, false)
        );
    }

    #[test]
    fn without_a_pad_token_the_canvas_stays_and_the_answer_ends() {
        let done = finish([5, 80, 6, 7], &end(&[80], None));
        assert_eq!(done.tokens, [5, 80, 6, 7]);
        assert_eq!(done.answer, [5]);
        assert_eq!(done.generated, 4);
    }

    #[test]
    fn padding_that_the_model_wrote_is_not_an_answer() {
        let done = finish([5, 0, 6, 80], &end(&[80], Some(0)));
        assert_eq!(done.tokens, [5, 0, 6, 80]);
        assert_eq!(done.answer, [5, 6]);
        assert_eq!(done.generated, 3);
    }

    #[test]
    fn the_block_is_the_argmax_and_not_the_sample() {
        let mut run = new_run(&params());
        step(&mut run, [1, 2, 3, 4], [0.0; 4]).unwrap();
        assert_eq!(run.draft().canvas, [11, 12, 13, 14]);
        assert_eq!(run.finish(&EndTokens::default()).tokens, [1, 2, 3, 4]);
    }
}
