//! Answers by lines instead of HTTP: the protocol of the visual server that comes with llama.cpp's draft
//! of DiffusionGemma, which Unsloth Studio starts.
//!
//! ```text
//! READY vocabulary context
//! F block step steps "text"    a draft of the canvas
//! C block "text"               all finished canvases so far
//! STATS key=value ...
//! DONE                         the end of an answer
//! ERR kind message             the same, if there is none
//! ```

use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead as _, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::{Draft, FinishedCanvas, Generation};
use llama_diffusion::{CancelFlag, Error, Event, Result, Session, Utf8Stream, Vocab};
use llama_diffusion_flags::streams::output_error;
use serde_json::{Map, Value};

use crate::args::Args;
use crate::load::load_single;
use crate::protocol::chat;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::format::milliseconds;
use crate::protocol::request::Request;
use crate::protocol::value::{self, Object};
use crate::run::STACK;
use crate::served::Served;

/// Fields of a request that mean the same as in a chat.
const OF_CHATS: [&str; 5] = [
    "messages",
    "tools",
    "seed",
    "chat_template_kwargs",
    "diffusion",
];

/// Answers requests, one after the other, until the standard input ends or has the line `QUIT`.
///
/// # Errors
/// The model or the flags cannot be used, or the standard output is closed.
pub fn run(args: Args) -> Result<()> {
    let failed = |problem: String| Error::Input {
        name: "--visual-stdio".into(),
        problem,
    };
    let thread = std::thread::Builder::new().stack_size(STACK);
    let thread = thread.spawn(move || serve(&args));
    let thread = thread.map_err(|error| failed(error.to_string()))?;
    let panicked = |_| Err(failed("its thread panicked, which is a bug".into()));
    thread.join().unwrap_or_else(panicked)
}

fn serve(args: &Args) -> Result<()> {
    for warning in &args.warnings {
        tracing::warn!("{warning}");
    }
    let (served, session) = load_single(args)?;
    let Some(canvas) = served.model.model().canvas_length() else {
        return Err(Error::Input {
            name: "--visual-stdio".into(),
            problem: "it shows canvases of a canvas model, and this is a masked one: use HTTP"
                .into(),
        });
    };
    let mut visual = Visual {
        served,
        session,
        canvas,
        max_bytes: args.http.max_body(),
        out: io::stdout().lock(),
    };
    let (vocab, context) = (
        visual.served.model.vocab().len(),
        visual.served.limits.context,
    );
    visual.say(&format!("READY {vocab} {context}"))?;
    for line in io::stdin().lock().split(b'\n') {
        let line = line.map_err(|source| Error::Io {
            path: "standard input".into(),
            source,
        })?;
        let path = String::from_utf8_lossy(&line);
        match path.trim_end_matches('\r') {
            "" => {}
            "QUIT" => break,
            path => visual.answer(path)?,
        }
    }
    Ok(())
}

struct Visual<W> {
    served: Served,
    session: Session,
    /// Tokens of a canvas.
    canvas: usize,
    /// Bytes of a request.
    max_bytes: usize,
    out: W,
}

/// Why a request has no answer.
enum Failure {
    /// Its file cannot be read.
    File(String),
    /// What it asks for cannot be done.
    Request(ApiError),
    /// The engine failed.
    Engine(Error),
    /// Nobody reads the lines.
    Output(Error),
}

impl<W: Write> Visual<W> {
    fn say(&mut self, line: &str) -> Result<()> {
        put(&mut self.out, line)
    }

    /// Answers the request in a file. An error of its own ends it, but not the process.
    fn answer(&mut self, path: &str) -> Result<()> {
        let last = match self.try_answer(path) {
            Ok(statistics) => {
                self.say(&statistics)?;
                "DONE".into()
            }
            Err(Failure::Output(error)) => return Err(error),
            Err(Failure::File(problem)) => format!("ERR badreq {problem}"),
            Err(Failure::Engine(error)) => {
                self.session.reset()?;
                format!("ERR gen {error}")
            }
            Err(Failure::Request(error)) => match error.kind {
                ErrorKind::ContextSize { prompt, context } => {
                    format!("ERR toolong {} {context}", prompt + self.canvas)
                }
                _ => format!("ERR parse {}", error.message),
            },
        };
        self.say(&last.replace(['\n', '\r'], " "))
    }

    /// Writes the drafts and canvases of an answer, and returns the line with its statistics.
    fn try_answer(&mut self, path: &str) -> Result<String, Failure> {
        let start = Instant::now();
        let bytes = read(path, self.max_bytes).map_err(Failure::File)?;
        let request = request(&bytes, &self.served).map_err(Failure::Request)?;
        let input = &request.inputs[0];
        let prompt = self.served.prompt(input, &request);
        let prompt = prompt.map_err(Failure::Request)?.tokens;
        let seed = request.seed.or(self.served.seed).unwrap_or_default();
        let recipe = self.served.recipe(&request, input, &prompt, seed);
        let recipe = recipe.map_err(Failure::Request)?;
        let prepared = Instant::now();
        let mut lines = Lines {
            vocab: self.served.model.vocab(),
            out: &mut self.out,
            text: String::new(),
            rest: Utf8Stream::new(),
            shown: Duration::ZERO,
        };
        let mut closed = None;
        let answer = self.session.generate(
            &prompt,
            recipe.as_ref(),
            &CancelFlag::default(),
            &mut |event| match lines.show(&event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    closed = Some(error);
                    ControlFlow::Break(())
                }
            },
        );
        if let Some(error) = closed {
            return Err(Failure::Output(error));
        }
        let generation = answer.map_err(Failure::Engine)?.generation;
        lines.end(&generation).map_err(Failure::Output)?;
        let wall = prepared.elapsed();
        Ok(format!(
            "STATS prompt_n={} predicted_n={} prompt_prepare_ms={:.3} wall_ms={:.3} decode_ms={:.3} \
             blocks={} steps={} canvas={} n_ctx={}",
            prompt.len(),
            generation.tokens.len(),
            milliseconds(prepared - start),
            milliseconds(wall),
            milliseconds(wall.saturating_sub(lines.shown)),
            generation.canvases.len(),
            generation.steps,
            self.canvas,
            self.served.limits.context,
        ))
    }
}

/// The bytes of a file, which is not empty.
fn read(path: &str, limit: usize) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("{path}: {error}");
    let length = fs::metadata(path).map_err(failed)?.len();
    match length {
        0 => Err(format!("{path}: it is empty")),
        length if length > limit as u64 => Err(format!(
            "{path}: it has more than {} MiB: start the server with a larger --max-body",
            limit >> 20
        )),
        _ => fs::read(path).map_err(failed),
    }
}

/// What a file asks for: a chat, and how many canvases its answer may have.
fn request(bytes: &[u8], served: &Served) -> Result<Request, ApiError> {
    let file = value::body(bytes)?;
    let canvases = Object::root(&file).get("n_blocks");
    let canvases = canvases.map(|field| field.integer(i64::from(i32::MIN)..=i64::from(i32::MAX)));
    let canvases = canvases.transpose()?.unwrap_or(1).max(1);
    let of_chats = |name: &&str| Some(((*name).to_owned(), file.get(*name)?.clone()));
    let mut body: Map<String, Value> = OF_CHATS.iter().filter_map(of_chats).collect();
    // The model's turn always follows, also after an assistant's message.
    body.insert("add_generation_prompt".into(), true.into());
    let mut request = chat::read(&body, &served.capabilities(None))?.request;
    let own = &mut request.sampler.max_canvases;
    *own = own.or(Some(canvases as usize));
    Ok(request)
}

/// Writes what happens in an answer.
struct Lines<'a> {
    vocab: &'a Vocab,
    out: &'a mut dyn Write,
    /// The text of the finished canvases.
    text: String,
    /// The beginning of a character that the next canvas completes.
    rest: Utf8Stream,
    /// Time that the lines took.
    shown: Duration,
}

impl Lines<'_> {
    fn show(&mut self, event: &Event<'_>) -> Result<()> {
        let start = Instant::now();
        match event {
            Event::Draft(draft) => self.draft(draft)?,
            Event::CanvasDone(canvas) => self.canvas(canvas)?,
            _ => return Ok(()),
        }
        self.shown += start.elapsed();
        Ok(())
    }

    fn draft(&mut self, draft: &Draft<'_>) -> Result<()> {
        let text = self.vocab.detokenize(draft.argmax, false)?;
        let (block, step, steps) = (draft.block, draft.step, draft.max_steps);
        put(
            self.out,
            format_args!("F {block} {step} {steps} {}", quoted(&text)),
        )
    }

    /// The marks of thoughts and calls are spelled out, so that the client can separate them.
    fn canvas(&mut self, canvas: &FinishedCanvas) -> Result<()> {
        for &token in &canvas.answer {
            self.text += &self.rest.push(&self.vocab.piece(token, true)?);
        }
        self.so_far(canvas.block)
    }

    /// What was held back of the last canvas.
    fn end(&mut self, generation: &Generation) -> Result<()> {
        let rest = self.rest.finish();
        match generation.canvases.last() {
            Some(last) if !rest.is_empty() => {
                self.text += &rest;
                self.so_far(last.block)
            }
            _ => Ok(()),
        }
    }

    fn so_far(&mut self, block: u32) -> Result<()> {
        let text = quoted(&self.text);
        put(self.out, format_args!("C {block} {text}"))
    }
}

/// Writes a line at once.
fn put(out: &mut dyn Write, line: impl Display) -> Result<()> {
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(output_error)
}

/// A text as JSON, in ASCII: a client may read lines in any encoding, and end them at any character of
/// Unicode that ends one.
fn quoted(text: &str) -> String {
    let mut ascii = String::new();
    for character in Value::from(text).to_string().chars() {
        match character {
            '\u{20}'..='\u{7e}' => ascii.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    ascii += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json_on_one_line_of_ascii() {
        let text = "a \"b\" \\ \n\r\t\u{1}\u{7f}\u{85}\u{2028} é 😀 <|channel>";
        let line = quoted(text);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        assert!(
            line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{line}"
        );
        assert!(line.contains(r"\ud83d\ude00"), "{line}");
    }
}
