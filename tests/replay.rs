//! `replay` of recordings that are damaged.

#[path = "common/recordings.rs"]
mod recordings;

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

fn replay(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
    command.arg("replay").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What is said of a file of this content, and what is shown.
fn damaged(content: impl AsRef<[u8]>) -> (String, String) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("run.jsonl");
    fs::write(&file, content).unwrap();
    let output = replay(&[file.to_str().unwrap(), "--delay", "0"]);
    let stderr = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let error = stderr
        .split("error: ")
        .nth(1)
        .unwrap_or_else(|| panic!("{stderr}"));
    assert!(error.contains("run.jsonl: "), "{error}");
    (error.to_owned(), text(&output.stdout).to_owned())
}

#[test]
fn a_recording_that_is_cut_off_is_shown_up_to_there_and_told() {
    let lines = recordings::lines(&[vec!["a", "b"], vec!["c", "b"]]);
    let whole = recordings::text(&lines);
    let (error, shown) = damaged(recordings::text(&lines[..lines.len() - 1]));
    assert!(error.contains("its last answer does not end"), "{error}");
    assert_eq!(shown, "cb\n");
    let (error, shown) = damaged(recordings::text(&lines[..3]));
    assert!(error.contains("its last answer does not end"), "{error}");
    assert_eq!(shown, "");
    let (error, _) = damaged(recordings::text(&lines[..1]));
    assert!(error.contains("it has no answer"), "{error}");
    // In the middle of any line but the first one.
    let mut at = whole.find('\n').unwrap() + 2;
    while at < whole.len() - 1 {
        if !whole[..at].ends_with('\n') && !whole[at..].starts_with('\n') {
            let (error, _) = damaged(&whole[..at]);
            let number = whole[..at].lines().count();
            assert!(
                error.contains(&format!("line {number} is cut off")),
                "{at}: {error}"
            );
        }
        at += 97;
    }
    let (error, _) = damaged("");
    assert!(error.contains("it is empty"), "{error}");
}

#[test]
fn lines_that_do_not_fit_together_are_named() {
    let lines = recordings::lines(&[vec!["a", "b"], vec!["c", "b"]]);
    let changed = |index: usize, key: &str, value: Value| {
        let mut lines = lines.clone();
        lines[index][key] = value;
        recordings::text(&lines)
    };
    let without = |range: std::ops::Range<usize>| {
        let mut lines = lines.clone();
        lines.drain(range);
        recordings::text(&lines)
    };
    let twice = |index: usize| {
        let mut lines = lines.clone();
        lines.insert(index, lines[index].clone());
        recordings::text(&lines)
    };
    for (content, expected) in [
        (without(2..4), "line 3: block 0 has no drafts"),
        (
            changed(3, "entropy", json!([0.1])),
            "line 4: it has 1 entropies for a canvas of 2 tokens",
        ),
        (
            changed(3, "accepted", json!([])),
            "line 4: it has 0 marks of acceptance for a canvas of 2 tokens",
        ),
        (
            changed(3, "sampled", json!([0, 0, 0])),
            "line 4: it has 3 drawn tokens for a canvas of 2 tokens",
        ),
        (
            changed(3, "canvas", json!([])),
            "line 4: it has 0 tokens for a canvas of 2 tokens",
        ),
        (
            changed(2, "canvas", json!([])),
            "line 3: it has 0 tokens for a canvas of 0 tokens",
        ),
        (
            changed(4, "tokens", json!([0])),
            "line 5: it has 1 tokens for a canvas of 2 tokens",
        ),
        (
            changed(3, "argmax", json!([0, 77])),
            "line 4: token 77 has no bytes",
        ),
        (
            changed(4, "answer", json!([-1])),
            "line 5: token -1 has no bytes",
        ),
        (
            changed(2, "max_steps", json!(0)),
            "line 3: step 0 is not one of 0",
        ),
        (
            changed(3, "step", json!(u32::MAX)),
            "line 4: step 4294967295 is not one of 2",
        ),
        (
            changed(3, "block", json!(7)),
            "line 4: its block is 7, but block 0 is at work",
        ),
        (twice(3), "line 5: step 1 follows step 1"),
        (twice(0), "line 2: another recording starts"),
        (
            changed(0, "format", json!(2)),
            "line 1: it does not start a recording of format 1",
        ),
        (
            without(0..1),
            "line 1: it does not start a recording of format 1",
        ),
        ("no JSON\n{}\n".into(), "line 1: "),
    ] {
        let (error, shown) = damaged(content);
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(shown, "", "{expected}");
    }
    let (error, _) = damaged(b"\xff\n");
    assert!(
        error.contains("the byte at offset 0 is not UTF-8"),
        "{error}"
    );
}
