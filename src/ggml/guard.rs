//! Calls into backends that may throw a C++ exception. Vulkan's throws when memory runs out in the
//! middle of a graph or when the device is lost; ggml passes that on, and Rust would abort the
//! process.

use std::ffi::{CStr, c_char, c_void};

use crate::error::{Error, Result};

type Call = unsafe extern "C-unwind" fn(*mut c_void);

unsafe extern "C" {
    /// In guard.cpp.
    fn llama_diffusion_guard(
        call: Call,
        state: *mut c_void,
        reason: *mut c_char,
        size: usize,
    ) -> bool;
}

struct State<F, T> {
    call: Option<F>,
    result: Option<T>,
}

/// Calls ggml; `what` begins the message of the error. `call` must not panic: it may only call
/// functions that the bindings declare as `C-unwind` (build/bindings.rs).
///
/// # Errors
/// The call threw an exception. What it worked on is in an unknown state.
pub(super) fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> Result<T> {
    unsafe extern "C-unwind" fn run<F: FnOnce() -> T, T>(state: *mut c_void) {
        // SAFETY: the state of the call below, which waits for this one and does not use it any
        // more.
        let state = unsafe { &mut *state.cast::<State<F, T>>() };
        state.result = state.call.take().map(|call| call());
    }
    fn of<F: FnOnce() -> T, T>(_: &State<F, T>) -> Call {
        run::<F, T>
    }
    let mut state = State {
        call: Some(call),
        result: None,
    };
    let call = of(&state);
    let mut reason = [0 as c_char; 256];
    // SAFETY: the function takes the state, and the reason has the stated length.
    let returned = unsafe {
        let state = (&raw mut state).cast();
        llama_diffusion_guard(call, state, reason.as_mut_ptr(), reason.len())
    };
    state.result.filter(|_| returned).ok_or_else(|| {
        // SAFETY: terminated, by `snprintf` or because it was never written.
        let reason = unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy();
        Error::Ggml(format!("{what}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_call_that_returns_gives_its_result() {
        assert_eq!(guarded("adding", || 2 + 3).unwrap(), 5);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn an_exception_is_an_error_and_values_on_the_way_are_dropped() {
        use std::ffi::{CStr, c_char};
        use std::rc::Rc;

        unsafe extern "C-unwind" {
            /// `std::__throw_runtime_error`, which the library's templates call.
            #[link_name = "_ZSt21__throw_runtime_errorPKc"]
            fn throw(reason: *const c_char) -> !;
        }
        const REASON: &CStr = c"the device is lost";
        let value = Rc::new(());
        let held = Rc::clone(&value);
        let failed: Result<(), _> = guarded("computing", || {
            let _held = held;
            // SAFETY: a terminated string.
            unsafe { throw(REASON.as_ptr()) }
        });
        let message = failed.unwrap_err().to_string();
        assert!(
            message.ends_with("computing: the device is lost"),
            "{message}"
        );
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
