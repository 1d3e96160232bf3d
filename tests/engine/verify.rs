//! What a model says about a finished text, and how it repairs what it doubts.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::{
    OwnedEvent, OwnedScoredCanvas, Scorer, Scoring, Template, Timing, TokenScore,
};
use llama_diffusion::gguf::TensorType;
use llama_diffusion::internal::synthetic::{Geometry, WeightTypes, write_synthetic};
use llama_diffusion::{
    CancelFlag, DiffusionParams, EndTokens, Event, Generation, KvType, Model, Session,
    SessionBatch, SessionParams, TextModel, Token,
};
use llama_diffusion_testing::placements::on_cpu;
use llama_diffusion_testing::steps::prompt;
use serde::Deserialize;

use crate::demo;

const CANVAS: usize = Geometry::tiny().canvas_length;
const VOCAB: usize = Geometry::tiny().vocab_size;

fn generated() -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let types = WeightTypes::Uniform(TensorType::F32);
    write_synthetic(&path, &Geometry::tiny(), types, 7).unwrap();
    Model::load(&path, &on_cpu(), &mut |_| ControlFlow::Continue(())).unwrap()
}

static TINY: LazyLock<Arc<Model>> = LazyLock::new(|| Arc::new(generated()));

/// The model with our kernels, and with ggml's operations in their place.
fn models() -> [Arc<Model>; 2] {
    [
        Arc::clone(&TINY),
        Arc::new(generated().without_own_kernels()),
    ]
}

fn session(model: &Arc<Model>) -> Session {
    let params = SessionParams {
        threads: Some(1),
        kv_type: KvType::F32,
        ..SessionParams::default()
    };
    Session::new(model, EndTokens::default(), &params).unwrap()
}

/// Words of which one can stand where another does.
const KINDS: [&str; 12] = [
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom Zoe",
    "red blue green black white golden brown gray",
    "cat dog fox owl horse rabbit bear duck mouse sheep",
    "park river forest garden market school lake hill farm",
    "lamp book cup chair ball hat key bag ring box",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "France Spain Italy Germany Austria Norway Sweden Finland Poland Greece Japan China Peru Chile Cuba",
    "Paris Madrid Rome Berlin Vienna Oslo Stockholm Helsinki Warsaw Athens Lisbon Tokyo Hanoi Lima",
    "French Spanish Italian German Norwegian Swedish Finnish Polish Greek Japanese Chinese Thai Arabic",
    "walked ran went came drove swam",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30",
];

#[derive(Deserialize)]
struct Prompt {
    messages: Vec<Turn>,
    /// The only right answer.
    answer: String,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// The demo model, a session, and words of the same kind for each token that is one.
struct Demo {
    text: TextModel,
    session: Session,
    params: DiffusionParams,
    mates: HashMap<Token, Vec<Token>>,
}

impl Demo {
    fn new() -> Self {
        let demo::Demo {
            text,
            session,
            params,
        } = demo::Demo::new();
        let mut mates = HashMap::new();
        for kind in KINDS {
            for before in ["", " "] {
                let one = |word: &str| {
                    let word = format!("{before}{word}");
                    let tokens = text.vocab().tokenize(&word, false, false).unwrap();
                    <[Token; 1]>::try_from(tokens).ok()
                };
                let tokens: Vec<Token> = kind.split(' ').filter_map(one).flatten().collect();
                for &token in &tokens {
                    let others = tokens.iter().copied().filter(|other| *other != token);
                    mates.entry(token).or_insert(others.collect());
                }
            }
        }
        Self {
            text,
            session,
            params,
            mates,
        }
    }

    /// The tokens of a prompt, and those of its answer.
    fn tokens(&self, prompt: &Prompt) -> (Vec<Token>, Vec<Token>) {
        let message = |turn: &Turn| {
            let role = match turn.role.as_str() {
                "system" => Role::System,
                "assistant" => Role::Assistant,
                _ => Role::User,
            };
            Message::new(role, turn.content.as_str())
        };
        let messages: Vec<Message> = prompt.messages.iter().map(message).collect();
        let template = self.text.chat_template().unwrap();
        let tokens = self
            .text
            .prompt(template.as_ref(), &messages, Default::default());
        let vocab = self.text.vocab();
        let mut answer = vocab.tokenize(&prompt.answer, false, false).unwrap();
        answer.extend(vocab.tokenize("<turn|>", false, true).unwrap());
        (tokens.unwrap(), answer)
    }

    /// Checks a text, and repairs it with this threshold.
    fn check(
        &mut self,
        prompt: &[Token],
        answer: &[Token],
        min_logprob: Option<f32>,
    ) -> (Generation, Vec<OwnedScoredCanvas>) {
        let params = DiffusionParams {
            scoring: Some(Scoring {
                min_logprob,
                top: 1,
                ..Scoring::default()
            }),
            ..self.params.clone()
        };
        let mut scored = Vec::new();
        let on_event = &mut |event: Event<'_>| {
            if let OwnedEvent::Scored(canvas) = event.into() {
                scored.push(canvas);
            }
            ControlFlow::Continue(())
        };
        let cancel = CancelFlag::default();
        let checked = self
            .session
            .check(prompt, answer, &params, &cancel, on_event);
        (checked.unwrap().generation, scored)
    }
}

fn prompts() -> Vec<Prompt> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quality/prompts.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    lines.lines().map(parse).collect()
}

/// Draws that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) as usize % n
    }
}

/// A text with one word replaced by another of its kind, and where; `None` if it has no such word.
fn with_a_mistake(
    demo: &Demo,
    answer: &[Token],
    random: &mut Random,
) -> Option<(Vec<Token>, usize)> {
    let has_mates = |place: &usize| demo.mates.contains_key(&answer[*place]);
    let places: Vec<usize> = (0..answer.len()).filter(has_mates).collect();
    let place = *places.get(random.below(places.len().max(1)))?;
    let mates = &demo.mates[&answer[place]];
    let mut wrong = answer.to_vec();
    wrong[place] = mates[random.below(mates.len())];
    Some((wrong, place))
}

/// The texts are the right answers to prompts that the model was not trained on.
#[test]
fn one_wrong_word_is_found_and_repaired_and_right_texts_stay() {
    let mut demo = Demo::new();
    let mut random = Random(1);
    let min = Some(Scoring::MIN_LOGPROB);
    let (mut right, mut alarms, mut changed) = (0, 0, 0);
    let (mut wrong, mut caught, mut repaired) = (0, 0, 0);
    let prompts = prompts();
    for prompt in prompts.iter().cycle().take(2 * prompts.len()) {
        let (tokens, answer) = demo.tokens(prompt);
        let text = &answer[..answer.len() - 1];
        if right < prompts.len() {
            let (checked, scored) = demo.check(&tokens, &answer, min);
            right += 1;
            let doubts = |canvas: &OwnedScoredCanvas| canvas.doubted.contains(&true);
            alarms += usize::from(scored.iter().any(doubts));
            changed += usize::from(checked.tokens != text);
        }
        if wrong == 200 {
            continue;
        }
        let Some((mistaken, place)) = with_a_mistake(&demo, &answer, &mut random) else {
            continue;
        };
        let (checked, scored) = demo.check(&tokens, &mistaken, min);
        wrong += 1;
        let len = scored[0].tokens.len();
        let at = |canvas: &OwnedScoredCanvas| {
            let first = canvas.round == 0 && canvas.block as usize == place / len;
            first && canvas.doubted[place % len]
        };
        caught += usize::from(scored.iter().any(at));
        repaired += usize::from(checked.tokens == text);
    }
    println!(
        "{right} right texts: {alarms} false alarms, {changed} changed; \
         {wrong} with a mistake: {caught} caught, {repaired} repaired"
    );
    assert_eq!((right, wrong), (200, 200));
    assert!(alarms <= 4 && changed <= 2);
    assert!(caught >= 160 && repaired >= 140);
}

/// What `logits` says about the tokens of the canvas.
#[test]
fn scores_are_those_of_the_logits() {
    for model in models() {
        let mut session = session(&model);
        session.prefill(&prompt(9)).unwrap();
        let canvas = prompt(CANVAS);
        let scores = session.denoiser().score(&canvas, 3).unwrap();
        let logits = session.canvas_denoiser().unwrap().logits().unwrap();
        for ((score, token), row) in scores.iter().zip(&canvas).zip(logits.chunks(VOCAB)) {
            let weights: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let total: f64 = weights.iter().sum();
            let logprob = |token: Token| (weights[token as usize] / total).ln();
            let close = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-4, "{a} {b}");
            assert_eq!(score.token, *token);
            close(score.logprob, logprob(*token));
            let entropy = weights.iter().map(|w| -(w / total) * (w / total).ln());
            close(score.entropy, entropy.sum());
            let mut order: Vec<Token> = (0..VOCAB as Token).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            assert_eq!(score.top.len(), 3);
            for ((token, top), expected) in score.top.iter().zip(order) {
                assert_eq!(*token, expected);
                close(*top, logprob(expected));
            }
        }
        // The step had no self-conditioning, and a second one has none either.
        assert_eq!(session.denoiser().score(&canvas, 3).unwrap(), scores);
    }
}

/// An answer with its events, those about prompts left out.
fn answer(session: &mut Session, params: &DiffusionParams) -> (Generation, Vec<OwnedEvent>) {
    let mut events = Vec::new();
    let answer = session.generate(&prompt(9), params, &CancelFlag::default(), &mut |event| {
        events.push(event.into());
        ControlFlow::Continue(())
    });
    events.retain(|event| !matches!(event, OwnedEvent::PromptEncoded(_)));
    (answer.unwrap().generation, events)
}

fn params(scoring: Option<Scoring>, templates: Vec<Template>) -> DiffusionParams {
    DiffusionParams {
        max_steps: 5,
        max_tokens: None,
        max_canvases: Some(2),
        seed: 11,
        templates,
        scoring,
        ..DiffusionParams::default()
    }
}

fn with_min(min_logprob: Option<f32>) -> Option<Scoring> {
    Some(Scoring {
        min_logprob,
        top: 2,
        ..Scoring::default()
    })
}

#[test]
fn scores_alone_change_nothing() {
    let (plain, plain_events) = answer(&mut session(&TINY), &params(None, vec![]));
    let (scored, mut events) = answer(&mut session(&TINY), &params(with_min(None), vec![]));
    assert_eq!(scored.tokens, plain.tokens);
    assert_eq!(scored.steps, plain.steps + 2);
    assert!(plain.scores.is_empty());
    let tokens: Vec<Token> = scored.scores.iter().map(|score| score.token).collect();
    assert_eq!(tokens, scored.tokens);
    assert!(scored.scores.iter().all(|score| score.top.len() == 2));
    let count = events.len();
    events.retain(|event| !matches!(event, OwnedEvent::Scored(_)));
    assert_eq!(events.len(), count - 2);
    let drafts = |events: Vec<OwnedEvent>| {
        let mut events = events;
        events.retain(|event| matches!(event, OwnedEvent::Draft(_)));
        events
    };
    assert_eq!(drafts(events), drafts(plain_events));
}

/// A model of random weights doubts all that it writes.
#[test]
fn a_repair_keeps_what_is_fixed_and_makes_the_canvas_more_likely() {
    let mut template = Template::new();
    for position in 0..CANVAS / 2 {
        template.fixed(&[100 + position as Token]).free();
    }
    let params = params(with_min(Some(0.0)), vec![template.clone(), template]);
    let (generation, events) = answer(&mut session(&TINY), &params);
    let total = |scores: &[TokenScore]| -> f64 {
        scores.iter().map(|score| f64::from(score.logprob)).sum()
    };
    let mut block = 0;
    let (mut steps, mut last) = (0, f64::NEG_INFINITY);
    let mut rounds = Vec::new();
    for event in &events {
        match event {
            OwnedEvent::Draft(draft) => {
                assert!(draft.step >= steps, "steps go on");
                steps = draft.step + 1;
                assert_eq!(draft.block, block);
                for position in (0..CANVAS).step_by(2) {
                    assert_eq!(draft.canvas[position], 100 + position as Token / 2);
                }
            }
            OwnedEvent::Scored(canvas) => {
                assert!(total(&canvas.scores) >= last);
                last = total(&canvas.scores);
                rounds.push((canvas.block, canvas.round));
                let doubted = canvas.doubted.iter().filter(|d| **d).count();
                assert_eq!(doubted, CANVAS);
            }
            OwnedEvent::CanvasDone(canvas) => {
                assert_eq!(canvas.tokens, generation.canvases[block as usize].tokens);
                (block, steps, last) = (block + 1, 0, f64::NEG_INFINITY);
            }
            OwnedEvent::CanvasBegun(_) | OwnedEvent::PromptEncoded(_) => {}
        }
    }
    assert!(
        rounds.contains(&(0, 1)) && rounds.contains(&(1, 1)),
        "{rounds:?}"
    );
    assert!(rounds.iter().all(|(_, round)| *round <= Scoring::ROUNDS));
    let steps: u32 = generation.canvases.iter().map(|canvas| canvas.steps).sum();
    assert_eq!(u64::from(steps), generation.steps);
}

#[test]
fn batch_mates_change_nothing() {
    let all = [
        params(with_min(Some(-1.0)), vec![]),
        params(None, vec![]),
        params(with_min(None), vec![]),
    ];
    let alone: Vec<Generation> = all
        .iter()
        .map(|params| answer(&mut session(&TINY), params).0)
        .collect();
    let sessions = (0..3).map(|_| session(&TINY)).collect();
    let mut batch = SessionBatch::new(sessions).unwrap();
    let ids: Vec<_> = all
        .iter()
        .map(|params| {
            batch
                .join(&prompt(9), params, &CancelFlag::default())
                .unwrap()
        })
        .collect();
    while !batch.is_empty() {
        for member in batch.step(&mut |_, _| ControlFlow::Continue(())).unwrap() {
            let index = ids.iter().position(|id| *id == member.id).unwrap();
            let generation = member.answer.unwrap().generation;
            assert_eq!(generation.tokens, alone[index].tokens);
            assert_eq!(generation.steps, alone[index].steps);
        }
    }
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let (prompt, cancel) = (prompt(9), CancelFlag::default());
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let mut session = session(&TINY);
    let mut refused = |text: &[Token], scoring| {
        let params = params(scoring, vec![]);
        let checked = session.check(&prompt, text, &params, &cancel, go_on);
        checked.unwrap_err().to_string()
    };
    assert!(refused(&[], with_min(None)).starts_with("tokens: there are none"));
    assert!(refused(&[5], None).starts_with("recipe: it does not say how to score"));
    let error = refused(&[5], with_min(Some(0.5)));
    assert!(error.starts_with("min_logprob: is 0.5"), "{error}");
    let error = refused(&[VOCAB as Token], with_min(None));
    assert!(
        error.starts_with("template: position 0: 320 is not a token"),
        "{error}"
    );
    let mut late = Template::new();
    late.begin_at(6);
    let begun = session
        .begin(&prompt, &params(None, vec![late]))
        .err()
        .unwrap();
    assert!(
        begun
            .to_string()
            .starts_with("template: it begins at step 6, but a canvas has 5")
    );
}

/// The encoder's head of a model of random weights predicts nothing.
#[test]
fn an_encoder_that_is_not_trained_writes_nothing_ahead() {
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let params = params(None, vec![]);
    let cancel = CancelFlag::default();
    let refused = |session: &mut Session, prompt: &[Token]| {
        let answer = session.generate_after(3, prompt, &params, &cancel, &mut |_| {
            ControlFlow::Continue(())
        });
        answer.unwrap_err().to_string()
    };
    let mut session = session(&TINY);
    let error = refused(&mut session, &prompt(40));
    assert!(
        error.starts_with("count: the model's encoder is not trained"),
        "{error}"
    );
    let error = refused(&mut session, &[5]);
    assert!(
        error.starts_with("count: the prompt is too short"),
        "{error}"
    );
    let mut template = Template::new();
    template.free();
    let known = DiffusionParams {
        templates: vec![template],
        ..params.clone()
    };
    let error = session.generate_after(3, &prompt(40), &known, &cancel, go_on);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("count: the encoder follows neither"),
        "{error}"
    );
    // Nothing to write is nothing to check.
    let plain = session.generate(&prompt(9), &params, &cancel, go_on);
    let none = session.generate_after(0, &prompt(9), &params, &cancel, go_on);
    assert_eq!(
        none.unwrap().generation.tokens,
        plain.unwrap().generation.tokens
    );
}

/// A text that the encoder itself would write is one that it is sure of.
fn written_by_the_encoder(session: &mut Session, len: usize) -> Vec<Token> {
    let greedy = |row: &[f32]| {
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)));
        best.unwrap() as Token
    };
    let mut text = vec![5];
    while text.len() < len {
        session.reset().unwrap();
        let encoder = session.canvas_denoiser().unwrap();
        text.push(greedy(&encoder.encode_with_logits(&text).unwrap()));
    }
    text
}

#[test]
fn scores_by_the_encoder_are_those_of_its_next_token_logits() {
    let mut session = session(&TINY);
    let prompt = written_by_the_encoder(&mut session, 50);
    session.reset().unwrap();
    let scoring = |by, min_logprob| {
        Some(Scoring {
            by,
            min_logprob,
            top: 2,
        })
    };
    let mut answered = |params: &DiffusionParams| {
        let mut scored: Vec<OwnedScoredCanvas> = Vec::new();
        let on_event = &mut |event: Event<'_>| {
            if let OwnedEvent::Scored(canvas) = event.into() {
                scored.push(canvas);
            }
            ControlFlow::Continue(())
        };
        let answer = session.generate(&prompt, params, &CancelFlag::default(), on_event);
        (answer.unwrap(), scored)
    };
    let (answer, scored) = answered(&params(scoring(Scorer::Encoder, None), vec![]));
    let canvases = &answer.generation.canvases;
    assert_eq!((answer.reused, canvases.len(), scored.len()), (0, 2, 2));
    // A check changes nothing that follows, and forgets nothing of the prompt.
    let (again, _) = answered(&params(scoring(Scorer::Denoiser, None), vec![]));
    assert_eq!(again.reused, prompt.len());
    assert_eq!(again.generation.tokens, answer.generation.tokens);
    // Whatever is doubted is repaired by the same rule.
    let (_, repaired) = answered(&params(scoring(Scorer::Encoder, Some(-0.5)), vec![]));
    assert!(repaired.iter().any(|canvas| canvas.round > 0));
    let total = |canvas: &OwnedScoredCanvas| -> f32 {
        canvas.scores.iter().map(|score| score.logprob).sum()
    };
    let of_first = repaired.iter().filter(|canvas| canvas.block == 0);
    let totals: Vec<f32> = of_first.map(total).collect();
    println!("{totals:?}");

    let mut text = prompt.clone();
    for (canvas, scores) in canvases.iter().zip(&scored) {
        assert_eq!(canvas.tokens, scores.tokens);
        for (score, token) in scores.scores.iter().zip(&canvas.tokens) {
            session.reset().unwrap();
            let encoder = session.canvas_denoiser().unwrap();
            let row = encoder.encode_with_logits(&text).unwrap();
            let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            let expected = f64::from(row[*token as usize]) - total.ln();
            let found = f64::from(score.logprob);
            assert!((found - expected).abs() < 1e-3, "{found}, not {expected}");
            assert_eq!((score.token, score.top.len()), (*token, 2));
            text.push(*token);
        }
    }
}

#[test]
fn an_encoder_that_is_not_trained_scores_nothing() {
    let scoring = Scoring {
        by: Scorer::Encoder,
        ..Scoring::default()
    };
    let params = params(Some(scoring), vec![]);
    for (prompt, expected) in [
        (
            prompt(40),
            "min_logprob: the model's encoder is not trained",
        ),
        (vec![5], "min_logprob: the prompt is too short"),
    ] {
        let error = session(&TINY).begin(&prompt, &params).err().unwrap();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn an_encoder_that_agrees_with_the_prompt_writes_ahead() {
    let mut session = session(&TINY);
    let text = written_by_the_encoder(&mut session, 60);
    println!("{text:?}");
    let (prompt, expected) = text.split_at(50);
    let params = params(with_min(None), vec![]);
    let mut events: Vec<OwnedEvent> = Vec::new();
    let answer =
        session.generate_after(10, prompt, &params, &CancelFlag::default(), &mut |event| {
            events.push(event.into());
            ControlFlow::Continue(())
        });
    let generation = answer.unwrap().generation;
    assert_eq!(&generation.tokens[..10], expected);
    let blocks: Vec<u32> = generation
        .canvases
        .iter()
        .map(|canvas| canvas.block)
        .collect();
    assert_eq!(blocks, [0, 1, 2]);
    let OwnedEvent::Scored(scored) = &events[0] else {
        panic!("{:?}", events[0])
    };
    assert_eq!(scored.tokens, expected);
    assert!(matches!(&events[1], OwnedEvent::CanvasDone(canvas) if canvas.tokens == expected));

    // Each token has a score: the first ones by the encoder, the others by the denoiser.
    let of: Vec<_> = generation.scores.iter().map(|score| score.token).collect();
    assert_eq!(of, generation.tokens);
    let by: Vec<_> = generation.scores.iter().map(|score| score.by).collect();
    assert_eq!(by[..10], [Scorer::Encoder; 10]);
    assert!(by.len() > 10 && by[10..].iter().all(|by| *by == Scorer::Denoiser));
    for (index, score) in generation.scores[..10].iter().enumerate() {
        session.reset().unwrap();
        let encoder = session.canvas_denoiser().unwrap();
        let logits = encoder.encode_with_logits(&text[..50 + index]).unwrap();
        let own = TokenScore::new(&logits, score.token, score.top.len());
        assert!(
            (own.logprob - score.logprob).abs() < 1e-3,
            "{own:?} {score:?}"
        );
    }

    // Without a canvas the time is that of these tokens.
    session.reset().unwrap();
    let only = DiffusionParams {
        max_tokens: Some(10),
        ..params
    };
    let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
    let answer = session.generate_after(10, prompt, &only, &CancelFlag::default(), go_on);
    let generation = answer.unwrap().generation;
    assert_eq!(generation.tokens, expected);
    let Timing {
        prefill,
        denoise,
        commit,
    } = generation.timing;
    assert!(prefill > Duration::ZERO && commit > Duration::ZERO);
    assert_eq!(denoise, Duration::ZERO);
}
