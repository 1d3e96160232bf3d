//! `llama-diffusion-cli cross-entropy` from outside, on the demo model.

use std::fs;
use std::path::Path;
use std::process::Output;

use llama_diffusion::quantize::{FileType, Plan, QuantizeParams};
use llama_diffusion_testing::model_file::damaged_demo;
use tempfile::TempDir;

use crate::common;

const DEMO: &str = llama_diffusion_demo_model::PATH;

fn run(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = common::tool();
    command.current_dir(dir).arg("cross-entropy").args(args);
    command.output().unwrap()
}

/// The cells of the rows below the head, without the names of the models.
fn table(dir: &TempDir, args: &[&str]) -> Vec<Vec<f64>> {
    let output = run(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let rows = stdout.lines().skip(2).map(|row| {
        let cells = row.trim_matches('|').split('|').skip(1);
        let cells = cells.map(|cell| cell.trim().trim_end_matches(" %").parse().unwrap());
        cells.collect()
    });
    rows.collect()
}

fn save(dir: &TempDir, name: &str, lines: &[&str]) {
    fs::write(dir.path().join(name), lines.join("\n")).unwrap();
}

const RIGHT: &str =
    r#"{"prompt": "What is the capital of Norway?", "answer": "The capital of Norway is Oslo."}"#;
const WRONG: &str =
    r#"{"prompt": "What is the capital of Norway?", "answer": "The capital of Norway is Rome."}"#;

#[test]
fn right_answers_and_good_types_have_the_lower_cross_entropy() {
    let dir = TempDir::new().unwrap();
    let rough = dir.path().join("rough.gguf");
    let mut params = QuantizeParams::new(FileType::Q4_0);
    params.allow_requantize = true;
    params.threads = Some(1);
    params.mix.pure = true;
    let plan = Plan::new(Path::new(DEMO), params).unwrap();
    plan.write(&rough, &mut |_| std::ops::ControlFlow::Continue(()))
        .unwrap();

    save(&dir, "right.jsonl", &[RIGHT]);
    save(&dir, "wrong.jsonl", &[WRONG]);
    let right = table(&dir, &["right.jsonl", DEMO, "-t", "1"]);
    let wrong = table(&dir, &["wrong.jsonl", DEMO, "rough.gguf", "-t", "1"]);
    let [bits, quarter, .., noise, mean, _, difference, _, top1] = right[0][..] else {
        panic!("{right:?}");
    };
    assert!((8.5..9.0).contains(&bits) && wrong[1][0] < 5.5);
    // For a canvas of noise only the prompt shows what it was.
    let known = quarter < 0.2 && noise < 0.2 && mean < 0.2 && top1 > 90.0;
    assert!(known, "{right:?}");
    assert_eq!(difference, 0.0);
    assert!(wrong[0][5] > mean + 0.5, "{wrong:?}");
    // What the model considers unlikely, its quantized types consider unlikely to different
    // degrees.
    assert_ne!(wrong[1][7], 0.0);
    assert!(
        (wrong[1][7] - (wrong[1][5] - wrong[0][5])).abs() < 2e-5,
        "{wrong:?}"
    );
    let wrong = &wrong[..1];

    // The same conversation as messages; another seed has other noise.
    let messages = r#"{"messages": [{"role": "user", "content": "What is the capital of Norway?"},
        {"role": "assistant", "content": "The capital of Norway is Rome."}]}"#;
    save(
        &dir,
        "messages.jsonl",
        &["", &messages.replace('\n', " "), ""],
    );
    assert_eq!(table(&dir, &["messages.jsonl", DEMO, "-t", "1"]), wrong);
    assert_ne!(
        table(&dir, &["wrong.jsonl", DEMO, "-t", "1", "-s", "2"]),
        wrong
    );
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let dir = TempDir::new().unwrap();
    save(&dir, "right.jsonl", &[RIGHT]);
    for tensor in [
        "blk.0.attn_q.weight",
        "blk.3.ffn_gate_up_exps.weight",
        "token_embd.weight",
    ] {
        fs::write(dir.path().join("damaged.gguf"), damaged_demo(tensor)).unwrap();
        let named =
            format!("error: damaged.gguf: tensor '{tensor}': has a value that is not finite");
        for line in [
            "cross-entropy right.jsonl damaged.gguf -t 1",
            "-m damaged.gguf -p Hello! -t 1 -s 1",
        ] {
            let mut command = common::tool();
            let command = command.current_dir(&dir).args(line.split(' '));
            let output = command.output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{tensor}: {line}: {stderr}");
            assert!(stderr.contains(&named), "{tensor}: {line}: {stderr}");
            assert!(output.stdout.is_empty(), "{tensor}: {line}");
        }
    }
}

#[test]
fn mistakes_are_named() {
    let dir = TempDir::new().unwrap();
    save(&dir, "right.jsonl", &[RIGHT]);
    save(&dir, "broken.jsonl", &[RIGHT, "", "{\"prompt\": "]);
    save(&dir, "half.jsonl", &[r#"{"prompt": "Hello!"}"#]);
    save(&dir, "empty.jsonl", &["", ""]);
    let long = format!(
        r#"{{"prompt": "Hello!", "answer": "{}"}}"#,
        "word ".repeat(9000)
    );
    save(&dir, "long.jsonl", &[RIGHT, &long]);
    for (line, parts) in [
        (&["right.jsonl"][..], &["<MODEL>..."][..]),
        (
            &["none.jsonl", DEMO],
            &["error: none.jsonl", "No such file"],
        ),
        (&["broken.jsonl", DEMO], &["error: broken.jsonl: line 3"]),
        (&["half.jsonl", DEMO], &["half.jsonl: line 1", "\"answer\""]),
        (&["empty.jsonl", DEMO], &["empty.jsonl", "no lines"]),
        (&["right.jsonl", "none.gguf"], &["error: none.gguf"]),
        (
            &["long.jsonl", DEMO, "-t", "1"],
            &[
                "error: long.jsonl: prompt and answer 2 do not fit",
                "leave them out",
            ],
        ),
        (&["right.jsonl", DEMO, "-t", "x"], &["'x'", "whole number"]),
    ] {
        let output = run(&dir, line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{line:?}");
        for part in parts {
            assert!(
                stderr.contains(part),
                "{line:?}: {part:?} is not in {stderr:?}"
            );
        }
    }
}
