//! The model that is served: its names, its limits, and how requests become prompts and recipes.

use std::path::PathBuf;
use std::sync::Arc;

use llama_diffusion::chat::{ChatTemplate, Message, RenderOptions, Role};
use llama_diffusion::constraint::Constraint;
use llama_diffusion::diffusion::{Edit, Infill, Original, Recipe, check_canvas_length};
use llama_diffusion::{
    AnyModel, DiffusionParams, Error, FormRequest, GapPrompt, InfillExtra, InfillRequest,
    MaskedParams, Parameter, TextForm, TextGap, TextModel, Thoughts, Token, edit_message,
};
use llama_diffusion_flags::template::THINKING;
use serde_json::{Map, Value};

use crate::engine::job::ReadTask;
use crate::known;
use crate::length::LongestToken;
use crate::params::{canvas_params, masked_params};
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::request::{self, Capabilities, Chat, Family, Input, Piece, Request};
use crate::protocol::sampling::field_of;

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
    /// Positions of each slot.
    pub context: usize,
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

/// What is to be answered, as the engine reads it.
#[derive(Clone)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub tokens: Vec<Token>,
    /// What follows them.
    task: Task,
}

/// What follows a prompt. Several answers share it.
#[derive(Clone)]
enum Task {
    /// Free text.
    Text,
    /// What fills a gap.
    Gap(Arc<TextGap>),
    /// A text that changes.
    Edit(Arc<Original>),
    /// A form.
    Form(Arc<TextForm>),
}

/// How an answer is made.
pub enum Plan {
    /// By canvases, which are its text.
    Text(Box<dyn Recipe>),
    /// By canvases, which are what becomes of a text.
    Edit {
        /// The text.
        original: Arc<Original>,
        /// How it changes.
        recipe: Box<dyn Recipe>,
    },
    /// By canvases, which fill a gap.
    Gap(Box<Filling>),
    /// By filling a form.
    Form(Arc<TextForm>),
    /// By reading a canvas.
    Read(Box<ReadTask>),
}

/// The gap that an answer fills.
#[derive(Clone)]
pub struct Filling {
    /// The gap.
    pub gap: Arc<TextGap>,
    /// How it is filled.
    pub recipe: Infill,
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
    fn without_thoughts(&self) -> Map<String, Value> {
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
    pub fn capabilities(&self) -> Capabilities {
        let template = self.template.as_ref();
        Capabilities {
            family: self.family(),
            slots: self.slots,
            vocabulary: self.model.vocab().len(),
            tools: template.is_some_and(|template| template.template.reads("tools")),
            scores: self.family() == Family::Canvas,
        }
    }

    /// The prompt of what is to be answered. It leaves room for a canvas.
    ///
    /// # Errors
    /// 400: the template rejects the conversation, the prompt is empty or too long, or the model cannot do
    /// what is asked of it. 501: there is no template.
    pub fn prompt(&self, input: &Input, request: &Request) -> Result<Prompt, ApiError> {
        let thoughts = request.thoughts;
        let (tokens, task) = match input {
            Input::Chat(chat) => {
                self.check_chat(chat, thoughts)?;
                (self.chat(chat, thoughts)?, Task::Text)
            }
            Input::Prompt(pieces) => {
                self.check_pieces(pieces)?;
                (self.tokens(pieces, true, true)?, Task::Text)
            }
            Input::Infill(texts) => {
                let gap = self.gap(texts, request)?;
                (gap.prompt().to_vec(), Task::Gap(Arc::new(gap)))
            }
            Input::Edit(edit) => self.edit(edit)?,
            Input::Form(form) => self.form(form, request)?,
        };
        if tokens.is_empty() {
            return Err(ApiError::field(
                "prompt",
                "it is empty: give at least one token",
            ));
        }
        match tokens.len() + self.canvas_room() > self.context {
            true => Err(ApiError::context_size(tokens.len(), self.context)),
            false => Ok(Prompt { tokens, task }),
        }
    }

    /// Positions that a prompt leaves for a canvas.
    pub fn canvas_room(&self) -> usize {
        self.model.model().canvas_length().unwrap_or(1)
    }

    /// A text and what to change in it.
    fn edit(&self, edit: &request::Edit) -> Result<(Vec<Token>, Task), ApiError> {
        let text = edit.body();
        self.check_bytes(text.len())?;
        let original = self.model.original(text, &edit.protected, edit.strength);
        let original = original.map_err(|error| refused(&error))?;
        let message = Message::new(Role::User, edit_message(&edit.instruction, text));
        let template = self.template.as_ref();
        let variables = template.map(Template::without_thoughts).unwrap_or_default();
        let template = template.map(|template| &template.template);
        let end = self.model.answer_end(template, variables.clone());
        let original = original.ending_with(end.map_err(|error| rejected(&error))?);
        let tokens = self.model.prompt(template, &[message], variables);
        let tokens = tokens.map_err(|error| rejected(&error))?;
        Ok((tokens, Task::Edit(Arc::new(original))))
    }

    /// A form, and what it answers.
    fn form(
        &self,
        form: &request::Form,
        request: &Request,
    ) -> Result<(Vec<Token>, Task), ApiError> {
        let Prompt { tokens, .. } = self.prompt(&form.of, request)?;
        let thoughts = self.scaffold(&form.of, request.thoughts);
        let form = FormRequest {
            seed: request.seed.unwrap_or_default(),
            ..form.request.clone()
        };
        let trained = self.model.model().canvas_length().unwrap_or(1);
        let checked = check_canvas_length(form.canvas.unwrap_or(trained), trained);
        checked.map_err(|error| of_form("canvas", &error))?;
        let form = self.model.text_form(&form, &tokens, thoughts);
        let form = form.map_err(|error| of_form("form", &error))?;
        Ok((tokens, Task::Form(Arc::new(form))))
    }

    /// The gap between two texts.
    fn gap(&self, texts: &request::Infill, request: &Request) -> Result<TextGap, ApiError> {
        let prompt = match &self.template {
            None => GapPrompt::Document,
            Some(template) => GapPrompt::Chat {
                template: &template.template,
                opening: Vec::new(),
                variables: template.without_thoughts(),
            },
        };
        let extra = texts.extra.iter().map(|extra| InfillExtra {
            filename: extra.file.clone().unwrap_or_default(),
            text: extra.text.clone(),
        });
        let params = match &self.defaults {
            Defaults::Canvas(defaults) => canvas_params(defaults, request),
            // Refused by the model.
            Defaults::Masked(_) => DiffusionParams::default(),
        };
        let request = InfillRequest {
            input_prefix: texts.prefix.clone(),
            input_suffix: texts.suffix.clone(),
            input_extra: extra.collect(),
            ..wanted(&params)
        };
        let gap = self
            .model
            .text_gap_within(&request, &prompt, &params, self.context);
        gap.map_err(|error| rejected(&error))
    }

    /// How an answer to a prompt is made.
    ///
    /// # Errors
    /// 400 with the parameter that cannot work.
    pub fn plan(
        &self,
        request: &Request,
        input: &Input,
        prompt: &Prompt,
        seed: u64,
    ) -> Result<Plan, ApiError> {
        let Defaults::Canvas(defaults) = &self.defaults else {
            return self
                .recipe(request, input, &prompt.tokens, seed)
                .map(Plan::Text);
        };
        let chosen = &request.sampler.canvas;
        let checked = chosen.check_t_min(defaults.t_max);
        checked.map_err(|error| refused(&error))?;
        let params = || DiffusionParams {
            seed,
            ..canvas_params(defaults, request)
        };
        Ok(match &prompt.task {
            Task::Text => match known::read(request, params(), self.canvas(&params()))? {
                Some(task) => {
                    task.params.validate().map_err(|error| refused(&error))?;
                    Plan::Read(Box::new(task))
                }
                None => Plan::Text(self.recipe(request, input, &prompt.tokens, seed)?),
            },
            Task::Gap(gap) => Plan::Gap(Box::new(filling(gap, request, &params())?)),
            Task::Edit(original) => {
                let params = DiffusionParams {
                    constraint: self.constraint(request, input, &prompt.tokens)?,
                    ..params()
                };
                Plan::Edit {
                    original: Arc::clone(original),
                    recipe: Box::new(Edit::new(params, Original::clone(original))),
                }
            }
            Task::Form(form) => Plan::Form(Arc::clone(form)),
        })
    }

    /// The tokens of a conversation, and of what its answer begins with.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn chat(&self, chat: &Chat, thoughts: Option<bool>) -> Result<Vec<Token>, ApiError> {
        let template = self.chat_template()?;
        let tokens = self.model.chat_prompt(
            &template.template,
            &chat.messages,
            template.variables_for(chat, thoughts),
        );
        let mut tokens = tokens.map_err(|error| rejected(&error))?;
        if !chat.prefix.is_empty() {
            let prefix = self.model.vocab().tokenize(&chat.prefix, false, false);
            tokens.extend(prefix.map_err(|error| refused(&error))?);
        }
        Ok(tokens)
    }

    /// The text of a conversation, and of what its answer begins with. `opens` is whether the model's
    /// turn is opened.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn render(
        &self,
        chat: &Chat,
        thoughts: Option<bool>,
        opens: bool,
    ) -> Result<String, ApiError> {
        let template = self.chat_template()?;
        let vocab = self.model.vocab();
        let text = |token: Option<Token>| {
            let text = token.map(|token| vocab.detokenize(&[token], true));
            text.transpose().map(Option::unwrap_or_default)
        };
        let options = RenderOptions {
            bos_token: text(vocab.bos()).map_err(|error| refused(&error))?,
            eos_token: text(vocab.eos()).map_err(|error| refused(&error))?,
            add_generation_prompt: opens,
            extra: template.variables_for(chat, thoughts),
        };
        let rendered = template.template.render(&chat.messages, &options);
        Ok(rendered.map_err(|error| rejected(&error))? + &chat.prefix)
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

    /// How an answer to a prompt is generated.
    ///
    /// # Errors
    /// 400 with the parameter that cannot work.
    pub fn recipe(
        &self,
        request: &Request,
        input: &Input,
        prompt: &[Token],
        seed: u64,
    ) -> Result<Box<dyn Recipe>, ApiError> {
        let constraint = self.constraint(request, input, prompt)?;
        Ok(match &self.defaults {
            Defaults::Canvas(defaults) => {
                let params = canvas_params(defaults, request);
                let params = DiffusionParams {
                    seed,
                    constraint,
                    templates: known::templates(request, self.canvas(&params))?,
                    ..params
                };
                params.validate().map_err(|error| refused(&error))?;
                Box::new(params)
            }
            Defaults::Masked(defaults) => {
                let params = masked_params(defaults, request).map_err(|error| refused(&error))?;
                Box::new(MaskedParams {
                    seed,
                    constraint,
                    ..params
                })
            }
        })
    }

    /// What an answer to a prompt is constrained to, if the request says so.
    fn constraint(
        &self,
        request: &Request,
        input: &Input,
        prompt: &[Token],
    ) -> Result<Option<Constraint>, ApiError> {
        let constraint = request.constraint.as_ref();
        let constraint = constraint.map(|constraint| {
            let thoughts = self.scaffold(input, request.thoughts);
            let language = constraint.automaton()?;
            let made = self.model.constraint(&language, prompt, thoughts);
            made.map_err(|error| refused_in(&error, Some(&constraint.field)))
        });
        constraint.transpose()
    }

    /// Tokens of a canvas.
    fn canvas(&self, params: &DiffusionParams) -> usize {
        let trained = self.model.model().canvas_length();
        params.canvas.or(trained).unwrap_or(1)
    }

    /// What the model writes before its answer.
    fn scaffold(&self, input: &Input, thoughts: Option<bool>) -> Thoughts {
        match (input, self.thinks(input, thoughts)) {
            (Input::Chat(_), true) => Thoughts::On,
            (Input::Chat(_), false) | (Input::Edit(_), _) => Thoughts::Off,
            _ => Thoughts::None,
        }
    }

    /// Whether the template is asked for a model that thinks.
    fn thinks(&self, input: &Input, thoughts: Option<bool>) -> bool {
        let Input::Chat(chat) = input else {
            return false;
        };
        let own = self.template.as_ref().map(|template| &template.variables);
        let variable = chat.variables.get(THINKING);
        let variable = variable.or_else(|| own.and_then(|variables| variables.get(THINKING)));
        thoughts.unwrap_or(variable == Some(&Value::Bool(true)))
    }
}

/// How a gap is filled.
fn filling(
    gap: &Arc<TextGap>,
    request: &Request,
    params: &DiffusionParams,
) -> Result<Filling, ApiError> {
    if let Some(constraint) = &request.constraint {
        let problem = "a gap follows the texts around it alone: remove it";
        return Err(ApiError::field(&constraint.field, problem));
    }
    Ok(Filling {
        gap: Arc::clone(gap),
        recipe: gap.recipe(&wanted(params), params, 0).within(request.time),
    })
}

/// A request for a gap of so many tokens as `params` allow.
fn wanted(params: &DiffusionParams) -> InfillRequest {
    InfillRequest {
        n_predict: params.max_tokens.map_or(-1, |tokens| tokens as i64),
        ..InfillRequest::default()
    }
}

/// An error of a chat template about a conversation.
fn rejected(error: &Error) -> ApiError {
    match error {
        Error::ChatTemplate(problem) => {
            ApiError::field("messages", format!("the chat template: {problem}"))
        }
        error => refused(error),
    }
}

/// An error about a field of a form.
fn of_form(field: &str, error: &Error) -> ApiError {
    match error {
        Error::InvalidParameter { problem, .. } => ApiError::field(field, problem),
        error => ApiError::field(field, error.to_string()),
    }
}

/// An error of the library about what a request asks for.
pub fn refused(error: &Error) -> ApiError {
    refused_in(error, None)
}

/// The same for a request whose constraint is in this field.
pub fn refused_in(error: &Error, constraint: Option<&str>) -> ApiError {
    let field = |parameter| named(parameter, constraint);
    let message = error.message_with(field);
    ApiError {
        param: match error {
            Error::InvalidParameter { parameter, .. } => Some(field(*parameter).to_owned()),
            _ => None,
        },
        ..ApiError::new(ErrorKind::InvalidRequest, message)
    }
}

/// The field of a parameter in a request whose constraint is in this field.
fn named(parameter: Parameter, constraint: Option<&str>) -> &str {
    match (parameter, constraint) {
        (Parameter::Constraint, Some(field)) => field,
        _ => field_of(parameter).unwrap_or_else(|| parameter.name()),
    }
}

/// Whether the model is one whose answers share steps.
pub fn shares_steps(model: &AnyModel) -> bool {
    matches!(model, AnyModel::Canvas(_))
}
