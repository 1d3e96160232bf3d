//! Ctrl-Z while a region is drawn: the terminal is as it was before while the program is stopped.

use std::io;

/// Handles the signal that stops the program from now on. Where no region is at work, it stops the
/// program at once, as ever.
///
/// # Errors
/// The system refuses; the signal then stops the program as ever.
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

/// There is no such signal.
#[cfg(not(unix))]
pub fn handle() -> io::Result<()> {
    Ok(())
}
