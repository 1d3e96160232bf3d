//! Thoughts separate from answers, on the command line.

use std::ops::ControlFlow;
use std::path::Path;

use llama_diffusion::TextModel;
use llama_diffusion::chat::{ChatTemplate, Message, Role};
use llama_diffusion_testing::thinker::{QUESTION, RENAMED, expected, thinker, with_marks};
use regex::Regex;
use tempfile::TempDir;

use crate::common;

/// The command-line tool with this model: its output, its messages, its status.
fn tool(model: &Path, args: &[&str], input: &str) -> (String, String, Option<i32>) {
    let mut command = common::tool();
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

    // The reason for the cut is reported, although the answer is empty.
    let (answer, said, status) = run(&["-n", "3"]);
    assert_eq!((answer.as_str(), status), ("", Some(0)));
    let reason = "answer: 3 tok (cut at -n or --diffusion-blocks while thinking, empty but for \
                  its thoughts)";
    assert!(said.contains(reason), "{said}");
}

/// Thoughts are not part of the answer: later turns do not see them.
#[test]
fn a_chat_forgets_thoughts() {
    // Other templates remove thoughts from messages themselves, where they find the marks.
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n\
        {{ m.content }}<turn|>\n{% endfor %}<|turn>model{{ '\\n' }}";
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
