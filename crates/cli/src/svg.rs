//! A recording as one animated picture, which needs neither scripts nor fonts of its own, for
//! example for a README.
//!
//! Each token of a canvas has the columns that the finished text gives it, so that only what
//! changes moves. A token of a draft that is wider is truncated.

mod film;
mod layout;
mod markup;

use std::time::Duration;

use llama_diffusion::Result;

use crate::view::Pace;
use film::Film;
use llama_diffusion::recording::Recording;

/// The picture of a recording.
pub struct Picture {
    /// A whole SVG document.
    pub svg: String,
    /// Drafts and finished canvases in it.
    pub frames: usize,
    /// Duration until it begins again.
    pub length: Duration,
}

/// How long the end is shown.
const HOLD: Duration = Duration::from_secs(3);

/// Draws a recording.
///
/// # Errors
/// A token of it has no bytes.
pub fn draw(recording: &Recording, pace: Pace) -> Result<Picture> {
    let film = Film::of(recording, pace.interval)?;
    let frame = pace.delay.max(Duration::from_millis(1));
    let clock = markup::Clock::new(frame, film.frames(), HOLD);
    Ok(Picture {
        svg: markup::document(&film, &clock),
        frames: film.frames(),
        length: clock.length(),
    })
}
