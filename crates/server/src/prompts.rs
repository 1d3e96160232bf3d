//! From what a request asks about to a prompt: its tokens, and what follows them.

use std::sync::Arc;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::diffusion::Original;
use llama_diffusion::{
    DiffusionParams, FormRequest, GapPrompt, GapTokens, InfillRequest, TextForm, TextGap, Token,
    edit_message,
};

use crate::params::canvas_params;
use crate::protocol::error::ApiError;
use crate::protocol::request::{self, Input, Request, TokenLimit};
use crate::refusals::{refused, refused_form};
use crate::served::{Defaults, Served, Template};

/// What is to be answered, as the engine reads it.
#[derive(Clone)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub tokens: Vec<Token>,
    /// What follows them.
    pub(crate) task: Task,
}

/// What follows a prompt. Several answers share it.
#[derive(Clone)]
pub(crate) enum Task {
    /// Free text.
    Text,
    /// What fills a gap.
    Gap(Arc<AskedGap>),
    /// A text that changes.
    Edit(Arc<Original>),
    /// A form.
    Form(Arc<TextForm>),
}

/// A gap, and what is asked about it.
pub struct AskedGap {
    /// The gap.
    pub gap: TextGap,
    /// The request.
    pub request: InfillRequest,
}

impl Served {
    /// The prompt of what is to be answered. It leaves room for a canvas.
    ///
    /// # Errors
    /// 400: the template rejects the conversation, the prompt is empty or too long, or the model cannot do
    /// what is asked of it. 501: there is no template.
    pub fn prompt(&self, input: &Input, request: &Request) -> Result<Prompt, ApiError> {
        let thoughts = request.thoughts;
        let (tokens, task) = match input {
            Input::Chat(chat) => {
                let rendered = self.rendered(chat, thoughts, true)?;
                // The template may leave something out.
                self.check_bytes(rendered.text.len() + chat.prefix.len())?;
                (self.rendered_chat(chat, rendered)?, Task::Text)
            }
            Input::Prompt(pieces) => {
                self.check_pieces(pieces)?;
                (self.tokens(pieces, true, true)?, Task::Text)
            }
            Input::Infill(gap) => {
                let asked = self.gap(gap, request)?;
                (asked.gap.prompt().to_vec(), Task::Gap(Arc::new(asked)))
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
        match tokens.len() + self.canvas_room() > self.limits.context {
            true => Err(ApiError::context_size(tokens.len(), self.limits.context)),
            false => Ok(Prompt { tokens, task }),
        }
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
        let original = original.ending_with(end.map_err(|error| refused(&error))?);
        let tokens = self.model.prompt(template, &[message], variables);
        let tokens = tokens.map_err(|error| refused(&error))?;
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
        let form = self.model.text_form(&form, &tokens, thoughts);
        let form = form.map_err(|error| refused_form(&error))?;
        let checked = form.check(&self.limits);
        checked.map_err(|error| refused_form(&error))?;
        Ok((tokens, Task::Form(Arc::new(form))))
    }

    /// The gap between two texts.
    fn gap(&self, gap: &InfillRequest, request: &Request) -> Result<AskedGap, ApiError> {
        let prompt = match &self.template {
            None => GapPrompt::Document,
            Some(template) => GapPrompt::Chat {
                template: &template.template,
                opening: Vec::new(),
                variables: template.without_thoughts(),
            },
        };
        let params = match &self.defaults {
            Defaults::Canvas(defaults) => {
                canvas_params(defaults, request).map_err(|error| refused(&error))?
            }
            // Refused by the model.
            Defaults::Masked(_) => DiffusionParams::default(),
        };
        let asked = limited(gap, request, &params);
        let checked = asked.check_length();
        checked.map_err(|error| ApiError::input(&error))?;
        let gap = self
            .model
            .text_gap_within(&asked, &prompt, &params, self.limits.context);
        Ok(AskedGap {
            gap: gap.map_err(|error| refused(&error))?,
            request: asked,
        })
    }
}

/// A gap within the limits of its request. The seeds of its answers are those of their parameters.
fn limited(gap: &InfillRequest, request: &Request, params: &DiffusionParams) -> InfillRequest {
    InfillRequest {
        n_predict: params.max_tokens.map_or(-1, |tokens| tokens as i64),
        t_max_predict_ms: request.time.map_or(0, |time| time.as_millis() as u64),
        infill_tokens: match request.tokens {
            // Nothing is written, and the parameters of such an answer have room for a single token.
            TokenLimit::Tokens(0) => GapTokens::Auto,
            _ => gap.infill_tokens,
        },
        ..gap.clone()
    }
}
