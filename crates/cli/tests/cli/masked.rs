//! Masked models in the command-line tool, with llama.cpp's own command lines.

use std::path::PathBuf;
use std::process::Output;

use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use regex::Regex;
use tempfile::TempDir;

use crate::common;

struct Models(TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, family: MaskedFamily) -> PathBuf {
        let path = self.0.path().join(format!("{family:?}.gguf"));
        write_masked(&path, family, 5, &|_| ()).unwrap();
        path
    }

    /// Runs the tool on a model. One thread: the tests themselves run side by side.
    fn run(&self, family: MaskedFamily, line: &str, input: &str) -> Output {
        let mut command = common::tool();
        command.arg("-m").arg(self.path(family)).args(["-t", "1"]);
        command.args(line.split_whitespace());
        command.write_stdin(input).output().unwrap()
    }

    /// What a run that must succeed writes.
    fn answer(&self, family: MaskedFamily, line: &str) -> (String, String) {
        let output = self.run(family, line, "");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
        (text(&output.stdout), stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The examples of llama.cpp's examples/diffusion.
#[test]
fn llama_cpp_s_command_lines_run() {
    let models = Models::new();
    for (family, line, algorithm) in [
        (
            MaskedFamily::Dream,
            "-p the -s 1 -ub 512 --diffusion-eps 0.001 --diffusion-algorithm 3 --diffusion-steps 256 \
             --diffusion-visual",
            "random",
        ),
        (
            MaskedFamily::Llada,
            "-p the -s 1 -ub 512 --diffusion-block-length 32 --diffusion-steps 256 --diffusion-visual",
            "confidence",
        ),
        (
            MaskedFamily::Rnd1,
            "-p the -s 1 --diffusion-algorithm 1 --diffusion-steps 256 --diffusion-visual --temp 0.5 \
             --diffusion-eps 0.001",
            "entropy",
        ),
    ] {
        let (_, stderr) = models.answer(family, line);
        assert!(!stderr.contains("no effect"), "{stderr}");
        assert!(stderr.contains("step 256 of 256: ") || stderr.contains("ended by the model"));
        let summary = Regex::new(&format!(
            r"\(\d+ steps over 1 blocks, {algorithm}\)\n.*\nanswer: \d+ tok \(.*prompt: (\d+) tok, read in every step; seed: 1\n"
        ));
        assert!(summary.unwrap().is_match(&stderr), "{stderr}");
    }
}

#[test]
fn n_is_the_length_of_the_answer_and_a_seed_decides() {
    let models = Models::new();
    let line = "-p the --raw -n 24 --diffusion-steps 12 --diffusion-eps 0.01 --temp 1 --top-k 0 --top-p 1 -s";
    let answer = |seed| models.answer(MaskedFamily::LladaMoe, &format!("{line} {seed}"));
    let (one, stderr) = answer(1);
    assert!(stderr.contains("(24-tok canvas"), "{stderr}");
    assert_eq!(one, answer(1).0);
    assert_ne!(one, answer(2).0);
    let guided = format!("{line} 1 --diffusion-cfg-scale 2 --diffusion-alg-temp 0.5");
    assert_ne!(one, models.answer(MaskedFamily::LladaMoe, &guided).0);
}

#[test]
fn a_chat_encodes_everything_again() {
    let models = Models::new();
    let line = "-cnv -sys in -s 1 -n 8 --diffusion-steps 4 --diffusion-block-length 8";
    let output = models.run(MaskedFamily::Llada, line, "the\nin the\n");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let prompts = Regex::new(r"prompt: (\d+) tok, read in every step").unwrap();
    let lengths: Vec<usize> = prompts
        .captures_iter(&stderr)
        .map(|c| c[1].parse().unwrap())
        .collect();
    assert!(
        lengths.len() == 2 && lengths[1] > lengths[0] + 8,
        "{stderr}"
    );
}

#[test]
fn a_recording_is_shown_again() {
    let models = Models::new();
    let file = models.0.path().join("drafts.jsonl");
    let line = format!(
        "-p the -s 1 -n 8 --diffusion-steps 4 --diffusion-eps 0.01 --record {}",
        file.display()
    );
    let (answer, _) = models.answer(MaskedFamily::Dream, &line);
    let mut replay = common::tool();
    let output = replay
        .args(["replay", "--delay", "0"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), answer);
    let drafts = std::fs::read_to_string(&file).unwrap();
    assert_eq!(drafts.matches(r#""event":"draft""#).count(), 4);
    assert!(drafts.contains(r#""max_steps":4"#));
    // An unknown token is shown by a sign of its own, not by the text of the mask token.
    let mask = 4;
    let shown: Vec<serde_json::Value> = drafts
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter_map(|mut line: serde_json::Value| line.get_mut("pieces").map(|p| p.take()))
        .flat_map(|pieces| pieces.as_array().unwrap().clone())
        .filter(|piece| piece[0] == mask)
        .collect();
    assert_eq!(shown, [serde_json::json!([mask, "░".as_bytes()])]);
}

#[test]
fn what_cannot_work_is_named() {
    let models = Models::new();
    for (line, parts) in [
        (
            "-p the",
            &[
                "--diffusion-eps, --diffusion-block-length: ",
                "needs a schedule",
            ][..],
        ),
        (
            "-p the --diffusion-eps 0.1 --diffusion-block-length 32",
            &["--diffusion-eps, --diffusion-block-length: ", "only one"],
        ),
        (
            "-p the --diffusion-block-length 33",
            &["--diffusion-block-length: is 33,", "512 tokens"],
        ),
        (
            "-p the --diffusion-block-length 32 --diffusion-steps 100",
            &["--diffusion-steps: is 100,", "16 blocks"],
        ),
        (
            "-p the -ub 4 --diffusion-eps 0.1",
            &["-ub: the prompt has ", "raise -ub"],
        ),
        (
            "-p the -n 64 -c 32 --diffusion-eps 0.1",
            &["-n: the prompt has 17 tokens", "raise -c"],
        ),
        (
            "-p the --diffusion-eps 0.1 --top-p 0",
            &["'0' for '--top-p <P>'", "more than 0.0"],
        ),
        (
            "-p the --diffusion-eps 2",
            &["'2' for '--diffusion-eps <F>'", "less than 1.0"],
        ),
    ] {
        let output = models.run(MaskedFamily::Llada, line, "");
        assert_eq!(output.status.code(), Some(1), "{line}");
        let stderr = text(&output.stderr);
        for part in ["error: "].iter().chain(parts) {
            assert!(
                stderr.contains(part),
                "{line}: {part:?} is not in {stderr:?}"
            );
        }
    }
}

#[test]
fn flags_of_canvas_models_are_warned_of() {
    let models = Models::new();
    let line = "-p the -s 1 -n 4 --diffusion-steps 2 --diffusion-eps 0.1 --diffusion-eb-t-max 0.9 \
                -ctk q8_0 --diffusion-blocks 2 --canvas 16 --diffusion-stats";
    let (_, stderr) = models.answer(MaskedFamily::Dream, line);
    // What is unmasked stays.
    assert!(stderr.contains("\ncorrections: none\n"), "{stderr}");
    for flag in [
        "--diffusion-eb-t-max",
        "--cache-type-k",
        "--diffusion-blocks",
        "--canvas",
    ] {
        assert!(
            stderr.contains(&format!("{flag} has no effect: ")),
            "{flag}: {stderr}"
        );
    }
}

#[test]
fn an_answer_beyond_the_context_names_the_flag() {
    let models = Models::new();
    for (line, flag) in [
        ("-p the --diffusion-eps 0.1 -n 100000", "error: -n: "),
        ("-p the --diffusion-eps 0.1 -ub 100000", "error: -ub: "),
    ] {
        let output = models.run(MaskedFamily::Dream, line, "");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(flag) && said.contains("raise -c"), "{said}");
        assert!(!said.contains("canvas"), "{said}");
    }
}
