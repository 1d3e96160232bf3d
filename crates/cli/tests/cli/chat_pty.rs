//! Typed chats: a pseudo-terminal whose keys this test presses.
#![cfg(all(unix, feature = "demo-model"))]

use std::fs;
use std::io::Write;
use std::sync::mpsc::RecvTimeoutError;

use portable_pty::PtySize;
use tempfile::TempDir;

use crate::pty::{self, Pty};

const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.";
const SECOND: &str = "What is the capital of Sweden?";
const SECOND_ANSWER: &str = "The capital of Sweden is Stockholm.";

/// The tool on a terminal, with one thread and a seed.
struct Typed {
    pty: Pty,
    written: Vec<u8>,
    keys: Box<dyn Write + Send>,
}

impl Typed {
    /// Runs the tool in a shell command, as `$TOOL`.
    fn run(script: &str, term: &str) -> Self {
        let mut command = pty::command("sh", term);
        let tool = assert_cmd::cargo::cargo_bin!("llama-diffusion-cli");
        command.env("TOOL", tool);
        command.args(["-c", &format!("exec \"$TOOL\" -t 1 -s 1 {script}")]);
        let pty = Pty::run(command, PtySize::default());
        Self {
            keys: pty.master.take_writer().unwrap(),
            pty,
            written: Vec::new(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written).into_owned()
    }

    /// Waits until the tool has written this `count` times.
    fn await_text(&mut self, text: &str, count: usize) {
        while self.text().matches(text).count() < count {
            let bytes = self.pty.receive();
            let bytes = bytes.unwrap_or_else(|error| panic!("{error}: {}", self.text()));
            self.written.extend(bytes);
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads everything that arrives. Returns the exit status.
    fn finish(&mut self) -> u32 {
        loop {
            match self.pty.receive() {
                Ok(bytes) => self.written.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it goes on: {}", self.text()),
            }
        }
        self.pty.status()
    }
}

#[test]
fn a_redirected_output_has_the_answers_alone() {
    let dir = TempDir::new().unwrap();
    for term in ["xterm-256color", "dumb"] {
        let file = dir.path().join(term);
        let mut typed = Typed::run(&format!("> '{}'", file.display()), term);
        typed.await_text("> ", 1);
        typed.press(&format!("{QUESTION}\r"));
        typed.await_text("seed: 1", 1);
        typed.await_text("> ", 2);
        typed.press("/exit\r");
        assert_eq!(typed.finish(), 0, "{}", typed.text());
        // Typed characters are on the terminal.
        assert!(typed.text().contains("Norway"), "{}", typed.text());
        let written = fs::read_to_string(&file).unwrap();
        assert_eq!(written, format!("{ANSWER}\n"), "{term}");
    }
}

#[test]
fn lines_that_are_typed_ahead_are_all_answered() {
    for (term, end) in [
        ("xterm-256color", "\r"),
        ("xterm-256color", "\n"),
        ("dumb", "\r"),
    ] {
        let mut typed = Typed::run("", term);
        typed.await_text("> ", 1);
        typed.press(&format!(
            "{QUESTION}{end}{SECOND}{end}/clear{end}{QUESTION}{end}/exit{end}"
        ));
        assert_eq!(typed.finish(), 0, "{}", typed.text());
        let text = typed.text();
        assert_eq!(text.matches(ANSWER).count(), 2, "{term}: {text}");
        assert_eq!(text.matches(SECOND_ANSWER).count(), 1, "{term}: {text}");
    }
}

#[test]
fn a_program_can_lead_a_chat_on_a_terminal() {
    let mut typed = Typed::run("--simple-io", "xterm-256color");
    typed.await_text("\r\n> ", 1);
    typed.press(&format!("{QUESTION}\n"));
    typed.await_text("\r\n> ", 2);
    typed.press("\x04");
    assert_eq!(typed.finish(), 0, "{}", typed.text());
    // No escapes of an editor; the bar of loading has some.
    let text = typed.text();
    let (_, chat) = text.split_once("\r\n> ").unwrap();
    assert!(!chat.contains('\x1b'), "{text}");
}
