//! Thoughts separate from answers: a model that thinks.

use std::ops::ControlFlow;
use std::path::Path;

use llama_diffusion::chat::thinking::Section;
use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{CancelFlag, DiffusionParams, SamplerOverrides, SessionParams, TextModel};
use llama_diffusion_testing::thinker::{QUESTION, expected, thinker};
use tempfile::TempDir;

#[test]
fn in_rust() {
    let dir = TempDir::new().unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let text = TextModel::load(&thinker(&dir), &Default::default(), go_on).unwrap();
    let template = text.chat_template().unwrap().unwrap();
    let messages = [Message::new(Role::User, QUESTION)];
    let prompt = text
        .chat_prompt(&template, &messages, Default::default())
        .unwrap();
    let overrides = text.model().overrides();
    let params = DiffusionParams::resolve(&SamplerOverrides::default(), &overrides).unwrap();
    let settings = SessionParams {
        threads: Some(1),
        ..SessionParams::default()
    };
    let answer = text
        .session(&settings)
        .unwrap()
        .generate(&prompt, &params, &CancelFlag::default(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let tokens = &answer.generation.tokens;
    assert_eq!(text.answer_text(&prompt, tokens).unwrap(), expected());

    // Token by token.
    let mut splitter = text.splitter(&prompt);
    let parts: Vec<Section> = tokens.iter().map(|token| splitter.push(*token)).collect();
    assert_eq!((parts[0], parts[1]), (Section::Mark, Section::Thought));
    assert_eq!(parts.last(), Some(&Section::Answer));

    // From where the prompt ends, be it inside a thought, and up to where the answer is cut.
    for split in 0..tokens.len() {
        let longer = [&prompt, &tokens[..split]].concat();
        let rest = text.answer_text(&longer, &tokens[split..]).unwrap();
        assert!(rest.text == "." || rest.text.is_empty(), "{rest:?}");
        let cut = text.answer_text(&prompt, &tokens[..split]).unwrap();
        assert_eq!(
            cut.thinking,
            (1..tokens.len() - 1).contains(&split),
            "{split}: {cut:?}"
        );
    }
}

#[test]
fn the_name_of_the_channel_is_not_a_thought() {
    let demo = Path::new(llama_diffusion_demo_model::PATH);
    let go_on = &mut |_| ControlFlow::Continue(());
    let text = TextModel::load(demo, &Default::default(), go_on).unwrap();
    let tokens = |written: &str| text.vocab().tokenize(written, false, true).unwrap();
    let split = |prompt: &str, answer: &str| {
        let found = text.answer_text(&tokens(prompt), &tokens(answer)).unwrap();
        (found.text, found.thoughts, found.thinking)
    };
    let parts = |text: &str, thoughts: &str, open| (text.to_owned(), thoughts.to_owned(), open);
    assert_eq!(
        split("", "<|channel>thought\nhm<channel|>Oslo"),
        parts("Oslo", "hm", false)
    );
    assert_eq!(
        split("", "<|channel>thought\n<channel|>Oslo"),
        parts("Oslo", "", false)
    );
    assert_eq!(split("<|channel>", "thought\nhm"), parts("", "hm", true));
    assert_eq!(
        split("<|channel>thought\n", "hm<channel|>a"),
        parts("a", "hm", false)
    );
    // An end mark without a beginning opens nothing.
    assert_eq!(split("", "a<channel|>b"), parts("ab", "", false));
    assert_eq!(split("<channel|>", "a"), parts("a", "", false));
    let twice = "<|channel>hm<channel|>a<|channel>thought\nwell<channel|>b";
    assert_eq!(
        split("<|channel>x<turn|>", twice),
        parts("ab", "hm\nwell", false)
    );
}
