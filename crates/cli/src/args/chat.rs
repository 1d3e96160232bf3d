//! Flags of a conversation.

use std::path::PathBuf;

use llama_diffusion::Thoughts;
use llama_diffusion_flags::template::{THINKING, TemplateArgs};
use serde_json::{Map, Value};

/// How a conversation is led.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Chat: each line is a message, /help lists the commands. This is what happens on a
    /// terminal when there is no prompt
    #[arg(long, overrides_with = "raw")]
    pub conversation: bool,

    /// Ask for each message of a chat with an empty line and "> " on the standard output, as
    /// llama.cpp does, and without a line editor: for programs that drive a chat
    #[arg(long)]
    pub simple_io: bool,

    /// Answer one message and exit
    #[arg(long, conflicts_with = "raw")]
    pub single_turn: bool,

    /// System prompt
    #[arg(long = "system-prompt", value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,

    /// File with the system prompt
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system"])]
    pub system_prompt_file: Option<PathBuf>,

    #[command(flatten)]
    pub template: TemplateArgs,

    /// Ask the model to think, and show its thoughts on the standard error. By default the template
    /// decides, and thoughts are hidden
    #[arg(long, conflicts_with_all = ["raw", "no_thinking"])]
    pub show_thinking: bool,

    /// Ask the model not to think
    #[arg(long, conflicts_with = "raw")]
    no_thinking: bool,

    /// Give the prompt to the model without a chat template. This is also what happens
    /// when the model has no template
    #[arg(long, overrides_with = "conversation")]
    pub raw: bool,
}

impl ChatArgs {
    /// A line for each variable of the user that the tool sets itself.
    pub fn variable_warnings(&self) -> Vec<String> {
        self.template.warnings(self.thinks())
    }

    /// What the model writes before a text that is known or constrained.
    pub fn thoughts(&self) -> Thoughts {
        match self.raw {
            true => Thoughts::None,
            false if self.asks_to_think() => Thoughts::On,
            false => Thoughts::Off,
        }
    }

    /// Whether the template is asked for a model that thinks.
    pub fn asks_to_think(&self) -> bool {
        self.template_variables().get(THINKING) == Some(&Value::Bool(true))
    }

    /// Whether the model is asked to think, if a flag says so.
    fn thinks(&self) -> Option<bool> {
        match self.show_thinking || self.no_thinking {
            true => Some(self.show_thinking),
            false => self.template.thinks(),
        }
    }

    /// What the chat template gets besides the messages.
    pub fn template_variables(&self) -> Map<String, Value> {
        self.template.variables(self.thinks())
    }
}
