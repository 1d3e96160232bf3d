//! How a run answers: what the flags say, settled for the family of the model.

use std::path::PathBuf;

use llama_diffusion::diffusion::{Recipe, Scorer};
use llama_diffusion::{
    Answer, AnswerLength, AnyModel, DiffusionParams, Error, MaskedParams, Result, Session,
    SessionParams, TextModel, Token,
};
use llama_diffusion_flags::streams::say;

use crate::args::Args;
use crate::constraint::Language;
use crate::form::Known;
use crate::logprobs::Logprobs;
use crate::view::Show;

/// How a run answers.
pub struct Run {
    family: Family,
    session: SessionParams,
    /// Whether the memory of the session is reported.
    reports_memory: bool,
    /// What answers are constrained to.
    language: Option<Language>,
    /// What answers begin with.
    known: Option<Known>,
    pub show: Show,
    /// Whether each answer is followed by what it took.
    pub shows_summary: bool,
    /// Whether a line about its corrections follows, too.
    pub shows_corrections: bool,
    /// The file of the recording.
    pub record: Option<PathBuf>,
    /// Tokens that the encoder writes before the first canvas.
    ahead: usize,
    /// The file of the log-probabilities, and what they are by.
    logprobs: Option<PathBuf>,
    scorer: Scorer,
}

/// Parameters of an answer, but for the seed.
enum Family {
    Canvas(DiffusionParams),
    Masked {
        params: MaskedParams,
        /// The order of unmasking, in a word.
        algorithm: &'static str,
    },
}

impl Run {
    /// Settles the flags for a model, and warns of those that have no effect on it. What cannot work
    /// is reported before memory is reserved.
    ///
    /// # Errors
    /// Flags that cannot work.
    pub fn settle(args: &Args, model: &AnyModel, language: Option<Language>) -> Result<Self> {
        let warnings = match model {
            AnyModel::Canvas(_) => &args.canvas_warnings,
            AnyModel::Masked(_) => &args.masked_warnings,
        };
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if let (AnyModel::Masked(_), Some(flag)) = (model, args.scoring.flag()) {
            return Err(Error::Input {
                name: flag.into(),
                problem:
                    "this is a masked model, which has no encoder and no canvas to score: give a \
                     canvas model, or omit the flag"
                        .into(),
            });
        }
        let family = match model {
            AnyModel::Canvas(model) => {
                let trained = model.hparams().canvas_length;
                Family::Canvas(args.diffusion((&model.overrides(), trained), 0)?)
            }
            AnyModel::Masked(_) => Family::Masked {
                params: args.masked(0)?,
                algorithm: args.masked.algorithm(),
            },
        };
        args.common
            .session
            .warn_of_long_context(model.context_length(), 1);
        Ok(Self {
            session: match family {
                Family::Canvas(_) => args.session()?,
                Family::Masked { .. } => args.common.session.masked(),
            },
            family,
            language,
            known: None,
            reports_memory: args.output.log.verbose,
            show: args.show(),
            shows_summary: args.output.shows_summary(),
            shows_corrections: args.output.corrections,
            record: args.output.record.clone(),
            ahead: args.scoring.ahead(),
            logprobs: args.scoring.logprobs.clone(),
            scorer: args.scoring.scorer(),
        })
    }

    /// The same with a text that its answers begin with.
    pub fn beginning_with(self, known: Option<Known>) -> Self {
        Self { known, ..self }
    }

    /// Creates the file of the log-probabilities, if there is one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn logprobs(&self) -> Result<Option<Logprobs>> {
        let path = self.logprobs.as_deref();
        path.map(|path| Logprobs::create(path, self.scorer))
            .transpose()
    }

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
