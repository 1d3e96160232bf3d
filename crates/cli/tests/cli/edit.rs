//! `--edit`: a text, changed as an instruction asks for.
#![cfg(feature = "demo-model")]

use std::fs;
use std::process::Output;

use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use tempfile::TempDir;

use crate::common::{self, text};

/// Edits a text in a file.
fn edit(contents: &[u8], args: &[&str]) -> Output {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("text.txt");
    fs::write(&path, contents).unwrap();
    let mut command = common::tool();
    command.args(["-t", "1", "-s", "1", "--edit"]).arg(&path);
    command.args(args).output().unwrap()
}

#[test]
fn an_instruction_is_followed_and_the_line_end_stays() {
    for strength in ["0", "0.3", "1"] {
        let past = [
            "--instruction",
            "Put this into the past tense",
            "--strength",
            strength,
        ];
        let output = edit(b"Leo runs to the park.\n", &past);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "Leo ran to the park.\n");
        assert!(text(&output.stderr).contains("steps over 1 blocks"));
    }
}

#[test]
fn protected_lines_stay_byte_for_byte() {
    let contents = "Leo runs to the park.\n\t \u{e9}\u{1f999} <turn|> \nMia goes to the lake.\nEnd";
    for strength in ["0", "1"] {
        let line = [
            "--instruction",
            "Past tense",
            "--protect",
            "2,4-4",
            "--strength",
            strength,
        ];
        let output = edit(contents.as_bytes(), &line);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let written = text(&output.stdout);
        let second = "\n\t \u{e9}\u{1f999} <turn|> \n";
        assert!(
            written.contains(second) && written.ends_with("\nEnd"),
            "{written:?}"
        );
    }
}

#[test]
fn lines_of_several_flags_and_a_byte_order_mark_stay() {
    let contents = "\u{feff}Leo runs to the park.\nMia goes to the lake.\nEnd";
    let line = [
        "--instruction",
        "Past tense",
        "--protect",
        "1",
        "--protect",
        "3",
    ];
    let output = edit(contents.as_bytes(), &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let written = text(&output.stdout);
    let first = "\u{feff}Leo runs to the park.\n";
    assert!(
        written.starts_with(first) && written.ends_with("\nEnd"),
        "{written:?}"
    );
}

#[test]
fn the_corrections_of_an_edit_are_counted() {
    let line = ["--instruction", "Past tense", "--diffusion-stats"];
    let output = edit(b"Leo runs to the park.\n", &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = text(&output.stderr);
    assert!(lines.contains("\ncorrections: "), "{lines}");
    let output = edit(b"Leo runs to the park.\n", &line[..2]);
    assert!(!text(&output.stderr).contains("corrections: "));
}

#[test]
fn a_prompt_alone_asks_for_what_the_text_becomes() {
    let of = |prompt: &'static str| {
        let output = edit(
            b"The capital of Norway is Bern.\n",
            &["-p", prompt, "--strength", "0"],
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    // The prompt decides, and does not hold the text.
    assert_eq!(
        of("What is the capital of Norway?"),
        "The capital of Norway is Oslo.\n"
    );
}

#[test]
fn colors_show_what_has_changed_where_they_are_asked_for() {
    let past = ["--instruction", "Put this into the past tense"];
    let written = |color: &str| {
        let args = [&past[..], &["--color", color]].concat();
        let output = edit(b"Leo runs to the park.\n", &args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    // The output is not a terminal.
    for color in ["off", "auto"] {
        assert_eq!(written(color), "Leo ran to the park.\n");
    }
    let painted = written("on");
    assert!(
        painted.contains("\x1b[") && painted.contains("ran"),
        "{painted:?}"
    );
}

#[test]
fn an_edited_text_follows_a_constraint() {
    let past = |line: &[&'static str]| {
        let args = [&["--instruction", "Put this into the past tense"], line].concat();
        edit(b"Leo runs to the park.\nMia goes to the lake.\n", &args)
    };
    let regex = "Leo (?:walked|swam) to the [a-z]+\\.\nMia [a-z ]+\\.";
    for strength in ["0", "0.5", "1"] {
        let output = past(&["--grammar-regex", regex, "--strength", strength]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let written = text(&output.stdout);
        let whole = regex::Regex::new(&format!("^{regex}\n$")).unwrap();
        assert!(whole.is_match(written), "{written:?}");
    }
    let output = past(&["--grammar-regex", regex, "--protect", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(
        message.contains("--protect: the constraint allows no text with all that is protected"),
        "{message}"
    );
}

#[test]
fn bad_input_is_named() {
    let refused = |contents: &[u8], args: &[&str]| {
        let output = edit(contents, args);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        text(&output.stderr).to_owned()
    };
    let with = |line: &[&'static str]| [&["--instruction", "Past tense"], line].concat();
    for (contents, args, parts) in [
        (
            &b"Hi"[..],
            with(&["--strength", "1.5"]),
            &["--strength", "at most 1.0"][..],
        ),
        (
            b"Hi",
            with(&["--strength", "-0.5"]),
            &["--strength", "0.0 or more"],
        ),
        (
            b"Hi",
            with(&["--protect", "2"]),
            &["--protect: the text has no lines 2-2: it has 1 to 1"],
        ),
        (
            b"Hi",
            with(&["--protect", "0"]),
            &["--protect", "counted from 1, such as 2,5-7"],
        ),
        (
            b"Hi",
            with(&["--protect", "3-2"]),
            &["--protect", "counted from 1"],
        ),
        (
            b"H\xff",
            with(&[]),
            &["text.txt: the byte at offset 1 is not UTF-8"],
        ),
        (b"", with(&[]), &["text.txt: it is empty"]),
        (b" \n\n", with(&[]), &["text.txt: it is empty"]),
        (
            b"Hi",
            vec!["--instruction", " "],
            &["--instruction: it is empty"],
        ),
        (b"Hi", vec![], &["--instruction"]),
        (b"Hi", with(&["-p", "x"]), &["--prompt"]),
        (
            b"Hi",
            vec!["-p", ""],
            &["prompt (-p, -f or standard input): it is empty"],
        ),
    ] {
        let message = refused(contents, &args);
        for part in parts {
            assert!(
                message.contains(part),
                "{args:?}: {part:?} is not in {message}"
            );
        }
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("dream.gguf");
    write_masked(&path, MaskedFamily::Dream, 5, &|_| ()).unwrap();
    let message = refused(
        b"Hi",
        &with(&["-m", path.to_str().unwrap().to_owned().leak()]),
    );
    assert!(
        message.contains("error: --edit: this is a masked model"),
        "{message}"
    );
}
