//! A conversation, line by line.

mod lines;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{Error, FinishReason, Result};

use crate::answer::Answerer;
use crate::args::message;
use crate::ending::Ending;
use crate::interrupt::Interrupt;
pub use lines::Lines;
use lines::Read;
use llama_diffusion_flags::streams::say;

const HELP: &str = "\
/help, /?      this list
/clear         forget the conversation, but for the system prompt
/regen         answer the last message again, with the next seed
/exit, /quit   end; so do Ctrl-D, and Ctrl-C at an empty prompt
Ctrl-C         ends an answer at its next step; what is finished of it stays";

/// Answers one message after another. An error that the next message can fix does not end the chat.
///
/// # Errors
/// The input cannot be read, or an answer fails.
pub fn run(
    mut lines: Lines,
    answerer: &mut Answerer<'_>,
    first: Option<String>,
    seed: u64,
    interrupt: &Interrupt,
) -> Result<Ending> {
    let mut chat = Chat {
        messages: answerer.opening(),
        seed,
    };
    let mut next = first;
    let mut ending = Ending::Done;
    loop {
        let line = match next.take() {
            Some(line) => line,
            None => match interrupt.while_waiting(|| lines.read())? {
                Read::Line(line) => line,
                Read::NoText(why) => {
                    say(format_args!("{why}: the message is skipped"));
                    continue;
                }
                Read::End => return Ok(ending),
                Read::Interrupt => return Ok(Ending::Interrupted),
            },
        };
        match line.trim() {
            "" => continue,
            "/help" | "/?" => {
                say(HELP);
                continue;
            }
            "/exit" | "/quit" => return Ok(ending),
            "/clear" => {
                chat = Chat {
                    messages: answerer.opening(),
                    seed,
                };
                continue;
            }
            "/regen" => {
                if !chat.take_back_answer() {
                    say("there is no message to answer again");
                    continue;
                }
            }
            unknown if is_command(unknown) => {
                say(format_args!(
                    "{unknown}: unknown command, /help lists the known ones"
                ));
                continue;
            }
            _ => chat.say(line),
        }
        match chat.answer(answerer, interrupt) {
            Err(error) if can_be_mended(&error) => {
                say(format_args!(
                    "error: {}\n/clear starts over",
                    message(&error)
                ));
                // On a terminal the user has seen it.
                if !lines.is_terminal() {
                    ending = Ending::Failed;
                }
            }
            result => result?,
        }
        if interrupt.ends_the_program() {
            return Ok(Ending::Interrupted);
        }
    }
}

/// Whether another message may be answered after this error.
fn can_be_mended(error: &Error) -> bool {
    matches!(
        error,
        Error::ContextFull { .. }
            | Error::InvalidParameter { .. }
            | Error::Input { .. }
            | Error::ChatTemplate(_)
            | Error::Tokenizer(_)
    )
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
    /// Adds a message of the user. It replaces one without an answer: templates require alternating
    /// roles.
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

    fn answer(&mut self, answerer: &mut Answerer<'_>, interrupt: &Interrupt) -> Result<()> {
        let reply = answerer.answer(&self.messages, self.seed, interrupt.flag())?;
        if reply.finish != FinishReason::Cancelled || !reply.text.is_empty() {
            let message = Message::new(Role::Assistant, reply.text);
            self.messages.push(message);
        }
        Ok(())
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
