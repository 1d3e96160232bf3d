//! What an answer is constrained to.

use super::border::{Failure, Result, optional_c_str};
use super::error::diffusion_status;
use super::model::diffusion_model;
use super::names::field;
use super::params::diffusion_params;
use llama_diffusion::constraint::{Constraint, SchemaOptions};
use llama_diffusion::diffusion::ConstrainAt;
use llama_diffusion::internal::parse_json;
use llama_diffusion::{Error, Parameter, Thoughts, Token};

/// What a constraint changes before the end of a canvas.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_constrain_at {
    /// All of a step: tokens are drawn from what the constraint allows.
    Step = 0,
    /// Only the tokens that are committed in the end.
    Commit = 1,
}

impl diffusion_constrain_at {
    pub(super) fn of(number: i32) -> Result<ConstrainAt> {
        match number {
            n if n == Self::Step as i32 => Ok(ConstrainAt::Step),
            n if n == Self::Commit as i32 => Ok(ConstrainAt::Commit),
            n => Err(Failure::argument(
                "constrain_at",
                format_args!("{n} is none"),
            )),
        }
    }
}

/// What a model writes before a constrained answer.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_thoughts {
    /// What it writes in a chat when it does not think: nothing, or an empty thought.
    Off = 0,
    /// A thought.
    On = 1,
    /// Nothing: the prompt is not a chat.
    None = 2,
}

impl diffusion_thoughts {
    pub(super) fn of(number: i32) -> Result<Thoughts> {
        match number {
            n if n == Self::Off as i32 => Ok(Thoughts::Off),
            n if n == Self::On as i32 => Ok(Thoughts::On),
            n if n == Self::None as i32 => Ok(Thoughts::None),
            n => Err(Failure::argument("thoughts", format_args!("{n} is none"))),
        }
    }
}

/// The constraint of answers to `prompt`, if `params` have one.
///
/// # Safety
/// The pointers of `params` are as documented.
pub(super) unsafe fn constraint(
    params: &diffusion_params,
    shared: &diffusion_model,
    prompt: &[Token],
) -> Result<Option<Constraint>> {
    // SAFETY: as the caller promises.
    let (schema, regex) = unsafe {
        (
            optional_c_str(params.json_schema, "json_schema")?,
            optional_c_str(params.regex, "regex")?,
        )
    };
    let thoughts = diffusion_thoughts::of(params.thoughts)?;
    let (name, made) = match (schema, regex) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let problem = "`json_schema` is a constraint already: set one of them to NULL";
            return Err(Failure::argument("regex", problem));
        }
        (None, Some(pattern)) => ("regex", shared.text()?.regex(pattern, prompt, thoughts)),
        (Some(schema), None) => {
            let schema = parse_json(schema.as_bytes()).map_err(|error| {
                let problem = format_args!("it is not JSON: {error}");
                Failure::argument("json_schema", problem)
            })?;
            if params.json_depth == 0 {
                return Err(Failure::argument(
                    "json_depth",
                    "is 0, but must be at least 1",
                ));
            }
            let mut options = SchemaOptions::default();
            options.depth = params.json_depth;
            let made = shared
                .text()?
                .json_schema(&schema, &options, prompt, thoughts);
            ("json_schema", made)
        }
    };
    made.map(Some).map_err(|error| match error {
        Error::InvalidParameter { .. } => {
            let called = |parameter| match parameter {
                Parameter::Constraint => name,
                other => field(other),
            };
            Failure::new(
                diffusion_status::InvalidArgument,
                error.message_with(called),
            )
        }
        error => error.into(),
    })
}
