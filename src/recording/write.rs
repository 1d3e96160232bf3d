//! Writes a recording while an answer is generated.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::{FORMAT, Line};
use crate::chat::thinking::{Channel, Splitter};
use crate::diffusion::{Event, Token};
use crate::error::{Error, Result};

/// Writes a recording.
pub struct Recorder {
    path: PathBuf,
    out: BufWriter<File>,
    /// The tokens whose bytes have been written.
    known: HashSet<Token>,
}

impl Recorder {
    /// Begins a recording. An existing file with that name is replaced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, channel: Option<Channel>) -> Result<Self> {
        let file = File::create(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut recorder = Self {
            path: path.to_owned(),
            out: BufWriter::new(file),
            known: HashSet::new(),
        };
        recorder.write(&Line::Start {
            format: FORMAT,
            channel,
        })?;
        Ok(recorder)
    }

    /// Begins an answer, whose thoughts `splitter` finds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&mut self, splitter: &Splitter) -> Result<()> {
        match splitter.is_thinking() {
            true => self.write(&Line::Thinking),
            false => Ok(()),
        }
    }

    /// Writes a canvas that begins, a step, or a finished canvas. `piece` returns the bytes of a
    /// token, none for a control token.
    ///
    /// # Errors
    /// The file cannot be written, or `piece` fails.
    pub fn record(
        &mut self,
        event: Event<'_>,
        piece: &dyn Fn(Token) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let (line, used) = match event {
            Event::PromptEncoded(_) | Event::Scored(_) => return Ok(()),
            Event::CanvasBegun(canvas) => (Line::Begin(canvas.into()), canvas.tokens.to_vec()),
            Event::Draft(draft) => (
                Line::Draft(draft.into()),
                [draft.canvas, draft.argmax, draft.sampled].concat(),
            ),
            Event::CanvasDone(canvas) => (Line::Canvas(canvas.clone()), canvas.tokens.clone()),
        };
        let mut pieces = Vec::new();
        for token in used {
            if self.known.insert(token) {
                pieces.push((token, piece(token)?));
            }
        }
        if !pieces.is_empty() {
            self.write(&Line::Pieces { pieces })?;
        }
        self.write(&line)
    }

    /// Ends an answer.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(&mut self) -> Result<()> {
        self.write(&Line::End)?;
        let flushed = self.out.flush();
        flushed.map_err(|source| self.error(source))
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let written = serde_json::to_writer(&mut self.out, line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path.clone(),
            source,
        }
    }
}
