//! `--form` and `--template`: texts that are known in part.

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::Template;
use llama_diffusion::{
    AnyModel, CancelFlag, Error, FormRequest, Result, SessionParams, TextModel, Thoughts, Token,
};
use llama_diffusion_flags::input;
use llama_diffusion_flags::streams::print;

use crate::args::Args;
use crate::ending::Ending;
use crate::prompt::{Setting, first_message};

/// A form to fill.
pub struct FilledIn {
    request: FormRequest,
    prompt: String,
    thoughts: Thoughts,
}

impl FilledIn {
    /// Reads the form that the flags name, if they do, and the prompt.
    ///
    /// # Errors
    /// A file cannot be read, or is not a form: the message names it.
    pub fn read(args: &Args) -> Result<Option<Self>> {
        let Some(path) = &args.form.form else {
            return Ok(None);
        };
        let name = || path.display().to_string();
        let mut request =
            FormRequest::from_json(&input::file(path)?).map_err(|error| match error {
                Error::InvalidParameter { problem, .. } => Error::Input {
                    name: name(),
                    problem,
                },
                error => error,
            })?;
        if let Some(seed) = args.common.seed() {
            request.seed = seed;
        }
        let prompt = first_message(args, false)?.unwrap_or_default();
        Ok(Some(Self {
            request,
            prompt,
            thoughts: args.chat.thoughts(),
        }))
    }

    /// Fills the form and prints what stands in its blanks.
    ///
    /// # Errors
    /// The model is a masked one, the form does not fit it, or the device fails.
    pub fn run(
        &self,
        model: &TextModel,
        setting: &Setting,
        session: &SessionParams,
        cancel: &CancelFlag,
    ) -> Result<Ending> {
        if let AnyModel::Masked(_) = model.model() {
            let problem = "this is a masked model, which cannot fill a form: give a canvas model";
            return Err(Error::Input {
                name: "--form".into(),
                problem: problem.into(),
            });
        }
        let mut messages = setting.opening();
        messages.push(Message::new(Role::User, &self.prompt));
        let prompt = setting.tokens(model, &messages)?;
        let mut session = model.session(session)?;
        let (request, thoughts) = (&self.request, self.thoughts);
        let answer = model.fill(&mut session, &prompt, request, thoughts, cancel)?;
        let json = serde_json::to_string_pretty(&answer).map_err(|error| Error::Input {
            name: "--form".into(),
            problem: error.to_string(),
        })?;
        print(&format!("{json}\n"))?;
        Ok(Ending::Done)
    }
}

/// A text that answers begin with.
pub struct Known {
    text: String,
    thoughts: Thoughts,
}

impl Known {
    /// Reads the text that the flags name, if they do.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub fn read(args: &Args) -> Result<Option<Self>> {
        let Some(path) = &args.form.template else {
            return Ok(None);
        };
        let text = input::without_last_line_end(input::file(path)?);
        match text.is_empty() {
            true => Err(Error::Input {
                name: path.display().to_string(),
                problem: "it is empty: give the text that the answer begins with".into(),
            }),
            false => Ok(Some(Self {
                text,
                thoughts: args.chat.thoughts(),
            })),
        }
    }

    /// What it makes of the first canvas after `prompt`.
    ///
    /// # Errors
    /// The vocabulary cannot spell it.
    pub fn of(&self, model: &TextModel, prompt: &[Token]) -> Result<Template> {
        model.template(&self.text, prompt, self.thoughts)
    }
}
