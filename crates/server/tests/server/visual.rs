//! Answers by lines, as clients of the visual server of llama.cpp's draft read them.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{ANSWER, QUESTION, Server, chat};

/// A process that answers by lines.
struct Visual {
    child: Child,
    requests: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    directory: TempDir,
    /// Tokens of the vocabulary and of the context, as the first line says.
    ready: Vec<usize>,
}

impl Visual {
    fn start(flags: &str) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-server"));
        command.args(["--visual-stdio", "-t", "1"]);
        command.args(flags.split_whitespace());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let requests = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let ready = first.strip_prefix("READY ").unwrap().split(' ');
        Self {
            ready: ready.map(|number| number.parse().unwrap()).collect(),
            child,
            requests,
            lines,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Sends the path of a file, and returns the lines up to the end of the answer.
    fn send(&mut self, path: &Path) -> Vec<String> {
        writeln!(self.requests.as_mut().unwrap(), "{}", path.display()).unwrap();
        let mut answer = Vec::new();
        loop {
            let line = self.lines.next().unwrap().unwrap();
            assert!(line.is_ascii(), "{line}");
            let is_last = line == "DONE" || line.starts_with("ERR ");
            answer.push(line);
            if is_last {
                return answer;
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("a request");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn ask(&mut self, request: &Value) -> Vec<String> {
        let path = self.write(request.to_string().as_bytes());
        self.send(&path)
    }

    fn wait(mut self) -> Option<i32> {
        drop(self.requests.take());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Visual {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// The numbers after the letter of a line, and the text at its end.
fn numbered(line: &str, letter: &str, count: usize) -> Option<(Vec<usize>, String)> {
    let rest = line.strip_prefix(letter)?;
    let mut parts = rest.splitn(count + 1, ' ');
    let numbers = parts.by_ref().take(count).map(|part| part.parse().unwrap());
    let numbers = numbers.collect();
    Some((numbers, serde_json::from_str(parts.next()?).unwrap()))
}

fn drafts(lines: &[String]) -> Vec<(Vec<usize>, String)> {
    let draft = |line: &String| numbered(line, "F ", 3);
    lines.iter().filter_map(draft).collect()
}

fn canvases(lines: &[String]) -> Vec<(Vec<usize>, String)> {
    let canvas = |line: &String| numbered(line, "C ", 1);
    lines.iter().filter_map(canvas).collect()
}

/// A number of the line of statistics.
fn statistic(lines: &[String], name: &str) -> f64 {
    let line = &lines[lines.len() - 2];
    let pairs = line.strip_prefix("STATS ").unwrap().split(' ');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap());
    let (_, value) = pairs.find(|(key, _)| *key == name).unwrap();
    value.parse().unwrap()
}

fn request(question: &str, n_blocks: i32) -> Value {
    let messages = json!([{"role": "user", "content": question}]);
    json!({"seed": 7, "n_blocks": n_blocks, "messages": messages})
}

const STORY: &str = "Tell a story about Grace and a white owl.";

#[test]
fn answers_are_those_of_http_step_by_step() {
    let mut visual = Visual::start("");
    let server = Server::start("");
    for question in [STORY, QUESTION] {
        let mut body = chat(question);
        body["diffusion"] = json!({"drafts": "text", "min_interval_ms": 0, "max_canvases": 3});
        let answer = server.ask("/v1/chat/completions", &body);
        let lines = visual.ask(&request(question, 3));
        let (canvases, drafts) = (canvases(&lines), drafts(&lines));
        let (_, text) = canvases.last().unwrap();
        assert_eq!(*text, answer["choices"][0]["message"]["content"]);
        for (later, (numbers, text)) in canvases.iter().enumerate() {
            assert_eq!(numbers, &[later]);
            assert!(text.starts_with(&canvases[later.saturating_sub(1)].1));
        }
        assert_eq!(statistic(&lines, "blocks"), canvases.len() as f64);
        assert_eq!(statistic(&lines, "steps"), drafts.len() as f64);
        assert_eq!(answer["diffusion"]["steps"], drafts.len());
        assert_eq!(
            answer["usage"]["prompt_tokens"],
            statistic(&lines, "prompt_n")
        );
        assert_eq!(statistic(&lines, "n_ctx"), visual.ready[1] as f64);
        assert!(statistic(&lines, "decode_ms") <= statistic(&lines, "wall_ms"));
        // The steps of a canvas count from 0, and its last draft is what it becomes.
        let first: Vec<_> = drafts.iter().filter(|(at, _)| at[0] == 0).collect();
        for (step, (numbers, _)) in first.iter().enumerate() {
            assert_eq!(numbers[1], step);
            assert!(step < numbers[2]);
        }
        let last = &first.last().unwrap().1;
        assert!(last.starts_with(&canvases[0].1), "{last}");
    }
    assert_eq!(visual.wait(), Some(0));
}

#[test]
fn texts_are_escaped() {
    let mut visual = Visual::start("");
    for (question, expected) in [
        ("Anna from Lima is 42 years old. Write that as JSON.", '"'),
        (
            "Write a Python function that returns the larger of a and b.",
            '\n',
        ),
    ] {
        let lines = visual.ask(&request(question, 2));
        let (_, text) = canvases(&lines).pop().unwrap();
        assert!(text.contains(expected), "{text:?}");
    }
    let mut unusual = request(QUESTION, 1);
    unusual["messages"][0]["content"] = "Grüße, \"😀\"\\\n\u{1}".into();
    assert_eq!(visual.ask(&unusual).last().unwrap(), "DONE");
}

#[test]
fn an_error_ends_a_request_and_not_the_process() {
    let mut visual = Visual::start("-c 512");
    let nowhere = visual.directory.path().join("nowhere");
    for (path, expected) in [
        (nowhere, "ERR badreq "),
        (visual.write(b""), "ERR badreq "),
        (visual.directory.path().to_owned(), "ERR badreq "),
    ] {
        let lines = visual.send(&path);
        assert!(lines[0].starts_with(expected), "{lines:?}");
    }
    let long = request(&"word ".repeat(2000), 1);
    for (body, expected) in [
        ("{".to_owned(), "ERR parse the body is not JSON"),
        ("{}".to_owned(), "ERR parse messages: is missing"),
        (
            json!({"messages": [{"role": "user"}]}).to_string(),
            "ERR parse messages[0].content: is missing",
        ),
        (
            json!({"n_blocks": "x", "messages": []}).to_string(),
            "ERR parse n_blocks: is a string",
        ),
        // The server's own t_max, which the request does not name, is lower.
        (
            json!({"messages": [{"role": "user", "content": "Hi"}], "diffusion": {"t_min": 5}})
                .to_string(),
            "ERR parse diffusion.t_min: ",
        ),
        (long.to_string(), "ERR toolong "),
    ] {
        let path = visual.write(body.as_bytes());
        let lines = visual.send(&path);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(expected), "{lines:?}");
        if let Some(numbers) = lines[0].strip_prefix("ERR toolong ") {
            let numbers = numbers.split(' ').map(|number| number.parse().unwrap());
            let numbers: Vec<usize> = numbers.collect();
            assert!(numbers[0] > numbers[1] && numbers[1] == 512, "{lines:?}");
        }
    }
    let lines = visual.ask(&request(QUESTION, 1));
    assert!(canvases(&lines)[0].1.contains(ANSWER), "{lines:?}");
    // Numbers below 1 are 1.
    let lines = visual.ask(&request(STORY, -5));
    assert_eq!(canvases(&lines).len(), 1);
    writeln!(visual.requests.as_mut().unwrap(), "QUIT").unwrap();
    assert_eq!(visual.child.wait().unwrap().code(), Some(0));
}

/// As the documentation says: the program that Unsloth Studio starts has the model as its argument, and
/// its context in a variable.
#[cfg(unix)]
#[test]
fn a_script_makes_it_the_program_of_unsloth_studio() {
    use std::os::unix::fs::PermissionsExt as _;

    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server.md");
    let documentation = fs::read_to_string(documentation).unwrap();
    let (_, script) = documentation.split_once("#!/bin/sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("visual-server");
    let program = assert_cmd::cargo::cargo_bin!("llama-diffusion-server");
    let script = script.replace(
        "llama-diffusion-server",
        &format!("'{}'", program.display()),
    );
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo-model/demo-q8_0.gguf");
    for (maxtok, context) in [("600", 600), ("0", 2048)] {
        let mut command = Command::new(&path);
        command.arg(model).env("MAXTOK", maxtok).env("NGL", "99");
        let mut visual = Visual::spawn(command);
        assert_eq!(visual.ready[1], context);
        let lines = visual.ask(&request(QUESTION, 8));
        assert!(canvases(&lines)[0].1.contains(ANSWER), "{lines:?}");
    }
}
