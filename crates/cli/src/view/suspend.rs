//! Ctrl-Z while a region is drawn: while the program is stopped, the terminal is as it was before.

use std::io;

/// From now on, handles the signal that stops the program. If no region is active, it stops the
/// program immediately, as usual.
///
/// # Errors
/// The system refuses; the signal then stops the program as usual.
#[cfg(unix)]
pub fn handle() -> io::Result<()> {
    use std::sync::atomic::Ordering;

    use signal_hook::consts::SIGTSTP;
    use signal_hook::flag::register_conditional_default;
    use signal_hook::iterator::Signals;

    use super::region;

    let idle = region::idle();
    register_conditional_default(SIGTSTP, idle.clone())?;
    let mut signals = Signals::new([SIGTSTP])?;
    let wait = move || {
        for _ in signals.forever() {
            if !idle.load(Ordering::Relaxed) {
                region::stop();
            }
        }
    };
    std::thread::Builder::new().spawn(wait).map(drop)
}

/// This system has no such signal.
#[cfg(not(unix))]
pub fn handle() -> io::Result<()> {
    Ok(())
}
