//! Tokens of the demo model against those of Hugging Face's tokenizer.

use std::path::Path;

use llama_diffusion::model::file::ModelFile;
use llama_diffusion::{Token, Utf8Stream, Vocab};
use serde::Deserialize;

#[derive(Deserialize)]
struct Sample {
    text: String,
    ids: Vec<Token>,
}

fn demo() -> (ModelFile, Vocab) {
    let file = ModelFile::open(Path::new(llama_diffusion_demo_model::PATH)).unwrap();
    let vocab = Vocab::load(file.metadata(), file.metadata_overrides()).unwrap();
    (file, vocab)
}

/// `tests/vocab/demo-tokens.json` was written with the `tokenizers` package, special tokens parsed
/// and none added.
fn samples() -> Vec<Sample> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocab/demo-tokens.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn texts_become_the_tokens_of_hugging_face() {
    let (_, vocab) = demo();
    let samples = samples();
    assert!(samples.len() >= 8);
    for sample in samples {
        assert_eq!(
            vocab.tokenize(&sample.text, false, true).unwrap(),
            sample.ids,
            "{:?}",
            sample.text
        );
    }
}

#[test]
fn tokens_become_the_text_again_piece_by_piece() {
    let (_, vocab) = demo();
    for sample in samples() {
        assert_eq!(vocab.detokenize(&sample.ids, true).unwrap(), sample.text);
        let mut stream = Utf8Stream::new();
        let mut text = String::new();
        for token in sample.ids {
            text += &stream.push(&vocab.piece(token, true).unwrap());
        }
        assert_eq!(text + &stream.finish(), sample.text);
    }
}

#[test]
fn control_tokens_are_parsed_only_where_asked() {
    let (_, vocab) = demo();
    let turn = vocab.tokenize("<turn|>", false, true).unwrap();
    assert_eq!(turn.len(), 1);
    assert!(vocab.is_control(turn[0]).unwrap());
    assert!(
        vocab.end_tokens().contains(&turn[0]) && vocab.end_tokens().contains(&vocab.eos().unwrap())
    );
    assert!(vocab.tokenize("<turn|>", false, false).unwrap().len() > 1);
    assert_eq!(vocab.detokenize(&turn, false).unwrap(), "");
    let with_bos = vocab.tokenize("Hello", true, false).unwrap();
    assert_eq!(with_bos[0], vocab.bos().unwrap());
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let (_, vocab) = demo();
    for token in [-1, vocab.len() as Token, Token::MAX] {
        let message = vocab.piece(token, false).unwrap_err().to_string();
        assert!(message.contains(&token.to_string()), "{message}");
        assert!(vocab.is_control(token).is_err());
    }
}
