//! The signals that ask a program to end.

use std::io;
#[cfg(unix)]
use std::sync::Arc;

/// Makes a file beyond the user's limit (`ulimit -f`) an error of the write. Otherwise it would end
/// the program before it can remove what it has written.
#[cfg(unix)]
pub fn report_large_files() {
    // A caught signal has no other effect. If it cannot be caught, nothing changes.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Only Unix has such a limit.
#[cfg(not(unix))]
pub fn report_large_files() {}

/// Calls `handler` for each of them, from a thread of its own, with the exit status of the signal:
/// 128 plus its number.
///
/// # Errors
/// The system refuses; signals then end the program as usual.
#[cfg(unix)]
pub fn on_signal(handler: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let wait = move || {
        for signal in signals.forever() {
            handler(128 | u8::try_from(signal).unwrap_or_default());
        }
    };
    std::thread::Builder::new().spawn(wait).map(drop)
}

/// The same for the events of a console.
///
/// # Errors
/// The system refuses.
#[cfg(not(unix))]
pub fn on_signal(handler: impl Fn(u8) + Send + 'static) -> io::Result<()> {
    const INTERRUPTED: u8 = 130; // as Unix has it
    ctrlc::set_handler(move || handler(INTERRUPTED)).map_err(io::Error::other)
}
