//! The two kinds of models, as far as answering a prompt with them differs.

use std::ops::ControlFlow;

use llama_diffusion::model::Backbone;
use llama_diffusion::{
    Answer, AnswerLength, CancelFlag, Error, Event, MaskedModel, MaskedSession, Model, Result,
    Session, TextModel, Token,
};

use crate::args::Args;
use llama_diffusion_flags::streams::tell;

/// A kind of model.
pub trait Engine: Backbone + Sized {
    /// What answers.
    type Session;

    /// What an answer is cut by.
    const LIMIT: &str;

    /// Lines about flags that are used in vain.
    fn warnings(args: &Args) -> &[String];

    /// Prepares for answers; what cannot work is said before memory is reserved.
    ///
    /// # Errors
    /// Flags that cannot work, or memory that is not there.
    fn session(model: &TextModel<Self>, args: &Args) -> Result<Self::Session>;

    /// Answers a prompt.
    ///
    /// # Errors
    /// It does not fit, or the device fails.
    fn answer(
        session: &mut Self::Session,
        args: &Args,
        seed: u64,
        prompt: &[Token],
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer>;

    /// Tokens of a canvas of this answer.
    fn canvas_len(&self, answer: &Answer) -> usize;

    /// What decides which tokens a step keeps.
    fn sampler(args: &Args) -> &'static str;

    /// The token that stands for one that is not known yet.
    fn placeholder(&self) -> Option<Token>;

    /// Whether a prompt is encoded once, and not in every step.
    const CACHES: bool;
}

impl Engine for Model {
    type Session = Session;
    const LIMIT: &str = "cut at -n or --diffusion-blocks";
    const CACHES: bool = true;

    fn warnings(args: &Args) -> &[String] {
        &args.kind_warnings.canvas
    }

    fn session(model: &TextModel, args: &Args) -> Result<Session> {
        args.diffusion(&model.model().overrides(), 0)?;
        args.common
            .warn_of_long_context(model.model().hparams().context_length);
        let session = model.session(&args.common.session()?)?;
        if args.output.verbose {
            tell(session.memory_report());
        }
        Ok(session)
    }

    fn answer(
        session: &mut Session,
        args: &Args,
        seed: u64,
        prompt: &[Token],
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let params = args.diffusion(&session.model().overrides(), seed)?;
        session.generate(prompt, &params, cancel, on_event)
    }

    fn canvas_len(&self, _: &Answer) -> usize {
        self.hparams().canvas_length
    }

    fn sampler(_: &Args) -> &'static str {
        "entropy-bound"
    }

    fn placeholder(&self) -> Option<Token> {
        None
    }
}

impl Engine for MaskedModel {
    type Session = MaskedSession;
    const LIMIT: &str = "as long as -n or -ub has it";
    const CACHES: bool = false;

    fn warnings(args: &Args) -> &[String] {
        &args.kind_warnings.masked
    }

    fn session(model: &TextModel<Self>, args: &Args) -> Result<MaskedSession> {
        args.masked(0)?;
        args.common
            .warn_of_long_context(model.model().context_length());
        model.masked_session(args.common.masked_session())
    }

    fn answer(
        session: &mut MaskedSession,
        args: &Args,
        seed: u64,
        prompt: &[Token],
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let (length, params) = args.masked(seed)?;
        let answer = session.generate(prompt, length, &params, cancel, on_event);
        answer.map_err(|error| match error {
            Error::AnswerTooLong {
                prompt,
                answer,
                context,
            } => Error::InvalidParameter {
                parameter: match length {
                    AnswerLength::Tokens(_) => "-n".into(),
                    AnswerLength::Text(_) => "-ub".into(),
                },
                problem: format!(
                    "the prompt has {prompt} tokens and the answer {answer}, but together they may \
                     have {context}: lower it, shorten the prompt, or raise -c"
                ),
            },
            error => error,
        })
    }

    fn canvas_len(&self, answer: &Answer) -> usize {
        let canvases = &answer.generation.canvases;
        canvases.first().map_or(0, |canvas| canvas.tokens.len())
    }

    fn sampler(args: &Args) -> &'static str {
        args.masked.algorithm()
    }

    fn placeholder(&self) -> Option<Token> {
        Some(self.mask())
    }
}
