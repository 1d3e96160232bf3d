//! Reads a recording. Whatever the file contains, the result can be shown.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{FORMAT, Line};
use crate::chat::thinking::{Channel, Splitter};
use crate::diffusion::{
    CorrectionCounter, Corrections, Draft, FinishedCanvas, NewCanvas, OwnedDraft, OwnedNewCanvas,
    Token,
};
use crate::error::{Error, Result};

/// What a [`Recorder`](super::Recorder) wrote.
pub struct Recording {
    path: PathBuf,
    /// The tokens around the model's thoughts.
    channel: Option<Channel>,
    /// In order.
    pub answers: Vec<Answer>,
    pieces: HashMap<Token, Vec<u8>>,
    /// What is missing at the end.
    missing: Option<String>,
}

/// An answer.
#[derive(Default)]
pub struct Answer {
    /// In order.
    pub canvases: Vec<Canvas>,
    /// Whether it begins inside a thought.
    is_thought: bool,
}

impl Answer {
    /// Accepted tokens that later steps replaced.
    pub fn corrections(&self) -> Corrections {
        let mut counter = CorrectionCounter::default();
        for draft in self.canvases.iter().flat_map(Canvas::drafts) {
            counter.observe(&draft);
        }
        counter.finish()
    }
}

/// A canvas and its drafts.
#[derive(Default)]
pub struct Canvas {
    start: Option<OwnedNewCanvas>,
    drafts: Vec<OwnedDraft>,
    done: Option<FinishedCanvas>,
}

impl Canvas {
    /// The canvas before its first step. Recordings of earlier versions do not have it.
    pub fn start(&self) -> Option<NewCanvas<'_>> {
        self.start.as_ref().map(OwnedNewCanvas::view)
    }

    /// At least one, if the canvas is finished.
    pub fn drafts(&self) -> impl Iterator<Item = Draft<'_>> {
        self.drafts.iter().map(OwnedDraft::view)
    }

    /// The finished canvas, unless the run was interrupted.
    pub fn done(&self) -> Option<&FinishedCanvas> {
        self.done.as_ref()
    }

    /// Tokens of the canvas, as far as they are known.
    fn len(&self) -> Option<usize> {
        let start = self.start.as_ref().map(|start| start.tokens.len());
        start.or_else(|| self.drafts.first().map(|draft| draft.canvas.len()))
    }
}

impl Recording {
    /// Reads a recording. One that is truncated is read up to its last complete line;
    /// [`check_end`](Self::check_end) reports it.
    ///
    /// # Errors
    /// The file cannot be read or is not a recording, or lines in its middle are missing.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(path, &text)
    }

    /// Reads the text of a recording; `path` is for messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let bad = |problem| bad(path, problem);
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        let mut reader = Reader {
            recording: Self {
                path: path.to_owned(),
                channel: None,
                answers: Vec::new(),
                pieces: HashMap::new(),
                missing: None,
            },
            answer: None,
        };
        let last = text.lines().count();
        for (line, number) in text.lines().zip(1..) {
            let parsed = serde_json::from_str(line).map_err(|error| error.to_string());
            if parsed.is_err() && number > 1 && number == last && !text.ends_with('\n') {
                return Ok(reader.finish(Some(format!("line {number} is cut off"))));
            }
            parsed
                .and_then(|line| reader.take(number, line))
                .map_err(|problem| bad(format!("line {number}: {problem}")))?;
        }
        Ok(reader.finish(None))
    }

    /// Reports what is missing at the end.
    ///
    /// # Errors
    /// The recording is truncated.
    pub fn check_end(&self) -> Result<()> {
        match &self.missing {
            Some(missing) => Err(Error::File {
                path: self.path.clone(),
                problem: format!("{missing}: the recording is not complete; record the run again"),
            }),
            None => Ok(()),
        }
    }

    /// Finds the thoughts of an answer.
    pub fn splitter(&self, answer: &Answer) -> Splitter {
        let splitter = Splitter::new(self.channel);
        match answer.is_thought {
            true => splitter.in_thought(),
            false => splitter,
        }
    }

    /// The bytes of a token.
    ///
    /// # Errors
    /// The recording does not have it.
    pub fn piece(&self, token: Token) -> Result<Vec<u8>> {
        match self.pieces.get(&token) {
            Some(bytes) => Ok(bytes.clone()),
            None => Err(bad(&self.path, format!("token {token} has no bytes"))),
        }
    }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::File {
        path: path.to_owned(),
        problem: format!("{problem}: give a recording"),
    }
}

/// A recording so far.
struct Reader {
    recording: Recording,
    /// The answer in progress.
    answer: Option<Answer>,
}

impl Reader {
    fn take(&mut self, number: usize, line: Line) -> Result<(), String> {
        match (number, line) {
            (1, Line::Start { format, channel }) if format == FORMAT => {
                self.recording.channel = channel;
                Ok(())
            }
            (1, _) => Err(format!("it does not start a recording of format {FORMAT}")),
            (_, Line::Start { .. }) => Err("another recording starts".into()),
            (_, Line::Pieces { pieces }) => {
                self.recording.pieces.extend(pieces);
                Ok(())
            }
            (_, Line::Thinking) => {
                self.answer.get_or_insert_default().is_thought = true;
                Ok(())
            }
            (_, Line::Begin(start)) => self.begin(start),
            (_, Line::Draft(draft)) => self.draft(draft),
            (_, Line::Canvas(canvas)) => self.end_canvas(canvas),
            (_, Line::End) => {
                self.recording.answers.extend(self.answer.take());
                Ok(())
            }
        }
    }

    fn begin(&mut self, start: OwnedNewCanvas) -> Result<(), String> {
        self.check_tokens(&start.tokens)?;
        let canvas = self.open(start.block)?;
        if canvas.len().is_some() {
            return Err(format!("block {} begins twice", start.block));
        }
        check_steps(0, start.max_steps)?;
        canvas.start = Some(start);
        Ok(())
    }

    fn draft(&mut self, draft: OwnedDraft) -> Result<(), String> {
        for tokens in [&draft.canvas, &draft.argmax, &draft.sampled] {
            self.check_tokens(tokens)?;
        }
        let canvas = self.open(draft.block)?;
        let len = canvas.len().unwrap_or(draft.canvas.len());
        for (what, found) in [
            ("tokens", draft.canvas.len()),
            ("most likely tokens", draft.argmax.len()),
            ("drawn tokens", draft.sampled.len()),
            ("marks of acceptance", draft.accepted.len()),
            ("entropies", draft.entropy.len()),
        ] {
            check_len(what, found, len)?;
        }
        // Recordings of earlier versions have none.
        if !draft.probability.is_empty() {
            check_len("probabilities", draft.probability.len(), len)?;
        }
        check_steps(draft.step, draft.max_steps)?;
        if let Some(before) = canvas.drafts.last()
            && draft.step <= before.step
        {
            let (step, before) = (draft.step, before.step);
            return Err(format!("step {step} follows step {before}"));
        }
        canvas.drafts.push(draft);
        Ok(())
    }

    fn end_canvas(&mut self, done: FinishedCanvas) -> Result<(), String> {
        self.check_tokens(&done.tokens)?;
        self.check_tokens(&done.answer)?;
        let canvas = self.open(done.block)?;
        if canvas.drafts.is_empty() {
            return Err(format!("block {} has no drafts", done.block));
        }
        check_len("tokens", done.tokens.len(), canvas.len().unwrap_or(0))?;
        canvas.done = Some(done);
        Ok(())
    }

    /// The canvas with this index, which is not finished.
    fn open(&mut self, block: u32) -> Result<&mut Canvas, String> {
        let canvases = &mut self.answer.get_or_insert_default().canvases;
        if canvases.last().is_none_or(|last| last.done.is_some()) {
            canvases.push(Canvas::default());
        }
        let at_work = canvases.len() - 1;
        match canvases.last_mut() {
            Some(canvas) if usize::try_from(block) == Ok(at_work) => Ok(canvas),
            _ => Err(format!(
                "its block is {block}, but block {at_work} is at work"
            )),
        }
    }

    fn check_tokens(&self, tokens: &[Token]) -> Result<(), String> {
        let known = &self.recording.pieces;
        match tokens.iter().find(|token| !known.contains_key(token)) {
            Some(token) => Err(format!("token {token} has no bytes")),
            None => Ok(()),
        }
    }

    /// Takes the rest of an answer that does not end.
    fn finish(mut self, cut: Option<String>) -> Recording {
        let missing = match &self.answer {
            _ if cut.is_some() => cut,
            Some(_) => Some("its last answer does not end".into()),
            None if self.recording.answers.is_empty() => Some("it has no answer".into()),
            None => None,
        };
        self.recording.answers.extend(self.answer.take());
        self.recording.missing = missing;
        self.recording
    }
}

fn check_len(what: &str, found: usize, expected: usize) -> Result<(), String> {
    match found == expected && expected > 0 {
        true => Ok(()),
        false => Err(format!(
            "it has {found} {what} for a canvas of {expected} tokens"
        )),
    }
}

fn check_steps(step: u32, max_steps: u32) -> Result<(), String> {
    match step < max_steps {
        true => Ok(()),
        false => Err(format!("step {step} is not one of {max_steps}")),
    }
}
