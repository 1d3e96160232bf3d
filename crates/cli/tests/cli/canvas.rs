//! The length of canvases, and what they correct of themselves.
#![cfg(feature = "demo-model")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, text};

/// Runs the tool. One thread: the tests themselves run side by side.
fn cli(args: &[&str]) -> Output {
    let mut command = common::tool();
    command.args(["-t", "1", "-s", "1"]);
    command.args(args).output().unwrap()
}

const QUESTION: [&str; 2] = ["-p", "What is the capital of Norway?"];

/// The standard error of an answer with these flags.
fn summary(flags: &[&str]) -> String {
    let output = cli(&[&QUESTION, flags].concat());
    let stderr = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    stderr
}

/// The demo model was trained with canvases of 32 tokens.
#[test]
fn a_canvas_has_the_length_that_was_asked_for() {
    for (flags, expected) in [
        (&[] as &[&str], 32),
        (&["--canvas", "32"], 32),
        (&["--canvas", "16"], 16),
        (&["--canvas", "auto", "-n", "9"], 16),
        (&["--canvas", "auto", "-n", "17"], 32),
        (&["--canvas", "auto", "-n", "100"], 32),
        (&["--canvas", "auto", "-n", "-1"], 32),
        (&["--canvas", "auto"], 32),
    ] {
        let (summary, canvas) = (summary(flags), format!("({expected}-tok canvas x"));
        assert!(summary.contains(&canvas), "{flags:?}: {summary}");
    }
    let answer = |flags: &[&str]| cli(&[&QUESTION, flags].concat()).stdout;
    assert_eq!(answer(&[]), answer(&["--canvas", "32"]));
}

#[test]
fn lengths_that_cannot_work_are_refused_by_the_flag() {
    for (value, part) in [
        (
            "48",
            "--canvas: has 48 tokens, but this model was trained with canvases of 32: use 32",
        ),
        ("20", "--canvas: has 20 tokens, but "),
        ("0", "'--canvas <N|auto>'"),
        ("short", "or auto for the shortest that holds -n tokens"),
    ] {
        let output = cli(&[&QUESTION[..], &["--canvas", value]].concat());
        assert_eq!(output.status.code(), Some(1), "{value}");
        assert!(
            text(&output.stderr).contains(part),
            "{}",
            text(&output.stderr)
        );
    }
}

/// What `--diffusion-stats` writes.
fn stats(output: &Output) -> Vec<String> {
    let lines = text(&output.stderr).lines();
    let of_stats = lines.filter(|line| line.starts_with("corrections: "));
    of_stats.map(str::to_owned).collect()
}

/// Corrections by step, counted in a recording, and the positions that have some.
fn counted(recording: &str) -> (BTreeMap<u64, usize>, usize) {
    let (mut by_step, mut positions) = (BTreeMap::new(), 0);
    let mut held: Vec<Option<u64>> = Vec::new();
    let mut corrected: Vec<bool> = Vec::new();
    for line in recording.lines() {
        let draft: Value = serde_json::from_str(line).unwrap();
        if draft["event"] != "draft" {
            continue;
        }
        let tokens = |key: &str| -> Vec<u64> {
            let tokens = draft[key].as_array().unwrap().iter();
            tokens.map(|token| token.as_u64().unwrap()).collect()
        };
        let (canvas, argmax, step) = (tokens("canvas"), tokens("argmax"), &draft["step"]);
        let step = step.as_u64().unwrap() + 1;
        if step == 1 {
            positions += corrected.iter().filter(|corrected| **corrected).count();
            held = vec![None; canvas.len()];
            corrected = vec![false; canvas.len()];
        }
        let is_last = draft["progress"] != "running";
        for position in 0..canvas.len() {
            let is_accepted = draft["accepted"][position].as_bool().unwrap();
            let accepted = is_accepted.then_some(canvas[position]);
            let finished = is_last.then_some(argmax[position]);
            for token in [
                accepted,
                finished.filter(|_| is_accepted || held[position].is_some()),
            ] {
                let Some(token) = token else { continue };
                if held[position].is_some_and(|before| before != token) {
                    *by_step.entry(step).or_insert(0) += 1;
                    corrected[position] = true;
                }
                held[position] = Some(token);
            }
        }
    }
    positions += corrected.iter().filter(|corrected| **corrected).count();
    (by_step, positions)
}

#[test]
fn corrections_are_those_of_the_drafts_live_and_in_a_replay() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("run.jsonl");
    let name = file.to_str().unwrap();
    // Much of what is hardly known is accepted at once, and corrected.
    let story = "Tell a story about Grace and a white owl.";
    let flags = "-n 64 --diffusion-eb-entropy-bound 100 --diffusion-eb-t-max 2 --diffusion-stats";
    let flags: Vec<&str> = flags.split(' ').collect();
    let live = cli(&[&["-p", story, "--record", name], flags.as_slice()].concat());
    assert_eq!(live.status.code(), Some(0), "{}", text(&live.stderr));
    let (by_step, positions) = counted(&fs::read_to_string(&file).unwrap());
    let total: usize = by_step.values().sum();
    assert!(total > 0);
    let steps: Vec<String> = by_step
        .iter()
        .map(|(step, n)| format!("{step}: {n}"))
        .collect();
    let plural = if positions == 1 { "" } else { "s" };
    let expected = format!(
        "corrections: {total} at {positions} position{plural}; by step: {}, last: canvas ",
        steps.join(", ")
    );
    let found = stats(&live);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(&expected), "{found:?}, not {expected}");
    let replayed = common::tool()
        .args(["replay", name, "--delay", "0", "--diffusion-stats"])
        .output()
        .unwrap();
    assert_eq!(stats(&replayed), found);
    let plain = common::tool()
        .args(["replay", name, "--delay", "0"])
        .output();
    assert_eq!(stats(&plain.unwrap()), [""; 0]);
}

#[test]
fn an_answer_without_corrections_says_so() {
    // One step accepts what it drew, and nothing follows.
    let output = cli(&[
        "-p",
        "What is the capital of Norway?",
        "--diffusion-stats",
        "--diffusion-eb-entropy-bound",
        "1e-9",
        "--diffusion-steps",
        "1",
        "--diffusion-blocks",
        "1",
    ]);
    assert_eq!(stats(&output), ["corrections: none"]);
}
