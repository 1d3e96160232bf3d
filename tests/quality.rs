//! The demo model on combinations that its training never showed: right to the letter, and as often as with
//! Hugging Face transformers.
//!
//! `tests/quality/prompts.jsonl` is written by `tools/train_demo/evaluate.py`, with transformers' answers
//! from the same checkpoint in F32.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{CancelFlag, DiffusionParams, Overrides, SessionParams, TextModel, Token};
use serde::Deserialize;

#[derive(Deserialize)]
struct Prompt {
    task: String,
    messages: Vec<Turn>,
    /// The messages in the chat template, as the reference's tokenizer has them.
    tokens: Vec<Token>,
    /// The only right answer.
    answer: String,
    transformers: Reference,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Reference {
    /// One for each seed.
    answers: Vec<String>,
    tokens_per_forward: Vec<f64>,
}

/// Right answers of all.
#[derive(Clone, Copy, Default)]
struct Score {
    right: usize,
    all: usize,
}

impl Score {
    fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.all += 1;
    }

    fn percent(self) -> f64 {
        100.0 * self.right as f64 / self.all as f64
    }
}

/// Tasks that a user tries first.
const EASY: [&str; 5] = ["facts", "days", "lists", "json", "code"];
const SEEDS: [u64; 2] = [1, 2];

/// Least percentages: of the easy tasks, and of all.
const LEAST_EASY: f64 = 95.0;
const LEAST_ALL: f64 = 90.0;
/// Most points between us and transformers.
const MOST_APART: f64 = 2.0;
const LEAST_TOKENS_PER_FORWARD: f64 = 6.0;

#[test]
fn held_back_prompts_are_answered_as_well_as_by_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(root.join("tests/quality/prompts.jsonl")).unwrap();
    let prompts: Vec<Prompt> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(prompts.len(), 200);

    let path = root.join("models/demo-q8_0.gguf");
    let text = TextModel::load(&path, &Default::default(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let template = text.chat_template().unwrap().unwrap();
    let overrides = text.model().overrides();
    let session_params = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    let mut session = text.session(&session_params).unwrap();

    let mut tasks: BTreeMap<&str, Score> = BTreeMap::new();
    let (mut easy, mut all, mut reference) = <(Score, Score, Score)>::default();
    let (mut speed, mut reference_speed) = (Vec::new(), Vec::new());
    for prompt in &prompts {
        let messages: Vec<Message> = prompt
            .messages
            .iter()
            .map(|turn| {
                let role = match turn.role.as_str() {
                    "system" => Role::System,
                    "assistant" => Role::Assistant,
                    _ => Role::User,
                };
                Message::new(role, turn.content.as_str())
            })
            .collect();
        let tokens = text
            .chat_prompt(&template, &messages, Default::default())
            .unwrap();
        assert_eq!(tokens, prompt.tokens, "{:?}", prompt.answer);
        for answer in &prompt.transformers.answers {
            reference.add(*answer == prompt.answer);
        }
        reference_speed.extend(&prompt.transformers.tokens_per_forward);
        for seed in SEEDS {
            let params = DiffusionParams {
                seed,
                max_tokens: Some(256),
                ..DiffusionParams::resolve(&Overrides::default(), &overrides).unwrap()
            };
            let go_on = &mut |_: llama_diffusion::Event<'_>| ControlFlow::Continue(());
            let answer = session
                .generate(&tokens, &params, &CancelFlag::default(), go_on)
                .unwrap();
            let got = text
                .vocab()
                .detokenize(&answer.generation.tokens, false)
                .unwrap();
            let right = got == prompt.answer;
            if !right {
                println!("{}: {got:?} for {:?}", prompt.task, prompt.answer);
            }
            tasks.entry(&prompt.task).or_default().add(right);
            all.add(right);
            if EASY.contains(&prompt.task.as_str()) {
                easy.add(right);
            }
            speed.push(answer.generation.tokens_per_forward());
        }
    }

    for (task, score) in &tasks {
        println!("{task}: {} of {}", score.right, score.all);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    println!(
        "easy {:.1} %, all {:.1} % (transformers {:.1} %), {:.2} tokens per forward (transformers {:.2})",
        easy.percent(),
        all.percent(),
        reference.percent(),
        mean(&speed),
        mean(&reference_speed),
    );
    assert!(easy.percent() >= LEAST_EASY);
    assert!(all.percent() >= LEAST_ALL);
    assert!((all.percent() - reference.percent()).abs() <= MOST_APART);
    assert!(mean(&speed) >= LEAST_TOKENS_PER_FORWARD);
}
