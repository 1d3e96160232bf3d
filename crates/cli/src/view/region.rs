//! A region of the terminal's normal buffer that is redrawn in place.
//!
//! The cursor stays hidden at the beginning of the region's first row. Whatever a terminal does
//! with its rows when it is resized, it keeps the cursor at its text, so the region is everything
//! from there on.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
    EndSynchronizedUpdate,
};
use crossterm::{cursor, queue};

/// Whether a region is on the terminal: there is one standard output.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether no region is active, shown or about to be.
static IDLE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// Whether no region is active, for signal handlers.
#[cfg(unix)]
pub fn idle() -> Arc<AtomicBool> {
    Arc::clone(&IDLE)
}

/// Columns and rows of the terminal.
pub fn terminal_size() -> (usize, usize) {
    let size = terminal::size()
        .ok()
        .filter(|(width, height)| *width > 0 && *height > 0);
    let (width, height) = size.unwrap_or((80, 24));
    (width.into(), height.into())
}

/// A region, which is removed when it is dropped.
pub struct Region<W: Write> {
    out: W,
    shown: bool,
}

impl<W: Write> Region<W> {
    pub fn new(out: W) -> Self {
        IDLE.store(false, Ordering::Relaxed);
        Self { out, shown: false }
    }

    /// Shows these rows, each without a line break. They must fit the terminal.
    pub fn draw(&mut self, rows: &[String]) -> io::Result<()> {
        let Some(below) = rows.len().checked_sub(1) else {
            return self.remove();
        };
        // Terminals differ in the width of some emoji: what is too wide for a row is truncated,
        // because a row that wraps would move all others.
        let mut frame = Vec::new();
        queue!(
            frame,
            BeginSynchronizedUpdate,
            cursor::Hide,
            DisableLineWrap,
            cursor::MoveToColumn(0)
        )?;
        for (index, row) in rows.iter().enumerate() {
            // Before the text: after a full row the cursor would be on its last character.
            if index == below {
                clear_below(&mut frame)?;
            } else {
                queue!(frame, Clear(ClearType::UntilNewLine))?;
            }
            frame.extend_from_slice(row.as_bytes());
            frame.extend_from_slice(if index == below { b"\r" } else { b"\r\n" });
        }
        if let Ok(below @ 1..) = u16::try_from(below) {
            queue!(frame, cursor::MoveToPreviousLine(below))?;
        }
        queue!(frame, EnableLineWrap, EndSynchronizedUpdate)?;
        self.shown = true;
        SHOWN.store(true, Ordering::Relaxed);
        self.write(&frame)
    }

    /// Writes lines above the region, which scroll up with the terminal. The region is removed.
    pub fn commit(&mut self, lines: &str) -> io::Result<()> {
        self.remove()?;
        self.write(lines.as_bytes())
    }

    /// Removes the region: the cursor is where it began.
    pub fn remove(&mut self) -> io::Result<()> {
        if !self.shown {
            return Ok(());
        }
        self.shown = false;
        SHOWN.store(false, Ordering::Relaxed);
        let mut frame = Vec::new();
        restore(&mut frame)?;
        self.write(&frame)
    }

    #[cfg(test)]
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// At once, so that nothing of another thread comes in between.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Region<W> {
    fn drop(&mut self) {
        // The error was already reported where it mattered.
        let _ = self.remove();
        IDLE.store(true, Ordering::Relaxed);
    }
}

/// Removes the region, whatever the state of its drawing. What a terminal echoes, such as ^C, moves
/// the cursor along its row.
fn restore(out: &mut impl Write) -> io::Result<()> {
    queue!(
        out,
        EndSynchronizedUpdate,
        EnableLineWrap,
        cursor::MoveToColumn(0)
    )?;
    clear_below(out)?;
    queue!(out, cursor::Show)
}

/// Clears from the beginning of the cursor's row on. In the corner of the screen, tmux would treat
/// this as clearing the whole screen, and save it above: so the row is cleared first, and the
/// others from its second column.
fn clear_below(out: &mut impl Write) -> io::Result<()> {
    queue!(
        out,
        Clear(ClearType::UntilNewLine),
        cursor::MoveToColumn(1),
        Clear(ClearType::FromCursorDown),
        cursor::MoveToColumn(0)
    )
}

/// Removes the region of another thread, or of this one before it fails: called before something
/// else writes to the terminal. The next draft draws it again.
pub fn make_way() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let mut out = io::stdout().lock();
        // If it cannot be written there is nothing to restore.
        let _ = restore(&mut out).and_then(|()| out.flush());
    }
}

/// Ends the program. No thread writes after the terminal has been restored.
pub fn exit(code: u8) -> ! {
    let _out = io::stdout().lock();
    make_way();
    std::process::exit(code.into());
}

/// Stops the program until the user resumes it. No thread draws between the terminal's restoration
/// and the stop; the next draft brings the region back.
#[cfg(unix)]
pub fn stop() {
    let _out = io::stdout().lock();
    make_way();
    // It cannot fail for a known signal.
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
}

/// Makes room for the message of a panic.
pub fn make_way_for_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        make_way();
        report(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_region_is_drawn_in_place_and_removed_when_a_panic_drops_it() {
        let mut out = Vec::new();
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut region = Region::new(&mut out);
            region.draw(&rows(&["ab", "c"])).unwrap();
            region.draw(&rows(&["d"])).unwrap();
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(failed.is_err());
        let begin = "\x1b[?2026h\x1b[?25l\x1b[?7l\x1b[1G";
        let end = "\x1b[?7h\x1b[?2026l";
        let clear = "\x1b[K\x1b[2G\x1b[J\x1b[1G";
        let restored = "\x1b[?2026l\x1b[?7h\x1b[1G";
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "{begin}\x1b[Kab\r\n{clear}c\r\x1b[1F{end}\
                 {begin}{clear}d\r{end}\
                 {restored}{clear}\x1b[?25h"
            )
        );
    }

    #[test]
    fn lines_go_where_the_region_was() {
        let mut region = Region::new(Vec::new());
        region.commit("one\n").unwrap();
        assert_eq!(region.out, b"one\n");
        region.draw(&rows(&["x"])).unwrap();
        region.out.clear();
        region.commit("two\n").unwrap();
        assert!(region.out.ends_with(b"\x1b[J\x1b[1G\x1b[?25htwo\n"));
    }
}
