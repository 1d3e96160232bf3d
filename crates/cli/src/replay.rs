//! `replay`: shows a recording again, in the terminal or as a picture.

use std::fs;
use std::path::Path;

use llama_diffusion::{CancelFlag, Error, Event, Result};

use crate::args::ReplayArgs;
use crate::corrections::CorrectionLine;
use crate::svg;
use crate::view::{Pace, Show, View};
use llama_diffusion::recording::{Answer, Recording};
use llama_diffusion_flags::input;
use llama_diffusion_flags::streams::say;

/// Maximum bytes of a picture that pages load immediately.
const LARGE: usize = 1 << 20;

/// Shows a recording.
///
/// # Errors
/// The file cannot be read or is not a recording, or the output cannot be written. The beginning of
/// a truncated recording is shown before the error is reported.
pub fn run(options: &ReplayArgs, show: Show, cancel: &CancelFlag) -> Result<()> {
    let recording = Recording::parse(&options.file, &input::file(&options.file)?)?;
    match &options.svg {
        Some(path) => {
            draw(&recording, options.pace.pace(), path)?;
            let mut answers = recording.answers.iter().filter(|_| options.corrections);
            answers.try_for_each(|answer| report(&recording, answer))?;
        }
        None => {
            let show = Show {
                drafts: true,
                progress: true,
                pace: options.pace.pace(),
                ..show
            };
            play(&recording, &show, options.corrections, cancel)?;
        }
    }
    recording.check_end()
}

fn draw(recording: &Recording, pace: Pace, path: &Path) -> Result<()> {
    let picture = svg::draw(recording, pace)?;
    fs::write(path, &picture.svg).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let size = picture.svg.len();
    say(format_args!(
        "{}: {:.1} kB, {} drafts, {:.1} s",
        path.display(),
        size as f64 / 1e3,
        picture.frames,
        picture.length.as_secs_f64()
    ));
    if size > LARGE {
        tracing::warn!(
            "the picture is large: --diffusion-visual-interval {} draws fewer drafts",
            2 * u64::from(pace.interval)
        );
    }
    Ok(())
}

fn play(
    recording: &Recording,
    show: &Show,
    shows_corrections: bool,
    cancel: &CancelFlag,
) -> Result<()> {
    let piece = |token| recording.piece(token);
    for answer in &recording.answers {
        let mut view = View::new(show, &piece, recording.splitter(answer), cancel);
        for canvas in &answer.canvases {
            if let Some(start) = canvas.start() {
                view.show(Event::CanvasBegun(start))?;
            }
            for draft in canvas.drafts() {
                view.show(Event::Draft(draft))?;
            }
            if let Some(done) = canvas.done() {
                view.show(Event::CanvasDone(done))?;
            }
        }
        view.finish()?;
        if shows_corrections {
            report(recording, answer)?;
        }
    }
    Ok(())
}

/// Writes how much of an answer later steps replaced.
fn report(recording: &Recording, answer: &Answer) -> Result<()> {
    let piece = |token| recording.piece(token);
    say(CorrectionLine::new(&answer.corrections(), &piece)?);
    Ok(())
}
