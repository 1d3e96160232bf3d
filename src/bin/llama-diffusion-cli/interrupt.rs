//! Ctrl-C: the first one ends an answer at its next step, everything else ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_diffusion::CancelFlag;

use crate::view;

/// 128 + SIGINT, as shells report it.
pub const INTERRUPTED: u8 = 130;

/// What an interrupt does now. Clones share it.
#[derive(Clone, Default)]
pub struct Interrupt {
    cancel: CancelFlag,
    /// Whether the program waits for the user, so that there is nothing to cancel.
    waiting: Arc<AtomicBool>,
}

impl Interrupt {
    /// Handles interrupts from now on.
    pub fn install() -> Self {
        let interrupt = Self::default();
        let handled = interrupt.clone();
        let handler = move || {
            if handled.waiting.load(Ordering::Relaxed) || handled.cancel.is_cancelled() {
                view::exit(INTERRUPTED);
            }
            handled.cancel.cancel();
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the program at once: {error}");
        }
        interrupt
    }

    /// The flag that an interrupt sets.
    pub fn flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// Waits for the user: an interrupt ends the program meanwhile.
    pub fn while_waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waiting.store(true, Ordering::Relaxed);
        let result = wait();
        self.cancel.reset();
        self.waiting.store(false, Ordering::Relaxed);
        result
    }
}
