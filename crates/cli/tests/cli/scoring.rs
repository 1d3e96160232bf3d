//! `--verify` and `--logprobs`.
#![cfg(feature = "demo-model")]

use std::fs;

use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, text};

const QUESTION: [&str; 6] = ["-t", "1", "-s", "1", "-p", "What is the capital of Norway?"];

#[test]
fn each_token_of_the_answer_has_a_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("logprobs.jsonl");
    let mut command = common::tool();
    command
        .args(QUESTION)
        .args(["--top-logprobs", "2", "--logprobs"]);
    let output = command.arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut answer = Vec::new();
    for line in &lines {
        let bytes = line["bytes"].as_array().unwrap().iter();
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
        assert_eq!(line["token"].as_str().unwrap().as_bytes(), bytes);
        answer.extend(bytes);
        let (logprob, entropy) = (line["logprob"].as_f64(), line["entropy"].as_f64());
        assert!(logprob.unwrap() <= 0.0 && entropy.unwrap() >= 0.0);
        let top = line["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        // The answer is what the model takes to be most likely.
        assert_eq!(
            (&top[0]["id"], &top[0]["logprob"]),
            (&line["id"], &line["logprob"])
        );
        assert_eq!(line["source"], "denoiser");
    }
    assert_eq!(text(&answer), "The capital of Norway is Oslo.");
}

#[test]
fn more_likely_tokens_than_the_vocabulary_has_are_refused() {
    let dir = TempDir::new().unwrap();
    let logprobs = dir.path().join("logprobs.jsonl");
    let file = dir.path().join("text.txt");
    fs::write(&file, "Oslo is large.").unwrap();
    for line in [
        vec!["-p", "the"],
        vec!["-p", "the", "--ar", "2"],
        vec!["--edit", file.to_str().unwrap(), "--instruction", "Shorten"],
    ] {
        let mut command = common::tool();
        command
            .args(&line)
            .args(["--top-logprobs", "99999", "--logprobs"]);
        let output = command.arg(&logprobs).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {message}");
        let expected = "error: --top-logprobs: is 99999, but the vocabulary has ";
        assert!(message.contains(expected), "{line:?}: {message}");
    }
}

#[test]
fn what_is_doubted_is_denoised_again() {
    let dir = TempDir::new().unwrap();
    let record = dir.path().join("recording.jsonl");
    let mut command = common::tool();
    // No token is certain.
    let line = ["--diffusion-visual", "--verify", "0", "--record"];
    let output = command
        .args(QUESTION)
        .args(line)
        .arg(&record)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "The capital of Norway is Oslo.\n");
    let shown = text(&output.stderr);
    assert!(shown.contains("canvas 1: "), "{shown}");
    assert!(shown.contains(" tokens doubted"), "{shown}");
    // The drafts of the repair are part of the recording.
    let mut replay = common::tool();
    let output = replay.arg("replay").arg(&record).output().unwrap();
    assert_eq!(text(&output.stdout), "The capital of Norway is Oslo.\n");
}

#[test]
fn masked_models_and_thresholds_above_0_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("dream.gguf");
    write_masked(&path, MaskedFamily::Dream, 5, &|_| ()).unwrap();
    let logprobs = dir.path().join("logprobs.jsonl");
    for line in [
        ["--verify", "-1"],
        ["--logprobs", logprobs.to_str().unwrap()],
    ] {
        let mut command = common::tool();
        command.arg("-m").arg(&path).args(["-p", "the"]).args(line);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let expected = format!("error: {}: this is a masked model", line[0]);
        assert!(text(&output.stderr).contains(&expected));
    }
    assert!(!logprobs.exists());
    for (value, problem) in [
        ("0.5", "give a number: at most 0.0"),
        (
            "encoder",
            "give a log-probability after it, such as encoder:-4",
        ),
        ("encoder:1", "give a number: at most 0.0"),
    ] {
        let output = common::tool().args(["--verify", value]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(problem));
    }
}
