//! Text that the command-line tool reads: byte order marks, encodings and line ends.
#![cfg(feature = "demo-model")]

use std::fs;
use std::process::Output;

use tempfile::TempDir;

use crate::common::{self, text};

const MARK: &str = "\u{feff}";
const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.\n";

fn cli(dir: &TempDir, line: &str, input: &[u8]) -> Output {
    let mut command = common::tool();
    command.current_dir(dir).args(line.split_whitespace());
    command.write_stdin(input).output().unwrap()
}

/// The standard output of a run that must succeed.
fn answer(dir: &TempDir, line: &str, input: &str) -> String {
    let output = cli(dir, line, input.as_bytes());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {stderr}");
    text(&output.stdout).to_owned()
}

#[test]
fn byte_order_marks_are_dropped() {
    let dir = TempDir::new().unwrap();
    let exchange = format!(
        r#"{{"prompt": "{QUESTION}", "answer": "{}"}}"#,
        ANSWER.trim()
    );
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    let recorded = answer(&dir, "-t 1 -s 1 --record run.jsonl", QUESTION);
    assert_eq!(recorded, ANSWER);
    let recording = fs::read_to_string(dir.path().join("run.jsonl")).unwrap();
    let demo = llama_diffusion_demo_model::PATH;
    fs::copy(demo, dir.path().join("demo.gguf")).unwrap();
    // The contents of files and of the standard input.
    for (line, file, input) in [
        ("-t 1 -s 1", "", QUESTION),
        ("-t 1 -s 1 -cnv", "", QUESTION),
        ("-t 1 -s 1 -f in.txt", QUESTION, ""),
        ("-t 1 -s 1 -sysf in.txt", "Answer in one word.", QUESTION),
        ("-t 1 -s 1 --chat-template-file in.txt", template, QUESTION),
        ("cross-entropy in.txt demo.gguf -t 1", &exchange, ""),
        ("replay in.txt --delay 0", &recording, ""),
    ] {
        let [plain, marked] = ["", MARK].map(|mark| {
            fs::write(dir.path().join("in.txt"), format!("{mark}{file}")).unwrap();
            let of_input = if input.is_empty() { "" } else { mark };
            answer(&dir, line, &format!("{of_input}{input}"))
        });
        assert!(!plain.is_empty(), "{line}");
        assert_eq!(plain, marked, "{line}");
    }
    // As in `"$(cat FILE)"`.
    let output = common::tool()
        .args(["-t", "1", "-s", "1", "-p", &format!("{MARK}{QUESTION}")])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), ANSWER);
}

#[test]
fn other_encodings_are_rejected_by_their_names() {
    let dir = TempDir::new().unwrap();
    let units = QUESTION.encode_utf16();
    let little: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(units)
        .flat_map(u16::to_le_bytes)
        .collect();
    fs::write(dir.path().join("in.txt"), &little).unwrap();
    for (line, input, name) in [
        ("-t 1", &little[..], "standard input"),
        ("-t 1 -cnv", &little, "standard input, line 1"),
        ("-t 1", &little[2..], "standard input"),
        ("-t 1 -f in.txt", b"", "in.txt"),
        ("-t 1 -sysf in.txt", b"x", "in.txt"),
        ("-t 1 --chat-template-file in.txt", b"x", "in.txt"),
        ("cross-entropy in.txt none.gguf", b"", "in.txt"),
        ("replay in.txt", b"", "in.txt"),
    ] {
        let output = cli(&dir, line, input);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        let expected = format!("error: {name}: it is UTF-16, but only UTF-8 is read: convert it");
        assert!(said.contains(&expected), "{line}: {said}");
        assert_eq!(text(&output.stdout), "", "{line}");
    }
}

#[test]
fn a_line_end_of_windows_is_one() {
    let dir = TempDir::new().unwrap();
    let raw = |input: &str| answer(&dir, "-t 1 -s 1 --raw -n 32", input);
    let plain = raw("The capital of Norway is");
    for end in ["\n", "\r\n"] {
        assert_eq!(
            raw(&format!("The capital of Norway is{end}")),
            plain,
            "{end:?}"
        );
    }
    fs::write(dir.path().join("in.txt"), "The capital of Norway is\r\n").unwrap();
    assert_eq!(answer(&dir, "-t 1 -s 1 --raw -n 32 -f in.txt", ""), plain);
}
