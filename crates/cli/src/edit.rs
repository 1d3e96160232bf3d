//! `--edit`: a text, changed as an instruction asks for.

mod diff;

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{CancelFlag, DiffusionParams, Error, Event, Result, TextModel, edit_message};
use llama_diffusion_flags::streams::{print, say};

use crate::args::{EditArgs, PromptSource};
use crate::constraint::Language;
use crate::corrections::CorrectionLine;
use crate::ending::Ending;
use crate::engine::canvas_len;
use crate::prompt::{self, Setting};
use crate::report::Report;
use crate::run::{Run, canvas_model};
use llama_diffusion_flags::input;

/// What is to be edited, and how.
pub struct Edit {
    /// The byte order mark of the file, if it has one.
    mark: &'static str,
    text: String,
    /// What the model reads.
    message: String,
    strength: f32,
    protected: Vec<RangeInclusive<usize>>,
    language: Option<Language>,
}

impl Edit {
    /// Reads the text of a file, and what to change: the instruction, or a prompt.
    ///
    /// # Errors
    /// A file cannot be read, is empty or not UTF-8, or the instruction is missing or empty.
    pub fn read(path: &Path, flags: &EditArgs, prompt: Option<PromptSource>) -> Result<Self> {
        let (mark, text) = input::marked_file(path)?;
        if text.trim().is_empty() {
            let name = path.display().to_string();
            return Err(refusal(name, "it is empty: give a text to edit"));
        }
        let instruction = flags.instruction.as_deref();
        Ok(Self {
            message: message(instruction, prompt, body(&text))?,
            mark,
            text,
            strength: flags.strength,
            protected: flags.protected(),
            language: None,
        })
    }

    /// The same, constrained to a language.
    pub fn in_language(self, language: Option<Language>) -> Self {
        Self { language, ..self }
    }

    /// Edits the text and prints it.
    ///
    /// # Errors
    /// The model is a masked one, the text has no such lines or does not fit, or the device fails.
    pub fn run(
        &self,
        run: &Run,
        model: &TextModel,
        setting: &Setting,
        cancel: &CancelFlag,
    ) -> Result<Ending> {
        let canvas_model = canvas_model(model, "--edit", "edit a text")?;
        let engine = run.engine(model.model())?;
        let body = body(&self.text);
        let original = model.original(body, &self.protected, self.strength)?;
        let mut messages = setting.opening();
        messages.push(Message::new(Role::User, &self.message));
        let original = original.ending_with(setting.answer_end(model)?);
        let prompt = setting.tokens(model, &messages)?;
        let language = self.language.as_ref();
        let constraint = language.map(|language| language.of(model, &prompt));
        let params = DiffusionParams {
            constraint: constraint.transpose()?,
            ..run.diffusion(canvas_model, run.seed)?
        };
        let logprobs = run.output.logprobs()?;
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let mut session = engine.session(model)?;
        let answer = session.edit(&prompt, &original, &params, cancel, go_on)?;
        let text = model.edited_text(&prompt, &original, &answer.generation.tokens)?;
        let edited = format!("{}{}", text.text, &self.text[body.len()..]);
        print(&match run.output.show.colors {
            true => diff::painted(&self.text, &edited),
            false => format!("{}{edited}", self.mark),
        })?;
        if let Some(mut logprobs) = logprobs {
            logprobs.write(model.vocab(), &answer.generation.scores)?;
        }
        if run.output.shows_summary {
            say(Report {
                answer: &answer,
                canvas: canvas_len(model.model(), &answer),
                prompt: prompt.len(),
                seed: run.seed,
                sampler: engine.sampler(),
                limit: "the edited text is too long",
                text: &text,
                caches: true,
            });
        }
        if run.output.shows_corrections {
            let piece = |token| model.vocab().piece(token, false);
            say(CorrectionLine::new(&answer.generation.corrections, &piece)?);
        }
        Ok(answer.generation.finish.into())
    }
}

/// The text without the line ends at its end: an answer has none there, as a file does.
fn body(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// What the model reads: the instruction and the text, or the prompt alone.
fn message(instruction: Option<&str>, prompt: Option<PromptSource>, body: &str) -> Result<String> {
    match instruction.map(str::trim) {
        Some("") => Err(refusal("--instruction", "it is empty: say what to change")),
        Some(instruction) => Ok(edit_message(instruction, body)),
        None if prompt.is_none() => {
            let problem = "nothing says what to change: give --instruction, or a prompt with -p";
            Err(refusal("--edit", problem))
        }
        None => prompt::read(prompt),
    }
}

fn refusal(name: impl Into<String>, problem: &str) -> Error {
    Error::Input {
        name: name.into(),
        problem: problem.into(),
    }
}
