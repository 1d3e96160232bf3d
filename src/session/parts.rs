//! Answers that are made by several generations, one after the other.

use std::ops::ControlFlow;

use crate::diffusion::{
    Draft, Event, FinishedCanvas, Generation, NewCanvas, NoiseSource, ScoredCanvas, Token,
};
use crate::error::Result;

/// The noise of canvas `block` on, for a generation that counts from 0.
pub(super) struct From<'a> {
    pub(super) noise: &'a dyn NoiseSource,
    pub(super) block: u32,
}

impl NoiseSource for From<'_> {
    fn initial_canvas(&self, block: u32, out: &mut [Token]) -> Result<()> {
        self.noise.initial_canvas(self.block + block, out)
    }

    fn uniforms(&self, block: u32, step: u32, out: &mut [f32]) -> Result<()> {
        self.noise.uniforms(self.block + block, step, out)
    }

    fn renoise(&self, block: u32, step: u32, out: &mut [Token]) -> Result<()> {
        self.noise.renoise(self.block + block, step, out)
    }
}

pub(super) type Handler<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

/// Passes an event on, with its canvas counted from `block` on.
pub(super) fn renumbered(
    event: Event<'_>,
    block: u32,
    on_event: &mut Handler<'_>,
) -> ControlFlow<()> {
    match event {
        // The text so far is encoded again only as far as it was not.
        Event::PromptEncoded(_) if block > 0 => ControlFlow::Continue(()),
        Event::PromptEncoded(progress) => on_event(Event::PromptEncoded(progress)),
        Event::CanvasBegun(canvas) => on_event(Event::CanvasBegun(NewCanvas {
            block: block + canvas.block,
            ..canvas
        })),
        Event::Draft(draft) => on_event(Event::Draft(Draft {
            block: block + draft.block,
            ..draft
        })),
        Event::Scored(canvas) => on_event(Event::Scored(ScoredCanvas {
            block: block + canvas.block,
            ..canvas
        })),
        Event::CanvasDone(canvas) => on_event(Event::CanvasDone(&FinishedCanvas {
            block: block + canvas.block,
            ..canvas.clone()
        })),
    }
}

/// Adds the generation of what follows, whose first canvas is number `block`.
pub(super) fn append(answer: &mut Generation, next: Generation, block: u32) {
    answer.tokens.extend(next.tokens);
    answer.scores.extend(next.scores);
    answer.steps += next.steps;
    answer.corrections.append(next.corrections, block);
    answer.timing.prefill += next.timing.prefill;
    answer.timing.denoise += next.timing.denoise;
    answer.timing.commit += next.timing.commit;
    let renumbered = |canvas: FinishedCanvas| FinishedCanvas {
        block: block + canvas.block,
        ..canvas
    };
    answer
        .canvases
        .extend(next.canvases.into_iter().map(renumbered));
}
