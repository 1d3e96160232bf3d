//! Edits of a text: canvas after canvas, each of which begins as a part of the text.

use std::ops::ControlFlow;

use super::parts::{From, append, renumbered};
use super::{Answer, Session};
use crate::diffusion::edit::Original;
use crate::diffusion::{
    CancelFlag, CounterNoise, DiffusionParams, Event, FinishReason, Generation, Recipe as _, Token,
};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

impl Session {
    /// Edits a text as `prompt` asks for, which contains the instruction and the text. The canvases
    /// begin as parts of the text: after each, the text goes on from where the canvas has come to, as
    /// an edit may make it longer or shorter. Protected tokens stay in order and unchanged, whatever
    /// the model writes; between those of one canvas, the number of tokens stays.
    ///
    /// `params` apply to each canvas, but for their templates and limits: the edited text may be twice
    /// as long as the text, and two canvases more.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); the model is of a masked family.
    pub fn edit(
        &mut self,
        prompt: &[Token],
        original: &Original,
        params: &DiffusionParams,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let Some(trained) = self.limits().canvas else {
            return Err(Error::parameter(
                Parameter::Session,
                "its model is of a masked family, which cannot edit: use a canvas model",
            ));
        };
        if params.constraint.is_some() {
            let problem = "an edit cannot follow one: omit it";
            return Err(Error::parameter(Parameter::Constraint, problem));
        }
        let noise = CounterNoise::new(params.seed(), self.model().vocab_size())?;
        let len = params.canvas.unwrap_or(trained);
        let end = self.end_tokens().clone();
        // Each canvas takes up at least half of its part of the text.
        let limit = 2 * original.tokens().len().div_ceil(len) + 2;
        let mut edited = Answer {
            generation: Generation::empty(),
            reused: 0,
        };
        let mut offset = 0;
        for block in 0..limit as u32 {
            let template = original.template(offset, len, block, params.max_steps, &end, &noise)?;
            let text = [prompt, &edited.generation.tokens].concat();
            let later = From {
                noise: &noise,
                block,
            };
            let params = params.of_canvas(template);
            let on_event = &mut |event: Event<'_>| renumbered(event, block, on_event);
            let answer = self.generate_with(&text, &params, &later, cancel, on_event)?;
            if block == 0 {
                edited.reused = answer.reused;
            }
            let finish = answer.generation.finish;
            append(&mut edited.generation, answer.generation, block);
            let Some(canvas) = edited
                .generation
                .canvases
                .last()
                .filter(|c| c.block == block)
            else {
                edited.generation.finish = finish;
                break;
            };
            offset = original.after(offset, canvas);
            edited.generation.finish = finish;
            let is_complete = finish == FinishReason::EndOfText && !original.protects_after(offset);
            if is_complete || finish == FinishReason::Cancelled {
                break;
            }
        }
        Ok(edited)
    }
}
