//! The model that is served: its names, its limits, and the tokens of texts and conversations.

use std::path::PathBuf;
use std::sync::Arc;

use llama_diffusion::chat::{ChatTemplate, RenderOptions};
use llama_diffusion::diffusion::Limits;
use llama_diffusion::{AnyModel, DiffusionParams, MaskedParams, TextModel, Token};
use llama_diffusion_flags::template::THINKING;
use serde_json::{Map, Value};

use crate::length::LongestToken;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::request::{Capabilities, Chat, Family, Piece};
use crate::protocol::turns::StoredResponses;
use crate::refusals::{refused, rejected};

/// The model that is served.
pub struct Served {
    /// The model and its vocabulary.
    pub model: TextModel,
    /// The chat template, if there is one.
    pub template: Option<Template>,
    /// Its names, the id first.
    pub names: Vec<String>,
    /// Its file; `None` is the demo model.
    pub path: Option<PathBuf>,
    /// Parameters of answers that say nothing about them.
    pub defaults: Defaults,
    /// The seed of answers that have none; `None` is a random one.
    pub seed: Option<u64>,
    /// Number of slots.
    pub slots: usize,
    /// What each slot can do.
    pub limits: Limits,
    /// Bytes of the KV caches of all slots.
    pub kv_bytes: usize,
    /// Maximum number of tokens in the thoughts of an answer whose request sets none.
    pub thought_budget: Option<usize>,
    /// The longest token of the vocabulary.
    pub longest_token: LongestToken,
}

/// A chat template.
pub struct Template {
    /// As it was written.
    pub source: String,
    /// As it is used.
    pub template: ChatTemplate,
    /// Variables of every conversation.
    pub variables: Map<String, Value>,
}

/// Parameters of an answer.
pub enum Defaults {
    /// On a canvas model.
    Canvas(DiffusionParams),
    /// On a masked one.
    Masked(MaskedParams),
}

/// What the template makes of a conversation.
pub struct Rendered {
    /// Its text, without what the answer begins with.
    pub text: String,
    /// What it was rendered with.
    options: RenderOptions,
}

impl Template {
    /// The variables of a conversation.
    fn variables_for(&self, chat: &Chat, thoughts: Option<bool>) -> Map<String, Value> {
        let mut variables = self.variables.clone();
        variables.extend(chat.variables.clone());
        if let Some(thoughts) = thoughts {
            variables.insert(THINKING.into(), thoughts.into());
        }
        variables
    }

    /// The variables of a conversation in which the model does not think.
    pub fn without_thoughts(&self) -> Map<String, Value> {
        self.variables_for(&Chat::default(), Some(false))
    }
}

impl Served {
    /// The family of the model.
    pub fn family(&self) -> Family {
        match self.defaults {
            Defaults::Canvas(_) => Family::Canvas,
            Defaults::Masked(_) => Family::Masked,
        }
    }

    /// What requests may ask for.
    pub fn capabilities(&self, responses: Option<Arc<dyn StoredResponses>>) -> Capabilities {
        let template = self.template.as_ref();
        Capabilities {
            family: self.family(),
            slots: self.slots,
            vocabulary: self.model.vocab().len(),
            tools: template.is_some_and(|template| template.template.reads("tools")),
            scores: self.family() == Family::Canvas,
            responses,
        }
    }

    /// Positions that a prompt leaves for a canvas.
    pub fn canvas_room(&self) -> usize {
        self.model.model().canvas_length().unwrap_or(1)
    }

    /// The tokens of a conversation, and of what its answer begins with.
    ///
    /// # Errors
    /// 400: the template rejects the conversation. 501: there is no template.
    pub fn chat(&self, chat: &Chat, thoughts: Option<bool>) -> Result<Vec<Token>, ApiError> {
        self.rendered_chat(chat, self.rendered(chat, thoughts, true)?)
    }

    /// The tokens of a conversation that is rendered with its opening.
    ///
    /// # Errors
    /// As [`chat`](Self::chat).
    pub fn rendered_chat(&self, chat: &Chat, rendered: Rendered) -> Result<Vec<Token>, ApiError> {
        let Rendered { options, text } = rendered;
        let template = &self.chat_template()?.template;
        let tokens = self
            .model
            .rendered_prompt(template, &chat.messages, options, &text);
        let mut tokens = tokens.map_err(|error| rejected(&error, chat.field))?;
        if !chat.prefix.is_empty() {
            let prefix = self.model.vocab().tokenize(&chat.prefix, false, false);
            tokens.extend(prefix.map_err(|error| refused(&error))?);
        }
        Ok(tokens)
    }

    /// What the template makes of a conversation. `opens` is whether the model's turn is opened.
    ///
    /// # Errors
    /// As [`chat`](Self::chat).
    pub fn rendered(
        &self,
        chat: &Chat,
        thoughts: Option<bool>,
        opens: bool,
    ) -> Result<Rendered, ApiError> {
        let template = self.chat_template()?;
        let variables = template.variables_for(chat, thoughts);
        let options = self.model.render_options(variables, opens);
        let options = options.map_err(|error| refused(&error))?;
        let text = template.template.render(&chat.messages, &options);
        Ok(Rendered {
            text: text.map_err(|error| rejected(&error, chat.field))?,
            options,
        })
    }

    fn chat_template(&self) -> Result<&Template, ApiError> {
        self.template.as_ref().ok_or_else(|| {
            let reason = "the model has no chat template: start the server with --chat-template-file, or \
                          use /completion";
            ApiError::new(ErrorKind::NotSupported, reason)
        })
    }

    /// The tokens of pieces. `add_special` puts the token that begins a sequence before them.
    ///
    /// # Errors
    /// 400: a text cannot be tokenized.
    pub fn tokens(
        &self,
        pieces: &[Piece],
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>, ApiError> {
        let mut tokens = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Tokens(given) => tokens.extend(given),
                Piece::Text(text) => {
                    let add_special = add_special && index == 0;
                    let made = self
                        .model
                        .vocab()
                        .tokenize(text, add_special, parse_special);
                    tokens.extend(made.map_err(|error| refused(&error))?);
                }
            }
        }
        Ok(tokens)
    }
}

/// Whether the model is one whose answers share steps.
pub fn shares_steps(model: &AnyModel) -> bool {
    matches!(model, AnyModel::Canvas(_))
}
