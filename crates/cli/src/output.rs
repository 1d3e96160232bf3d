//! What follows an answer, and the files that answers are written to.

use std::path::PathBuf;

use llama_diffusion::Result;

use crate::logprobs::Logprobs;
use crate::view::Show;

/// What is shown of answers, and where they are written.
pub struct Output {
    pub show: Show,
    /// Whether each answer is followed by what it took.
    pub shows_summary: bool,
    /// Whether a line about its corrections follows, too.
    pub shows_corrections: bool,
    /// The file of the recording.
    pub record: Option<PathBuf>,
    /// The file of the log-probabilities.
    pub logprobs: Option<PathBuf>,
}

impl Output {
    /// Creates the file of the log-probabilities, if there is one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn logprobs(&self) -> Result<Option<Logprobs>> {
        let file = self.logprobs.as_deref();
        file.map(Logprobs::create).transpose()
    }
}
