//! The block-autoregressive loop: encode the prompt, denoise a canvas, commit it, begin the next.

use std::ops::ControlFlow;
use std::time::Instant;

use super::event::{CancelFlag, Event};
use super::generation::{Generation, Generator, Next};
use super::random::NoiseSource;
use super::score::Scorer;
use super::step::Denoiser;
use crate::error::Result;

/// Runs a generation to its end on a denoiser whose prefix is what the generator counts as
/// [reused](Generator::reused).
///
/// `on_event` receives every [`Event`] and may cancel, as `cancel` may from another thread: before
/// every pass.
///
/// # Errors
/// The errors of `denoiser` and `noise`.
pub fn generate(
    mut generator: Generator,
    denoiser: &mut dyn Denoiser,
    noise: &dyn NoiseSource,
    cancel: &CancelFlag,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    while advance(&mut generator, denoiser, noise, cancel, on_event)?.is_continue() {}
    Ok(generator.finish())
}

/// Performs the next action of a generation. Breaks when it is done.
///
/// # Errors
/// The errors of `denoiser` and `noise`.
pub fn advance(
    generator: &mut Generator,
    denoiser: &mut dyn Denoiser,
    noise: &dyn NoiseSource,
    cancel: &CancelFlag,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    generator.check(cancel);
    let start = Instant::now();
    generator.read_ahead(denoiser, noise)?;
    match generator.next(noise)? {
        Next::Prefill(rest) => {
            let pass = &rest[..rest.len().min(denoiser.limits().pass)];
            denoiser.prefill(pass)?;
            let count = pass.len();
            generator.prefilled(count, start, on_event);
        }
        Next::Begin { len, count } => {
            denoiser.begin_canvases(len, count)?;
            generator.begun(noise, on_event)?;
        }
        Next::Step(input, draws) => {
            denoiser.step(&input, draws)?;
            generator.stepped(noise, start, on_event)?;
        }
        Next::Score(canvas, scoring) => {
            let scores = match scoring.by {
                Scorer::Denoiser => denoiser.score(canvas, scoring.top)?,
                Scorer::Encoder => denoiser.score_by_encoder(canvas, scoring.top)?,
            };
            generator.scored(scores, noise, start, on_event)?;
        }
        Next::Commit(canvas) => {
            denoiser.prefill(canvas)?;
            generator.committed(start);
        }
        Next::Done(_) => return Ok(ControlFlow::Break(())),
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{
        CounterNoise, DiffusionParams, DrawFeatures, DrawRule, Draws, EndTokens, FinishReason,
        Limits, StepInput, Token,
    };
    use crate::error::Error;

    const CANVAS: usize = 4;
    const VOCAB: usize = 100;
    const EOS: Token = 80;

    /// The calls that the model received.
    #[derive(Debug, Clone, PartialEq)]
    enum Call {
        Begin,
        Step {
            canvas: Vec<Token>,
            uniforms: Vec<f32>,
        },
        Commit(Vec<Token>),
    }

    /// A model that writes block k's tokens from the first step on, with low entropy from the
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
        fn limits(&self) -> Limits {
            Limits {
                canvas: Some(CANVAS),
                context: self.context,
                vocab: VOCAB,
                pass: 4,
                mask: None,
                draws: DrawFeatures::default(),
            }
        }

        fn prefix_len(&self) -> usize {
            self.prefix
        }

        fn begin_canvas(&mut self, _: usize) -> Result<()> {
            self.step = 0;
            self.calls.push(Call::Begin);
            Ok(())
        }

        fn step(&mut self, input: &StepInput<'_>, output: &mut Draws) -> Result<()> {
            if self.fail_at_step == Some(self.steps()) {
                return Err(Error::Ggml("the device is gone".into()));
            }
            let DrawRule::Inverse { uniforms, .. } = input.rule else {
                panic!("another rule");
            };
            self.calls.push(Call::Step {
                canvas: input.canvas.to_vec(),
                uniforms: uniforms.to_vec(),
            });
            output.argmax.copy_from_slice(&self.blocks[self.block]);
            output.sampled.copy_from_slice(&self.blocks[self.block]);
            output.entropy.fill(if self.step == 0 { 1.0 } else { 0.0 });
            self.step += 1;
            Ok(())
        }

        fn prefill(&mut self, tokens: &[Token]) -> Result<()> {
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
        // The prompt is encoded.
        let prompt = vec![1; script.prefix];
        let recipe = Box::new(params.clone());
        let limits = script.limits();
        let generator = Generator::new(recipe, &prompt, prompt.len(), &end(), limits)?;
        generate(generator, script, &noise, cancel, on_event)
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

    /// The model finished without an end token and wrote padding.
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
            "max_tokens: is 0, but must be at least 1"
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
                Event::PromptEncoded(_) => panic!("the prompt was encoded before"),
                Event::CanvasBegun(canvas) => {
                    new.push(canvas.tokens.to_vec());
                    (canvas.block, "new", canvas.max_steps)
                }
                Event::Draft(draft) => (draft.block, "draft", draft.step),
                Event::Scored(_) => panic!("nobody asked for scores"),
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
