//! Answers that are constrained by a JSON Schema or a regular expression.
#![cfg(feature = "demo-model")]

use std::fs;

use crate::common::{self, text};

const QUESTION: &str = "What is the capital of Norway?";
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"]
}"#;

/// Status, standard output and standard error.
fn cli(args: &[&str]) -> (i32, String, String) {
    let mut command = common::tool();
    let output = command
        .args(["-t", "1", "-s", "1", "-p", QUESTION])
        .args(args);
    let output = output.output().unwrap();
    let texts = [&output.stdout, &output.stderr].map(|bytes| text(bytes).to_owned());
    let [out, err] = texts;
    (output.status.code().unwrap(), out, err)
}

#[test]
fn json_follows_its_schema() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    fs::write(&file, SCHEMA).unwrap();
    let file = file.to_str().unwrap();
    for args in [
        vec!["-j", SCHEMA],
        vec!["-jf", file],
        vec!["--json-schema", SCHEMA, "--constrain-at", "commit"],
        vec!["-j", SCHEMA, "--raw"],
    ] {
        let (status, out, err) = cli(&args);
        assert_eq!(status, 0, "{err}");
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(value["city"].as_str().unwrap().chars().count() <= 12);
        assert!(["small", "large"].contains(&value["size"].as_str().unwrap()));
    }
}

#[test]
fn a_regular_expression_is_matched_as_a_whole() {
    let (status, out, err) = cli(&["--grammar-regex", "(yes|no)"]);
    assert_eq!(status, 0, "{err}");
    assert!(["yes\n", "no\n"].contains(&out.as_str()), "{out:?}");
}

#[test]
fn what_cannot_be_honoured_is_named() {
    for (args, expected) in [
        (vec!["-j", "{"], "error: -j: it is not JSON"),
        (
            vec!["-j", r#"{"type": "array", "uniqueItems": true}"#],
            "error: -j: the schema at '#': 'uniqueItems'",
        ),
        (vec!["-jf", "none.json"], "error: none.json: "),
        (
            vec!["--grammar-regex", "["],
            "error: --grammar-regex: the regular expression '['",
        ),
        (
            vec!["-j", SCHEMA, "-n", "2"],
            "error: -j, -jf, --grammar-regex: the constraint needs at least",
        ),
        (
            vec!["-j", SCHEMA, "-n", "2"],
            "tokens, but only 2 may be written: raise -n\n",
        ),
        (
            vec![
                "--grammar-regex",
                "[ab]{40}",
                "--canvas",
                "16",
                "--diffusion-blocks",
                "1",
            ],
            "only 16 may be written: raise --diffusion-blocks\n",
        ),
        (
            vec!["--grammar-regex", "(ab|c){900}", "-c", "256"],
            " may be written: raise -c or shorten the prompt\n",
        ),
        (
            vec!["-j", r#"{"type": "null", "type": "string"}"#],
            "error: -j: it is not JSON: the name \"type\" stands twice at line 1 column",
        ),
        (
            vec!["-j", r#"{"type": "null", "$defs": []}"#],
            "error: -j: the schema at '#': the keyword '$defs' must be an object",
        ),
        (
            vec!["-j", "{}", "--json-depth", "8"],
            "error: -j: the schema at '#': needs too many states: lower minItems, maxItems, minLength, maxLength or \
             --json-depth, or",
        ),
        (
            vec!["-j", r#"{"properties": {"a": {"minimum": 1e400}}}"#],
            "error: -j: it is not JSON: the number at '/properties/a/minimum' is out of range: ",
        ),
    ] {
        let (status, out, err) = cli(&args);
        assert_eq!((status, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
}
