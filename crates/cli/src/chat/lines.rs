//! The messages of a chat: from a terminal with a line editor, or plain lines.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _};
use std::path::PathBuf;

use llama_diffusion::{Error, Result};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, KeyEvent,
    Movement, RepeatCount,
};

use llama_diffusion_flags::input;
use llama_diffusion_flags::streams::{print, say_part};

/// The prompt for a message.
const PROMPT: &str = "> ";

/// What was read.
pub enum Read {
    Line(String),
    /// Why a line is not a message.
    NoText(String),
    End,
    Interrupt,
}

/// The lines of the standard input.
pub enum Lines {
    /// Of a terminal, edited.
    Edited(Box<Editor<(), MemHistory>>),
    /// Plain lines.
    Plain {
        read: usize,
        prompt: Prompt,
        is_terminal: bool,
    },
}

/// The prompt for a plain line.
#[derive(Clone, Copy)]
pub enum Prompt {
    /// None: a pipe.
    None,
    /// On the standard error: a terminal without an editor, or answers that go elsewhere.
    Error,
    /// On the standard output as llama.cpp does, so that a program can see where an answer ends.
    Output,
}

impl Lines {
    /// Prepares to read. With `simple`, the prompt goes to the standard output.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn open(simple: bool) -> Result<Self> {
        let is_terminal = io::stdin().is_terminal();
        let plain = |prompt| Self::Plain {
            read: 0,
            prompt,
            is_terminal,
        };
        // Only answers go to an output that is not the terminal.
        match (is_terminal, io::stdout().is_terminal()) {
            _ if simple => Ok(plain(Prompt::Output)),
            (false, _) => Ok(plain(Prompt::None)),
            (true, true) => Self::edited(Behavior::Stdio),
            (true, false) if can_edit_apart() => Self::edited(Behavior::PreferTerm),
            (true, false) => Ok(plain(Prompt::Error)),
        }
    }

    fn edited(behavior: Behavior) -> Result<Self> {
        let config = Config::builder().behavior(behavior).build();
        let mut editor = Editor::with_history(config, MemHistory::new()).map_err(input_error)?;
        let clear = EventHandler::Conditional(Box::new(ClearLine));
        editor.bind_sequence(KeyEvent::ctrl('C'), clear);
        Ok(Self::Edited(Box::new(editor)))
    }

    /// Whether a user types them.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Edited(_) => true,
            Self::Plain { is_terminal, .. } => *is_terminal,
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// The standard input cannot be read, or the standard output cannot be written.
    pub fn read(&mut self) -> Result<Read> {
        match self {
            Self::Plain { read, prompt, .. } => {
                prompt.show()?;
                *read += 1;
                let line = plain_line(*read)?;
                if matches!(line, Read::End) {
                    prompt.end()?;
                }
                Ok(line)
            }
            Self::Edited(editor) => match editor.readline(PROMPT) {
                Ok(line) => {
                    editor.add_history_entry(&line).map_err(input_error)?;
                    Ok(Read::Line(line))
                }
                Err(ReadlineError::Eof) => Ok(Read::End),
                Err(ReadlineError::Interrupted) => Ok(Read::Interrupt),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    Ok(Read::NoText("what was typed is not UTF-8".into()))
                }
                Err(error) => Err(input_error(error)),
            },
        }
    }
}

/// Whether lines can be edited on the terminal while the standard output is something else.
fn can_edit_apart() -> bool {
    /// Terminals without the escapes that an editor needs: it would prompt on the standard output.
    const WITHOUT_ESCAPES: [&str; 3] = ["dumb", "cons25", "emacs"];
    let name = std::env::var("TERM").unwrap_or_default();
    !WITHOUT_ESCAPES.contains(&name.to_lowercase().as_str())
        && OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .is_ok()
}

impl Prompt {
    fn show(self) -> Result<()> {
        match self {
            Self::None => {}
            Self::Error => say_part(PROMPT),
            Self::Output => print(&format!("\n{PROMPT}"))?,
        }
        Ok(())
    }

    /// There was no answer.
    fn end(self) -> Result<()> {
        match self {
            Self::None => {}
            Self::Error => say_part("\n"),
            Self::Output => print("\n")?,
        }
        Ok(())
    }
}

/// Line number `number` of the standard input.
fn plain_line(number: usize) -> Result<Read> {
    let mut line = Vec::new();
    let count = io::stdin().lock().read_until(b'\n', &mut line);
    if count.map_err(|error| input_error(error.into()))? == 0 {
        return Ok(Read::End);
    }
    // No line of such an input is text.
    let is_foreign = number == 1 && input::other_encoding(&line).is_some();
    match input::text(line, &format!("standard input, line {number}")) {
        Ok(text) => Ok(Read::Line(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) if is_foreign => Err(error),
        Err(error) => Ok(Read::NoText(error.to_string())),
    }
}

fn input_error(error: ReadlineError) -> Error {
    Error::Io {
        path: PathBuf::from("standard input"),
        source: match error {
            ReadlineError::Io(source) => source,
            other => io::Error::other(other),
        },
    }
}

/// Ctrl-C on a line that is not empty clears it, as in a shell.
struct ClearLine;

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        match context.line().is_empty() {
            true => Some(Cmd::Interrupt),
            false => Some(Cmd::Kill(Movement::WholeBuffer)),
        }
    }
}
