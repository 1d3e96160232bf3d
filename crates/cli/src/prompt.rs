//! The user's prompt: the text of flags, files and the standard input, put into the chat template.

use llama_diffusion::chat::{ChatTemplate, Message, Role};
use llama_diffusion::{Error, GapPrompt, Result, TextModel, Token};
use serde_json::{Map, Value};

use llama_diffusion_flags::input;

use crate::args::{ChatArgs, PromptSource};

/// The prompt: the text or the file of the command line, else the standard input.
///
/// # Errors
/// It is empty, a file cannot be read, or it is not UTF-8.
pub fn read(source: Option<PromptSource>) -> Result<String> {
    let text = match source {
        Some(PromptSource::Text(text)) => input::without_mark(text),
        Some(PromptSource::File(path)) => input::without_last_line_end(input::file(&path)?),
        None => input::without_last_line_end(input::stdin()?),
    };
    match text.is_empty() {
        true => Err(error("prompt (-p, -f or standard input)", "it is empty")),
        false => Ok(text),
    }
}

/// What surrounds the messages of a conversation.
pub struct Setting {
    system: Option<String>,
    raw: bool,
    /// Replaces the model's.
    template: Option<ChatTemplate>,
    variables: Map<String, Value>,
}

impl Setting {
    /// Reads the files that the flags name, so that their errors are reported before minutes of
    /// loading. `system` is the system prompt of the command line itself.
    ///
    /// # Errors
    /// A file that cannot be read, or a template that cannot be parsed.
    pub fn read(chat: &ChatArgs, system: Option<String>) -> Result<Self> {
        let template = match chat.raw {
            true => None,
            false => chat.template.template()?,
        };
        let system = match &chat.system_prompt_file {
            Some(path) => Some(input::without_last_line_end(input::file(path)?)),
            None => system,
        };
        // An empty one counts as none, as in llama.cpp.
        let system = system.filter(|text| !text.is_empty());
        Ok(Self {
            system,
            raw: chat.raw,
            template,
            variables: chat.template_variables(),
        })
    }

    /// Uses the model's own template if no other was chosen. Warns about variables that it does not
    /// read.
    ///
    /// # Errors
    /// The model's template cannot be parsed, or there is none for a system prompt or a chat.
    pub fn complete(&mut self, model: &TextModel, chat: bool) -> Result<()> {
        if self.raw {
            return Ok(());
        }
        if self.template.is_none() {
            self.template = model.chat_template()?;
        }
        if let Some(template) = &self.template {
            for name in self.variables.keys().filter(|name| !template.reads(name)) {
                tracing::warn!("the chat template does not read '{name}': it has no effect");
            }
            return Ok(());
        }
        for name in self.variables.keys() {
            tracing::warn!("the model has no chat template, which could read '{name}'");
        }
        let needs_one = match (self.system.is_some(), chat) {
            (true, _) => "system prompt (-sys)",
            (false, true) => "chat (-cnv)",
            (false, false) => {
                tracing::warn!(
                    "the model has no chat template: it gets the prompt as it is, as with --raw"
                );
                return Ok(());
            }
        };
        Err(error(
            needs_one,
            "the model has no chat template to put it into: give one with --chat-template-file",
        ))
    }

    /// The messages that a conversation begins with.
    pub fn opening(&self) -> Vec<Message> {
        let system = self.system.iter();
        system
            .map(|text| Message::new(Role::System, text))
            .collect()
    }

    /// How the texts around a gap are put to this model.
    pub fn gap_prompt(&self) -> GapPrompt<'_> {
        match &self.template {
            Some(template) => GapPrompt::Chat {
                template,
                opening: self.opening(),
                variables: self.variables.clone(),
            },
            None => GapPrompt::Document,
        }
    }

    /// The token that ends an answer.
    ///
    /// # Errors
    /// The template rejects an answer.
    pub fn answer_end(&self, model: &TextModel) -> Result<Option<Token>> {
        model.answer_end(self.template.as_ref(), self.variables.clone())
    }

    /// The tokens of a conversation for this model.
    ///
    /// # Errors
    /// The template rejects the messages, or the text cannot be tokenized.
    pub fn tokens(&self, model: &TextModel, messages: &[Message]) -> Result<Vec<Token>> {
        model.prompt(self.template.as_ref(), messages, self.variables.clone())
    }
}

fn error(name: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Input {
        name: name.into(),
        problem: problem.into(),
    }
}
