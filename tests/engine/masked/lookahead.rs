//! Passes that read the canvases of several steps: what is drawn is what one pass for each step draws.

use llama_diffusion::diffusion::{Allowed, DrawRule, Guess, Lookahead};

use super::*;

fn reading(count: usize, params: &MaskedParams) -> MaskedParams {
    MaskedParams {
        lookahead: Lookahead::Canvases(count),
        ..params.clone()
    }
}

/// Tokens of prompt and answer for which a pass of several canvases gives each its own logits.
const TEXT: usize = 64;
/// llama.cpp's flags: eps, block length, steps.
const SCHEDULES: [(f32, usize, usize); 2] = [(0.001, 0, 24), (0.0, 16, 32)];

fn params(flags: (f32, usize, usize), algorithm: Algorithm) -> MaskedParams {
    let (eps, block, steps) = flags;
    MaskedParams {
        length: AnswerLength::Text(TEXT),
        ..greedy(
            TransferSchedule::new(eps, block, steps as u32, TEXT).unwrap(),
            algorithm,
        )
    }
}

#[test]
fn greedy_generations_are_the_reference_s_in_every_step() {
    let files = Files::new();
    for family in MaskedFamily::ALL {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        for flags in SCHEDULES {
            for algorithm in [1, 4] {
                let mut plan = Plan::new(family, flags, algorithm);
                plan.text = TEXT;
                let expected = plan.run(&mut libllama);
                let params = reading(5, &params(flags, Algorithm::ALL[algorithm]));
                let (generation, canvases) = run(&model, &params, EndTokens::default());
                assert_eq!(canvases, expected, "{family:?}, {flags:?}, {algorithm}");
                assert_eq!(generation.steps, expected.len() as u64);
                assert!(generation.passes <= generation.steps);
            }
        }
    }
}

#[test]
fn every_algorithm_and_draw_is_that_of_one_pass_a_step() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Llada));
    for algorithm in Algorithm::ALL {
        for (flags, temperature, gumbel_noise, seed) in [
            (SCHEDULES[0], 0.7, false, 1),
            (SCHEDULES[1], 0.1, false, 2),
            (SCHEDULES[0], 0.1, true, 3),
        ] {
            let params = MaskedParams {
                temperature,
                gumbel_noise,
                seed,
                algorithm_temperature: 0.3 * seed as f32 - 0.3,
                filter: Filter {
                    top_k: 40,
                    top_p: 0.95,
                },
                ..params(flags, algorithm)
            };
            let alone = run(&model, &reading(1, &params), EndTokens::default());
            let several = run(&model, &reading(4, &params), EndTokens::default());
            assert_eq!(alone.1, several.1, "{params:?}");
            assert_eq!(alone.0.steps, several.0.steps);
            assert_eq!(alone.0.passes, alone.0.steps);
            assert!(several.0.passes <= several.0.steps);
        }
    }
}

/// Whether a canvas is known to have the same logits among others as alone, in every bit, if its text has
/// a multiple of 64 tokens: other processors may round differently, and then read one canvas at a time.
fn shares_passes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && !is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A model that was trained a little, and is certain of most tokens before the schedule unmasks them.
#[test]
fn a_confident_model_needs_fewer_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/masked/counting.gguf");
    let model = load(&path);
    let byte = |b: u8| if b == b' ' { 262 } else { 5 + Token::from(b) };
    let (mut steps, mut passes) = (0, 0);
    for question in ["37>44=", "12>22=", "say otter=", "back lamp="] {
        let prompt: Vec<Token> = [2].into_iter().chain(question.bytes().map(byte)).collect();
        let canvas = TEXT - prompt.len();
        let params = MaskedParams {
            length: AnswerLength::Tokens(canvas),
            ..greedy(
                TransferSchedule::new(0.0, canvas, canvas as u32, canvas).unwrap(),
                Algorithm::Confidence,
            )
        };
        let answer = |count: usize| {
            let settings = SessionParams {
                threads: Some(1),
                ..Default::default()
            };
            let end = EndTokens {
                ids: vec![EOS],
                pad: None,
            };
            let mut session = Session::new(&model, end, &settings).unwrap();
            let mut canvases = Vec::new();
            let params = reading(count, &params);
            let answer = session.generate(&prompt, &params, &CancelFlag::default(), &mut |event| {
                if let Event::Draft(draft) = event {
                    canvases.push(draft.canvas.to_vec());
                }
                ControlFlow::Continue(())
            });
            (answer.unwrap().generation, canvases)
        };
        let (alone, several) = (answer(1), answer(8));
        assert_eq!(alone.1, several.1, "{question}");
        assert_eq!(alone.0.passes, alone.0.steps, "{question}");
        steps += several.0.steps;
        passes += several.0.passes;
    }
    assert!(
        !shares_passes() || steps as f64 >= 1.8 * passes as f64,
        "{passes} passes for {steps} steps"
    );
}

/// The next answer in the same session, with another prompt, knows nothing of the one before.
#[test]
fn what_is_read_ahead_is_of_one_canvas() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Llada));
    let plain = params(SCHEDULES[1], Algorithm::Confidence);
    let answers = |count: usize| {
        let params = reading(count, &plain);
        let settings = SessionParams {
            threads: Some(1),
            ..Default::default()
        };
        let mut session = Session::new(&model, EndTokens::default(), &settings).unwrap();
        let mut answer = |prompt: &[Token]| {
            let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
            let answer = session.generate(prompt, &params, &CancelFlag::default(), go_on);
            answer.unwrap().generation.tokens
        };
        [answer(&PROMPT), answer(&PROMPT[1..]), answer(&PROMPT)]
    };
    assert_eq!(answers(1), answers(6));
}

#[test]
fn numbers_that_cannot_work_are_named() {
    let plain = params(SCHEDULES[0], Algorithm::Confidence);
    for count in [0, Lookahead::MAX + 1] {
        let message = reading(count, &plain).validate().unwrap_err().to_string();
        assert!(message.starts_with("lookahead: is "), "{message}");
    }
    let guided = MaskedParams {
        guidance: 1.5,
        ..plain
    };
    let message = reading(2, &guided).validate().unwrap_err().to_string();
    assert!(message.starts_with("lookahead: guidance "), "{message}");
    reading(1, &guided).validate().unwrap();
}

/// Canvases in turn, whatever is drawn.
struct Given {
    canvases: Vec<Vec<Token>>,
    at: usize,
    count: usize,
}

impl Guess for Given {
    fn canvas(&self) -> &[Token] {
        &self.canvases[self.at]
    }

    fn lookahead(&self) -> Lookahead {
        Lookahead::Canvases(self.count)
    }

    fn advance(
        &mut self,
        _: &mut dyn FnMut(&StepInput<'_>, &mut Draws) -> Result<()>,
    ) -> Result<bool> {
        self.at += 1;
        Ok(self.at < self.canvases.len())
    }
}

/// What each canvas draws greedily, and the number of passes.
fn drawn(
    model: &Arc<MaskedModel>,
    fused: Option<bool>,
    canvases: &[Vec<Token>],
    count: usize,
) -> (Vec<Draws>, usize) {
    let mut denoiser = MaskedDenoiser::new(model, 512, 1, fused).unwrap();
    denoiser.prefill(&PROMPT).unwrap();
    denoiser.begin_canvas(canvases[0].len()).unwrap();
    let mut passes = 0;
    let draws = (0..canvases.len()).map(|at| {
        let canvases = canvases.to_vec();
        let canvas = canvases[at].clone();
        let mut given = Given {
            canvases,
            at,
            count,
        };
        passes += usize::from(!denoiser.read_ahead(&mut given).unwrap());
        let mut draws = Draws::new(canvas.len(), 0);
        let input = StepInput {
            canvas: &canvas,
            free: &vec![true; canvas.len()],
            allowed: Allowed::Except(MASK),
            filter: Filter::NONE,
            rule: DrawRule::Greedy,
            guidance: 0.0,
            average: 0.0,
            language: None,
            targets: &[],
        };
        denoiser.step(&input, &mut draws).unwrap();
        draws
    });
    (draws.collect(), passes)
}

#[test]
fn texts_of_a_pass_do_not_see_each_other() {
    let files = Files::new();
    for family in MaskedFamily::ALL {
        let model = load(&files.model(family));
        for (fused, len) in [
            (None, 59),
            (Some(false), 59),
            (Some(true), 59),
            (None, ANSWER),
        ] {
            let canvases: Vec<Vec<Token>> = (0..5)
                .map(|known| {
                    let token = |p: usize| if p < known { 270 + p as Token } else { MASK };
                    (0..len).map(token).collect()
                })
                .collect();
            let (alone, passes) = drawn(&model, fused, &canvases, 1);
            assert_eq!(passes, 5);
            let (several, passes) = drawn(&model, fused, &canvases, 3);
            assert_eq!(alone, several, "{family:?}, {fused:?}, {len}: in every bit");
            if (PROMPT.len() + len).is_multiple_of(64) && shares_passes() {
                // The first alone, without a step to guess by; the next two, and the first again to
                // compare; likewise the fourth; the last alone.
                assert_eq!(passes, 4, "{family:?}, {fused:?}");
            }
        }
    }
}

/// Where it is measured, how long passes take decides how many there are, and nothing else.
#[test]
fn measured_passes_draw_the_same() {
    let files = Files::new();
    for family in [MaskedFamily::Llada, MaskedFamily::Rnd1] {
        let model = load(&files.model(family));
        let params = MaskedParams {
            length: AnswerLength::Tokens(64 - PROMPT.len()),
            temperature: 0.2,
            ..greedy(
                TransferSchedule::new(0.001, 0, 59, 0).unwrap(),
                Algorithm::Confidence,
            )
        };
        let alone = run(&model, &reading(1, &params), EndTokens::default());
        let measured = run(&model, &params, EndTokens::default());
        assert_eq!(params.lookahead, Lookahead::Auto);
        assert_eq!(alone.1, measured.1, "{family:?}");
    }
}
