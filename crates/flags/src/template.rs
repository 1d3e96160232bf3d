//! Flags of the chat template.

use std::path::PathBuf;

use llama_diffusion::chat::ChatTemplate;
use llama_diffusion::{Error, Result};
use serde_json::{Map, Value};

use crate::compute::When;
use crate::input;
use crate::values::{Variables, parse_variables};

/// The variable by which a template is asked for thoughts.
pub const THINKING: &str = "enable_thinking";

/// The chat template, and its variables.
#[derive(Debug, clap::Args)]
pub struct TemplateArgs {
    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "JINJA")]
    chat_template: Option<String>,

    /// File with a Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE")]
    pub chat_template_file: Option<PathBuf>,

    /// JSON object with more variables for the chat template
    #[arg(long, value_name = "JSON", value_parser = parse_variables)]
    chat_template_kwargs: Option<Variables>,

    /// on asks the model to think, off asks it not to, auto leaves it to the template
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    reasoning: When,
}

impl TemplateArgs {
    /// The source of the template that replaces the model's.
    ///
    /// # Errors
    /// Its file cannot be read, or a name is given instead.
    pub fn source(&self) -> Result<Option<String>> {
        match (&self.chat_template, &self.chat_template_file) {
            (Some(source), _) if !source.contains('{') => Err(Error::Input {
                name: "--chat-template".into(),
                problem: format!(
                    "'{source}' is not a Jinja template, and this tool knows no templates by \
                     name: omit the flag to use the model's own"
                ),
            }),
            (Some(source), _) => Ok(Some(source.clone())),
            (None, Some(path)) => input::file(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The template that replaces the model's.
    ///
    /// # Errors
    /// As [`source`](Self::source), or it cannot be parsed.
    pub fn template(&self) -> Result<Option<ChatTemplate>> {
        let source = self.source()?;
        source.map(|source| ChatTemplate::new(&source)).transpose()
    }

    /// Whether the model is asked to think, if a flag says so.
    pub fn thinks(&self) -> Option<bool> {
        match self.reasoning {
            When::On => Some(true),
            When::Off => Some(false),
            When::Auto => None,
        }
    }

    /// A line for each variable of the user that the tool sets itself. `thinks` is whether flags ask
    /// the model to think.
    pub fn warnings(&self, thinks: Option<bool>) -> Vec<String> {
        let Some(Variables(given)) = &self.chat_template_kwargs else {
            return Vec::new();
        };
        let own = ChatTemplate::RESERVED
            .into_iter()
            .filter(|name| given.contains_key(*name));
        let own = own.map(|name| {
            format!("--chat-template-kwargs: '{name}' is set by this tool and stays as it is")
        });
        let thinks = thinks.filter(|thinks| {
            let other = given.get(THINKING);
            other.is_some_and(|other| *other != Value::Bool(*thinks))
        });
        let thinks = thinks.map(|thinks| {
            format!("--chat-template-kwargs: '{THINKING}' is {thinks} by another flag")
        });
        own.chain(thinks).collect()
    }

    /// What the template gets besides the messages. `thinks` is whether flags ask the model to
    /// think.
    pub fn variables(&self, thinks: Option<bool>) -> Map<String, Value> {
        let mut variables = match &self.chat_template_kwargs {
            Some(Variables(given)) => given.clone(),
            None => Map::new(),
        };
        if let Some(thinks) = thinks {
            variables.insert(THINKING.into(), thinks.into());
        }
        for name in ChatTemplate::RESERVED {
            variables.remove(name);
        }
        variables
    }
}
