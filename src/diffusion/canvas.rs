//! The state of one canvas: from random tokens, through denoising steps, to the finished block.
//!
//! [`CanvasRun`] does not call the model. It says what the next step needs and takes what the step
//! gave, so that one loop can drive one canvas and another one a whole batch.

use super::Token;
use super::params::DiffusionParams;
use super::random::NoiseSource;
use super::sampler::{StabilityTracker, accept_by_entropy, mean_entropy, renoise};
use super::schedule::TemperatureSchedule;
use crate::error::{Error, Result};

/// What one denoising step reads. Slices have one entry per canvas position.
#[derive(Debug, Clone, Copy)]
pub struct StepInput<'a> {
    /// The canvas to denoise.
    pub canvas: &'a [Token],
    /// Divides the logits.
    pub temperature: f32,
    /// In [0, 1); the inverse CDF at these points gives the sampled tokens.
    pub uniforms: &'a [f32],
}

/// What one denoising step writes, every entry. Slices have one entry per canvas position; all of
/// it follows from the logits divided by the temperature.
#[derive(Debug)]
pub struct StepOutput<'a> {
    /// The most likely token.
    pub argmax: &'a mut [Token],
    /// A token drawn from the distribution.
    pub sampled: &'a mut [Token],
    /// Entropy of the distribution, in nats.
    pub entropy: &'a mut [f32],
}

impl StepOutput<'_> {
    /// The same slices, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> StepOutput<'_> {
        StepOutput {
            argmax: self.argmax,
            sampled: self.sampled,
            entropy: self.entropy,
        }
    }
}

/// Whether a canvas needs another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Running,
    /// It does not: the argmax canvas is stable and its mean entropy below the threshold.
    Converged,
    /// It gets none: all steps are used up.
    OutOfSteps,
}

/// A canvas after one denoising step, for a live view or a trace. Slices have one entry per canvas
/// position.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Index of the step in the canvas, from 0.
    pub step: u32,
    /// Most steps that the canvas gets.
    pub max_steps: u32,
    /// Temperature of the step.
    pub temperature: f32,
    /// Most likely tokens: the best guess at the finished canvas so far.
    pub argmax: &'a [Token],
    /// Tokens drawn in this step.
    pub sampled: &'a [Token],
    /// Entropies in nats.
    pub entropy: &'a [f32],
    /// Positions whose drawn token was accepted.
    pub accepted: &'a [bool],
    /// Input of the next step: accepted tokens, and noise elsewhere.
    pub canvas: &'a [Token],
    /// Mean of the entropies, in nats.
    pub mean_entropy: f32,
    /// Whether the argmax canvas equals those of the previous steps, as many as the stability
    /// threshold asks for.
    pub stable: bool,
    /// Whether another step follows.
    pub progress: Progress,
}

/// One canvas on its way from noise to a finished block.
///
/// While it is [`Running`](Progress::Running), each step is [`begin_step`](Self::begin_step), the
/// model, [`end_step`](Self::end_step); then comes [`finish`](Self::finish).
#[derive(Debug, Clone)]
pub struct CanvasRun {
    params: DiffusionParams,
    schedule: TemperatureSchedule,
    stability: StabilityTracker,
    block: u32,
    /// Steps that have ended.
    steps: u32,
    canvas: Vec<Token>,
    uniforms: Vec<f32>,
    argmax: Vec<Token>,
    sampled: Vec<Token>,
    entropy: Vec<f32>,
    accepted: Vec<bool>,
    noise: Vec<Token>,
    mean_entropy: f32,
    stable: bool,
    progress: Progress,
}

impl CanvasRun {
    /// Canvas number `block` of an answer, filled with `canvas_len` random tokens.
    ///
    /// `params` must be [valid](DiffusionParams::validate).
    ///
    /// # Errors
    /// Those of `noise`.
    pub fn new(
        params: &DiffusionParams,
        block: u32,
        canvas_len: usize,
        noise: &dyn NoiseSource,
    ) -> Result<Self> {
        let mut canvas = vec![0; canvas_len];
        noise.initial_canvas(block, &mut canvas)?;
        Ok(Self {
            params: params.clone(),
            schedule: TemperatureSchedule::new(params),
            stability: StabilityTracker::new(params.stability_threshold),
            block,
            steps: 0,
            canvas,
            uniforms: vec![0.0; canvas_len],
            argmax: vec![0; canvas_len],
            sampled: vec![0; canvas_len],
            entropy: vec![0.0; canvas_len],
            accepted: vec![false; canvas_len],
            noise: vec![0; canvas_len],
            mean_entropy: 0.0,
            stable: false,
            progress: Progress::Running,
        })
    }

    /// Draws the uniforms of the next step, and lends what the model reads and where it writes.
    ///
    /// # Errors
    /// Those of `noise`.
    pub fn begin_step(
        &mut self,
        noise: &dyn NoiseSource,
    ) -> Result<(StepInput<'_>, StepOutput<'_>)> {
        noise.uniforms(self.block, self.steps, &mut self.uniforms)?;
        Ok(self.step_io())
    }

    /// What [`begin_step`](Self::begin_step) lent, once more.
    pub(crate) fn step_io(&mut self) -> (StepInput<'_>, StepOutput<'_>) {
        let input = StepInput {
            canvas: &self.canvas,
            temperature: self.schedule.temperature(self.steps),
            uniforms: &self.uniforms,
        };
        let output = StepOutput {
            argmax: &mut self.argmax,
            sampled: &mut self.sampled,
            entropy: &mut self.entropy,
        };
        (input, output)
    }

    /// Takes what the model wrote: accepts, renoises, and decides whether the canvas is done.
    ///
    /// # Errors
    /// [`Error::Ggml`] if an entropy is not finite: sorting by it would mean nothing, and a canvas
    /// of arbitrary tokens would look like an answer. Those of `noise`.
    pub fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let step = self.steps;
        if let Some(position) = self.entropy.iter().position(|h| !h.is_finite()) {
            return Err(Error::Ggml(format!(
                "block {}, step {step}: the entropy at position {position} is {}, so the logits \
                 are not finite: the weights are damaged, or their type overflows on this device",
                self.block, self.entropy[position]
            )));
        }
        accept_by_entropy(&self.entropy, self.params.entropy_bound, &mut self.accepted);
        noise.renoise(self.block, step, &mut self.noise)?;
        renoise(&self.accepted, &self.sampled, &self.noise, &mut self.canvas);

        self.stable = self.stability.observe(&self.argmax);
        self.mean_entropy = mean_entropy(&self.entropy);
        let confident = self.mean_entropy < self.params.confidence_threshold;
        self.steps += 1;
        self.progress = if self.stable && confident {
            Progress::Converged
        } else if self.steps >= self.params.max_steps {
            Progress::OutOfSteps
        } else {
            Progress::Running
        };
        Ok(())
    }

    /// Whether the canvas needs another step.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The canvas as the latest [`end_step`](Self::end_step) left it. Before the first one only
    /// [`canvas`](Draft::canvas) has a meaning.
    pub fn draft(&self) -> Draft<'_> {
        let step = self.steps.saturating_sub(1);
        Draft {
            block: self.block,
            step,
            max_steps: self.params.max_steps,
            temperature: self.schedule.temperature(step),
            argmax: &self.argmax,
            sampled: &self.sampled,
            entropy: &self.entropy,
            accepted: &self.accepted,
            canvas: &self.canvas,
            mean_entropy: self.mean_entropy,
            stable: self.stable,
            progress: self.progress,
        }
    }

    /// The finished block: the argmax canvas of the last step, cut at its first end token.
    pub fn finish(self, end: &EndTokens) -> FinishedCanvas {
        let mut tokens = self.argmax;
        let first_end = tokens.iter().position(|&token| end.is_end(token));
        if let (Some(position), Some(pad)) = (first_end, end.pad) {
            tokens[position + 1..].fill(pad);
        }
        let is_pad = |token: &Token| Some(*token) == end.pad;
        let before_end = &tokens[..first_end.unwrap_or(tokens.len())];
        FinishedCanvas {
            block: self.block,
            steps: self.steps,
            converged: self.progress == Progress::Converged,
            answer: before_end.iter().copied().filter(|t| !is_pad(t)).collect(),
            generated: tokens.iter().filter(|t| !is_pad(t)).count(),
            ended: first_end.is_some(),
            tokens,
        }
    }
}

/// Which tokens end an answer, and what fills a canvas behind them.
///
/// They come from the generation config (or what a GGUF says of it), and a checkpoint may have
/// several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndTokens {
    /// Each of these ends the answer.
    pub ids: Vec<Token>,
    /// Replaces what follows the first end token of a canvas. Never part of an answer.
    pub pad: Option<Token>,
}

impl EndTokens {
    /// Whether `token` ends the answer.
    pub fn is_end(&self, token: Token) -> bool {
        self.ids.contains(&token)
    }
}

/// A denoised block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedCanvas {
    /// Index of the canvas in the answer, from 0.
    pub block: u32,
    /// Denoising steps it took.
    pub steps: u32,
    /// Whether it stopped because it was stable and confident, and not for lack of steps.
    pub converged: bool,
    /// The whole canvas, as it is committed to the KV cache and as the reference returns it: the
    /// first end token stays, what follows it is padding.
    pub tokens: Vec<Token>,
    /// What a reader wants of it: the tokens before the first end token, without padding, and no
    /// more than the answer's limit allows.
    pub answer: Vec<Token>,
    /// Tokens of the canvas that are not padding; the first end token counts.
    pub generated: usize,
    /// Whether it holds an end token.
    pub ended: bool,
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
    fn step(run: &mut CanvasRun, argmax: [Token; 4], entropy: [f32; 4]) -> Result<Progress> {
        let noise = noise();
        let (_, output) = run.begin_step(&noise)?;
        output.argmax.copy_from_slice(&argmax);
        output
            .sampled
            .copy_from_slice(&argmax.map(|token| token + 10));
        output.entropy.copy_from_slice(&entropy);
        run.end_step(&noise)?;
        Ok(run.progress())
    }

    #[test]
    fn the_model_is_given_canvas_temperature_and_uniforms() {
        let mut run = new_run(&params());
        let noise = noise();
        let (input, _) = run.begin_step(&noise).unwrap();
        assert_eq!(input.canvas, [90, 91, 92, 93]);
        assert_eq!(input.temperature, 0.8);
        assert_eq!(input.uniforms, [0.0; 4]);

        step(&mut run, [1, 2, 3, 4], [1.0, 0.25, 0.5, 2.0]).unwrap();
        let (input, _) = run.begin_step(&noise).unwrap();
        // Positions 1 and 2 were accepted (0.25 ≤ 0.5), 0 and 3 are noise.
        assert_eq!(input.canvas, [50, 12, 13, 53]);
        assert_eq!(input.temperature, 0.700_000_05);
        assert_eq!(input.uniforms, [0.1; 4]);
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
        assert_eq!(draft.progress, Progress::Running);
        step(&mut run, [1, 2, 3, 4], [1.0; 4]).unwrap();
        assert_eq!(run.draft().step, 1);
        assert!(run.draft().stable);
    }

    #[test]
    fn a_stable_and_confident_canvas_is_done() {
        let mut run = new_run(&params());
        assert_eq!(step(&mut run, [1; 4], [0.0; 4]).unwrap(), Progress::Running);
        assert_eq!(
            step(&mut run, [1; 4], [0.0; 4]).unwrap(),
            Progress::Converged
        );
        let done = run.finish(&EndTokens::default());
        assert_eq!((done.steps, done.converged), (2, true));
    }

    #[test]
    fn stable_alone_or_confident_alone_is_not_enough() {
        let mut run = new_run(&params());
        step(&mut run, [1; 4], [0.0; 4]).unwrap();
        assert_eq!(step(&mut run, [2; 4], [0.0; 4]).unwrap(), Progress::Running);
        assert_eq!(step(&mut run, [2; 4], [1.0; 4]).unwrap(), Progress::Running);
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
            Progress::Running
        );
        assert_eq!(
            step(&mut run, [2; 4], [0.25, 0.25, 0.25, 0.24]).unwrap(),
            Progress::Converged
        );
    }

    #[test]
    fn steps_run_out() {
        let mut run = new_run(&params());
        for _ in 0..3 {
            assert_eq!(step(&mut run, [1; 4], [1.0; 4]).unwrap(), Progress::Running);
        }
        assert_eq!(
            step(&mut run, [1; 4], [1.0; 4]).unwrap(),
            Progress::OutOfSteps
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
            Progress::Converged
        );
    }

    #[test]
    fn entropies_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut run = new_run(&params());
            step(&mut run, [1; 4], [0.0; 4]).unwrap();
            let error = step(&mut run, [1; 4], [0.0, 0.0, bad, 0.0]).unwrap_err();
            let expected = format!("block 0, step 1: the entropy at position 2 is {bad}");
            assert!(error.to_string().contains(&expected), "{error}");
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
    fn padding_that_the_model_wrote_is_no_answer() {
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
