//! The engine: one thread that owns all sessions. Jobs go in, updates come out.
//!
//! ```text
//! job ─▶ thread ─▶ scheduler ─▶ queue ─▶ running, on a slot of the engine ─▶ updates
//!                      └▶ library: caches of earlier prompts on the host
//! ```

pub mod batch;
pub mod board;
pub mod job;
pub mod library;
pub mod queue;
pub mod running;
pub mod scheduler;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;
pub mod thread;

use std::ops::ControlFlow;

use llama_diffusion::diffusion::{Recipe, Stage};
use llama_diffusion::{Answer, CancelFlag, EndTokens, Event, Result, Token};

use job::{Found, Task};

/// Receives the events of a step, each with the slot whose answer it is about.
pub type Handler<'a> = dyn FnMut(usize, Event<'_>) -> ControlFlow<()> + 'a;

/// What answers: a number of slots, each with the cache of one sequence and at most one answer in
/// progress.
pub trait Engine {
    /// A copy of what a slot has cached.
    type Saved: Saved;

    /// Number of slots.
    fn slots(&self) -> usize;

    /// The tokens that end an answer.
    fn end_tokens(&self) -> &EndTokens;

    /// Number of tokens that a slot has cached.
    fn cached(&self, slot: usize) -> usize;

    /// How many tokens of a prompt a slot, or a copy of its cache, need not encode again.
    fn usable_prefix(&self, slot: usize, prompt: &[Token]) -> usize;

    /// Copies the cache of a slot, whether it answers or not.
    ///
    /// # Errors
    /// The device fails.
    fn save(&self, slot: usize) -> Result<Self::Saved>;

    /// Replaces the cache of an idle slot.
    ///
    /// # Errors
    /// The device fails. The cache is empty then.
    fn restore(&mut self, slot: usize, saved: &Self::Saved) -> Result<()>;

    /// Empties the cache of an idle slot.
    ///
    /// # Errors
    /// The device fails.
    fn clear(&mut self, slot: usize) -> Result<()>;

    /// Begins an answer on an idle slot.
    ///
    /// # Errors
    /// The prompt or the parameters cannot work.
    fn begin(
        &mut self,
        slot: usize,
        prompt: &[Token],
        recipe: &dyn Recipe,
        cancel: &CancelFlag,
    ) -> Result<()>;

    /// The stage of the answer on a slot, if there is one.
    fn stage(&self, slot: usize) -> Option<Stage>;

    /// Advances all answers by one step, and returns those that are complete or cancelled, by their
    /// slots.
    ///
    /// # Errors
    /// The step fails for all answers that took part. They stay, but cannot go on.
    fn step(&mut self, on_event: &mut Handler<'_>) -> Result<Vec<(usize, Result<Answer>)>>;

    /// Removes an unfinished answer, or task.
    fn remove(&mut self, slot: usize);

    /// Begins a task after a prompt, on an idle slot that has it cached.
    ///
    /// # Errors
    /// The task does not fit the model.
    fn begin_task(&mut self, slot: usize, prompt: &[Token], task: &Task) -> Result<()>;

    /// Advances the task of a slot by one forward pass. Returns what it has found after the last one.
    ///
    /// # Errors
    /// The task cannot go on: it is cancelled, or the device fails. It is removed.
    fn advance_task(&mut self, slot: usize, cancel: &CancelFlag) -> Result<Option<Found>>;
}

/// A copy of a cache on the host.
pub trait Saved {
    /// The cached tokens.
    fn tokens(&self) -> &[Token];

    /// Bytes that it takes.
    fn bytes(&self) -> usize;
}
