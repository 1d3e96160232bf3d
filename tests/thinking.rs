//! Thoughts and answers, apart: a model that thinks, in Rust, in C and on the command line.
#![allow(unsafe_code, reason = "the C border")]

mod common;

use std::ffi::{CStr, CString};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use assert_cmd::Command;
use llama_diffusion::capi::*;
use llama_diffusion::chat::thinking::{AnswerText, Part};
use llama_diffusion::chat::{ChatTemplate, Message, Role};
use llama_diffusion::gguf::writer::Encoded;
use llama_diffusion::gguf::{Array, Gguf};
use llama_diffusion::{CancelFlag, DiffusionParams, Overrides, SessionParams, TextModel};
use regex::Regex;
use tempfile::TempDir;

use common::model_file::Editable;

const QUESTION: &str = "What is the capital of Norway?";
/// What the demo model says to it is "The capital of Norway is Oslo.": its first word now opens a
/// thought, and Oslo closes it.
const RENAMED: [(&str, &str); 2] = [("The", "<|channel>"), ("▁Oslo", "<channel|>")];

fn expected() -> AnswerText {
    AnswerText {
        text: ".".into(),
        thoughts: "capital of Norway is".into(),
        thinking: false,
    }
}

/// The demo model with other marks of thoughts.
fn thinker(dir: &TempDir) -> PathBuf {
    with_marks(dir, &RENAMED)
}

/// The demo model, some of whose words are marks of thoughts.
fn with_marks(dir: &TempDir, renamed: &[(&str, &str)]) -> PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-q8_0.gguf");
    let gguf = Gguf::parse(&demo, fs::read(&demo).unwrap()).unwrap();
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
    let params = DiffusionParams::resolve(&Overrides::default(), &overrides).unwrap();
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
    let parts: Vec<Part> = tokens.iter().map(|token| splitter.push(*token)).collect();
    assert_eq!((parts[0], parts[1]), (Part::Mark, Part::Thought));
    assert_eq!(parts.last(), Some(&Part::Answer));

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
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-q8_0.gguf");
    let go_on = &mut |_| ControlFlow::Continue(());
    let text = TextModel::load(&demo, &Default::default(), go_on).unwrap();
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
    // A mark that ends nothing opens nothing.
    assert_eq!(split("", "a<channel|>b"), parts("ab", "", false));
    assert_eq!(split("<channel|>", "a"), parts("a", "", false));
    let twice = "<|channel>hm<channel|>a<|channel>thought\nwell<channel|>b";
    assert_eq!(
        split("<|channel>x<turn|>", twice),
        parts("ab", "hm\nwell", false)
    );
}

/// The text of a string of the library, which is freed.
fn owned(string: *mut std::ffi::c_char) -> String {
    // SAFETY: a terminated string of the library, freed once.
    unsafe {
        let text = CStr::from_ptr(string).to_str().unwrap().to_owned();
        diffusion_string_free(string);
        text
    }
}

#[test]
fn in_c() {
    let dir = TempDir::new().unwrap();
    let path = CString::new(thinker(&dir).to_str().unwrap()).unwrap();
    let (mut model, mut context) = (null_mut(), null_mut());
    let (mut answer, mut thoughts, mut alone) = (null_mut(), null_mut(), null_mut());
    let question = QUESTION.as_ptr().cast();
    let none = std::ptr::null::<u8>();
    // SAFETY: valid pointers, lengths as they are, and each object ended once.
    unsafe {
        let loaded = diffusion_model_load(path.as_ptr(), none.cast(), &mut model, null_mut());
        assert_eq!(loaded, Status::Ok);
        let params = ContextParams {
            threads: 1,
            ..ContextParams::default()
        };
        let made = diffusion_context_new(model, &params, &mut context, null_mut());
        assert_eq!(made, Status::Ok);
        let replied = diffusion_generate_reply(
            context,
            question,
            QUESTION.len(),
            none.cast(),
            &mut answer,
            &mut thoughts,
            null_mut(),
            null_mut(),
        );
        assert_eq!(replied, Status::Ok);
        let answered = diffusion_generate_text(
            context,
            question,
            QUESTION.len(),
            none.cast(),
            &mut alone,
            null_mut(),
            null_mut(),
        );
        assert_eq!(answered, Status::Ok);
        assert_eq!(
            (owned(answer), owned(thoughts)),
            (expected().text, expected().thoughts)
        );
        assert_eq!(owned(alone), expected().text);
        diffusion_context_free(context);
        diffusion_model_free(model);
    }
}

/// The command-line tool with this model: what it writes, what it says, its status.
fn tool(model: &Path, args: &[&str], input: &str) -> (String, String, Option<i32>) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-cli"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("LLAMA_")) {
            command.env_remove(name);
        }
    }
    command.args(["-t", "1", "-s", "0", "-m"]).arg(model);
    let output = command.args(args).write_stdin(input).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[test]
fn on_the_command_line() {
    let dir = TempDir::new().unwrap();
    let model = thinker(&dir);
    let run = |more: &[&str]| tool(&model, &[&["-p", QUESTION], more].concat(), "");
    let (answer, said, _) = run(&[]);
    assert_eq!(answer, ".\n");
    assert!(
        said.starts_with("[thinking; --show-thinking shows it]\n"),
        "{said}"
    );
    let (answer, said, _) = run(&["--show-thinking"]);
    assert_eq!(answer, ".\n");
    assert!(said.contains(" capital of Norway is\n"), "{said}");

    // What cut the answer is said, though there is nothing of it.
    let (answer, said, status) = run(&["-n", "3"]);
    assert_eq!((answer.as_str(), status), ("", Some(0)));
    let reason = "answer: 3 tok (cut at -n or --diffusion-blocks while thinking, empty but for \
                  its thoughts)";
    assert!(said.contains(reason), "{said}");
}

/// What the model thought is not what it said: later turns do not see it.
#[test]
fn a_chat_forgets_thoughts() {
    // Others take thoughts out of messages themselves, where they find the marks.
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n\
        {{ m.content }}<turn|>\n{% endfor %}<|turn>model\n";
    let dir = TempDir::new().unwrap();
    let model = thinker(&dir);
    let input = format!("{QUESTION}\n{QUESTION}\n");
    let chat = ["-cnv", "--chat-template", TEMPLATE];
    let (answers, said, status) = tool(&model, &chat, &input);
    assert_eq!(status, Some(0), "{said}");
    assert!(answers.starts_with(".\n"), "{answers}");
    let counts = Regex::new(r"prefill: (\d+) tok in \S+ms, (\d+) reused").unwrap();
    let count = |text: &str| text.parse::<usize>().unwrap();
    let prompts: Vec<usize> = counts
        .captures_iter(&said)
        .map(|c| count(&c[1]) + count(&c[2]))
        .collect();

    let go_on = &mut |_| ControlFlow::Continue(());
    let text = TextModel::load(&model, &Default::default(), go_on).unwrap();
    let template = ChatTemplate::new(TEMPLATE).unwrap();
    let user = Message::new(Role::User, QUESTION);
    let model = Message::new(Role::Assistant, expected().text);
    let messages = [user.clone(), model, user];
    let expected = [1, 3].map(|turns| {
        let prompt = text.chat_prompt(&template, &messages[..turns], Default::default());
        prompt.unwrap().len()
    });
    assert_eq!(prompts, expected, "{said}");
}

#[test]
fn a_stray_end_of_a_thought_is_left_out() {
    let dir = TempDir::new().unwrap();
    let model = with_marks(&dir, &RENAMED[1..]);
    let (answer, said, status) = tool(&model, &["-p", QUESTION], "");
    assert_eq!(
        (answer.as_str(), status),
        ("The capital of Norway is.\n", Some(0))
    );
    assert!(!said.contains("thinking"), "{said}");
}
