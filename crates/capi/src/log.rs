//! The log: what this library and ggml report through `tracing`, passed on to a C callback.

use std::ffi::{CString, c_char, c_void};
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::border::{Failure, guard};
use super::error::{c_text, diffusion_error, diffusion_status};

/// The importance of a message, in descending order.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum diffusion_log_level {
    /// Something failed.
    Error = 1,
    /// Something may not be as expected.
    Warn = 2,
    /// What was done.
    Info = 3,
    /// How it was done.
    Debug = 4,
    /// Every detail.
    Trace = 5,
}

/// Receives a message: its `diffusion_log_level`, its origin ("ggml" or a module of this library)
/// and the text in UTF-8, without a trailing newline. Both strings are valid only during the
/// call. It may be called from any thread, and from several at once; it must not call this library.
pub type diffusion_log_callback = Option<
    unsafe extern "C" fn(
        level: i32,
        target: *const c_char,
        message: *const c_char,
        user_data: *mut c_void,
    ),
>;

struct Sink {
    callback: unsafe extern "C" fn(i32, *const c_char, *const c_char, *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the callback is documented to be called from any thread with its user data.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

/// Locked for reading while a callback runs, so that none still runs once it has been replaced.
static SINK: RwLock<Option<Sink>> = RwLock::new(None);
/// Messages up to this level are passed on; 0 is none.
static LEVEL: AtomicI32 = AtomicI32::new(0);

/// Sends the messages of this library and of ggml to a callback, which replaces the previous one;
/// without a callback they are dropped. When this returns, the previous callback is no longer
/// running. It applies to the whole process; any thread may call it, but not the callback.
///
/// `callback`: NULL for no messages. `level`: the least important `diffusion_log_level` to pass on.
///
/// Errors: `INVALID_ARGUMENT` for an invalid level, or if the process is a Rust program that has
/// set up `tracing` itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_log_set(
    callback: diffusion_log_callback,
    level: i32,
    user_data: *mut c_void,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        if !(diffusion_log_level::Error as i32..=diffusion_log_level::Trace as i32).contains(&level)
        {
            return Err(Failure::argument("level", format_args!("{level} is none")));
        }
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        let install = || tracing::subscriber::set_global_default(Forward).is_ok();
        if !INSTALLED.get_or_init(install) {
            let problem = "this program handles the messages itself, by a tracing subscriber";
            return Err(Failure::argument("callback", problem));
        }
        llama_diffusion::internal::capture_log();
        let mut sink = SINK.write().unwrap_or_else(PoisonError::into_inner);
        LEVEL.store(callback.map_or(0, |_| level), Ordering::Relaxed);
        *sink = callback.map(|callback| Sink {
            callback,
            user_data,
        });
        Ok(())
    })
}

struct Forward;

fn level_of(metadata: &Metadata<'_>) -> diffusion_log_level {
    match *metadata.level() {
        Level::ERROR => diffusion_log_level::Error,
        Level::WARN => diffusion_log_level::Warn,
        Level::INFO => diffusion_log_level::Info,
        Level::DEBUG => diffusion_log_level::Debug,
        Level::TRACE => diffusion_log_level::Trace,
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change, so ask each time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata) as i32 <= LEVEL.load(Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let target = c_text(event.metadata().target());
        let message: CString = c_text(&format!("{}{}", line.message, line.fields));
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = &*sink {
            let level = level_of(event.metadata()) as i32;
            // SAFETY: the caller's function and data, by the rules of the header.
            unsafe { (sink.callback)(level, target.as_ptr(), message.as_ptr(), sink.user_data) };
        }
    }

    // Spans are not passed on.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Line {
    message: String,
    /// Each as " name=value".
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
