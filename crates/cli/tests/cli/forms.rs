//! `--form` and `--template`.
#![cfg(feature = "demo-model")]

use std::fs;
use std::process::Output;

use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{self, text};

const QUESTION: [&str; 4] = ["-t", "1", "-p", "What is the capital of Norway?"];

/// Runs the tool with a file for a flag.
fn with_file(flag: &str, contents: &str, args: &[&str]) -> Output {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("known.txt");
    fs::write(&path, contents).unwrap();
    let mut command = common::tool();
    command.args(QUESTION).args(args).arg(flag).arg(&path);
    command.output().unwrap()
}

fn filled(form: &Value) -> Value {
    let output = with_file("--form", &form.to_string(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_str(text(&output.stdout)).unwrap()
}

#[test]
fn a_choice_is_the_one_that_the_model_knows() {
    // Of one token, of several, and of different numbers of them.
    for others in [
        &["Bern", "Paris"][..],
        &["Mexico City", "Rome", "the largest town of all"],
    ] {
        let mut choices = others.to_vec();
        choices.push("Oslo");
        let form = json!({
            "form": "The capital of Norway is ▢.",
            "blanks": [{"name": "city", "choices": choices}],
            "samples": 3,
        });
        let answer = filled(&form);
        assert_eq!(answer["text"], "The capital of Norway is Oslo.");
        let blank = &answer["blanks"][0];
        assert_eq!(
            (&blank["name"], &blank["text"]),
            (&json!("city"), &json!("Oslo"))
        );
        assert_eq!(blank["choice"], others.len());
        let number = |name: &str| blank[name].as_f64().unwrap();
        assert!(
            number("probability") > 0.9 && number("allowed_mass") > 0.5,
            "{blank}"
        );
        assert!((number("logprob").exp() - number("probability")).abs() < 1e-9);
        let all = blank["choices"].as_array().unwrap();
        let total: f64 = all.iter().map(|c| c["probability"].as_f64().unwrap()).sum();
        assert!((total - 1.0).abs() < 1e-9);
    }
}

#[test]
fn blanks_without_choices_are_tokens() {
    let form = json!({"form": "The capital of Norway is ▢.", "samples": 1, "steps": 2});
    let answer = filled(&form);
    assert_eq!(answer["text"], "The capital of Norway is Oslo.");
    let blank = &answer["blanks"][0];
    assert_eq!(
        (&blank["name"], &blank["text"]),
        (&json!("1"), &json!("Oslo"))
    );
    assert_eq!(
        (&blank["choice"], &blank["standard_error"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_blank_with_a_regular_expression_holds_a_text_of_it() {
    let city = |regex: &str, blank: &str, steps: u32| {
        let form = json!({
            "form": format!("The capital of Norway is {blank}."),
            "blanks": [{"name": "city", "regex": regex}],
            "samples": 2, "steps": steps,
        });
        let answer = filled(&form);
        let blank = &answer["blanks"][0];
        assert_eq!(
            answer["text"],
            format!(
                "The capital of Norway is {}.",
                blank["text"].as_str().unwrap()
            )
        );
        let number = |name: &str| blank[name].as_f64().unwrap();
        assert!((number("logprob").exp() - number("probability")).abs() < 1e-9);
        assert!(number("probability") <= 1.0 && number("allowed_mass") <= 1.0);
        assert!(blank["choice"].is_null() && blank["choices"].is_null());
        blank.clone()
    };
    // The model knows it, whatever else is allowed; if it is not, something else is written.
    let known = city("[A-Z][a-z]+", "▢▢▢▢", 1);
    assert_eq!(known["text"], "Oslo");
    assert!(known["allowed_mass"].as_f64().unwrap() > 0.5, "{known}");
    assert_eq!(city("Oslo|Bern", "▢▢▢▢▢▢", 3)["text"], "Oslo");
    let other = city("[0-9]{4}", "▢▢▢▢▢▢", 2);
    let year = other["text"].as_str().unwrap();
    assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{year}");
    assert!(other["allowed_mass"].as_f64().unwrap() < 0.01, "{other}");
}

#[test]
fn what_is_no_form_is_named() {
    for (form, expected) in [
        ("", "known.txt: EOF"),
        (
            r#"{"form": "a ▢", "fields": []}"#,
            "known.txt: unknown field \"fields\", expected one of \"form\", \"blanks\", \"steps\", \"samples\"",
        ),
        (r#"{"form": "a"}"#, "known.txt: it has no blank"),
        (
            r#"{"form": "▢▢", "blanks": [{"name": "x", "choices": ["a"]}]}"#,
            "known.txt: blank 'x' has choices: write it as a single",
        ),
        (
            r#"{"form": "▢ ▢", "blanks": [{"name": "x"}, {"name": "x"}]}"#,
            "known.txt: two blanks are called 'x'",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x", "choices": []}]}"#,
            "known.txt: blank 'x': it has no choices",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x", "choices": ["a", ""]}]}"#,
            "known.txt: blank 'x': choice 1 is empty",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x"}, {"name": "y"}]}"#,
            "known.txt: 2 blanks are described, but its text has 1",
        ),
        (
            r#"{"form": "▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢▢"}"#,
            "known.txt: it has up to ",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x", "choices": ["a"], "regex": "b"}]}"#,
            "known.txt: blank 'x' has choices and a regex: omit one",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x", "regex": "a("}]}"#,
            "known.txt: blank 'x': the regular expression 'a(' is not valid",
        ),
        (
            r#"{"form": "▢▢", "blanks": [{"name": "x", "regex": "[0-9]{40}"}]}"#,
            "known.txt: blank 'x': its texts have at least ",
        ),
        (
            &format!(
                r#"{{"form": "{}", "blanks": [{{"name": "x", "regex": ".*"}}]}}"#,
                "▢".repeat(5000)
            ),
            "known.txt: blank 'x': it has 5000 tokens, but a canvas has",
        ),
        (
            r#"{"form": "▢", "canvas": 20}"#,
            "known.txt: \"canvas\": has 20 tokens",
        ),
        (r#"{"form": "▢", "samples": 0}"#, "known.txt: samples is 0"),
        (
            r#"{"form": "▢", "steps": "many"}"#,
            "known.txt: \"steps\": invalid type: string \"many\", expected a whole number",
        ),
        (
            r#"{"form": "▢", "samples": 99999999999999999999}"#,
            "known.txt: \"samples\": ",
        ),
        (r#"{"form": "▢", "seed": -1}"#, "known.txt: \"seed\": "),
        (r#"{"form": 5}"#, "known.txt: \"form\": "),
        (
            r#"{"form": ["▢"]}"#,
            "known.txt: \"form\": invalid type: sequence, expected a string",
        ),
        (
            r#"{"form": "▢", "form": "▢ ▢"}"#,
            "known.txt: the name \"form\" stands twice at line 1 column",
        ),
        (
            r#"{"form": "▢ ▢", "blanks": [{"name": "x"}, ["y", ["a"]]]}"#,
            "known.txt: \"/blanks/1\": invalid type: sequence, expected an object",
        ),
        (
            r#"{"form": "▢", "blanks": [{"name": "x", "choices": [5]}]}"#,
            "known.txt: \"/blanks/0/choices\": ",
        ),
        (
            r#"{"form": "▢ ▢", "blanks": [{"name": "x"}, {"name": "y", "choice": ["a"]}]}"#,
            "known.txt: \"/blanks/1/choice\": unknown field \"choice\", expected one of \"name\"",
        ),
        (r#"{"steps": 1}"#, "known.txt: missing field \"form\""),
    ] {
        let output = with_file("--form", form, &[]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(expected),
            "{message}\ninstead of {expected}"
        );
        assert!(!message.contains("error: --"), "{message}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn fields_that_are_null_are_absent() {
    let form = json!({"form": "▢", "steps": null, "samples": null, "canvas": null,
        "blanks": [{"name": "a", "choices": null, "regex": null}]});
    assert_eq!(filled(&form)["blanks"][0]["name"], "a");
}

#[test]
fn flags_of_masked_models_have_their_warning() {
    let output = with_file("--form", r#"{"form": "▢"}"#, &["--temp", "0.5"]);
    assert_eq!(output.status.code(), Some(0));
    let warning = text(&output.stderr);
    assert!(warning.contains("--temp has no effect: "), "{warning}");
}

#[test]
fn a_masked_model_fills_no_form() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("masked.gguf");
    write_masked(&path, MaskedFamily::Dream, 7, &|_| ()).unwrap();
    let model = path.to_str().unwrap();
    let output = with_file("--form", r#"{"form": "▢"}"#, &["-m", model, "--raw"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(
        message.contains("--form: this is a masked model"),
        "{message}"
    );
}

#[test]
fn an_answer_begins_with_a_template() {
    let output = with_file("--template", "The city of Norway is ▢.\n", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer = text(&output.stdout);
    assert!(answer.starts_with("The city of Norway is "), "{answer}");
    let output = with_file("--template", "", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("known.txt: it is empty"));
}
