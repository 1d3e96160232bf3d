//! How the answer to a prompt is made: the recipe, its constraint, or a task of its own.

use std::sync::Arc;

use llama_diffusion::constraint::Constraint;
use llama_diffusion::diffusion::{Edit, Generator, Infill, Original, Recipe, check_canvas_length};
use llama_diffusion::{DiffusionParams, MaskedParams, TextForm, Thoughts, Token};
use llama_diffusion_flags::template::THINKING;
use serde_json::Value;

use crate::engine::job::ReadTask;
use crate::known;
use crate::params::{canvas_params, masked_params};
use crate::prompts::{AskedGap, Prompt, Task};
use crate::protocol::error::ApiError;
use crate::protocol::request::{Input, Request, TokenLimit};
use crate::refusals::{refused, refused_in};
use crate::served::{Defaults, Served};

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
    pub asked: Arc<AskedGap>,
    /// How it is filled.
    pub recipe: Infill,
}

impl Served {
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
        let params = canvas_params(defaults, request).map_err(|error| refused(&error))?;
        let params = DiffusionParams { seed, ..params };
        let tokens = &prompt.tokens;
        Ok(match &prompt.task {
            Task::Text => match known::read(request, &params, self.canvas(&params)?)? {
                Some(task) => {
                    self.check(&task.recipe(), request, tokens)?;
                    Plan::Read(Box::new(task))
                }
                None => Plan::Text(self.recipe(request, input, tokens, seed)?),
            },
            Task::Gap(asked) => {
                let filling = filling(asked, request, &params)?;
                self.check(&filling.recipe, request, tokens)?;
                Plan::Gap(Box::new(filling))
            }
            Task::Edit(original) => {
                let params = DiffusionParams {
                    constraint: self.constraint(request, input, tokens)?,
                    ..params
                };
                let edit = Edit::new(params, Original::clone(original));
                self.check(&edit, request, tokens)?;
                Plan::Edit {
                    original: Arc::clone(original),
                    recipe: Box::new(edit),
                }
            }
            Task::Form(form) => Plan::Form(Arc::clone(form)),
        })
    }

    /// Refuses what the engine would refuse before the first step: a stream has not begun yet.
    fn check(
        &self,
        recipe: &dyn Recipe,
        request: &Request,
        prompt: &[Token],
    ) -> Result<(), ApiError> {
        let field = request.constraint.as_ref().map(|it| it.field.as_str());
        match Generator::check_answer(recipe, prompt.len(), &self.limits) {
            Ok(_) => Ok(()),
            Err(error) => Err(refused_in(&error, field)),
        }
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
        let recipe: Box<dyn Recipe> = match &self.defaults {
            Defaults::Canvas(defaults) => {
                let params = canvas_params(defaults, request).map_err(|error| refused(&error))?;
                Box::new(DiffusionParams {
                    seed,
                    constraint,
                    templates: known::templates(request, self.canvas(&params)?)?,
                    ..params
                })
            }
            Defaults::Masked(defaults) => {
                let params = masked_params(defaults, request).map_err(|error| refused(&error))?;
                Box::new(MaskedParams {
                    seed,
                    constraint,
                    ..params
                })
            }
        };
        self.check(recipe.as_ref(), request, prompt)?;
        Ok(recipe)
    }

    /// What an answer to a prompt is constrained to, if the request says so.
    fn constraint(
        &self,
        request: &Request,
        input: &Input,
        prompt: &[Token],
    ) -> Result<Option<Constraint>, ApiError> {
        // Without an answer there is nothing to constrain.
        let is_answered = request.tokens != TokenLimit::Tokens(0);
        let constraint = request.constraint.as_ref().filter(|_| is_answered);
        let constraint = constraint.map(|constraint| {
            let thoughts = self.scaffold(input, request.thoughts);
            let language = constraint.automaton()?;
            let made = self.model.constraint(&language, prompt, thoughts);
            made.map_err(|error| refused_in(&error, Some(&constraint.field)))
        });
        constraint.transpose()
    }

    /// Tokens of a canvas.
    fn canvas(&self, params: &DiffusionParams) -> Result<usize, ApiError> {
        let trained = self.canvas_room();
        let canvas = params.canvas.unwrap_or(trained);
        check_canvas_length(canvas, trained).map_err(|error| refused(&error))?;
        Ok(canvas)
    }

    /// What the model writes before its answer.
    pub(crate) fn scaffold(&self, input: &Input, thoughts: Option<bool>) -> Thoughts {
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
    asked: &Arc<AskedGap>,
    request: &Request,
    params: &DiffusionParams,
) -> Result<Filling, ApiError> {
    if let Some(constraint) = &request.constraint {
        let problem = "a gap follows the texts around it alone: remove it";
        return Err(ApiError::field(&constraint.field, problem));
    }
    Ok(Filling {
        asked: Arc::clone(asked),
        recipe: asked.gap.recipe(&asked.request, params, 0),
    })
}
