//! Masked families against a reference that is written out here: plain loops over the logits that
//! libllama returns for each text.

mod lookahead;
mod parallel;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use llama_diffusion::diffusion::{
    Algorithm, CounterNoise, Denoiser, DrawFeatures, Draws, Filter, Generator, Limits, NoiseSource,
    StepInput, TransferSchedule, generate,
};
use llama_diffusion::internal::gguf::GgufWriter as Writer;
use llama_diffusion::internal::llama::{CausalModel, CausalParams};
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::model::{MaskedDenoiser, MaskedModel};
use llama_diffusion::{
    AnswerLength, CancelFlag, EndTokens, Event, FinishReason, Generation, MaskedParams, Result,
    Session, SessionParams, TextModel, Token,
};

/// From the generated vocabulary.
const EOS: Token = 1;
const MASK: Token = 4;
const PROMPT: [Token; 5] = [2, 270, 31, 280, 99];
/// Tokens of prompt and answer.
const TEXT: usize = 21;
const ANSWER: usize = TEXT - PROMPT.len();

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn model(&self, family: MaskedFamily) -> PathBuf {
        let path = self.dir.path().join(format!("{family:?}.gguf"));
        write_masked(&path, family, 11, &|_| ()).unwrap();
        path
    }
}

fn upstream(path: &Path) -> CausalModel {
    let params = CausalParams {
        context: 256,
        batch: 256,
        threads: 1,
        f32_attention: false,
        gpu_layers: 0,
    };
    CausalModel::load(path, params).unwrap()
}

fn load(path: &Path) -> Arc<MaskedModel> {
    let go_on = &mut |_| ControlFlow::Continue(());
    Arc::new(MaskedModel::load(path, &Default::default(), go_on).unwrap())
}

fn greedy(schedule: TransferSchedule, algorithm: Algorithm) -> MaskedParams {
    MaskedParams {
        length: AnswerLength::Text(TEXT),
        schedule,
        algorithm,
        algorithm_temperature: 0.0,
        temperature: 0.0,
        filter: Filter::NONE,
        guidance: 0.0,
        gumbel_noise: false,
        seed: 3,
        ..MaskedParams::default()
    }
}

/// The generation, and the canvas after each step.
fn run(
    model: &Arc<MaskedModel>,
    params: &MaskedParams,
    end: EndTokens,
) -> (Generation, Vec<Vec<Token>>) {
    let session = SessionParams {
        threads: Some(1),
        ..Default::default()
    };
    let mut session = Session::new(model, end, &session).unwrap();
    let mut canvases = Vec::new();
    let answer = session.generate(&PROMPT, params, &CancelFlag::default(), &mut |event| {
        if let Event::Draft(draft) = event {
            canvases.push(draft.canvas.to_vec());
        }
        ControlFlow::Continue(())
    });
    (answer.unwrap().generation, canvases)
}

/// The logits of each position of a text, as libllama returns them.
fn all_logits(model: &mut CausalModel, text: &[Token]) -> Vec<Vec<f32>> {
    model.clear();
    model.decode(text, true).unwrap();
    (0..text.len()).map(|i| model.logits(i).unwrap()).collect()
}

/// What the reference does, by the flags of llama.cpp.
struct Plan<'a> {
    shift: bool,
    /// Tokens of prompt and answer.
    text: usize,
    /// Eps, block length, steps.
    flags: (f32, usize, usize),
    algorithm: usize,
    guidance: f64,
    /// How many positions a step unmasks if these are their confidences, the best first, and the
    /// schedule asks for fewer.
    more: &'a dyn Fn(&[f64]) -> usize,
    /// The probability of an answer that has settled.
    settled: Option<f64>,
    ends: &'a [Token],
}

/// A masked position: its most likely token, the probability of that, its confidence.
struct Guess {
    position: usize,
    token: Token,
    probability: f64,
    confidence: f64,
}

impl Plan<'_> {
    fn new(family: MaskedFamily, flags: (f32, usize, usize), algorithm: usize) -> Self {
        Self {
            shift: family.shifts_logits(),
            text: TEXT,
            flags,
            algorithm,
            guidance: 0.0,
            more: &|_| 0,
            settled: None,
            ends: &[],
        }
    }

    /// The canvas after each step that changes it.
    fn run(&self, model: &mut CausalModel) -> Vec<Vec<Token>> {
        let (eps, block_length, steps) = self.flags;
        let mut text = vec![MASK; self.text];
        text[..PROMPT.len()].copy_from_slice(&PROMPT);
        let mut canvases = Vec::new();
        let blocks = self.text.checked_div(block_length).unwrap_or(1);
        let steps_per_block = steps / blocks;
        for block in 0..blocks {
            let (mut from, mut to) = (PROMPT.len(), self.text);
            if block_length > 0 {
                from = (PROMPT.len() + block * block_length).min(self.text);
                to = (from + block_length).min(self.text);
            }
            let in_block = to - from;
            for step in 0..steps_per_block {
                let masked = (from..to).filter(|&i| text[i] == MASK).count();
                let count = if block_length > 0 {
                    in_block / steps_per_block + usize::from(step < in_block % steps_per_block)
                } else if step + 1 == steps {
                    masked
                } else {
                    let t = 1.0 - step as f32 / steps as f32 * (1.0 - eps);
                    let s = 1.0 - (step + 1) as f32 / steps as f32 * (1.0 - eps);
                    (masked as f32 * (1.0 - s / t)) as usize
                };
                if count == 0 || masked == 0 {
                    continue;
                }
                let guesses = self.guesses(model, &text);
                let mut best: Vec<&Guess> = guesses.iter().collect();
                best.retain(|guess| (from..to).contains(&guess.position));
                best.sort_by(|a, b| b.confidence.partial_cmp(&a.confidence).unwrap());
                let confidence: Vec<f64> = best.iter().map(|guess| guess.confidence).collect();
                for guess in &best[..count.max((self.more)(&confidence)).min(best.len())] {
                    text[guess.position] = guess.token;
                }
                let ended = self.has_ended(&mut text, &guesses);
                canvases.push(text[PROMPT.len()..].to_vec());
                if ended {
                    return canvases;
                }
            }
        }
        canvases
    }

    /// Whether the text is known up to its end, with what has settled in it.
    fn has_ended(&self, text: &mut [Token], guesses: &[Guess]) -> bool {
        let is_end = |token: &Token| self.ends.contains(token);
        let known = text.iter().position(is_end);
        if known.is_some_and(|end| !text[..end].contains(&MASK)) {
            return true;
        }
        let Some(least) = self.settled else {
            return false;
        };
        let mut whole = text.to_vec();
        let open = guesses.iter().filter(|guess| text[guess.position] == MASK);
        let open: Vec<&Guess> = open.collect();
        open.iter()
            .for_each(|guess| whole[guess.position] = guess.token);
        let end = whole.iter().position(is_end).unwrap_or(self.text - 1);
        let waits: Vec<&&Guess> = open.iter().filter(|guess| guess.position <= end).collect();
        let settled = waits.iter().all(|guess| guess.probability >= least);
        if settled {
            waits
                .iter()
                .for_each(|guess| text[guess.position] = guess.token);
        }
        settled
    }

    /// All masked positions.
    fn guesses(&self, model: &mut CausalModel, text: &[Token]) -> Vec<Guess> {
        let mut logits = all_logits(model, text);
        if self.guidance > 0.0 {
            let mut without = text.to_vec();
            without[..PROMPT.len()].fill(MASK);
            let without = all_logits(model, &without);
            for (row, base) in logits.iter_mut().zip(&without) {
                for (l, b) in row.iter_mut().zip(base) {
                    *l = b + (self.guidance as f32 + 1.0) * (*l - b);
                }
            }
        }
        let masked = (0..self.text).filter(|&i| text[i] == MASK);
        let guess = |position: usize| {
            let row = &logits[position - usize::from(self.shift)];
            let z: f64 = (0..row.len())
                .filter(|&t| t as Token != MASK)
                .map(|t| f64::from(row[t]).exp())
                .sum();
            let mut p: Vec<(f64, Token)> = (0..row.len() as Token)
                .filter(|&t| t != MASK)
                .map(|t| (f64::from(row[t as usize]).exp() / z, t))
                .collect();
            p.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap());
            let confidence = match self.algorithm {
                1 => p.iter().map(|(p, _)| p * p.ln()).sum(),
                2 => p[0].0 - p[1].0,
                4 => p[0].0,
                other => panic!("no confidence of algorithm {other}"),
            };
            Guess {
                position,
                token: p[0].1,
                probability: p[0].0,
                confidence,
            }
        };
        masked.map(guess).collect()
    }
}

/// llama.cpp's flags: eps, block length, steps.
const SCHEDULES: [(f32, usize, usize); 3] = [(0.001, 0, 9), (0.0, 7, 12), (0.0, 3, 7)];

fn schedule((eps, block, steps): (f32, usize, usize)) -> TransferSchedule {
    TransferSchedule::new(eps, block, steps as u32, TEXT).unwrap()
}

#[test]
fn greedy_generations_are_the_reference_s_in_every_step() {
    let files = Files::new();
    for family in MaskedFamily::ALL {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        let mut distinct = std::collections::HashSet::new();
        for flags in SCHEDULES {
            for algorithm in [1, 2, 4] {
                let expected = Plan::new(family, flags, algorithm).run(&mut libllama);
                let params = greedy(schedule(flags), Algorithm::ALL[algorithm]);
                let (generation, canvases) = run(&model, &params, EndTokens::default());
                assert_eq!(canvases, expected, "{family:?}, {flags:?}, {algorithm}");
                assert_eq!(generation.finish, FinishReason::Length);
                assert_eq!(generation.tokens, *expected.last().unwrap());
                assert_eq!(generation.steps, expected.len() as u64);
                distinct.insert(canvases);
            }
        }
        // More than there are schedules: the algorithm has an effect, too.
        assert!(
            distinct.len() > SCHEDULES.len(),
            "{family:?}: {}",
            distinct.len()
        );
    }
}

#[test]
fn guidance_is_that_of_two_passes() {
    let files = Files::new();
    for family in [MaskedFamily::Dream, MaskedFamily::LladaMoe] {
        let path = files.model(family);
        let (model, mut libllama) = (load(&path), upstream(&path));
        let plain = greedy(schedule(SCHEDULES[0]), Algorithm::Confidence);
        let guided = MaskedParams {
            guidance: 1.5,
            ..plain.clone()
        };
        let mut plan = Plan::new(family, SCHEDULES[0], 4);
        plan.guidance = 1.5;
        let expected = plan.run(&mut libllama);
        let (_, canvases) = run(&model, &guided, EndTokens::default());
        assert_eq!(canvases, expected, "{family:?}");
        assert_ne!(
            run(&model, &plain, EndTokens::default()).1,
            expected,
            "{family:?}"
        );
    }
}

#[test]
fn logits_are_libllama_s() {
    let files = Files::new();
    for family in MaskedFamily::ALL {
        let path = files.model(family);
        let model = load(&path);
        let mut denoiser = MaskedDenoiser::new(&model, 64, 1, None).unwrap();
        denoiser.prefill(&PROMPT).unwrap();
        denoiser.begin_canvas(3).unwrap();
        let canvas = [MASK, 275, MASK];
        let ours = denoiser.logits(&canvas).unwrap();
        let theirs = all_logits(&mut upstream(&path), &[&PROMPT[..], &canvas].concat());
        let first = PROMPT.len() - usize::from(family.shifts_logits());
        assert_eq!(ours, theirs[first..first + 3], "{family:?}");
        // Both directions: later tokens matter.
        let other = denoiser.logits(&[MASK, 276, MASK]).unwrap();
        assert_ne!(ours[0], other[0], "{family:?}");
    }
}

#[test]
fn an_end_token_ends_the_answer_and_the_work() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Llada));
    let params = greedy(schedule(SCHEDULES[1]), Algorithm::Confidence);
    let (whole, _) = run(&model, &params, EndTokens::default());
    // The third token of the answer, whatever it is, becomes the end token.
    let end = EndTokens {
        ids: vec![whole.tokens[2]],
        pad: None,
    };
    let first = whole.tokens.iter().position(|t| end.is_end(*t)).unwrap();
    let (cut, _) = run(&model, &params, end);
    assert_eq!(cut.tokens, whole.tokens[..first]);
    assert_eq!(cut.finish, FinishReason::EndOfText);
    assert!(cut.steps < whole.steps, "{} of {}", cut.steps, whole.steps);
}

/// What the model wrote after the end token is not part of the canvas.
#[test]
fn padding_follows_the_end_token() {
    const PAD: Token = 0;
    let files = Files::new();
    let path = files.model(MaskedFamily::Llada);
    let model = load(&path);
    let params = greedy(schedule(SCHEDULES[0]), Algorithm::Confidence);
    let (whole, _) = run(&model, &params, EndTokens::default());
    let ids = vec![whole.tokens[2]];
    let first = whole.tokens.iter().position(|t| ids.contains(t)).unwrap();
    for (pad, filled) in [(Some(PAD), PAD), (None, ids[0])] {
        let end = EndTokens {
            ids: ids.clone(),
            pad,
        };
        let (cut, _) = run(&model, &params, end);
        let [canvas] = &cut.canvases[..] else {
            panic!("{cut:?}");
        };
        let rest = vec![filled; ANSWER - first - 1];
        let expected = [&whole.tokens[..=first], &rest].concat();
        assert_eq!(canvas.tokens, expected, "{pad:?}");
        assert_eq!(canvas.answer, whole.tokens[..first]);
        assert!(canvas.ended && canvas.generated == first + 1);
    }
    // The file's own vocabulary has it.
    let text = TextModel::load(&path, &Default::default(), &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(text.unwrap().end_tokens().unwrap().pad, Some(PAD));
}

/// The randomness that a generation requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Uniforms(u32, u32),
    Order(u32, u32),
    Vocabulary(u32, u32, usize),
}

/// The usual randomness, which records requests.
struct Noted {
    noise: CounterNoise,
    asked: Mutex<Vec<Asked>>,
}

impl Noted {
    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }
}

impl NoiseSource for Noted {
    fn initial_canvas(&self, _: u32, _: &mut [Token]) -> Result<()> {
        unreachable!("a masked canvas begins with mask tokens");
    }

    fn uniforms(&self, block: u32, step: u32, out: &mut [f32]) -> Result<()> {
        self.note(Asked::Uniforms(block, step));
        self.noise.uniforms(block, step, out)
    }

    fn renoise(&self, _: u32, _: u32, _: &mut [Token]) -> Result<()> {
        unreachable!("a masked canvas is not renoised");
    }

    fn order(&self, block: u32, step: u32, out: &mut [f64]) -> Result<()> {
        self.note(Asked::Order(block, step));
        self.noise.order(block, step, out)
    }

    fn vocabulary(&self, block: u32, step: u32, position: usize, out: &mut [f64]) -> Result<()> {
        self.note(Asked::Vocabulary(block, step, position));
        self.noise.vocabulary(block, step, position, out)
    }
}

#[test]
fn steps_that_unmask_nothing_are_skipped_and_the_others_keep_their_numbers() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Dream));
    let params = MaskedParams {
        length: AnswerLength::Tokens(3),
        temperature: 0.7,
        algorithm_temperature: 0.3,
        gumbel_noise: true,
        // Of three positions, it unmasks one in step 6 and two in step 7.
        ..greedy(
            TransferSchedule::new(0.001, 0, 8, 0).unwrap(),
            Algorithm::Confidence,
        )
    };
    let noise = Noted {
        noise: CounterNoise::new(params.seed, model.vocab_size()).unwrap(),
        asked: Mutex::default(),
    };
    let (mut steps, mut masked) = (Vec::new(), Vec::new());
    let settings = SessionParams {
        threads: Some(1),
        ..Default::default()
    };
    let answer = Session::new(&model, EndTokens::default(), &settings)
        .unwrap()
        .generate_with(
            &PROMPT,
            &params,
            &noise,
            &CancelFlag::default(),
            &mut |event| {
                if let Event::Draft(draft) = event {
                    steps.push((draft.block, draft.step, draft.max_steps));
                    let positions = 0..draft.canvas.len();
                    masked.push(Vec::from_iter(
                        positions.filter(|p| draft.canvas[*p] == MASK),
                    ));
                }
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    assert_eq!(steps, [(0, 6, 8), (0, 7, 8)]);
    assert_eq!(masked.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0]);
    // The steps that ran.
    assert_eq!(answer.generation.steps, 2);
    assert_eq!(answer.generation.canvases[0].steps, 2);

    let mut asked = noise.asked.into_inner().unwrap();
    asked.sort();
    let mut expected = vec![
        Asked::Uniforms(0, 6),
        Asked::Uniforms(0, 7),
        Asked::Order(0, 6),
        Asked::Order(0, 7),
        Asked::Vocabulary(0, 6, 0),
        Asked::Vocabulary(0, 6, 1),
        Asked::Vocabulary(0, 6, 2),
    ];
    expected.extend(masked[0].iter().map(|p| Asked::Vocabulary(0, 7, *p)));
    assert_eq!(asked, expected);
}

#[test]
fn every_algorithm_fills_the_answer_and_a_seed_decides() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Rnd1));
    for algorithm in Algorithm::ALL {
        for flags in &SCHEDULES[..2] {
            for gumbel_noise in [false, true] {
                let params = MaskedParams {
                    temperature: 0.7,
                    algorithm_temperature: 0.3,
                    filter: Filter {
                        top_k: 40,
                        top_p: 0.95,
                    },
                    gumbel_noise,
                    ..greedy(schedule(*flags), algorithm)
                };
                let tokens = |seed| {
                    let params = MaskedParams {
                        seed,
                        ..params.clone()
                    };
                    let (generation, canvases) = run(&model, &params, EndTokens::default());
                    for pair in canvases.windows(2) {
                        for (old, new) in pair[0].iter().zip(&pair[1]) {
                            assert!(*old == MASK || old == new, "what is unmasked stays");
                        }
                    }
                    assert_eq!(generation.tokens.len(), ANSWER);
                    assert!(!generation.tokens.contains(&MASK));
                    generation.tokens
                };
                assert_eq!(tokens(1), tokens(1), "{algorithm:?}");
                assert_ne!(tokens(1), tokens(2), "{algorithm:?}");
            }
        }
    }
}

#[test]
fn one_candidate_is_greedy_and_blocks_go_from_left_to_right() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Dream));
    for gumbel_noise in [false, true] {
        let cold = greedy(schedule(SCHEDULES[1]), Algorithm::Random);
        let (expected, canvases) = run(&model, &cold, EndTokens::default());
        for filter in [
            Filter {
                top_k: 1,
                top_p: 1.0,
            },
            Filter {
                top_k: 0,
                top_p: 1e-6,
            },
        ] {
            let params = MaskedParams {
                temperature: 2.0,
                filter,
                gumbel_noise,
                ..cold.clone()
            };
            assert_eq!(
                run(&model, &params, EndTokens::default()).0.tokens,
                expected.tokens
            );
        }
        for canvas in canvases {
            let blocks: Vec<bool> = canvas.chunks(7).map(|b| b.contains(&MASK)).collect();
            let begun: Vec<bool> = canvas
                .chunks(7)
                .map(|b| b.iter().any(|t| *t != MASK))
                .collect();
            assert!(
                (1..blocks.len()).all(|b| !begun[b] || !blocks[b - 1]),
                "{canvas:?}"
            );
        }
    }
}

/// A model whose positions have known probabilities of their tokens, and no prompt.
struct Script {
    probabilities: Vec<f32>,
    first: Mutex<Vec<usize>>,
}

impl Denoiser for Script {
    fn limits(&self) -> Limits {
        Limits {
            canvas: None,
            context: 1 + self.probabilities.len(),
            vocab: 100,
            pass: 1,
            mask: Some(MASK),
            draws: DrawFeatures {
                fixed_positions: true,
                allowed_sets: true,
                greedy: true,
                ..DrawFeatures::default()
            },
        }
    }

    fn prefix_len(&self) -> usize {
        1
    }

    fn prefill(&mut self, _: &[Token]) -> Result<()> {
        Ok(())
    }

    fn begin_canvas(&mut self, len: usize) -> Result<()> {
        assert_eq!(len, self.probabilities.len());
        Ok(())
    }

    fn step(&mut self, input: &StepInput<'_>, draws: &mut Draws) -> Result<()> {
        let known = input.canvas.iter().filter(|t| **t != MASK).count();
        if known == 1 {
            let first = input.canvas.iter().position(|t| *t != MASK).unwrap();
            self.first.lock().unwrap().push(first);
        }
        draws.argmax.fill(7);
        draws.sampled.fill(7);
        draws.entropy.fill(0.5);
        draws.probability.copy_from_slice(&self.probabilities);
        draws.margin.copy_from_slice(&self.probabilities);
        Ok(())
    }
}

/// An answer of the script to the one token that it has read, on four positions.
fn script_answers(script: &Script, params: &MaskedParams) -> Generator {
    let params = MaskedParams {
        length: AnswerLength::Tokens(4),
        ..params.clone()
    };
    let (end, limits) = (EndTokens::default(), script.limits());
    Generator::new(Box::new(params), &[2], 1, &end, limits).unwrap()
}

/// How often each position is unmasked first, over many seeds.
fn first_positions(params: &MaskedParams, runs: u64) -> Vec<f64> {
    let mut script = Script {
        probabilities: vec![0.9, 0.1, 0.5, 0.7],
        first: Mutex::default(),
    };
    for seed in 0..runs {
        generate(
            script_answers(&script, params),
            &mut script,
            &CounterNoise::new(seed, 100).unwrap(),
            &CancelFlag::default(),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
    }
    let mut counts = vec![0.0; 4];
    for position in script.first.into_inner().unwrap() {
        counts[position] += 1.0;
    }
    counts
}

#[test]
fn a_temperature_of_the_order_draws_from_its_softmax() {
    const RUNS: u64 = 20_000;
    let temperature = 0.4;
    let one_by_one = TransferSchedule::new(0.0, 4, 4, 4).unwrap();
    for algorithm in [Algorithm::Confidence, Algorithm::Margin] {
        let params = MaskedParams {
            algorithm_temperature: temperature,
            ..greedy(one_by_one, algorithm)
        };
        let counts = first_positions(&params, RUNS);
        let weights = [0.9, 0.1, 0.5, 0.7].map(|c: f64| (c / f64::from(temperature)).exp());
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let expected = RUNS as f64 * weight / total;
            assert!(
                (count - expected).abs() < 5.0 * expected.sqrt(),
                "{counts:?}"
            );
        }
    }
    let certain = first_positions(&greedy(one_by_one, Algorithm::Confidence), 20);
    assert_eq!(certain, [20.0, 0.0, 0.0, 0.0]);
    // Equal entropies: the lower position.
    let tied = first_positions(&greedy(one_by_one, Algorithm::Entropy), 20);
    assert_eq!(tied, [20.0, 0.0, 0.0, 0.0]);
    let any = first_positions(&greedy(one_by_one, Algorithm::Random), RUNS);
    for count in &any {
        assert!((count - 5000.0).abs() < 5.0 * 5000_f64.sqrt(), "{any:?}");
    }
}

/// Each position is unmasked in step n of N with probability 1/N, whatever the others do.
#[test]
fn the_origin_algorithm_unmasks_uniformly_over_the_steps() {
    const RUNS: u64 = 8000;
    let schedule = TransferSchedule::new(1e-6, 0, 4, 0).unwrap();
    let params = greedy(schedule, Algorithm::Origin);
    let mut counts = [[0_f64; 4]; 4];
    for seed in 0..RUNS {
        let mut script = Script {
            probabilities: vec![0.5; 4],
            first: Mutex::default(),
        };
        let mut known = [false; 4];
        generate(
            script_answers(&script, &params),
            &mut script,
            &CounterNoise::new(seed, 100).unwrap(),
            &CancelFlag::default(),
            &mut |event| {
                if let Event::Draft(draft) = event {
                    for (position, known) in known.iter_mut().enumerate() {
                        if draft.accepted[position] && !*known {
                            *known = true;
                            counts[draft.step as usize][position] += 1.0;
                        }
                    }
                }
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    }
    let expected = RUNS as f64 / 4.0;
    for step in counts {
        for count in step {
            assert!(
                (count - expected).abs() < 5.0 * expected.sqrt(),
                "{counts:?}"
            );
        }
    }
}

#[test]
fn files_that_cannot_work_are_refused_with_the_key() {
    let files = Files::new();
    let path = files.dir.path().join("bad.gguf");
    let go_on = &mut |_: f32| ControlFlow::Continue(());
    let mut problem = |family, change: &dyn Fn(&mut Writer)| {
        write_masked(&path, family, 1, change).unwrap();
        let error = MaskedModel::load(&path, &Default::default(), go_on).unwrap_err();
        error.to_string()
    };
    let dream = MaskedFamily::Dream;
    for (family, key, change) in [
        (
            dream,
            "tokenizer.ggml.mask_token_id",
            &(|w: &mut Writer| assert!(w.remove("tokenizer.ggml.mask_token_id")))
                as &dyn Fn(&mut Writer),
        ),
        (dream, "general.architecture", &|w: &mut Writer| {
            w.set("general.architecture", "llama");
        }),
        (dream, "dream.rope.dimension_count", &|w: &mut Writer| {
            w.set("dream.rope.dimension_count", 8_u32);
        }),
        (dream, "dream.attention.head_count", &|w: &mut Writer| {
            w.set("dream.attention.head_count", 0_u32);
        }),
        (
            MaskedFamily::LladaMoe,
            "llada-moe.expert_count",
            &|w: &mut Writer| {
                assert!(w.remove("llada-moe.expert_count"));
            },
        ),
        (
            MaskedFamily::Rnd1,
            "rnd1.expert_used_count",
            &|w: &mut Writer| {
                w.set("rnd1.expert_used_count", 5_u32);
            },
        ),
        (dream, "diffusion.shift_logits", &|w: &mut Writer| {
            w.set("diffusion.shift_logits", "yes");
        }),
    ] {
        let message = problem(family, change);
        assert!(
            message.contains(&format!("metadata key '{key}'")),
            "{key}: {message}"
        );
    }
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let files = Files::new();
    let model = load(&files.model(MaskedFamily::Llada));
    let params = greedy(schedule(SCHEDULES[0]), Algorithm::Confidence);
    let session = SessionParams {
        context: Some(16),
        threads: Some(1),
        ..Default::default()
    };
    let mut session = Session::new(&model, EndTokens::default(), &session).unwrap();
    let mut problem = |prompt: &[Token], length, params: &MaskedParams| {
        let cancel = CancelFlag::default();
        let params = MaskedParams {
            length,
            ..params.clone()
        };
        let result = session.generate(prompt, &params, &cancel, &mut |_| ControlFlow::Continue(()));
        result.unwrap_err().to_string()
    };
    assert!(problem(&[], AnswerLength::Tokens(4), &params).starts_with("prompt: "));
    assert!(
        problem(&PROMPT, AnswerLength::Text(5), &params)
            .starts_with("AnswerLength::Text: the prompt has 5")
    );
    assert!(problem(&PROMPT, AnswerLength::Tokens(12), &params).contains("raise `context`"));
    assert!(problem(&[EOS, 9999], AnswerLength::Tokens(4), &params).contains("token 9999"));
    for (name, params) in [
        (
            "temperature",
            MaskedParams {
                temperature: f32::NAN,
                ..params.clone()
            },
        ),
        (
            "guidance",
            MaskedParams {
                guidance: -1.0,
                ..params.clone()
            },
        ),
        (
            "top_p",
            MaskedParams {
                filter: Filter {
                    top_k: 0,
                    top_p: 0.0,
                },
                ..params.clone()
            },
        ),
    ] {
        let message = problem(&PROMPT, AnswerLength::Tokens(4), &params);
        assert!(message.starts_with(name), "{message}");
    }
    session.reset().unwrap();
    let denoiser = session.denoiser();
    for (tokens, why) in [
        (&[EOS, 9999][..], "token 9999"),
        (&[EOS; 16][..], "16 tokens"),
    ] {
        let error = denoiser.prefill(tokens).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(denoiser.prefix_len(), 0);
    }
}
