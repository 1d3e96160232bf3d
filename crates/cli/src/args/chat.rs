//! Flags of a conversation.

use std::path::PathBuf;

use llama_diffusion::chat::ChatTemplate;
use serde_json::{Map, Value};

use llama_diffusion_flags::compute::When;

use super::values::{Variables, parse_variables};

/// The variable by which a template is asked for thoughts.
const THINKING: &str = "enable_thinking";

/// How a conversation is led.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Chat: each line is a message, /help lists the commands. This is what happens on a
    /// terminal when there is no prompt
    #[arg(long, overrides_with = "raw")]
    pub conversation: bool,

    /// Ask for each message of a chat with an empty line and "> " on the standard output, as
    /// llama.cpp does, and without a line editor: for programs that lead a chat
    #[arg(long)]
    pub simple_io: bool,

    /// Answer one message and end
    #[arg(long, conflicts_with = "raw")]
    pub single_turn: bool,

    /// System prompt
    #[arg(long = "system-prompt", value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,

    /// File with the system prompt
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system"])]
    pub system_prompt_file: Option<PathBuf>,

    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "JINJA")]
    pub chat_template: Option<String>,

    /// File with a Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE")]
    pub chat_template_file: Option<PathBuf>,

    /// JSON object with more variables for the chat template
    #[arg(long, value_name = "JSON", value_parser = parse_variables)]
    chat_template_kwargs: Option<Variables>,

    /// Ask the model to think, and show its thoughts on the standard error. Unless told, the
    /// template decides, and thoughts are hidden
    #[arg(long, conflicts_with_all = ["raw", "no_thinking"])]
    pub show_thinking: bool,

    /// Ask the model not to think
    #[arg(long, conflicts_with = "raw")]
    no_thinking: bool,

    /// on asks the model to think, off asks it not to, auto leaves it to the template
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    reasoning: When,

    /// Give the prompt to the model without a chat template. This is also what happens
    /// when the model has no template
    #[arg(long, overrides_with = "conversation")]
    pub raw: bool,
}

impl ChatArgs {
    /// A line for each variable of the user that the tool sets itself.
    pub fn variable_warnings(&self) -> Vec<String> {
        let Some(Variables(given)) = &self.chat_template_kwargs else {
            return Vec::new();
        };
        let own = ChatTemplate::RESERVED
            .into_iter()
            .filter(|name| given.contains_key(*name));
        let own = own.map(|name| {
            format!("--chat-template-kwargs: '{name}' is set by this tool and stays as it is")
        });
        let thinks = self.thinks().filter(|thinks| {
            let other = given.get(THINKING);
            other.is_some_and(|other| *other != Value::Bool(*thinks))
        });
        let thinks = thinks.map(|thinks| {
            format!("--chat-template-kwargs: '{THINKING}' is {thinks} by another flag")
        });
        own.chain(thinks).collect()
    }

    /// Whether the template is asked for a model that thinks.
    pub fn asks_to_think(&self) -> bool {
        self.template_variables().get(THINKING) == Some(&Value::Bool(true))
    }

    /// Whether the model is asked to think, if a flag says so.
    fn thinks(&self) -> Option<bool> {
        match self.reasoning {
            _ if self.show_thinking || self.no_thinking => Some(self.show_thinking),
            When::On => Some(true),
            When::Off => Some(false),
            When::Auto => None,
        }
    }

    /// What the chat template gets besides the messages.
    pub fn template_variables(&self) -> Map<String, Value> {
        let mut variables = match &self.chat_template_kwargs {
            Some(Variables(given)) => given.clone(),
            None => Map::new(),
        };
        if let Some(thinks) = self.thinks() {
            variables.insert(THINKING.into(), thinks.into());
        }
        for name in ChatTemplate::RESERVED {
            variables.remove(name);
        }
        variables
    }
}
