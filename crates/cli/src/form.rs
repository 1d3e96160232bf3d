//! `--form` and `--template`: texts that are known in part.

use std::path::Path;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::Template;
use llama_diffusion::{
    CancelFlag, Error, FormRequest, Parameter, Result, TextModel, Thoughts, Token,
};
use llama_diffusion_flags::input;
use llama_diffusion_flags::streams::print;

use crate::args::PromptSource;
use crate::ending::Ending;
use crate::prompt::{self, Setting};
use crate::run::{Run, canvas_model};

/// A form to fill.
pub struct FilledIn {
    /// Its file.
    name: String,
    request: FormRequest,
    prompt: String,
    thoughts: Thoughts,
}

impl FilledIn {
    /// Reads the form of a file and the prompt that it answers after such thoughts. A seed of the user
    /// takes precedence over that of the form.
    ///
    /// # Errors
    /// A file cannot be read, or is not a form: the message names it.
    pub fn read(
        path: &Path,
        seed: Option<u64>,
        prompt: Option<PromptSource>,
        thoughts: Thoughts,
    ) -> Result<Self> {
        let name = path.display().to_string();
        let request = FormRequest::from_json(&input::file(path)?);
        let mut request = request.map_err(|error| in_file(&name, error))?;
        if let Some(seed) = seed {
            request.seed = seed;
        }
        Ok(Self {
            name,
            request,
            prompt: prompt::read(prompt)?,
            thoughts,
        })
    }

    /// Fills the form and prints what stands in its blanks.
    ///
    /// # Errors
    /// The model is a masked one, the form does not fit it, or the device fails.
    pub fn run(
        &self,
        run: &Run,
        model: &TextModel,
        setting: &Setting,
        cancel: &CancelFlag,
    ) -> Result<Ending> {
        canvas_model(model, "--form", "fill a form")?;
        let engine = run.engine(model.model())?;
        let mut messages = setting.opening();
        messages.push(Message::new(Role::User, &self.prompt));
        let prompt = setting.tokens(model, &messages)?;
        let mut session = engine.session(model)?;
        let (request, thoughts) = (&self.request, self.thoughts);
        let answer = model.fill(&mut session, &prompt, request, thoughts, cancel);
        let answer = answer.map_err(|error| in_file(&self.name, error))?;
        let json = serde_json::to_string_pretty(&answer).map_err(|error| Error::Input {
            name: "--form".into(),
            problem: error.to_string(),
        })?;
        print(&format!("{json}\n"))?;
        Ok(Ending::Done)
    }
}

/// An error about a form, by the fields of its file: no flag sets them.
fn in_file(name: &str, error: Error) -> Error {
    let Error::InvalidParameter { parameter, problem } = error else {
        return error;
    };
    let field = match parameter {
        Parameter::Form => None,
        Parameter::Canvas => Some("canvas"),
        Parameter::Constraint => Some("regex"),
        _ => return Error::InvalidParameter { parameter, problem },
    };
    Error::Input {
        name: name.to_owned(),
        problem: match field {
            Some(field) => format!("\"{field}\": {problem}"),
            None => problem,
        },
    }
}

/// A text that answers begin with.
pub struct Known {
    text: String,
    thoughts: Thoughts,
}

impl Known {
    /// Reads the text of a file, which follows such thoughts.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub fn read(path: &Path, thoughts: Thoughts) -> Result<Self> {
        let text = input::without_last_line_end(input::file(path)?);
        match text.is_empty() {
            true => Err(Error::Input {
                name: path.display().to_string(),
                problem: "it is empty: give the text that the answer begins with".into(),
            }),
            false => Ok(Self { text, thoughts }),
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
