//! `replay`: a recording shown again.

use llama_diffusion::{CancelFlag, Event, Result};

use crate::args::{Args, ReplayArgs};
use crate::record::Recording;
use crate::view::View;

/// Shows a recording.
///
/// # Errors
/// The file cannot be read or is not a recording, or the output cannot be written. What there is of
/// a recording that was cut off is shown before it is reported.
pub fn run(options: &ReplayArgs, args: &Args, cancel: &CancelFlag) -> Result<()> {
    let recording = Recording::read(&options.file)?;
    show(&recording, args, cancel)?;
    recording.check_end()
}

fn show(recording: &Recording, args: &Args, cancel: &CancelFlag) -> Result<()> {
    let piece = |token| recording.piece(token);
    for answer in &recording.answers {
        let mut view = View::new(args, &piece, recording.channel, cancel);
        for canvas in &answer.0 {
            if let Some(start) = canvas.start() {
                view.show(Event::CanvasBegun(start))?;
            }
            for draft in canvas.drafts() {
                view.show(Event::Draft(draft))?;
            }
            if let Some(done) = canvas.done() {
                view.show(Event::CanvasDone(&done))?;
            }
        }
        view.finish()?;
    }
    Ok(())
}
