//! The block-autoregressive loop: denoise a canvas, commit it to the prefix, begin the next one.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Token;
use super::random::NoiseSource;
use super::run::{
    Draft, EndTokens, FinishedCanvas, NewCanvas, Progress, Sampler, StepInput, StepOutput,
};
use crate::error::{Error, Result};

/// The model, as the loop sees it: a cached prefix, and canvases that are denoised behind it.
pub trait Denoiser {
    /// Tokens of a canvas; at least 1.
    fn canvas_len(&self) -> usize;

    /// Tokens that are in the KV cache: the prompt and the canvases committed so far.
    fn prefix_len(&self) -> usize;

    /// Positions of the KV cache, for the prefix and the canvas behind it.
    fn context_len(&self) -> usize;

    /// Begins a new canvas: the next step has no self-conditioning.
    ///
    /// # Errors
    /// If the device fails.
    fn begin_canvas(&mut self) -> Result<()>;

    /// One forward pass over a canvas. Each step is conditioned on the distribution of the one
    /// before.
    ///
    /// # Errors
    /// If the device fails.
    fn step(&mut self, input: StepInput<'_>, output: StepOutput<'_>) -> Result<()>;

    /// Appends a finished canvas to the prefix.
    ///
    /// # Errors
    /// If the device fails.
    fn commit(&mut self, tokens: &[Token]) -> Result<()>;
}

/// What a generation reports while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A canvas is about to be denoised.
    CanvasBegun(NewCanvas<'a>),
    /// A denoising step ended.
    Draft(Draft<'a>),
    /// A canvas is finished; [`answer`](FinishedCanvas::answer) holds the tokens to show.
    CanvasDone(&'a FinishedCanvas),
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model wrote an end token, or a canvas of nothing but padding.
    EndOfText,
    /// The limit on tokens or canvases was reached.
    Length,
    /// The context has no room for another canvas.
    ContextFull,
    /// An event handler returned [`ControlFlow::Break`] or the [`CancelFlag`] was set.
    Cancelled,
}

/// Where the time of a generation went. The prompt is encoded before and is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// All denoising steps, without the event handler.
    pub denoise: Duration,
    /// Committing canvases to the prefix.
    pub commit: Duration,
}

/// The result of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer: what the canvases' [`answer`](FinishedCanvas::answer)s make together.
    pub tokens: Vec<Token>,
    /// The finished canvases in order. All but the last one are committed to the prefix.
    pub canvases: Vec<FinishedCanvas>,
    /// Denoising steps, including those of a canvas that was cancelled.
    pub steps: u64,
    /// Why it ended.
    pub finish: FinishReason,
    /// Where the time went.
    pub timing: Timing,
}

impl Generation {
    /// Generated tokens per denoising step, as the reference counts: end tokens are generated,
    /// padding is not. 0 if no step ran.
    pub fn tokens_per_forward(&self) -> f64 {
        let generated: usize = self.canvases.iter().map(|canvas| canvas.generated).sum();
        match self.steps {
            0 => 0.0,
            steps => generated as f64 / steps as f64,
        }
    }
}

/// Cancels a generation from another thread, before its next step. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks for the end of the generation.
    pub fn cancel(&self) {
        // The flag guards no other data.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the flag usable for another generation.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Generates an answer after the prefix that `denoiser` holds, canvas by canvas, until an end
/// token, a canvas of nothing but padding, a limit of `sampler`, the end of the context or a
/// cancellation.
///
/// The last canvas is not committed, as in the reference: the prefix then ends with the canvas
/// before it.
///
/// # Errors
/// [`Error::InvalidParameter`] for parameters out of range, [`Error::ContextFull`] if not even one
/// canvas fits behind the prefix, and the errors of `denoiser` and `noise`.
pub fn generate(
    denoiser: &mut dyn Denoiser,
    noise: &dyn NoiseSource,
    sampler: &dyn Sampler,
    end: &EndTokens,
    cancel: &CancelFlag,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut answer = AnswerRun::begin(sampler, denoiser)?;
    for block in 0.. {
        denoiser.begin_canvas()?;
        let mut run = sampler.begin(block, denoiser.canvas_len(), end, noise)?;
        if on_event(Event::CanvasBegun(run.new_canvas())).is_break() {
            return Ok(answer.generation);
        }
        while run.progress() == Progress::Running {
            if cancel.is_cancelled() {
                return Ok(answer.generation);
            }
            let start = Instant::now();
            let (input, output) = run.begin_step(noise)?;
            denoiser.step(input, output)?;
            run.end_step(noise)?;
            answer.count_step(start.elapsed());
            if on_event(Event::Draft(run.draft())).is_break() {
                return Ok(answer.generation);
            }
        }
        let goes_on = answer.end_canvas(run.finish(end), denoiser, cancel, on_event)?;
        if !goes_on {
            break;
        }
    }
    Ok(answer.generation)
}

/// An answer while it is written: what its canvases add up to, and when it ends.
pub(crate) struct AnswerRun {
    max_tokens: Option<usize>,
    max_canvases: Option<usize>,
    /// Cancelled, until it ends otherwise.
    pub(crate) generation: Generation,
}

impl AnswerRun {
    /// Behind the prefix that `denoiser` holds.
    pub(crate) fn begin(sampler: &dyn Sampler, denoiser: &dyn Denoiser) -> Result<Self> {
        sampler.validate()?;
        let canvas = denoiser.canvas_len();
        if !has_room_for(denoiser, 1) {
            return Err(Error::ContextFull {
                prompt: denoiser.prefix_len(),
                canvas,
                context: denoiser.context_len(),
            });
        }
        Ok(Self {
            max_tokens: sampler.max_tokens(),
            max_canvases: sampler.canvas_limit(canvas),
            generation: Generation {
                tokens: Vec::new(),
                canvases: Vec::new(),
                steps: 0,
                finish: FinishReason::Cancelled,
                timing: Timing::default(),
            },
        })
    }

    pub(crate) fn count_step(&mut self, time: Duration) {
        self.generation.timing.denoise += time;
        self.generation.steps += 1;
    }

    /// Takes a finished canvas. If the answer goes on behind it, commits it and says so.
    pub(crate) fn end_canvas(
        &mut self,
        mut canvas: FinishedCanvas,
        denoiser: &mut dyn Denoiser,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        tracing::debug!(
            block = canvas.block,
            steps = canvas.steps,
            converged = canvas.converged,
            "canvas done"
        );
        let generation = &mut self.generation;
        let room = self
            .max_tokens
            .map_or(usize::MAX, |max| max - generation.tokens.len());
        let cut = canvas.answer.len() > room;
        canvas.answer.truncate(room);
        generation.tokens.extend_from_slice(&canvas.answer);
        let flow = on_event(Event::CanvasDone(&canvas));
        generation.canvases.push(canvas);
        let canvas = &generation.canvases[generation.canvases.len() - 1];

        generation.finish = if cut {
            FinishReason::Length
        } else if canvas.ended || canvas.generated == 0 {
            FinishReason::EndOfText
        } else if Some(generation.canvases.len()) == self.max_canvases {
            FinishReason::Length
        } else if !has_room_for(denoiser, 2) {
            FinishReason::ContextFull
        } else if flow.is_break() || cancel.is_cancelled() {
            FinishReason::Cancelled
        } else {
            let start = Instant::now();
            denoiser.commit(&canvas.tokens)?;
            generation.timing.commit += start.elapsed();
            return Ok(true);
        };
        Ok(false)
    }
}

/// Whether `canvases` more fit behind the prefix.
fn has_room_for(denoiser: &dyn Denoiser, canvases: usize) -> bool {
    let free = denoiser.context_len().saturating_sub(denoiser.prefix_len());
    canvases.saturating_mul(denoiser.canvas_len()) <= free
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{CounterNoise, DiffusionParams};

    const CANVAS: usize = 4;
    const VOCAB: usize = 100;
    const EOS: Token = 80;

    /// What the loop asked of the model.
    #[derive(Debug, Clone, PartialEq)]
    enum Call {
        Begin,
        Step {
            canvas: Vec<Token>,
            uniforms: Vec<f32>,
        },
        Commit(Vec<Token>),
    }

    /// A model that writes block k's tokens from the first step on, and is sure of them from the
    /// second step on.
    struct Script {
        blocks: Vec<[Token; CANVAS]>,
        prefix: usize,
        context: usize,
        block: usize,
        step: usize,
        calls: Vec<Call>,
        fail_at_step: Option<usize>,
    }

    impl Script {
        fn new(blocks: &[[Token; CANVAS]]) -> Self {
            Self {
                blocks: blocks.to_vec(),
                prefix: 10,
                context: 1000,
                block: 0,
                step: 0,
                calls: Vec::new(),
                fail_at_step: None,
            }
        }

        fn commits(&self) -> Vec<&[Token]> {
            self.calls
                .iter()
                .filter_map(|call| match call {
                    Call::Commit(tokens) => Some(tokens.as_slice()),
                    _ => None,
                })
                .collect()
        }

        fn steps(&self) -> usize {
            let is_step = |call: &&Call| matches!(call, Call::Step { .. });
            self.calls.iter().filter(is_step).count()
        }
    }

    impl Denoiser for Script {
        fn canvas_len(&self) -> usize {
            CANVAS
        }

        fn prefix_len(&self) -> usize {
            self.prefix
        }

        fn context_len(&self) -> usize {
            self.context
        }

        fn begin_canvas(&mut self) -> Result<()> {
            self.step = 0;
            self.calls.push(Call::Begin);
            Ok(())
        }

        fn step(&mut self, input: StepInput<'_>, output: StepOutput<'_>) -> Result<()> {
            if self.fail_at_step == Some(self.steps()) {
                return Err(Error::Ggml("the device is gone".into()));
            }
            self.calls.push(Call::Step {
                canvas: input.canvas.to_vec(),
                uniforms: input.uniforms.to_vec(),
            });
            output.argmax.copy_from_slice(&self.blocks[self.block]);
            output.sampled.copy_from_slice(&self.blocks[self.block]);
            output.entropy.fill(if self.step == 0 { 1.0 } else { 0.0 });
            self.step += 1;
            Ok(())
        }

        fn commit(&mut self, tokens: &[Token]) -> Result<()> {
            self.calls.push(Call::Commit(tokens.to_vec()));
            self.prefix += tokens.len();
            self.block += 1;
            Ok(())
        }
    }

    fn limited(max_tokens: Option<usize>, max_canvases: Option<usize>) -> DiffusionParams {
        DiffusionParams {
            max_tokens,
            max_canvases,
            seed: 3,
            ..DiffusionParams::default()
        }
    }

    fn end() -> EndTokens {
        EndTokens {
            ids: vec![EOS],
            pad: Some(0),
        }
    }

    fn run_with(
        script: &mut Script,
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let noise = CounterNoise::new(params.seed, VOCAB)?;
        generate(script, &noise, params, &end(), cancel, on_event)
    }

    fn run(script: &mut Script, params: &DiffusionParams) -> Generation {
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        run_with(script, params, &CancelFlag::default(), go_on).unwrap()
    }

    const THREE: [[Token; CANVAS]; 3] = [[1, 2, 3, 4], [5, 6, 7, 8], [9, EOS, 11, 12]];

    #[test]
    fn canvases_are_committed_in_order_until_the_end_token() {
        let mut script = Script::new(&THREE);
        let generation = run(&mut script, &limited(None, None));
        assert_eq!(generation.tokens, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(generation.finish, FinishReason::EndOfText);
        assert_eq!(generation.canvases[2].tokens, [9, EOS, 0, 0]);
        assert_eq!(generation.steps, 6);
        assert_eq!(generation.tokens_per_forward(), 10.0 / 6.0);
        // The last canvas is not committed.
        assert_eq!(script.commits(), [&[1, 2, 3, 4], &[5, 6, 7, 8]]);
        let kinds: String = script
            .calls
            .iter()
            .map(|call| match call {
                Call::Begin => 'b',
                Call::Step { .. } => 's',
                Call::Commit(_) => 'c',
            })
            .collect();
        assert_eq!(kinds, "bsscbsscbss");
    }

    /// The model wrote all it had to say without an end token, and padding after it.
    #[test]
    fn a_canvas_of_padding_alone_ends_the_answer() {
        let mut script = Script::new(&[[1, 2, 0, 0], [3, 0, 0, 0], [0; CANVAS], [4; CANVAS]]);
        let generation = run(&mut script, &limited(None, None));
        assert_eq!(generation.tokens, [1, 2, 3]);
        assert_eq!(generation.finish, FinishReason::EndOfText);
        assert_eq!(generation.canvases.len(), 3);
        assert_eq!(script.commits().len(), 2);
        // It was not cut, even where it meets a limit.
        for (tokens, canvases) in [(Some(12), None), (None, Some(3))] {
            let generation = run(
                &mut Script::new(&[[1, 2, 0, 0], [3, 0, 0, 0], [0; CANVAS]]),
                &limited(tokens, canvases),
            );
            assert_eq!(generation.finish, FinishReason::EndOfText);
        }
    }

    #[test]
    fn the_token_limit_cuts_the_last_canvas() {
        let mut script = Script::new(&THREE);
        let mut shown = Vec::new();
        let collect = &mut |event: Event<'_>| {
            if let Event::CanvasDone(canvas) = event {
                shown.extend_from_slice(&canvas.answer);
            }
            ControlFlow::Continue(())
        };
        let params = limited(Some(6), None);
        let generation = run_with(&mut script, &params, &CancelFlag::default(), collect).unwrap();
        assert_eq!(generation.tokens, [1, 2, 3, 4, 5, 6]);
        assert_eq!(shown, generation.tokens);
        assert_eq!(generation.canvases[1].tokens, [5, 6, 7, 8]);
        assert_eq!(generation.finish, FinishReason::Length);
        assert_eq!(script.commits().len(), 1);
    }

    #[test]
    fn a_limit_that_the_canvases_meet_exactly() {
        let generation = run(&mut Script::new(&THREE), &limited(Some(8), None));
        assert_eq!(generation.tokens.len(), 8);
        assert_eq!(generation.finish, FinishReason::Length);
    }

    #[test]
    fn an_answer_that_ends_within_the_limit_was_not_cut() {
        let generation = run(&mut Script::new(&THREE), &limited(Some(9), None));
        assert_eq!(generation.finish, FinishReason::EndOfText);
        let cut_before_the_end = run(&mut Script::new(&[[1, 2, 3, EOS]]), &limited(Some(2), None));
        assert_eq!(cut_before_the_end.tokens, [1, 2]);
        assert_eq!(cut_before_the_end.finish, FinishReason::Length);
    }

    #[test]
    fn the_canvas_limit_holds_without_a_token_limit() {
        let generation = run(&mut Script::new(&THREE), &limited(None, Some(1)));
        assert_eq!(generation.tokens, [1, 2, 3, 4]);
        assert_eq!(generation.finish, FinishReason::Length);
    }

    #[test]
    fn a_full_context_ends_the_generation() {
        for (context, canvases) in [(14, 1), (17, 1), (18, 2), (22, 3)] {
            let mut script = Script::new(&[[1; CANVAS]; 9]);
            script.context = context;
            let generation = run(&mut script, &limited(None, None));
            assert_eq!(generation.finish, FinishReason::ContextFull, "{context}");
            assert_eq!(generation.canvases.len(), canvases, "{context}");
            assert!(script.prefix + CANVAS <= context);
        }
    }

    #[test]
    fn a_prefix_without_room_for_one_canvas_is_an_error() {
        for context in [0, 10, 13] {
            let mut script = Script::new(&THREE);
            script.context = context;
            let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
            let error = run_with(
                &mut script,
                &limited(None, None),
                &CancelFlag::default(),
                go_on,
            )
            .unwrap_err();
            assert!(
                matches!(error, Error::ContextFull { prompt: 10, canvas: 4, context: c } if c == context),
                "{error}"
            );
            assert_eq!(script.calls, []);
        }
    }

    #[test]
    fn invalid_parameters_never_reach_the_model() {
        let mut script = Script::new(&THREE);
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let error = run_with(
            &mut script,
            &limited(Some(0), None),
            &CancelFlag::default(),
            go_on,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_tokens (-n): is 0, but must be at least 1"
        );
        assert_eq!(script.calls, []);
    }

    #[test]
    fn an_event_handler_cancels_at_each_event() {
        // A new canvas, two steps and the finished canvas, three times.
        for stop_at in 0..12 {
            let mut script = Script::new(&THREE);
            let mut events = 0;
            let stop = &mut |_: Event<'_>| {
                events += 1;
                if events > stop_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let params = limited(None, None);
            let generation = run_with(&mut script, &params, &CancelFlag::default(), stop).unwrap();
            assert_eq!(events, stop_at + 1);
            assert_eq!(generation.canvases.len(), (stop_at + 1) / 4);
            assert_eq!(generation.steps as usize, script.steps());
            assert_eq!(script.commits().len(), stop_at / 4);
            let finish = if stop_at == 11 {
                FinishReason::EndOfText // There was nothing left to cancel.
            } else {
                FinishReason::Cancelled
            };
            assert_eq!(generation.finish, finish, "{stop_at}");
        }
    }

    #[test]
    fn the_flag_cancels_before_the_next_step() {
        for stop_after in 0..6 {
            let mut script = Script::new(&THREE);
            let flag = CancelFlag::default();
            let shared = flag.clone();
            let mut steps = 0;
            if stop_after == 0 {
                flag.cancel();
            }
            let count = &mut |event: Event<'_>| {
                if let Event::Draft(_) = event {
                    steps += 1;
                    if steps == stop_after {
                        shared.cancel();
                    }
                }
                ControlFlow::Continue(())
            };
            let generation = run_with(&mut script, &limited(None, None), &flag, count).unwrap();
            assert_eq!(script.steps(), stop_after);
            assert_eq!(generation.finish, FinishReason::Cancelled);
            assert_eq!(generation.canvases.len(), stop_after / 2);
            // A canvas that was cancelled with its last step is not committed.
            assert_eq!(script.commits().len(), stop_after.saturating_sub(1) / 2);
        }
    }

    #[test]
    fn events_count_blocks_and_steps_and_begin_with_what_the_first_step_reads() {
        let mut seen = Vec::new();
        let mut new = Vec::new();
        let collect = &mut |event: Event<'_>| {
            seen.push(match event {
                Event::CanvasBegun(canvas) => {
                    new.push(canvas.tokens.to_vec());
                    (canvas.block, "new", canvas.max_steps)
                }
                Event::Draft(draft) => (draft.block, "draft", draft.step),
                Event::CanvasDone(canvas) => (canvas.block, "done", canvas.steps),
            });
            ControlFlow::Continue(())
        };
        let params = limited(None, Some(2));
        let mut script = Script::new(&THREE);
        run_with(&mut script, &params, &CancelFlag::default(), collect).unwrap();
        let max = params.max_steps;
        let block = |b| {
            [
                (b, "new", max),
                (b, "draft", 0),
                (b, "draft", 1),
                (b, "done", 2),
            ]
        };
        assert_eq!(seen, [block(0), block(1)].concat());
        let canvas = |call| match call {
            Call::Step { canvas, .. } => Some(canvas),
            _ => None,
        };
        let read: Vec<Vec<Token>> = script.calls.into_iter().filter_map(canvas).collect();
        assert_eq!([&new[0], &new[1]], [&read[0], &read[2]]);
    }

    #[test]
    fn errors_of_the_model_end_the_generation() {
        let mut script = Script::new(&THREE);
        script.fail_at_step = Some(3);
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let error = run_with(
            &mut script,
            &limited(None, None),
            &CancelFlag::default(),
            go_on,
        );
        assert_eq!(error.unwrap_err().to_string(), "ggml: the device is gone");
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_seed_does_not() {
        let calls = |seed| {
            let mut script = Script::new(&THREE);
            run(
                &mut script,
                &DiffusionParams {
                    seed,
                    ..limited(None, None)
                },
            );
            script.calls
        };
        assert_eq!(calls(1), calls(1));
        assert_ne!(calls(1), calls(2));
    }

    #[test]
    fn without_steps_there_are_no_tokens_per_forward() {
        let flag = CancelFlag::default();
        flag.cancel();
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let generation =
            run_with(&mut Script::new(&THREE), &limited(None, None), &flag, go_on).unwrap();
        assert_eq!(generation.tokens_per_forward(), 0.0);
    }
}
