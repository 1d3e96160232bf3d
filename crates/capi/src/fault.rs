//! A panic on demand, to test that none crosses the border.
//!
//! It exists in this crate's own tests and, for tests from C, in libraries compiled with
//! `--cfg llama_diffusion_test_panic` (`make ffi-test` builds one). It is not in the header.

#[cfg(any(test, llama_diffusion_test_panic))]
mod armed {
    use std::cell::Cell;

    thread_local! {
        static ARMED: Cell<bool> = const { Cell::new(false) };
    }

    /// Makes the next call of this thread that reaches [`point`] panic there.
    #[unsafe(no_mangle)]
    pub(crate) extern "C" fn diffusion_test_panic_next() {
        ARMED.set(true);
    }

    pub(crate) fn point() {
        assert!(!ARMED.take(), "forced by a test");
    }
}

#[cfg(any(test, llama_diffusion_test_panic))]
pub(super) use armed::*;

#[cfg(not(any(test, llama_diffusion_test_panic)))]
pub(super) fn point() {}
