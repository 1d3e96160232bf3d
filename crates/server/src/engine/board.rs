//! What the engine is doing at the moment, for `/slots` and `/metrics`.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state of all slots, and of the queue.
#[derive(Default)]
pub struct Board(Mutex<Shown>);

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// In order.
    pub slots: Vec<SlotView>,
    /// Jobs that wait for a slot.
    pub queued: usize,
    /// Bytes of caches on the host.
    pub library: usize,
}

/// A slot.
#[derive(Clone, Debug, Default)]
pub struct SlotView {
    /// The job that it answers, or answered last.
    pub job: Option<u64>,
    /// Whether it answers now.
    pub is_busy: bool,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the prompt that are encoded.
    pub encoded: usize,
    /// Finished tokens of the answer.
    pub written: usize,
    /// Maximum number of tokens in the answer.
    pub limit: Option<usize>,
    /// The canvas that is being denoised, from 0.
    pub block: u32,
    /// Its latest step, from 0.
    pub step: u32,
    /// Maximum number of its steps.
    pub max_steps: u32,
    /// Its mean entropy in nats.
    pub mean_entropy: f32,
}

impl Board {
    /// The present state.
    pub fn read(&self) -> Shown {
        self.lock().clone()
    }

    /// Changes it.
    pub fn write(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.lock());
    }

    /// A panic while it was locked leaves it readable.
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
