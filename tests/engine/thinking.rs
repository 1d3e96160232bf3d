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

/// Whatever the model opens before it, and whether it closes that.
#[test]
fn what_an_edit_protects_is_never_a_thought() {
    let dir = TempDir::new().unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let model = TextModel::load(&thinker(&dir), &Default::default(), go_on).unwrap();
    let tokens = |text: &str| model.vocab().tokenize(text, false, false).unwrap();
    let mark = |name: &str| model.vocab().tokenize(name, false, true).unwrap();
    let (open, close) = (mark("<|channel>"), mark("<channel|>"));
    let (first, kept, last) = (
        tokens("a white fox"),
        tokens("\nkeep this\n"),
        tokens("the end"),
    );
    let original = |protected| {
        let lines: &[_] = if protected { &[2..=2] } else { &[] };
        model
            .original("a white fox\nkeep this\nthe end", lines, 0.3)
            .unwrap()
    };
    let read = |parts: &[&[i32]], protected| {
        let text = model
            .edited_text(&[], &original(protected), &parts.concat())
            .unwrap();
        (text.text, text.thoughts, text.thinking)
    };
    let whole =
        |text: &str, thoughts: &str, thinking| (text.to_owned(), thoughts.to_owned(), thinking);
    // Never closed.
    let cut = [&open[..], &first, &kept, &last];
    let all = "a white fox\nkeep this\nthe end";
    assert_eq!(read(&cut, true), whole(all, "", false));
    assert_eq!(read(&cut, false), whole("", all, true));
    let kept_tokens = [&first[..], &kept, &last].concat();
    assert_eq!(
        model.edited_tokens(&[], &original(true), &cut.concat()),
        kept_tokens
    );
    // Closed after it.
    let around = [&open[..], &first, &kept, &close, &last];
    assert_eq!(read(&around, true), whole(all, "", false));
    // A thought before it stays one, and so does one after it.
    let before = [&open[..], &first, &close, &first, &kept, &open, &last];
    let expected = whole("a white fox\nkeep this\n", "a white fox\nthe end", true);
    assert_eq!(read(&before, true), expected);
    assert_eq!(
        model.edited_tokens(&[], &original(true), &before.concat()),
        before.concat()
    );
    let two = [&open[..], &first, &close, &open, &kept, &last];
    assert_eq!(
        read(&two, true),
        whole("\nkeep this\nthe end", "a white fox", false)
    );
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
