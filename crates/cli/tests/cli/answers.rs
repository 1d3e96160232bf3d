//! The command-line tool from outside, with its built-in demo model.
#![cfg(feature = "demo-model")]

use std::fs;
use std::path::Path;
use std::process::Output;

use regex::Regex;
use tempfile::TempDir;

use crate::common::{self, text};

/// Runs the tool. One thread: the tests themselves run side by side.
fn cli(args: &[&str]) -> Output {
    let mut command = common::tool();
    command.args(["-t", "1"]).args(args).output().unwrap()
}

/// The standard output of a run that must succeed.
fn answer(args: &[&str]) -> String {
    let output = cli(args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// The standard error of a run that must fail and say nothing on the standard output.
fn failure(args: &[&str]) -> String {
    let output = cli(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    text(&output.stderr).to_owned()
}

/// The tool names the cause in its one line of error.
fn assert_fails(args: &[&str], parts: &[&str]) {
    let message = failure(args);
    for part in ["error: "].iter().chain(parts) {
        assert!(
            message.contains(part),
            "{args:?}: {part:?} is not in {message:?}"
        );
    }
}

fn path(dir: &TempDir, name: &str, contents: &[u8]) -> String {
    let path = dir.path().join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.\n";
const DEMO: &str = llama_diffusion_demo_model::PATH;

#[test]
fn a_question_is_answered() {
    assert_eq!(answer(&["-p", QUESTION, "-s", "1"]), ANSWER);
}

#[test]
fn an_answer_of_several_canvases_is_one_text() {
    let story = answer(&["-p", "Tell a story about Grace and a white owl.", "-s", "1"]);
    assert!(
        story.starts_with("One ") && story.contains(" Grace went to "),
        "{story}"
    );
    assert!(story.len() > 200 && story.ends_with(".\n"), "{story}");
    assert_eq!(story.matches('\n').count(), 1, "{story}");
}

#[test]
fn the_summary_has_llama_cpp_s_two_lines_and_an_honest_one() {
    let output = cli(&["-p", QUESTION, "-s", "1"]);
    let number = r"\d+\.\d";
    let summary = Regex::new(&format!(
        r"(?m)^total time: {number}\dms, time per step: {number}\dms \(\d+ steps over 1 blocks, entropy-bound\)
throughput: {number} tok/s \(32 tok in {number}\dms\), in-step parallel \d+ tok/s \(32-tok canvas x {number} steps/block\)
answer: \d+ tok \(ended by the model\), {number} tok/s, {number} tok per forward; prefill: \d+ tok in {number}\dms, 0 reused; seed: 1
$"
    ));
    let stderr = text(&output.stderr);
    assert!(summary.unwrap().is_match(stderr), "{stderr}");
    assert_eq!(text(&output.stdout), ANSWER);
}

#[test]
fn the_seed_decides_and_the_threads_do_not() {
    // With so few steps the model is uncertain, so draws matter.
    let hasty = |more: &[&str]| {
        let story = "Tell a story.";
        answer(
            &[
                &[
                    "-p",
                    story,
                    "--diffusion-steps",
                    "3",
                    "--diffusion-blocks",
                    "1",
                ],
                more,
            ]
            .concat(),
        )
    };
    let seeded = hasty(&["-s", "5"]);
    assert_eq!(hasty(&["-s", "5"]), seeded);
    assert_eq!(hasty(&["-s", "5", "-t", "2"]), seeded);
    assert_ne!(hasty(&["-s", "6"]), seeded);
}

#[test]
fn a_seed_is_drawn_and_reported_if_none_is_given() {
    let seed = |output: Output| {
        let stderr = text(&output.stderr).trim_end().to_owned();
        let (_, seed) = stderr.rsplit_once("seed: ").unwrap();
        seed.parse::<u64>().unwrap()
    };
    let run = || seed(cli(&["-p", QUESTION]));
    assert_ne!(run(), run());
}

#[test]
fn the_answer_is_cut_at_n_tokens() {
    let output = cli(&["-p", QUESTION, "-s", "1", "-n", "4"]);
    let shown = text(&output.stdout).trim_end();
    assert!(
        ANSWER.starts_with(shown) && shown.len() < ANSWER.len() - 1,
        "{shown}"
    );
    assert!(text(&output.stderr).contains("answer: 4 tok (cut at -n"));
}

#[test]
fn placements_that_concern_nothing_are_warned_of() {
    let warnings = |args: &[&str]| {
        let output = cli(&[&["-p", QUESTION, "-s", "1"], args].concat());
        assert_eq!(text(&output.stdout), ANSWER, "{args:?}");
        let lines = text(&output.stderr).lines();
        let lines = lines.filter(|line| line.contains("WARN"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let found = warnings(&["-ot", "exps=CPU,nomatch=CPU", "-ncmoe", "99"]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("'nomatch=CPU'"), "{found:?}");
    assert!(found[1].contains("99 layers"), "{found:?}");
    // A large number of GPU layers is the usual way to ask for all, and -cmoe is for models of any
    // depth.
    let found = warnings(&["-ngl", "all", "-cmoe", "-ot", "exps=CPU"]);
    let about_gpus = |line: &String| line.contains("-ngl has no effect");
    assert!(found.iter().all(about_gpus), "{found:?}");
}

#[test]
fn the_placement_is_reported_on_request() {
    let shown = |args: &[&str]| {
        let output = cli(&[&["-p", QUESTION, "-s", "1"], args].concat());
        assert_eq!(text(&output.stdout), ANSWER);
        text(&output.stderr).to_owned()
    };
    assert!(!shown(&[]).contains("memory [MiB]"));
    let stderr = shown(&["-v", "-dev", "none"]);
    let row = Regex::new(r"(?m)^memory \[MiB\] .* free +total\nCPU +(\d+) +(\d+) .* (\d+) +(\d+)$");
    let row = row
        .unwrap()
        .captures(&stderr)
        .unwrap_or_else(|| panic!("{stderr}"));
    let [weights, experts, free, total] = [1, 2, 3, 4].map(|i| row[i].parse::<usize>().unwrap());
    assert!(
        weights > 0 && experts > 0 && 0 < free && free <= total,
        "{stderr}"
    );
}

#[test]
fn prompts_from_files() {
    let dir = TempDir::new().unwrap();
    let file = path(&dir, "prompt.txt", format!("{QUESTION}\n").as_bytes());
    assert_eq!(answer(&["-f", &file, "-s", "1"]), ANSWER);

    let invalid = path(&dir, "latin1.txt", b"caf\xe9 au lait");
    assert_fails(&["-f", &invalid], &[&invalid, "offset 3"]);
    let empty = path(&dir, "empty.txt", b"");
    assert_fails(&["-f", &empty], &["empty"]);
    assert_fails(&["-f", "no/such/file"], &["no/such/file"]);
    assert_fails(&["-f", &file, "-p", "x"], &["--file", "--prompt"]);
}

#[test]
fn a_prompt_goes_into_the_template_by_default() {
    // The template of the model, written out.
    let turns = format!("<bos><|turn>user\n{QUESTION}<turn|>\n<|turn>model\n");
    let written_out = turns.strip_prefix("<bos>").unwrap();
    assert_eq!(answer(&["--raw", "-p", written_out, "-s", "1"]), ANSWER);
    assert_eq!(answer(&["-no-cnv", "-p", written_out, "-s", "1"]), ANSWER);
    assert_ne!(answer(&["--raw", "-p", QUESTION, "-s", "1"]), ANSWER);

    let dir = TempDir::new().unwrap();
    let template = path(
        &dir,
        "template.jinja",
        b"{{ bos_token }}<|turn>user\n{{ messages[-1].content | replace('Sweden', 'Norway') }}<turn|>\n<|turn>model\n\n",
    );
    let swapped = "What is the capital of Sweden?";
    assert_eq!(
        answer(&["--chat-template-file", &template, "-p", swapped, "-s", "1"]),
        ANSWER
    );
    let broken = path(&dir, "broken.jinja", b"\n{% if %}");
    assert_fails(
        &["--chat-template-file", &broken, "-p", "x"],
        &["chat template", "line 2"],
    );
}

#[test]
fn a_system_prompt_reaches_the_model() {
    let prefilled = |args: &[&str]| {
        let output = cli(&[&["-p", QUESTION, "-s", "1"], args].concat());
        let stderr = text(&output.stderr);
        let count = Regex::new(r"prefill: (\d+) tok")
            .unwrap()
            .captures(stderr)
            .unwrap()[1]
            .parse();
        count.unwrap_or(0_usize)
    };
    assert!(prefilled(&["-sys", "Be brief."]) > prefilled(&[]));
}

#[test]
fn flags_that_cannot_work_are_named() {
    assert_fails(&["-p", ""], &["prompt (-p", "empty"]);
    assert_fails(&[], &["-p, -f or standard input"]);
    // As the user wrote it.
    for flag in ["-n", "--predict", "--n_predict"] {
        assert_fails(
            &["-p", "x", flag, "0"],
            &[&format!("'{flag} <N>'"), "from 1 to"],
        );
    }
    assert_fails(
        &["-p", "x", "--diffusion-blocks", "0"],
        &["--diffusion-blocks"],
    );
    assert_fails(
        &["-p", "x", "--diffusion-eb-t-min", "2"],
        &["--diffusion-eb-t-min: is 2", "--diffusion-eb-t-max"],
    );
    assert_fails(&["-p", "x", "-ctk", "f32"], &["-ctk, -ctv"]);
    assert_fails(
        &["-p", "x", "-ctk", "q5_k", "-ctv", "q5_k"],
        &["q5_k", "f16, f32 or q8_0"],
    );
    assert_fails(&["-p", "x", "-dev", "CUDA9"], &["CUDA9", "CPU"]);
    assert_fails(
        &["-p", "x", "--thread", "1"],
        &["--thread", "similar argument", "--threads"],
    );
    assert_fails(&["-p", "x", "-nope"], &["--nope"]);
}

#[test]
fn model_files_that_cannot_work_are_named() {
    let dir = TempDir::new().unwrap();
    let text_file = path(&dir, "model.gguf", b"not a model");
    let directory = dir.path().to_str().unwrap();
    for model in [directory, "no/such/model.gguf", &text_file] {
        assert_fails(&["-m", model, "-p", "x"], &[model]);
    }
}

#[test]
fn a_prompt_longer_than_the_context() {
    let long = "word ".repeat(100);
    assert_fails(
        &["-c", "128", "-p", &long],
        &["the context holds 128", "-c"],
    );
    // Not even one token and a canvas.
    assert_fails(&["-c", "32", "-p", "x"], &["-c", "canvas of 32"]);
}

#[test]
fn passes_of_the_prefill_change_nothing() {
    assert_eq!(answer(&["-p", QUESTION, "-s", "1", "-ub", "5"]), ANSWER);
}

#[test]
fn types_of_the_kv_cache() {
    for ty in ["f32", "f16"] {
        assert_eq!(
            answer(&["-p", QUESTION, "-s", "1", "-ctk", ty, "-ctv", ty]),
            ANSWER,
            "{ty}"
        );
    }
}

#[test]
fn drafts_stay_plain_without_a_terminal() {
    let output = cli(&["-p", QUESTION, "-s", "1", "--diffusion-visual"]);
    assert_eq!(text(&output.stdout), ANSWER);
    let stderr = text(&output.stderr);
    let line =
        r"(?m)^canvas 1, step \d+ of \d+: \d+ of 32 tokens accepted, mean entropy \d\.\d{4}$";
    let steps = Regex::new(line).unwrap().find_iter(stderr).count();
    assert!(
        stderr.contains(&format!("({steps} steps over")) && steps > 0,
        "{stderr}"
    );
    assert!(!stderr.contains('\x1b'), "{stderr:?}");
    // The last step is shown whatever the interval.
    let rare = cli(&[
        "-p",
        QUESTION,
        "-s",
        "1",
        "--diffusion-visual",
        "--diffusion-visual-interval",
        "99",
    ]);
    assert_eq!(text(&rare.stderr).matches("canvas 1, step").count(), 1);
}

#[test]
fn the_flags_of_make_run_visual_have_an_effect() {
    let makefile = include_str!("../../../../Makefile").replace("\\\n", " ");
    let flags = makefile.split("visual_flags := $(if $(visual),").nth(1);
    let flags = flags.and_then(|rest| rest.split(')').next()).unwrap();
    let mut args: Vec<&str> = flags.split_whitespace().collect();
    assert!(args.len() > 3, "{args:?}");
    args.extend(["-s", "1", "-p", QUESTION, "--diffusion-visual-delay", "0"]);
    let output = cli(&args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(text(&output.stdout), ANSWER, "{stderr}");
    assert!(!stderr.contains("no effect"), "{stderr}");
    // More than the two steps that the demo model usually takes, so that there is something to see.
    assert!(stderr.matches("canvas 1, step ").count() > 2, "{stderr}");
}

#[test]
fn version_devices_and_help() {
    let version = answer(&["--version"]);
    assert!(version.starts_with(concat!("llama-diffusion-cli ", env!("CARGO_PKG_VERSION"))));
    assert!(version.contains("llama.cpp"), "{version}");
    assert!(answer(&["--list-devices"]).contains("  CPU: "));
    assert!(answer(&["--help"]).contains("--diffusion-eb-entropy-bound"));
}

#[test]
fn the_embedded_model_leaves_no_file_behind() {
    let dir = TempDir::new().unwrap();
    let mut command = common::tool();
    let run = command
        .args(["-t", "1", "-s", "1", "-p", QUESTION])
        .env("TMPDIR", dir.path());
    assert_eq!(text(&run.output().unwrap().stdout), ANSWER);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let run = command.env("TMPDIR", Path::new("no/such/directory"));
    assert!(text(&run.output().unwrap().stderr).contains("no/such/directory"));
}

#[test]
#[cfg(unix)]
fn an_interrupted_answer_ends_with_130_and_its_summary() {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};

    // A confidence that no canvas reaches keeps it busy for seconds.
    let mut child = common::process()
        .args(["-t", "1", "-p", QUESTION, "-n", "-1", "--raw"])
        .args(["--diffusion-visual", "--diffusion-eb-confidence", "1e-30"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("canvas 1, step ") {
        line.clear();
        assert_ne!(
            stderr.read_line(&mut line).unwrap(),
            0,
            "it ended by itself"
        );
    }
    let pid = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &pid]).status();
    assert!(kill.unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("total time: ") && rest.contains("(interrupted)"),
        "{rest}"
    );
}

#[test]
fn nothing_is_written_over_what_is_read() {
    let dir = TempDir::new().unwrap();
    let model = path(&dir, "model.gguf", &fs::read(DEMO).unwrap());
    let prompt = path(&dir, "prompt.txt", QUESTION.as_bytes());
    let template = path(&dir, "template.jinja", b"{{ messages[0].content }}");
    let link = dir.path().join("link.gguf");
    fs::hard_link(&model, &link).unwrap();
    let link = link.to_str().unwrap();
    let new = dir.path().join("new").to_str().unwrap().to_owned();
    let indirect = format!("{}/./new", dir.path().display());
    for (args, lost, is) in [
        (
            &["-p", "x", "-m", &model, "--record", &model][..],
            &*model,
            "the model",
        ),
        (
            &["-p", "x", "-m", &model, "--log-file", link],
            link,
            "the model",
        ),
        (&["-f", &prompt, "--record", &prompt], &prompt, "the prompt"),
        (
            &["-p", "x", "-sysf", &prompt, "--log-file", &prompt],
            &prompt,
            "the system prompt",
        ),
        (
            &[
                "-p",
                "x",
                "--chat-template-file",
                &template,
                "--record",
                &template,
            ],
            &template,
            "the chat template",
        ),
        (
            &["-p", "x", "--record", &new, "--log-file", &indirect],
            &new,
            "--log-file",
        ),
    ] {
        assert_fails(args, &[lost, is, "give another name for --"]);
    }
    assert_eq!(fs::read(&model).unwrap(), fs::read(DEMO).unwrap());
    assert_eq!(fs::read(&prompt).unwrap(), QUESTION.as_bytes());
    assert!(!fs::exists(&new).unwrap());
    // Where nothing can be lost there is nothing to reject.
    assert_eq!(
        answer(&[
            "-p",
            QUESTION,
            "-s",
            "1",
            "--record",
            "/dev/null",
            "--log-file",
            "/dev/null"
        ]),
        ANSWER
    );
}

/// Runs the tool with a stream that cannot be written: a full device, or a pipe that nobody reads.
#[cfg(target_os = "linux")]
fn with_broken_streams(args: &[&str]) -> Vec<(Output, Output)> {
    use std::process::Stdio;

    let broken = || -> [Stdio; 2] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let (_, closed) = std::io::pipe().unwrap();
        [full.into(), closed.into()]
    };
    let tool = || {
        let mut command = common::process();
        command.args(args).stdin(Stdio::null());
        command
    };
    let (out, err) = (broken(), broken());
    let runs = out.into_iter().zip(err).map(|(out, err)| {
        let without_stdout = tool().stdout(out).stderr(Stdio::piped()).spawn().unwrap();
        let without_stdout = without_stdout.wait_with_output().unwrap();
        let without_stderr = tool().stdout(Stdio::piped()).stderr(err).spawn().unwrap();
        (without_stdout, without_stderr.wait_with_output().unwrap())
    });
    runs.collect()
}

#[test]
#[cfg(target_os = "linux")]
fn an_answer_is_not_lost_where_nobody_reads_what_is_said_about_it() {
    let visual = [
        "-t",
        "1",
        "-s",
        "1",
        "-p",
        QUESTION,
        "--diffusion-visual",
        "--temp",
        "1",
        "-v",
    ];
    for (without_stdout, without_stderr) in with_broken_streams(&visual) {
        assert_eq!(text(&without_stderr.stdout), ANSWER);
        assert_eq!(without_stderr.status.code(), Some(0));
        let said = text(&without_stdout.stderr);
        assert_eq!(without_stdout.status.code(), Some(1), "{said}");
        assert!(said.contains("error: standard output: "), "{said}");
    }
    for (_, without_stderr) in with_broken_streams(&["-p", ""]) {
        assert_eq!(without_stderr.status.code(), Some(1));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_that_cannot_be_written_is_an_error_in_one_line() {
    for args in [&["--list-devices"], &["--completion-bash"]] {
        for (without_stdout, _) in with_broken_streams(args) {
            let said = text(&without_stdout.stderr);
            assert_eq!(without_stdout.status.code(), Some(1), "{args:?}: {said}");
            assert!(said.starts_with("error: standard output: "), "{said}");
            assert_eq!(said.matches('\n').count(), 1, "{said}");
        }
    }
}

/// Whether it is noticed at once or only at the end: a short recording fits the buffer before it.
#[test]
#[cfg(target_os = "linux")]
fn a_recording_on_a_full_device_is_an_error() {
    for length in ["--diffusion-steps=1", "--diffusion-steps=48"] {
        let args = ["-p", QUESTION, "-s", "1", "--record", "/dev/full", length];
        let output = cli(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{length}: {said}");
        let expected = "error: /dev/full: No space left on device";
        assert!(said.contains(expected), "{length}: {said}");
    }
}

#[test]
fn the_demo_model_has_a_name_in_errors() {
    let keys = [
        "diffusion.canvas_length=int:0",
        "tokenizer.ggml.bos_token_id=int:99999999",
    ];
    for key in keys {
        let mut command = common::tool();
        let output = command
            .args(["-p", "Hi", "--override-kv", key])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output.stderr);
        let (key, _) = key.split_once('=').unwrap();
        let expected = format!("error: the demo model: metadata key '{key}': is ");
        assert!(message.contains(&expected), "{message}");
    }
}
