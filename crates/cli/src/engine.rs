//! The families of models, as far as the flags that an answer follows differ.

use llama_diffusion::diffusion::Recipe;
use llama_diffusion::{Answer, AnswerLength, AnyModel, Error, Result, Session, TextModel};
use llama_diffusion_flags::streams::tell;

use crate::args::Args;

/// What a family's answers are cut by.
pub fn limit(model: &AnyModel) -> &'static str {
    match model {
        AnyModel::Canvas(_) => "cut at -n or --diffusion-blocks",
        AnyModel::Masked(_) => "as long as -n or -ub has it",
    }
}

/// Lines about flags that have no effect on this family.
pub fn warnings<'a>(model: &AnyModel, args: &'a Args) -> &'a [String] {
    match model {
        AnyModel::Canvas(_) => &args.canvas_warnings,
        AnyModel::Masked(_) => &args.masked_warnings,
    }
}

/// Prepares for answers. What cannot work is reported before memory is reserved.
///
/// # Errors
/// Flags that cannot work, or memory that is not there.
pub fn session(model: &TextModel, args: &Args) -> Result<Session> {
    recipe(model.model(), args, 0)?;
    args.common
        .warn_of_long_context(model.model().context_length());
    let params = match model.model() {
        AnyModel::Canvas(_) => args.session()?,
        AnyModel::Masked(_) => args.common.masked_session(),
    };
    let session = model.session(&params)?;
    if let Some(report) = session.memory_report().filter(|_| args.output.verbose) {
        tell(report);
    }
    Ok(session)
}

/// How this family answers.
///
/// # Errors
/// Flags that cannot work.
pub fn recipe(model: &AnyModel, args: &Args, seed: u64) -> Result<Box<dyn Recipe>> {
    Ok(match model {
        AnyModel::Canvas(model) => Box::new(args.diffusion(&model.overrides(), seed)?),
        AnyModel::Masked(_) => Box::new(args.masked(seed)?),
    })
}

/// An error of an answer, with the flags that mend it.
pub fn with_flags(error: Error, args: &Args) -> Error {
    match error {
        Error::AnswerTooLong {
            prompt,
            answer,
            context,
        } => Error::Input {
            name: match args.masked(0).map(|params| params.length) {
                Ok(AnswerLength::Text(_)) => "-ub".into(),
                Ok(AnswerLength::Tokens(_)) | Err(_) => "-n".into(),
            },
            problem: format!(
                "the prompt has {prompt} tokens and the answer {answer}, but together they may \
                 have {context}: lower it, shorten the prompt, or raise -c"
            ),
        },
        error => error,
    }
}

/// Tokens of a canvas of this answer.
pub fn canvas_len(model: &AnyModel, answer: &Answer) -> usize {
    let first = answer.generation.canvases.first();
    model
        .canvas_length()
        .or(first.map(|canvas| canvas.tokens.len()))
        .unwrap_or(0)
}

/// What decides which tokens a step keeps.
pub fn sampler(model: &AnyModel, args: &Args) -> &'static str {
    match model {
        AnyModel::Canvas(_) => "entropy-bound",
        AnyModel::Masked(_) => args.masked.algorithm(),
    }
}
