//! Recordings of drafts: one JSON object per line, which need no model to be shown again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use llama_diffusion::diffusion::{Draft, FinishedCanvas, Progress};
use llama_diffusion::{Error, Event, Result, Token};
use serde::{Deserialize, Serialize};

use crate::args::{Args, ReplayArgs};
use crate::thinking::Channel;
use crate::view::{PieceOf, View};

const FORMAT: u32 = 1;

/// A line of a recording.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    /// The first line.
    Start {
        format: u32,
        channel: Option<Channel>,
    },
    /// The bytes of tokens that the lines below are the first to use.
    Pieces { pieces: Vec<(Token, Vec<u8>)> },
    /// A denoising step.
    Draft(RecordedDraft),
    /// A finished canvas.
    Canvas(RecordedCanvas),
    /// The end of an answer.
    End,
}

/// A [`Draft`] with its own memory. Entropies are in nats.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedDraft {
    block: u32,
    step: u32,
    max_steps: u32,
    temperature: f32,
    mean_entropy: f32,
    stable: bool,
    progress: RecordedProgress,
    canvas: Vec<Token>,
    argmax: Vec<Token>,
    sampled: Vec<Token>,
    accepted: Vec<bool>,
    entropy: Vec<f32>,
}

impl From<Draft<'_>> for RecordedDraft {
    fn from(draft: Draft<'_>) -> Self {
        Self {
            block: draft.block,
            step: draft.step,
            max_steps: draft.max_steps,
            temperature: draft.temperature,
            mean_entropy: draft.mean_entropy,
            stable: draft.stable,
            progress: draft.progress.into(),
            canvas: draft.canvas.to_vec(),
            argmax: draft.argmax.to_vec(),
            sampled: draft.sampled.to_vec(),
            accepted: draft.accepted.to_vec(),
            entropy: draft.entropy.to_vec(),
        }
    }
}

impl RecordedDraft {
    fn draft(&self) -> Draft<'_> {
        Draft {
            block: self.block,
            step: self.step,
            // A bar is as long as its steps, of which there is one at least.
            max_steps: self.max_steps.max(self.step.saturating_add(1)),
            temperature: self.temperature,
            mean_entropy: self.mean_entropy,
            stable: self.stable,
            progress: self.progress.into(),
            canvas: &self.canvas,
            argmax: &self.argmax,
            sampled: &self.sampled,
            accepted: &self.accepted,
            entropy: &self.entropy,
        }
    }
}

/// A [`FinishedCanvas`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RecordedCanvas {
    block: u32,
    steps: u32,
    converged: bool,
    tokens: Vec<Token>,
    answer: Vec<Token>,
    generated: usize,
    ended: bool,
}

impl From<&FinishedCanvas> for RecordedCanvas {
    fn from(canvas: &FinishedCanvas) -> Self {
        Self {
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged,
            tokens: canvas.tokens.clone(),
            answer: canvas.answer.clone(),
            generated: canvas.generated,
            ended: canvas.ended,
        }
    }
}

impl From<RecordedCanvas> for FinishedCanvas {
    fn from(canvas: RecordedCanvas) -> Self {
        Self {
            block: canvas.block,
            steps: canvas.steps,
            converged: canvas.converged,
            tokens: canvas.tokens,
            answer: canvas.answer,
            generated: canvas.generated,
            ended: canvas.ended,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RecordedProgress {
    Running,
    Converged,
    OutOfSteps,
}

impl From<Progress> for RecordedProgress {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Running => Self::Running,
            Progress::Converged => Self::Converged,
            Progress::OutOfSteps => Self::OutOfSteps,
        }
    }
}

impl From<RecordedProgress> for Progress {
    fn from(progress: RecordedProgress) -> Self {
        match progress {
            RecordedProgress::Running => Self::Running,
            RecordedProgress::Converged => Self::Converged,
            RecordedProgress::OutOfSteps => Self::OutOfSteps,
        }
    }
}

/// Writes a recording.
pub struct Recorder {
    path: PathBuf,
    out: BufWriter<File>,
    /// The tokens whose bytes are written.
    known: HashSet<Token>,
}

impl Recorder {
    /// Begins a recording. A file of that name is replaced.
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

    /// Writes a step or a finished canvas.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, event: Event<'_>, piece: PieceOf<'_>) -> Result<()> {
        let (line, used) = match event {
            Event::CanvasBegun(_) => return Ok(()),
            Event::Draft(draft) => (
                Line::Draft(draft.into()),
                [draft.canvas, draft.argmax, draft.sampled].concat(),
            ),
            Event::CanvasDone(canvas) => (Line::Canvas(canvas.into()), canvas.tokens.clone()),
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

/// Shows a recording, each draft for the chosen time.
///
/// # Errors
/// The file cannot be read or is no recording, or the output cannot be written.
pub fn replay(replay: &ReplayArgs, args: &Args) -> Result<()> {
    let path = &replay.file;
    let text = fs::read_to_string(path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let bad = |problem: String| Error::InvalidParameter {
        parameter: path.display().to_string(),
        problem: format!("{problem}: give a file that --record wrote"),
    };
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let parsed: Line = serde_json::from_str(line)
            .map_err(|error| bad(format!("line {}: {error}", index + 1)))?;
        lines.push(parsed);
    }
    let Some(&Line::Start {
        format: FORMAT,
        channel,
    }) = lines.first()
    else {
        return Err(bad(format!(
            "it does not start a recording of format {FORMAT}"
        )));
    };
    let pieces: HashMap<Token, &[u8]> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Pieces { pieces } => Some(pieces),
            _ => None,
        })
        .flatten()
        .map(|(token, bytes)| (*token, bytes.as_slice()))
        .collect();
    let piece = |token: Token| match pieces.get(&token) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => Err(bad(format!("token {token} has no bytes"))),
    };
    let answers = lines.split(|line| matches!(line, Line::End));
    for answer in answers.filter(|lines| !lines.is_empty()) {
        let mut view = View::new(args, &piece, channel);
        for line in answer {
            match line {
                Line::Draft(draft) => {
                    view.show(Event::Draft(draft.draft()))?;
                    thread::sleep(Duration::from_millis(replay.delay));
                }
                Line::Canvas(canvas) => view.show(Event::CanvasDone(&canvas.clone().into()))?,
                Line::Start { .. } | Line::Pieces { .. } | Line::End => {}
            }
        }
        view.finish()?;
    }
    Ok(())
}
