//! `--infill-prefix`, `--infill-suffix`, `--infill-json`: gaps in texts.
#![cfg(feature = "demo-model")]

use std::fs;
use std::process::Output;

use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, text};

/// Fills the gap between two files.
fn fill(before: &[u8], after: &[u8], args: &[&str]) -> Output {
    let dir = TempDir::new().unwrap();
    let [prefix, suffix] = ["before.txt", "after.txt"].map(|name| dir.path().join(name));
    fs::write(&prefix, before).unwrap();
    fs::write(&suffix, after).unwrap();
    let mut command = common::tool();
    command
        .args(["-t", "1", "-s", "1", "--infill-prefix"])
        .arg(&prefix);
    command.arg("--infill-suffix").arg(&suffix).args(args);
    command.output().unwrap()
}

/// The answers to lines of requests.
fn ask(lines: &[u8]) -> (Vec<Value>, Option<i32>) {
    let mut command = common::tool();
    command.args([
        "-t",
        "1",
        "-s",
        "1",
        "--infill-json",
        "--diffusion-eb-max-steps",
        "4",
    ]);
    let output = command.write_stdin(lines).output().unwrap();
    let answers = text(&output.stdout).lines();
    (
        answers
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        output.status.code(),
    )
}

#[test]
fn a_gap_of_a_given_length_is_filled() {
    let (before, after) = ("Leo has a red\t\r\nhat.", " Goodbye!\n");
    for args in [&[][..], &["--raw"]] {
        let args = [
            &["--infill-tokens", "3", "--diffusion-eb-max-steps", "4"],
            args,
        ]
        .concat();
        let output = fill(before.as_bytes(), after.as_bytes(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains("gap of 3 tokens in "),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn lines_of_requests_are_answered_in_order() {
    let requests = concat!(
        r#"{"input_prefix":"Mia has a ","input_suffix":" hat.","infill_tokens":1,"seed":3}"#,
        "\n\n",
        r#"{"prompt":"a","n_cmpl":2,"infill_tokens":2,"t_max_predict_ms":60000}"#,
        "\n",
        r#"{"input_suffix":1}"#,
        "\n\u{e9}\n",
        r#"{"input_prefix":"Mia","n_predict":0}"#,
    );
    let (answers, status) = ask(requests.as_bytes());
    assert_eq!(status, Some(1));
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[0]["stop"], "complete");
    assert_eq!(answers[0]["tokens_predicted"], 1);
    assert_eq!(answers[0]["seed"], 3);
    let seeds: Vec<&Value> = answers[1]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["seed"])
        .collect();
    assert_eq!(seeds, [1, 2]);
    let message = |answer: &Value| answer["error"]["message"].as_str().unwrap().to_owned();
    assert!(message(&answers[2]).starts_with("input_suffix: "));
    assert!(message(&answers[3]).starts_with("request: it is not an object in JSON"));
    assert_eq!(answers[4]["content"], "");
}

#[test]
fn bytes_that_are_not_utf8_are_named_by_line_and_file() {
    let (answers, status) = ask(b"{\"prompt\":\"a\xff\"}\n");
    assert_eq!(status, Some(1));
    let message = answers[0]["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("request: the byte at offset 12 is not UTF-8"),
        "{message}"
    );
    for (before, after, name) in [
        (&b"a\xc3"[..], &b"b"[..], "before.txt"),
        (b"a", b"\xa9b", "after.txt"),
    ] {
        let output = fill(before, after, &[]);
        assert_eq!(output.status.code(), Some(1));
        let (error, offset) = (text(&output.stderr), before.len() - 1);
        assert!(error.contains(name), "{error}");
        assert!(
            error.contains(&format!("the byte at offset {offset} is not UTF-8")),
            "{error}"
        );
    }
}

#[test]
fn bad_input_is_named() {
    let refused = |args: &[&str]| {
        let output = fill(b"a", b"b", args);
        assert_ne!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), "");
        text(&output.stderr).to_owned()
    };
    for (args, parts) in [
        (
            &["--infill-tokens", "some"][..],
            &["--infill-tokens", "auto to find it"][..],
        ),
        (
            &["--infill-tokens", "9", "-n", "8"],
            &["--infill-tokens: is 9, but -n is 8"],
        ),
        (
            &["--infill-json"],
            &["--infill-json", "cannot be used with"],
        ),
        (&["-j", "{}"], &["--json-schema", "cannot be used with"]),
        (&["-p", "Hi"], &["cannot be used with"]),
        (
            &["--verify", "-1"],
            &["--verify", "neither constrained nor scored"],
        ),
        (
            &["--diffusion-stats"],
            &["--diffusion-stats", "cannot be used with"],
        ),
        (
            &["--prompt-cache", "x"],
            &["--prompt-cache", "cannot be used with"],
        ),
    ] {
        let error = refused(args);
        assert!(
            parts.iter().all(|part| error.contains(part)),
            "{args:?}: {error}"
        );
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("masked.gguf");
    write_masked(&path, MaskedFamily::Dream, 11, &|_| ()).unwrap();
    let error = refused(&["-m", path.to_str().unwrap()]);
    assert!(
        error.contains("--infill-prefix: this is a masked model"),
        "{error}"
    );
}
