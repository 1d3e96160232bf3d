//! The model that is served: its names, its limits, and how requests become prompts and recipes.

use std::path::PathBuf;

use llama_diffusion::chat::{ChatTemplate, RenderOptions};
use llama_diffusion::diffusion::{Infill, Recipe, Scoring, TransferSchedule};
use llama_diffusion::{
    AnswerLength, AnyModel, DiffusionParams, Error, GapPrompt, InfillExtra, InfillRequest,
    MaskedParams, SamplerOverrides, TextGap, TextModel, Thoughts, Token,
};
use llama_diffusion_flags::template::THINKING;
use serde_json::{Map, Value};

use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::request::{
    self, Capabilities, Chat, Family, Input, MaskedOverrides, Piece, Request, Sampler, TokenLimit,
};
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
    /// The gap that the answer fills, if that is what it does.
    gap: Option<TextGap>,
}

/// The gap that an answer fills.
#[derive(Clone)]
pub struct Filling {
    /// The gap.
    pub gap: TextGap,
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
    /// 400: the template rejects the conversation, the prompt is empty or too long, or the model cannot fill
    /// gaps. 501: there is no template.
    pub fn prompt(&self, input: &Input, thoughts: Option<bool>) -> Result<Prompt, ApiError> {
        let (tokens, gap) = match input {
            Input::Chat(chat) => (self.chat(chat, thoughts)?, None),
            Input::Prompt(pieces) => (self.tokens(pieces, true, true)?, None),
            Input::Infill(texts) => {
                let gap = self.gap(texts)?;
                (gap.prompt().to_vec(), Some(gap))
            }
        };
        if tokens.is_empty() {
            return Err(ApiError::field(
                "prompt",
                "it is empty: give at least one token",
            ));
        }
        let canvas = self.model.model().canvas_length().unwrap_or(1);
        match tokens.len() + canvas > self.context {
            true => Err(ApiError::context_size(tokens.len(), self.context)),
            false => Ok(Prompt { tokens, gap }),
        }
    }

    /// The gap between two texts.
    fn gap(&self, texts: &request::Infill) -> Result<TextGap, ApiError> {
        let prompt = match &self.template {
            None => GapPrompt::Document,
            Some(template) => {
                let mut variables = template.variables.clone();
                variables.insert(THINKING.into(), false.into());
                GapPrompt::Chat {
                    template: &template.template,
                    opening: Vec::new(),
                    variables,
                }
            }
        };
        let extra = texts.extra.iter().map(|extra| InfillExtra {
            filename: extra.file.clone().unwrap_or_default(),
            text: extra.text.clone(),
        });
        let request = InfillRequest {
            input_prefix: texts.prefix.clone(),
            input_suffix: texts.suffix.clone(),
            input_extra: extra.collect(),
            ..InfillRequest::default()
        };
        let gap = self.model.text_gap(&request, &prompt);
        gap.map_err(|error| rejected(&error))
    }

    /// How the gap of a prompt is filled, if it has one.
    ///
    /// # Errors
    /// 400 with the parameter that cannot work.
    pub fn filling(
        &self,
        request: &Request,
        prompt: &Prompt,
        seed: u64,
    ) -> Result<Option<Filling>, ApiError> {
        let (Some(gap), Defaults::Canvas(defaults)) = (&prompt.gap, &self.defaults) else {
            return Ok(None);
        };
        let constraint = request.constraint.as_ref();
        if let Some(constraint) = constraint {
            let problem = "a gap follows the texts around it alone: remove it";
            return Err(ApiError::field(&constraint.field, problem));
        }
        let params = DiffusionParams {
            seed,
            ..canvas_params(defaults, request)
        };
        let wanted = InfillRequest {
            n_predict: params.max_tokens.map_or(-1, |tokens| tokens as i64),
            ..InfillRequest::default()
        };
        let recipe = gap.recipe(&wanted, &params, 0).within(request.time);
        Ok(Some(Filling {
            gap: gap.clone(),
            recipe,
        }))
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
        let constraint = request.constraint.as_ref();
        let constraint = constraint.map(|constraint| {
            let thoughts = match (input, self.thinks(input, request.thoughts)) {
                (Input::Chat(_), true) => Thoughts::On,
                (Input::Chat(_), false) => Thoughts::Off,
                _ => Thoughts::None,
            };
            let language = constraint.automaton()?;
            let made = self.model.constraint(&language, prompt, thoughts);
            made.map_err(|error| ApiError::field(&constraint.field, error.to_string()))
        });
        let constraint = constraint.transpose()?;
        Ok(match &self.defaults {
            Defaults::Canvas(defaults) => {
                let params = canvas_params(defaults, request);
                let params = DiffusionParams {
                    seed,
                    constraint,
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

/// An error of a chat template about a conversation.
fn rejected(error: &Error) -> ApiError {
    match error {
        Error::ChatTemplate(problem) => {
            ApiError::field("messages", format!("the chat template: {problem}"))
        }
        error => refused(error),
    }
}

/// An error of the library about what a request asks for.
pub fn refused(error: &Error) -> ApiError {
    let field = |parameter| field_of(parameter).unwrap_or_else(|| parameter.name());
    match error {
        Error::InvalidParameter { parameter, problem } => {
            ApiError::field(field(*parameter), problem)
        }
        error => ApiError::new(ErrorKind::InvalidRequest, error.message_with(field)),
    }
}

fn canvas_params(defaults: &DiffusionParams, request: &Request) -> DiffusionParams {
    let Sampler {
        canvas,
        max_canvases,
        canvas_length,
        acceptance,
        constrain_at,
        min_logprob,
        masked: _,
    } = &request.sampler;
    let SamplerOverrides {
        max_steps,
        t_min,
        t_max,
        entropy_bound,
        stability_threshold,
        confidence_threshold,
    } = *canvas;
    let is_scored = request.logprobs.is_some() || min_logprob.is_some();
    DiffusionParams {
        max_steps: max_steps.unwrap_or(defaults.max_steps),
        t_min: t_min.unwrap_or(defaults.t_min),
        t_max: t_max.unwrap_or(defaults.t_max),
        entropy_bound: entropy_bound.unwrap_or(defaults.entropy_bound),
        stability_threshold: stability_threshold.unwrap_or(defaults.stability_threshold),
        confidence_threshold: confidence_threshold.unwrap_or(defaults.confidence_threshold),
        max_tokens: match request.tokens {
            TokenLimit::Default => defaults.max_tokens,
            TokenLimit::Unlimited => None,
            TokenLimit::Tokens(count) => Some(count.max(1)),
        },
        max_canvases: max_canvases.or(defaults.max_canvases),
        canvas: canvas_length.or(defaults.canvas),
        acceptance: acceptance.unwrap_or(defaults.acceptance),
        constrain_at: constrain_at.unwrap_or(defaults.constrain_at),
        scoring: is_scored.then(|| Scoring {
            min_logprob: *min_logprob,
            top: request.logprobs.unwrap_or(0),
        }),
        ..defaults.clone()
    }
}

fn masked_params(
    defaults: &MaskedParams,
    request: &Request,
) -> llama_diffusion::Result<MaskedParams> {
    let MaskedOverrides {
        steps,
        eps,
        block_length,
        algorithm,
        algorithm_temperature,
        temperature,
        top_k,
        top_p,
        guidance,
        gumbel_noise,
    } = request.sampler.masked;
    let length = match request.tokens {
        TokenLimit::Tokens(count) => AnswerLength::Tokens(count.max(1)),
        TokenLimit::Default | TokenLimit::Unlimited => defaults.length,
    };
    let (own_eps, own_block, own_steps) = match defaults.schedule {
        TransferSchedule::Timestep { eps, steps } => (eps, 0, steps),
        TransferSchedule::Blocks {
            length: block,
            steps_per_block,
        } => {
            let blocks = defaults.length.given() / block.max(1);
            (
                0.0,
                block,
                steps_per_block.saturating_mul(blocks.max(1) as u32),
            )
        }
    };
    // Either schedule replaces the other one.
    let (eps, block) = match (eps, block_length) {
        (None, None) => (own_eps, own_block),
        (eps, block) => (eps.unwrap_or(0.0), block.unwrap_or(0)),
    };
    let schedule = TransferSchedule::new(eps, block, steps.unwrap_or(own_steps), length.given())?;
    let params = MaskedParams {
        length,
        schedule,
        algorithm: algorithm.unwrap_or(defaults.algorithm),
        algorithm_temperature: algorithm_temperature.unwrap_or(defaults.algorithm_temperature),
        temperature: temperature.unwrap_or(defaults.temperature),
        filter: llama_diffusion::diffusion::Filter {
            top_k: top_k.unwrap_or(defaults.filter.top_k),
            top_p: top_p.unwrap_or(defaults.filter.top_p),
        },
        guidance: guidance.unwrap_or(defaults.guidance),
        gumbel_noise: gumbel_noise.unwrap_or(defaults.gumbel_noise),
        ..defaults.clone()
    };
    params.validate()?;
    Ok(params)
}

/// Whether the model is one whose answers share steps.
pub fn shares_steps(model: &AnyModel) -> bool {
    matches!(model, AnyModel::Canvas(_))
}
