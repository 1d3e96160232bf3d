//! What the user asks: the text of flags and files, put into the chat template.

use std::fs;
use std::path::Path;

use llama_diffusion::chat::{ChatTemplate, Message, Role};
use llama_diffusion::{Error, Result, TextModel, Token};

use crate::args::Args;

/// A prompt as text, read and checked before the model is loaded.
pub struct Prompt {
    text: String,
    system: Option<String>,
    raw: bool,
    /// Instead of the model's.
    template: Option<ChatTemplate>,
}

impl Prompt {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// No prompt, an empty one, a file that cannot be read, or a template that cannot be parsed.
    pub fn read(args: &Args) -> Result<Self> {
        let text = match (&args.prompt, &args.file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                let text = read_text(path)?;
                text.strip_suffix('\n').unwrap_or(&text).to_owned()
            }
            (None, None) => return Err(error("prompt", "there is none: give it with -p or -f")),
        };
        if text.is_empty() {
            return Err(error("prompt (-p, -f)", "it is empty"));
        }
        let template = match &args.chat_template_file {
            Some(path) => Some(ChatTemplate::new(&read_text(path)?)?),
            None => None,
        };
        Ok(Self {
            text,
            system: args.system.clone(),
            raw: args.raw,
            template,
        })
    }

    /// The tokens of the prompt for this model.
    ///
    /// # Errors
    /// The template refuses the messages, a system prompt has no template to go into, or the text
    /// cannot be tokenized.
    pub fn tokens(&self, model: &TextModel) -> Result<Vec<Token>> {
        if self.raw {
            return model.raw_prompt(&self.text);
        }
        let template = match &self.template {
            Some(template) => Some(template.clone()),
            None => model.chat_template()?,
        };
        let Some(template) = template else {
            return match self.system {
                Some(_) => Err(error(
                    "system prompt (-sys)",
                    "the model has no chat template to put it into: give one with \
                     --chat-template-file",
                )),
                None => model.raw_prompt(&self.text),
            };
        };
        let system = self
            .system
            .iter()
            .map(|text| Message::new(Role::System, text));
        let user = Message::new(Role::User, &self.text);
        let messages: Vec<Message> = system.chain([user]).collect();
        model.chat_prompt(&template, &messages, Default::default())
    }
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|invalid| {
        let position = invalid.utf8_error().valid_up_to();
        let problem = format!("the byte at offset {position} is not UTF-8");
        error(path.display().to_string(), problem)
    })
}

fn error(parameter: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::InvalidParameter {
        parameter: parameter.into(),
        problem: problem.into(),
    }
}
