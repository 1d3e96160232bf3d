//! Chat, environment, cache and recordings of the command-line tool, with its built-in demo model.
#![cfg(feature = "demo-model")]

use std::fs;
use std::process::Output;

use assert_cmd::Command;
use regex::Regex;
use tempfile::TempDir;

const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.\n";
const SECOND: &str = "Make a list: cat, red, lake";

/// The tool with one thread, as in `cli.rs`, and without what the user's environment sets.
fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LLAMA_")) {
            command.env_remove(name);
        }
    }
    command.args(["-t", "1", "-s", "1"]).args(args);
    command
}

fn chat(args: &[&str], input: &str) -> Output {
    tool(args).write_stdin(input).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Tokens encoded and reused for each answer.
fn prefills(output: &Output) -> Vec<(usize, usize)> {
    let line = Regex::new(r"prefill: (\d+) tok in \S+ms, (\d+) reused").unwrap();
    let counts = line.captures_iter(stderr(output));
    counts
        .map(|c| (c[1].parse().unwrap(), c[2].parse().unwrap()))
        .collect()
}

#[test]
fn a_second_turn_encodes_only_its_new_tokens_and_answers_as_a_cold_run() {
    let warm = chat(&["-cnv"], &format!("{QUESTION}\n{SECOND}\n"));
    assert_eq!(warm.status.code(), Some(0), "{}", stderr(&warm));
    let second = stdout(&warm).strip_prefix(ANSWER).unwrap();
    let counts = prefills(&warm);
    let [(first, 0), (new, reused)] = counts[..] else {
        panic!("{counts:?}");
    };
    // The first prompt is there; its answer, which was denoised but not encoded, is new.
    assert_eq!(reused, first);

    // The same conversation, all of it in one prompt of a fresh process.
    let written_out = format!(
        "<|turn>user\n{QUESTION}<turn|>\n<|turn>model\n{}<turn|>\n\
         <|turn>user\n{SECOND}<turn|>\n<|turn>model\n",
        ANSWER.trim_end()
    );
    let cold = tool(&["--raw", "-p", &written_out]).output().unwrap();
    assert_eq!(prefills(&cold), [(new + reused, 0)]);
    assert_eq!(stdout(&cold), second);
}

#[test]
fn a_prompt_from_the_command_line_begins_the_chat() {
    let output = chat(&["-cnv", "-p", QUESTION], "Hello!\n");
    assert!(stdout(&output).starts_with(ANSWER));
    assert_eq!(prefills(&output).len(), 2);
    // Not with -st, which leaves the standard input alone.
    let output = chat(&["-st", "-p", QUESTION], "Hello!\n");
    assert_eq!(stdout(&output), ANSWER);
}

#[test]
fn commands() {
    let again = chat(&["-cnv"], &format!("{QUESTION}\n/clear\n{QUESTION}\n"));
    assert_eq!(stdout(&again), ANSWER.repeat(2));
    let [(first, 0), (rest, reused)] = prefills(&again)[..] else {
        panic!("{}", stderr(&again));
    };
    assert_eq!(first, rest + reused);

    let regenerated = chat(&["-cnv"], &format!("{QUESTION}\n/regen\n"));
    assert_eq!(stdout(&regenerated), ANSWER.repeat(2));
    assert_eq!(prefills(&regenerated)[1], (0, first));
    assert!(stderr(&regenerated).contains("seed: 2"));

    for end in ["/exit", "/quit"] {
        let output = chat(&["-cnv"], &format!("{end}\n{QUESTION}\n"));
        assert_eq!((stdout(&output), output.status.code()), ("", Some(0)));
    }
    let output = chat(&["-cnv"], "\n/help\n/?\n/nope\n/regen\n");
    assert_eq!(stdout(&output), "");
    let said = stderr(&output);
    assert_eq!(said.matches("/clear  ").count(), 2, "{said}");
    assert!(said.contains("/nope: unknown command"), "{said}");
    assert!(said.contains("no message to answer anew"), "{said}");
}

#[test]
fn a_chat_that_does_not_fit_any_more_fails_where_nobody_can_mend_it() {
    let output = chat(&["-cnv", "-c", "64"], &format!("{QUESTION}\n{SECOND}\n"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), ANSWER);
    assert!(
        stderr(&output).contains("error: the prompt has"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_prompt_from_a_pipe() {
    assert_eq!(stdout(&chat(&[], &format!("{QUESTION}\n"))), ANSWER);
    let output = tool(&[]).write_stdin(&b"caf\xe9"[..]).output().unwrap();
    assert!(stderr(&output).contains("standard input: the byte at offset 3"));
}

#[test]
fn a_line_that_is_not_utf_8_does_not_end_a_chat() {
    let input = [QUESTION.as_bytes(), b"\nbad \xff\n", QUESTION.as_bytes()].concat();
    let output = tool(&["-cnv"]).write_stdin(input).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), ANSWER.repeat(2));
    let line = "standard input, line 2: the byte at offset 4 is not UTF-8";
    assert!(stderr(&output).contains(line), "{}", stderr(&output));
}

#[test]
fn a_template_that_makes_no_text_is_named() {
    let output = tool(&[
        "-p",
        QUESTION,
        "--chat-template",
        "{% if false %}x{% endif %}",
    ]);
    let output = { output }.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("chat template: it makes no text"), "{said}");
}

#[test]
fn an_empty_system_prompt_is_none() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("system.txt");
    fs::write(&file, "\n").unwrap();
    let plain = prefills(&tool(&["-p", QUESTION]).output().unwrap());
    for args in [["-sys", ""], ["-sysf", file.to_str().unwrap()]] {
        let output = tool(&[&["-p", QUESTION], &args[..]].concat());
        assert_eq!(prefills(&{ output }.output().unwrap()), plain, "{args:?}");
    }
}

#[test]
fn a_context_beyond_the_trained_one_is_warned_of() {
    for (size, warns) in [("100000", true), ("512", false)] {
        let output = tool(&["-p", QUESTION, "-c", size]).output().unwrap();
        let warning = format!("-c {size} is more than the ");
        assert_eq!(
            stderr(&output).contains(&warning),
            warns,
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_wrong_value_of_a_variable_names_it() {
    let mut command = tool(&["-p", QUESTION]);
    let output = command.env("LLAMA_ARG_CTX_SIZE", "-1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "'-1'",
        "--ctx-size",
        "a whole number of 0 or more",
        "LLAMA_ARG_CTX_SIZE",
    ] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    // Not where the command line is wrong.
    let mut command = tool(&["-p", QUESTION, "-c", "x"]);
    let output = command.env("LLAMA_ARG_CTX_SIZE", "9").output().unwrap();
    assert!(
        !stderr(&output).contains("LLAMA_ARG"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_system_prompt_from_a_file() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("system.txt");
    fs::write(&file, "Be brief.\n").unwrap();
    let count = |args: &[&str]| prefills(&tool(args).output().unwrap());
    let from_file = count(&["-p", QUESTION, "-sysf", file.to_str().unwrap()]);
    assert_eq!(from_file, count(&["-p", QUESTION, "-sys", "Be brief."]));
    assert_ne!(from_file, count(&["-p", QUESTION]));
}

#[test]
fn the_environment_sets_what_the_command_line_does_not() {
    let run = |args: &[&str]| {
        let mut command = tool(&["-p", QUESTION]);
        let command = command.args(args).env("LLAMA_ARG_N_PREDICT", "4");
        command.env("LLAMA_ARG_TOP_K", "3").output().unwrap()
    };
    let cut = run(&[]);
    assert!(
        stderr(&cut).contains("answer: 4 tok (cut"),
        "{}",
        stderr(&cut)
    );
    assert_eq!(
        stderr(&cut)
            .matches("LLAMA_ARG_TOP_K has no effect")
            .count(),
        1
    );
    assert_eq!(stdout(&run(&["-n", "40"])), ANSWER);

    let mut command = tool(&["-p", QUESTION, "-hf", "no/such"]);
    let output = command.env("LLAMA_ARG_MODEL", "m.gguf").output().unwrap();
    assert!(
        stderr(&output).contains("hf download no/such"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn flags_without_effect_are_told_in_a_line_each() {
    let output = tool(&[
        "-p",
        QUESTION,
        "--temp",
        "0.2",
        "--diffusion-eb",
        "off",
        "--jinja",
    ]);
    let output = { output }.output().unwrap();
    assert_eq!(stdout(&output), ANSWER);
    let warnings: Vec<&str> = stderr(&output)
        .lines()
        .filter(|line| line.contains("has no effect"))
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    // What depends on the kind of the model is known once it is loaded.
    assert!(warnings[0].contains("--diffusion-eb "), "{warnings:?}");
    assert!(warnings[1].contains("--temp") && warnings[1].contains("--diffusion-eb-t-max"));
}

#[test]
fn a_model_from_the_cache_of_hugging_face() {
    let home = TempDir::new().unwrap();
    let snapshot = home.path().join("hub/models--me--demo/snapshots/0");
    fs::create_dir_all(&snapshot).unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q8_0.gguf");
    fs::copy(model, snapshot.join("demo-q8_0.gguf")).unwrap();
    let run = |repo: &str| {
        let mut command = tool(&["-hf", repo, "-p", QUESTION]);
        let command = command
            .env("HF_HOME", home.path())
            .env_remove("HF_HUB_CACHE");
        command.output().unwrap()
    };
    let found = run("me/demo:Q8_0");
    assert_eq!(stdout(&found), ANSWER);
    let opened = format!("model: {}\n", snapshot.join("demo-q8_0.gguf").display());
    assert!(stderr(&found).contains(&opened), "{}", stderr(&found));
    let missing = run("me/demo");
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("hf download me/demo --include '*Q4_K_M*.gguf'"));
}

#[test]
fn a_recording_is_shown_again_without_the_model() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("run.jsonl");
    let name = file.to_str().unwrap();
    let visual = ["-p", QUESTION, "--diffusion-visual", "--record", name];
    let live = tool(&visual).output().unwrap();
    let replay = |name: &str| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
        command
            .args(["replay", name, "--delay", "0"])
            .output()
            .unwrap()
    };
    let shown = replay(name);
    assert_eq!(stdout(&shown), ANSWER, "{}", stderr(&shown));
    let steps = |output| {
        let lines = stderr(output).lines();
        lines
            .filter(|line| line.starts_with("canvas "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&shown), steps(&live));
    assert!(!steps(&live).is_empty());

    // Every draft has its entropies.
    let text = fs::read_to_string(&file).unwrap();
    let drafts: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["event"] == "draft")
        .collect();
    assert_eq!(drafts.len(), steps(&live).len());
    assert!(
        drafts
            .iter()
            .all(|d| d["entropy"].as_array().unwrap().len() == 32)
    );

    fs::write(&file, "{}").unwrap();
    let bad = replay(name);
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        stderr(&bad).contains("run.jsonl: line 1"),
        "{}",
        stderr(&bad)
    );
}

#[test]
fn completions_and_version() {
    let output = tool(&["--completion-bash"]).output().unwrap();
    assert!(stdout(&output).contains("--diffusion-eb-entropy-bound"));
    let output = tool(&["--completion", "fish"]).output().unwrap();
    assert!(stdout(&output).contains("complete -c llama-diffusion-cli"));
    let output = tool(&["--version"]).output().unwrap();
    assert!(
        stdout(&output).contains("backends: CPU"),
        "{}",
        stdout(&output)
    );
}

#[test]
#[cfg(unix)]
fn an_interrupted_answer_does_not_end_the_chat() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::process::{Command, Stdio};

    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"))
        .args([
            "-t", "1", "-s", "1", "-cnv", "-n", "-1", "-c", "2048", "-lv", "1",
        ])
        .args(["--diffusion-visual", "--diffusion-eb-confidence", "1e-30"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut await_line = |beginning: &str| {
        let mut line = String::new();
        while !line.starts_with(beginning) {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended");
        }
        line
    };
    let pid = child.id().to_string();
    let interrupt = || {
        let kill = Command::new("kill").args(["-INT", &pid]).status();
        assert!(kill.unwrap().success());
    };
    for _ in 0..2 {
        writeln!(stdin, "Tell a story about Grace and a white owl.").unwrap();
        await_line("canvas 1, step ");
        interrupt();
        assert!(await_line("answer: ").contains("(interrupted)"));
    }
    drop(stdin);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
}
