//! The demo model's work on the canvas: gaps, schemas, edits and forms, in combinations that its training
//! never showed.
//!
//! `tests/quality/canvas.jsonl` is written by `tools/train_demo/canvas_cases.py`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use llama_diffusion::constraint::SchemaOptions;
use llama_diffusion::{
    BlankRequest, CancelFlag, DiffusionParams, Event, FormRequest, GapPrompt, InfillRequest,
    Thoughts, Token, edit_message,
};
use serde::Deserialize;
use serde_json::Value;

use crate::demo::Demo;

#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
enum Case {
    Gap {
        before: String,
        gap: String,
        after: String,
    },
    Layout {
        prompt: String,
        schema: Value,
        answer: String,
    },
    Lines {
        instruction: String,
        text: String,
        answer: String,
    },
    Taste {
        prompt: String,
        choices: Vec<String>,
        /// How often each of them is right.
        shares: Vec<f64>,
    },
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(root.join("tests/quality/canvas.jsonl")).unwrap();
    let cases = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    cases.collect()
});

fn demo() -> Demo {
    let mut demo = Demo::new();
    demo.params.seed = 1;
    demo
}

impl Demo {
    /// An answer, and the steps that it took.
    fn answer(&mut self, prompt: &[Token], params: &DiffusionParams) -> (String, u64) {
        let cancel = CancelFlag::default();
        let answer = self.session.generate(prompt, params, &cancel, &mut go_on);
        let generation = answer.unwrap().generation;
        let text = self.text.answer_text(prompt, &generation.tokens).unwrap();
        (text.text, generation.steps)
    }

    /// What is written into a gap.
    fn infill(&mut self, before: &str, after: &str) -> String {
        let request = InfillRequest {
            input_prefix: before.into(),
            input_suffix: after.into(),
            seed: 1,
            ..InfillRequest::default()
        };
        let template = self.text.chat_template().unwrap().unwrap();
        let prompt = GapPrompt::Chat {
            template: &template,
            opening: Vec::new(),
            variables: Default::default(),
        };
        let cancel = CancelFlag::default();
        let (session, params) = (&mut self.session, &self.params);
        let answers = self
            .text
            .infill(session, &request, &prompt, params, &cancel, &mut go_on);
        answers.unwrap().remove(0).content
    }
}

fn go_on(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The share of cases that are right.
fn share(right: &[bool]) -> f64 {
    right.iter().filter(|right| **right).count() as f64 / right.len() as f64
}

/// 97 of 100 are exact, and 2 without the text after it.
#[test]
fn what_follows_a_gap_decides_what_is_in_it() {
    let mut demo = demo();
    let (mut exact, mut without) = (Vec::new(), Vec::new());
    for case in CASES.iter() {
        let Case::Gap { before, gap, after } = case else {
            continue;
        };
        exact.push(demo.infill(before, after) == *gap);
        without.push(demo.infill(before, "").starts_with(gap.as_str()));
    }
    assert_eq!(exact.len(), 100);
    println!("exact {}, prefix only {}", share(&exact), share(&without));
    assert!(share(&exact) >= 0.9);
    assert!(share(&without) <= 0.25);
}

/// All are the same, in as many steps.
#[test]
fn a_schema_that_the_answer_has_anyway_changes_nothing() {
    let mut demo = demo();
    let (mut same, mut right, mut steps) = (Vec::new(), Vec::new(), [0, 0]);
    for case in CASES.iter() {
        let Case::Layout {
            prompt,
            schema,
            answer,
        } = case
        else {
            continue;
        };
        let prompt = demo.prompt(prompt);
        let options = SchemaOptions::default();
        let constraint = demo
            .text
            .json_schema(schema, &options, &prompt, Thoughts::None);
        let constrained = DiffusionParams {
            constraint: Some(constraint.unwrap()),
            ..demo.params.clone()
        };
        let plain = demo.params.clone();
        let (without, taken) = demo.answer(&prompt, &plain);
        steps[0] += taken;
        let (within, taken) = demo.answer(&prompt, &constrained);
        steps[1] += taken;
        same.push(within == without);
        right.push(within == *answer);
    }
    assert_eq!(same.len(), 100);
    let (same, right) = (share(&same), share(&right));
    println!("same {same}, right {right}, steps {steps:?}");
    assert!(same >= 0.98);
    assert!(right >= 0.98);
    assert!(steps[1] as f64 <= 1.1 * steps[0] as f64);
}

/// 91 to 92 of 100 are right in every letter.
#[test]
fn texts_of_several_lines_are_edited_at_every_strength() {
    let mut demo = demo();
    for (strength, canvas) in [(0.0, None), (0.0, Some(16)), (0.5, None), (1.0, None)] {
        let mut right = Vec::new();
        let params = DiffusionParams {
            canvas,
            ..demo.params.clone()
        };
        for case in CASES.iter() {
            let Case::Lines {
                instruction,
                text,
                answer,
            } = case
            else {
                continue;
            };
            let prompt = demo.prompt(&edit_message(instruction, text));
            let original = demo.text.original(text, &[], strength).unwrap();
            let cancel = CancelFlag::default();
            let edited = demo
                .session
                .edit(&prompt, &original, &params, &cancel, &mut go_on);
            let tokens = edited.unwrap().generation.tokens;
            let edited = demo.text.edited_text(&prompt, &original, &tokens).unwrap();
            right.push(edited.text == *answer);
        }
        assert_eq!(right.len(), 100);
        println!("strength {strength}, canvas {canvas:?}: {}", share(&right));
        assert!(share(&right) >= 0.88);
    }
}

/// The error of confidences, in tenths of confidence (Guo et al., "On Calibration of Modern Neural Networks",
/// 2017), is 0.044.
#[test]
fn the_probabilities_of_choices_are_calibrated() {
    let mut demo = demo();
    let (mut tenths, mut count) = ([0.0; 10], 0.0);
    for case in CASES.iter() {
        let Case::Taste {
            prompt,
            choices,
            shares,
        } = case
        else {
            continue;
        };
        let request = FormRequest {
            form: "▢".into(),
            blanks: vec![BlankRequest {
                name: "answer".into(),
                choices: Some(choices.clone()),
                regex: None,
            }],
            steps: 1,
            samples: 4,
            seed: 0,
            canvas: None,
        };
        let prompt = demo.prompt(prompt);
        let cancel = CancelFlag::default();
        let filled = demo.text.fill(
            &mut demo.session,
            &prompt,
            &request,
            Thoughts::None,
            &cancel,
        );
        let blank = &filled.unwrap().blanks[0];
        let tenth = ((blank.probability * 10.0) as usize).min(9);
        tenths[tenth] += blank.probability - shares[blank.choice.unwrap()];
        count += 1.0;
    }
    let error = tenths.iter().map(|sum: &f64| sum.abs()).sum::<f64>() / count;
    println!("{count} questions, calibration error {error:.3}");
    assert_eq!(count, 150.0);
    assert!(error <= 0.05);
}
