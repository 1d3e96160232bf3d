//! A generation as an iterator of owned events.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::{Answer, Session};
use crate::diffusion::{CancelFlag, CounterNoise, Event, Generator, OwnedEvent, Recipe, Token};
use crate::error::Result;

/// The events of one answer, in order. The model runs while [`next`](Iterator::next) is called; the
/// iterator ends with the answer, or after an error.
pub struct Events<'s> {
    session: &'s mut Session,
    generator: Generator,
    noise: CounterNoise,
    cancel: CancelFlag,
    waiting: VecDeque<OwnedEvent>,
    is_done: bool,
}

impl<'s> Events<'s> {
    pub(super) fn new(
        session: &'s mut Session,
        prompt: &[Token],
        params: &dyn Recipe,
    ) -> Result<Self> {
        let noise = CounterNoise::new(params.seed(), session.model().vocab_size())?;
        Ok(Self {
            generator: session.begin(prompt, params)?,
            session,
            noise,
            cancel: CancelFlag::default(),
            waiting: VecDeque::new(),
            is_done: false,
        })
    }

    /// Cancels the answer from another thread.
    pub fn cancel_flag(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// The answer so far.
    pub fn finish(self) -> Answer {
        Answer {
            reused: self.generator.reused(),
            generation: self.generator.finish(),
        }
    }
}

impl Iterator for Events<'_> {
    type Item = Result<OwnedEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.waiting.is_empty() && !self.is_done {
            let waiting = &mut self.waiting;
            let on_event = &mut |event: Event<'_>| {
                waiting.push_back(event.into());
                ControlFlow::Continue(())
            };
            let (generator, noise) = (&mut self.generator, &self.noise);
            let advanced = self
                .session
                .advance(generator, noise, &self.cancel, on_event);
            match advanced {
                Ok(flow) => self.is_done = flow.is_break(),
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
        }
        self.waiting.pop_front().map(Ok)
    }
}
