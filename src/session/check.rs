//! Scores and repairs of a text that is already there.

use std::ops::ControlFlow;

use super::{Answer, Session};
use crate::diffusion::{CancelFlag, DiffusionParams, Event, Template, Token};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

impl Session {
    /// Scores a text as an answer to `prompt`, and repairs it as `params` asks for: the result is
    /// that of [`generate`](Self::generate), if the model had written `text`. The text has its end
    /// token, if it ends.
    ///
    /// # Errors
    /// The text is empty, `params` do not ask for scores, and those of [`generate`](Self::generate).
    pub fn check(
        &mut self,
        prompt: &[Token],
        text: &[Token],
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let refuse = |parameter, problem: &str| Err(Error::parameter(parameter, problem));
        if text.is_empty() {
            return refuse(Parameter::Tokens, "there are none: give the text to check");
        }
        if params.scoring.is_none() {
            return refuse(Parameter::Recipe, "it does not say how to score a text");
        }
        // Masked models have no canvas, and refuse scores when they begin.
        let canvas = params.canvas.or(self.limits().canvas).unwrap_or(text.len());
        let pad = self.end_tokens().pad;
        let template = |slice: &[Token]| {
            let mut tokens: Vec<Option<Token>> = slice.iter().copied().map(Some).collect();
            tokens.resize(canvas, pad);
            let mut template = Template::new();
            template.begin_with(tokens).begin_at(params.max_steps);
            template
        };
        let params = DiffusionParams {
            templates: text.chunks(canvas).map(template).collect(),
            max_canvases: Some(text.len().div_ceil(canvas)),
            max_tokens: None,
            ..params.clone()
        };
        self.generate(prompt, &params, cancel, on_event)
    }
}
