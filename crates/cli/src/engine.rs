//! How answers are generated: what differs between the families of models.

use llama_diffusion::diffusion::Recipe;
use llama_diffusion::{
    Answer, AnswerLength, AnyModel, DiffusionParams, Error, MaskedParams, Result, Session,
    SessionParams, TextModel, Token,
};
use llama_diffusion_flags::streams::say;

use crate::constraint::Language;
use crate::form::Known;

/// How answers are generated.
pub struct Engine {
    pub family: Family,
    pub session: SessionParams,
    /// Whether the memory of the session is reported.
    pub reports_memory: bool,
    /// What answers are constrained to.
    pub language: Option<Language>,
    /// What answers begin with.
    pub known: Option<Known>,
    /// Tokens that the encoder writes before the first canvas.
    pub ahead: usize,
}

/// Parameters of an answer, but for the seed.
pub enum Family {
    Canvas(DiffusionParams),
    Masked {
        params: MaskedParams,
        /// The order of unmasking, in a word.
        algorithm: &'static str,
    },
}

impl Engine {
    /// Reserves the memory of a session.
    ///
    /// # Errors
    /// As [`TextModel::session`].
    pub fn session(&self, model: &TextModel) -> Result<Session> {
        let session = model.session(&self.session)?;
        if let Some(report) = session.memory_report().filter(|_| self.reports_memory) {
            say(report);
        }
        Ok(session)
    }

    /// Parameters of an answer to `prompt`.
    ///
    /// # Errors
    /// No tokens of the model can write what the answer is constrained to.
    pub fn recipe(
        &self,
        model: &TextModel,
        prompt: &[Token],
        seed: u64,
    ) -> Result<Box<dyn Recipe>> {
        let language = self.language.as_ref();
        let constraint = language.map(|language| language.of(model, prompt));
        let constraint = constraint.transpose()?;
        let known = self.known.as_ref();
        let template = known.map(|known| known.of(model, prompt)).transpose()?;
        Ok(match &self.family {
            Family::Canvas(params) => Box::new(DiffusionParams {
                seed,
                constraint,
                templates: template.into_iter().collect(),
                ..params.clone()
            }),
            Family::Masked { params, .. } => Box::new(MaskedParams {
                seed,
                constraint,
                template: template.unwrap_or_default(),
                ..params.clone()
            }),
        })
    }

    /// The tokens that the encoder writes before the first canvas, if it does, and the parameters of the
    /// canvases.
    pub fn ahead(&self, seed: u64) -> Option<(usize, DiffusionParams)> {
        match &self.family {
            Family::Canvas(params) if self.ahead > 0 => Some((
                self.ahead,
                DiffusionParams {
                    seed,
                    ..params.clone()
                },
            )),
            Family::Canvas(_) | Family::Masked { .. } => None,
        }
    }

    /// What an answer is cut by.
    pub fn limit(&self) -> &'static str {
        match self.family {
            Family::Canvas(_) => "cut at -n or --diffusion-blocks",
            Family::Masked { .. } => "as long as -n or -ub has it",
        }
    }

    /// What decides which tokens a step keeps.
    pub fn sampler(&self) -> &'static str {
        match self.family {
            Family::Canvas(_) => "entropy-bound",
            Family::Masked { algorithm, .. } => algorithm,
        }
    }

    /// An error of an answer, with the flags that mend it.
    pub fn with_flags(&self, error: Error) -> Error {
        match error {
            Error::AnswerTooLong {
                prompt,
                answer,
                context,
            } => Error::Input {
                name: match &self.family {
                    Family::Masked { params, .. }
                        if matches!(params.length, AnswerLength::Text(_)) =>
                    {
                        "-ub".into()
                    }
                    Family::Canvas(_) | Family::Masked { .. } => "-n".into(),
                },
                problem: format!(
                    "the prompt has {prompt} tokens and the answer {answer}, but together they may \
                     have {context}: lower it, shorten the prompt, or raise -c"
                ),
            },
            error => error,
        }
    }
}

/// Tokens of a canvas of this answer.
pub fn canvas_len(model: &AnyModel, answer: &Answer) -> usize {
    let first = answer.generation.canvases.first();
    first
        .map(|canvas| canvas.tokens.len())
        .or(model.canvas_length())
        .unwrap_or(0)
}
