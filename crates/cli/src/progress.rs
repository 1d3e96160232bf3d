//! The progress bar of long work.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressStyle};
use llama_diffusion::CancelFlag;

/// Shows the progress that `work` reports, and stops it when it is cancelled. Shows nothing if the
/// standard error is not a terminal, or `quiet`.
pub fn show<T>(
    message: &'static str,
    quiet: bool,
    cancel: &CancelFlag,
    work: impl FnOnce(&mut dyn FnMut(f32) -> ControlFlow<()>) -> T,
) -> T {
    let bar = match quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(100).with_message(message),
    };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {percent}%") {
        bar.set_style(style.progress_chars("## "));
    }
    let result = work(&mut |share| {
        bar.set_position((share * 100.0) as u64);
        match cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    result
}
