//! A command line as the rest of the tool sees it: settled once, and for the family of the model when
//! that is loaded.

use llama_diffusion::{AnyModel, CancelFlag, DiffusionParams, Error, Model, Result, TextModel};
use llama_diffusion_flags::values::random_seed;

use crate::args::Args;
use crate::engine::{Engine, Family};
use crate::output::Output;
use crate::progress;

/// A run over a model.
pub struct Run {
    /// What depends on the model.
    args: Args,
    pub seed: u64,
    pub output: Output,
}

impl Run {
    /// Settles what does not depend on the model.
    pub fn new(args: Args) -> Self {
        let logprobs = args.scoring.logprobs.clone();
        Self {
            seed: args.common.seed().unwrap_or_else(random_seed),
            output: Output {
                show: args.show(),
                shows_summary: args.output.shows_summary(),
                shows_corrections: args.output.corrections,
                record: args.output.record.clone(),
                logprobs,
            },
            args,
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    /// It cannot be loaded, or the flags of its session contradict each other.
    pub fn load(&self, cancel: &CancelFlag) -> Result<TextModel> {
        let (args, quiet) = (&self.args, self.output.show.quiet);
        progress::show("loading", quiet, cancel, |progress| {
            args.placement.load(&|| args.session(), quiet, progress)
        })
    }

    /// Settles how a model generates answers, and warns of flags that have no effect on it. What
    /// cannot work is reported before memory is reserved.
    ///
    /// # Errors
    /// Flags that cannot work.
    pub fn engine(&self, model: &AnyModel) -> Result<Engine> {
        let args = &self.args;
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
            AnyModel::Canvas(model) => Family::Canvas(self.diffusion(model, 0)?),
            AnyModel::Masked(_) => Family::Masked {
                params: args.masked(0)?,
                algorithm: args.masked.algorithm(),
            },
        };
        let session = &args.common.session;
        session.warn_of_long_context(model.context_length(), 1);
        Ok(Engine {
            session: match family {
                Family::Canvas(_) => args.session()?,
                Family::Masked { .. } => session.masked(),
            },
            family,
            reports_memory: args.output.log.verbose,
            language: None,
            known: None,
            ahead: args.scoring.ahead(),
        })
    }

    /// How a canvas model generates an answer.
    ///
    /// # Errors
    /// Flags that cannot work.
    pub fn diffusion(&self, model: &Model, seed: u64) -> Result<DiffusionParams> {
        let trained = model.hparams().canvas_length;
        self.args.diffusion((&model.overrides(), trained), seed)
    }
}

/// The canvas model that a job needs, by its flag and what it does.
///
/// # Errors
/// The model is a masked one.
pub fn canvas_model<'a>(model: &'a TextModel, flag: &str, does: &str) -> Result<&'a Model> {
    match model.model() {
        AnyModel::Canvas(model) => Ok(model),
        AnyModel::Masked(_) => Err(Error::Input {
            name: flag.into(),
            problem: format!("this is a masked model, which cannot {does}: give a canvas model"),
        }),
    }
}
