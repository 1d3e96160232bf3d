//! Ctrl-C, and the other signals that ask the program to end: the first one ends an answer at its
//! next step, everything else ends immediately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::{CancelFlag, internal};

use crate::view;
use llama_diffusion_flags::signals::on_signal;

/// 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// The exit status after cancellation: that of the last signal.
static STATUS: AtomicU8 = AtomicU8::new(INTERRUPTED);

/// The exit status of a run that was interrupted.
pub fn status() -> u8 {
    STATUS.load(Ordering::Relaxed)
}

/// The effect of an interrupt at the moment. Clones share it.
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
        let handler = move |status| {
            STATUS.store(status, Ordering::Relaxed);
            if handled.waiting.load(Ordering::Relaxed) || handled.cancel.is_cancelled() {
                internal::remove_all();
                view::exit(status);
            }
            handled.cancel.cancel();
        };
        if let Err(error) = on_signal(handler) {
            tracing::warn!("Ctrl-C will end the program immediately: {error}");
        }
        if let Err(error) = view::handle_stops() {
            tracing::warn!("Ctrl-Z will leave the cursor hidden: {error}");
        }
        interrupt
    }

    /// The flag that an interrupt sets.
    pub fn flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// Whether a signal has asked the program to end, and not only Ctrl-C the answer.
    pub fn ends_the_program(&self) -> bool {
        self.cancel.is_cancelled() && status() != INTERRUPTED
    }

    /// Waits for the user: meanwhile an interrupt ends the program.
    pub fn while_waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waiting.store(true, Ordering::Relaxed);
        let result = wait();
        self.cancel.reset();
        STATUS.store(INTERRUPTED, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
        result
    }
}

/// How soon a pause notices that it is cancelled.
const TICK: Duration = Duration::from_millis(10);

/// Waits for `time`, or until it is cancelled.
pub fn pause(time: Duration, cancel: &CancelFlag) {
    let start = Instant::now();
    while !cancel.is_cancelled() {
        let Some(rest) = time.checked_sub(start.elapsed()).filter(|t| !t.is_zero()) else {
            return;
        };
        thread::sleep(rest.min(TICK));
    }
}
