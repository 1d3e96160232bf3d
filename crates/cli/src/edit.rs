//! `--edit`: a text, changed as an instruction asks for.

mod diff;

use std::io::{self, IsTerminal as _};
use std::ops::{ControlFlow, RangeInclusive};

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{
    AnyModel, CancelFlag, DiffusionParams, Error, Event, Result, TextModel, edit_message,
};
use llama_diffusion_flags::streams::{print, say};

use crate::args::Args;
use crate::constraint::Language;
use crate::corrections::CorrectionLine;
use crate::ending::Ending;
use crate::engine::{Run, canvas_len};
use crate::prompt::{Setting, first_message};
use crate::report::Report;
use llama_diffusion_flags::input;

/// What is to be edited, and how.
pub struct Edit {
    text: String,
    /// What the model reads.
    message: String,
    strength: f32,
    protected: Vec<RangeInclusive<usize>>,
    language: Option<Language>,
}

impl Edit {
    /// Reads the file that the flags name, if they do.
    ///
    /// # Errors
    /// A file cannot be read, is empty or not UTF-8, the instruction is missing or empty, or the constraint
    /// cannot be honoured.
    pub fn read(args: &Args) -> Result<Option<Self>> {
        let flags = &args.edit;
        let Some(path) = &flags.edit else {
            return Ok(None);
        };
        let text = input::file(path)?;
        if text.trim().is_empty() {
            let name = path.display().to_string();
            return Err(refusal(name, "it is empty: give a text to edit"));
        }
        Ok(Some(Self {
            message: message(args, body(&text))?,
            text,
            strength: flags.strength,
            protected: flags.protected(),
            language: Language::read(args)?,
        }))
    }

    /// Edits the text and prints it.
    ///
    /// # Errors
    /// The model is a masked one, the text has no such lines or does not fit, or the device fails.
    pub fn run(
        &self,
        args: &Args,
        model: &TextModel,
        setting: &Setting,
        seed: u64,
        cancel: &CancelFlag,
    ) -> Result<Ending> {
        if let AnyModel::Masked(_) = model.model() {
            let problem = "this is a masked model, which cannot edit a text: give a canvas model";
            return Err(refusal("--edit", problem));
        }
        let run = Run::settle(args, model.model(), None)?;
        let body = body(&self.text);
        let original = model.original(body, &self.protected, self.strength)?;
        let mut messages = setting.opening();
        messages.push(Message::new(Role::User, &self.message));
        let original = original.ending_with(setting.answer_end(model)?);
        let prompt = setting.tokens(model, &messages)?;
        let trained = model.model().canvas_length().unwrap_or(1);
        let language = self.language.as_ref();
        let constraint = language.map(|language| language.of(model, &prompt));
        let params = DiffusionParams {
            constraint: constraint.transpose()?,
            ..args.diffusion((&model.model().overrides(), trained), seed)?
        };
        let logprobs = run.logprobs()?;
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let mut session = run.session(model)?;
        let answer = session.edit(&prompt, &original, &params, cancel, go_on)?;
        let text = model.edited_text(&prompt, &original, &answer.generation.tokens)?;
        let edited = format!("{}{}", text.text, &self.text[body.len()..]);
        print(
            &match io::stdout().is_terminal() && args.output.log.has_colors(true) {
                true => diff::painted(&self.text, &edited),
                false => edited,
            },
        )?;
        if let Some(mut logprobs) = logprobs {
            logprobs.write(model.vocab(), &answer.generation.scores)?;
        }
        if run.shows_summary {
            say(Report {
                answer: &answer,
                canvas: canvas_len(model.model(), &answer),
                prompt: prompt.len(),
                seed,
                sampler: run.sampler(),
                limit: "the edited text is too long",
                text: &text,
                caches: true,
            });
        }
        if run.shows_corrections {
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
fn message(args: &Args, body: &str) -> Result<String> {
    match args.edit.instruction.as_deref().map(str::trim) {
        Some("") => Err(refusal("--instruction", "it is empty: say what to change")),
        Some(instruction) => Ok(edit_message(instruction, body)),
        None if args.common.prompt().is_none() => {
            let problem = "nothing says what to change: give --instruction, or a prompt with -p";
            Err(refusal("--edit", problem))
        }
        None => Ok(first_message(args, false)?.unwrap_or_default()),
    }
}

fn refusal(name: impl Into<String>, problem: &str) -> Error {
    Error::Input {
        name: name.into(),
        problem: problem.into(),
    }
}
