//! A model that thinks.

use std::fs;
use std::path::{Path, PathBuf};

use llama_diffusion::chat::thinking::AnswerText;
use llama_diffusion::gguf::{Array, Gguf};
use llama_diffusion::internal::gguf::Encoded;
use tempfile::TempDir;

use crate::model_file::Editable;

pub const QUESTION: &str = "What is the capital of Norway?";
/// What the demo model says to it is "The capital of Norway is Oslo.": its first word now opens a
/// thought, and Oslo closes it.
pub const RENAMED: [(&str, &str); 2] = [("The", "<|channel>"), ("▁Oslo", "<channel|>")];

/// What it answers.
pub fn expected() -> AnswerText {
    AnswerText {
        text: ".".into(),
        thoughts: "capital of Norway is".into(),
        thinking: false,
    }
}

/// The demo model with other marks of thoughts.
pub fn thinker(dir: &TempDir) -> PathBuf {
    with_marks(dir, &RENAMED)
}

/// The demo model, some of whose words are marks of thoughts.
pub fn with_marks(dir: &TempDir, renamed: &[(&str, &str)]) -> PathBuf {
    let demo = Path::new(llama_diffusion_demo_model::PATH);
    let gguf = Gguf::parse(demo, fs::read(demo).unwrap()).unwrap();
    let strings: Array<'_> = gguf.require("tokenizer.ggml.tokens").unwrap();
    let types: Array<'_> = gguf.require("tokenizer.ggml.token_type").unwrap();
    let mut tokens: Vec<String> = strings
        .strings()
        .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        .collect();
    let mut types: Vec<Encoded> = types.values().map(Encoded::from).collect();
    for &(word, mark) in renamed {
        let at = |text: &str| tokens.iter().position(|token| token == text).unwrap();
        let (word, old) = (at(word), at(mark));
        tokens[old] = format!("<unused{old}>");
        tokens[word] = mark.into();
        types[word] = types[old].clone();
    }
    let path = dir.path().join("thinker.gguf");
    Editable::of(&gguf)
        .with(
            "tokenizer.ggml.tokens",
            tokens.iter().map(String::as_str).collect::<Encoded>(),
        )
        .with(
            "tokenizer.ggml.token_type",
            types.into_iter().collect::<Encoded>(),
        )
        .save(&path);
    path
}
