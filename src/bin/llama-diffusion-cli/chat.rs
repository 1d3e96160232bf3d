//! A conversation, line by line.

use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _};
use std::path::PathBuf;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{Error, FinishReason, Result};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, KeyEvent,
    Movement, RepeatCount,
};

use crate::answer::Answerer;
use crate::engine::Engine;
use crate::input;
use crate::interrupt::Interrupt;
use crate::shared::streams::tell;

const HELP: &str = "\
/help, /?      this list
/clear         forget the conversation, but for the system prompt
/regen         answer the last message anew, with the next seed
/exit, /quit   end; so do Ctrl-D, and Ctrl-C at an empty prompt
Ctrl-C         ends an answer at its next step; what is finished of it stays";

/// Answers message after message.
///
/// # Errors
/// The input cannot be read, or an answer fails. On a terminal, an error that the next message can
/// mend does not end the chat.
pub fn run<M: Engine>(
    answerer: &mut Answerer<'_, M>,
    first: Option<String>,
    seed: u64,
    interrupt: &Interrupt,
) -> Result<FinishReason> {
    let mut input = Input::open()?;
    let mut chat = Chat {
        messages: answerer.opening(),
        seed,
    };
    if input.is_terminal() {
        tell("/help lists the commands");
    }
    let mut next = first;
    loop {
        let line = match next.take() {
            Some(line) => line,
            None => match interrupt.while_waiting(|| input.read())? {
                Read::Line(line) => line,
                Read::NoText(why) => {
                    tell(format_args!("{why}: the message is left out"));
                    continue;
                }
                Read::End => return Ok(FinishReason::EndOfText),
                Read::Interrupt => return Ok(FinishReason::Cancelled),
            },
        };
        match line.trim() {
            "" => continue,
            "/help" | "/?" => {
                tell(HELP);
                continue;
            }
            "/exit" | "/quit" => return Ok(FinishReason::EndOfText),
            "/clear" => {
                chat = Chat {
                    messages: answerer.opening(),
                    seed,
                };
                continue;
            }
            "/regen" => {
                if !chat.take_back_answer() {
                    tell("there is no message to answer anew");
                    continue;
                }
            }
            unknown if is_command(unknown) => {
                tell(format_args!(
                    "{unknown}: unknown command, /help lists the known ones"
                ));
                continue;
            }
            _ => chat.say(line),
        }
        match chat.answer(answerer, interrupt) {
            Err(
                error @ (Error::ContextFull { .. }
                | Error::InvalidParameter { .. }
                | Error::ChatTemplate(_)
                | Error::Tokenizer(_)),
            ) if input.is_terminal() => {
                tell(format_args!("error: {error}\n/clear begins anew"));
            }
            result => result?,
        }
    }
}

/// Whether a line is meant as a command. A path or a comment is not.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/')
        .is_some_and(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase()))
}

struct Chat {
    messages: Vec<Message>,
    seed: u64,
}

impl Chat {
    /// Adds a message of the user. One that got no answer is replaced: templates want the roles in
    /// turn.
    fn say(&mut self, text: String) {
        if self.is_open() {
            self.messages.pop();
        }
        self.messages.push(Message::new(Role::User, text));
    }

    /// Whether the last message is the user's.
    fn is_open(&self) -> bool {
        self.messages.last().is_some_and(|m| m.role == Role::User)
    }

    /// Removes the last answer. False if no message of the user is before it.
    fn take_back_answer(&mut self) -> bool {
        self.messages
            .pop_if(|message| message.role == Role::Assistant);
        let open = self.is_open();
        self.seed = self.seed.wrapping_add(open.into());
        open
    }

    fn answer<M: Engine>(
        &mut self,
        answerer: &mut Answerer<'_, M>,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let reply = answerer.answer(&self.messages, self.seed, interrupt.flag())?;
        if reply.finish != FinishReason::Cancelled || !reply.text.is_empty() {
            let message = Message::new(Role::Assistant, reply.text);
            self.messages.push(message);
        }
        Ok(())
    }
}

enum Read {
    Line(String),
    /// Why a message is none.
    NoText(String),
    End,
    Interrupt,
}

enum Input {
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe { lines: usize },
}

impl Input {
    fn open() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe { lines: 0 });
        }
        let mut editor =
            Editor::with_history(Config::default(), MemHistory::new()).map_err(input_error)?;
        let clear = EventHandler::Conditional(Box::new(ClearLine));
        editor.bind_sequence(KeyEvent::ctrl('C'), clear);
        Ok(Self::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    fn read(&mut self) -> Result<Read> {
        match self {
            Self::Pipe { lines } => {
                let mut line = Vec::new();
                let count = io::stdin().lock().read_until(b'\n', &mut line);
                *lines += 1;
                if count.map_err(|error| input_error(error.into()))? == 0 {
                    return Ok(Read::End);
                }
                // No line of such an input is text.
                let is_foreign = *lines == 1 && input::other_encoding(&line).is_some();
                match input::text(line, &format!("standard input, line {lines}")) {
                    Ok(text) => Ok(Read::Line(text.trim_end_matches(['\r', '\n']).to_owned())),
                    Err(error) if is_foreign => Err(error),
                    Err(error) => Ok(Read::NoText(error.to_string())),
                }
            }
            Self::Terminal(editor) => match editor.readline("> ") {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_sentences_are_no_commands() {
        assert!(is_command("/foo"));
        for line in [
            "/etc/passwd is what?",
            "/",
            "// a comment",
            "/Foo bar",
            "hello",
        ] {
            assert!(!is_command(line), "{line}");
        }
    }

    #[test]
    fn an_answer_can_be_taken_back_and_a_message_without_one_is_replaced() {
        let mut chat = Chat {
            messages: vec![Message::new(Role::System, "s")],
            seed: 4,
        };
        assert!(!chat.take_back_answer());
        chat.say("a".into());
        chat.say("b".into());
        assert_eq!(chat.messages.len(), 2);
        chat.messages.push(Message::new(Role::Assistant, "c"));
        assert!(chat.take_back_answer());
        assert_eq!(chat.messages[1].content, "b");
        assert_eq!((chat.messages.len(), chat.seed), (2, 5));
    }
}
