//! Which text is where, and in which frames.

use std::ops::Range;

use llama_diffusion::chat::thinking::{Section, Splitter};
use llama_diffusion::diffusion::{CanvasStatus, Draft, FinishedCanvas};
use llama_diffusion::{Result, Token, Utf8Stream};

use super::layout::{Area, Cell, Layout, printable};
use crate::view::{Accepted, Origin, PieceOf, Span, Status, noise};
use llama_diffusion::recording::{Answer, Canvas, Recording};

/// How a piece of text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colour {
    Noise,
    Likely,
    GivenUp,
    /// New at first, then plain.
    Accepted,
}

impl From<Origin> for Colour {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Noise => Self::Noise,
            Origin::Likely => Self::Likely,
            Origin::GivenUp => Self::GivenUp,
            Origin::Accepted | Origin::Kept | Origin::Finished => Self::Accepted,
        }
    }
}

/// A piece of text in one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub area: Area,
    pub colour: Colour,
    /// The frames that show it. For a piece that stays, the range ends with the film.
    pub frames: Range<usize>,
}

/// The line below the text in one frame.
pub struct Caption {
    pub text: String,
    /// Share of the canvas that is accepted.
    pub share: f32,
}

/// A recording as pieces of text that appear and disappear.
#[derive(Default)]
pub struct Film {
    pub pieces: Vec<Piece>,
    /// One for each frame.
    pub captions: Vec<Caption>,
    /// Rows of text.
    pub rows: usize,
    /// The text of the last frame.
    pub text: String,
}

impl Film {
    /// Every `interval`-th draft of a recording, and all canvases as they begin and end.
    ///
    /// # Errors
    /// A token has no bytes.
    pub fn of(recording: &Recording, interval: u32) -> Result<Self> {
        let piece = |token| recording.piece(token);
        let mut maker = Maker {
            piece: &piece,
            interval,
            layout: Layout::default(),
            film: Self::default(),
            total: Total::default(),
        };
        for answer in &recording.answers {
            maker.answer(answer, recording.splitter(answer))?;
        }
        Ok(maker.finish())
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.captions.len()
    }
}

#[derive(Default)]
struct Total {
    canvases: usize,
    steps: usize,
    tokens: usize,
}

/// Makes a film canvas by canvas.
struct Maker<'a> {
    piece: PieceOf<'a>,
    interval: u32,
    layout: Layout,
    film: Film,
    total: Total,
}

/// The end of what stays, until the end is known.
const STAYS: usize = usize::MAX;

impl Maker<'_> {
    fn answer(&mut self, answer: &Answer, mut splitter: Splitter) -> Result<()> {
        let mut stream = Utf8Stream::new();
        for (index, canvas) in answer.canvases.iter().enumerate() {
            let begin = self.film.frames();
            let mut frames = self.frames(canvas, &splitter)?;
            if let Some(done) = canvas.done() {
                frames.push(finished(done, &mut splitter, &mut stream, self.piece)?);
                self.sum_up(canvas, done);
            }
            let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
                continue;
            };
            let texts: Vec<String> = last.iter().map(|(text, _)| text.clone()).collect();
            // Noise after the end of the answer has columns of its own.
            let is_last = index + 1 == answer.canvases.len();
            let rest = if is_last { first.as_slice() } else { &[] };
            let cells = self.layout.place(&texts, rest);
            for cell in &cells {
                self.shoot(cell, begin, &frames);
            }
            self.film.text += &printable(&texts.concat());
        }
        self.layout.end_answer();
        self.film.text.push(' ');
        Ok(())
    }

    /// The text of each position in each frame.
    fn frames(&mut self, canvas: &Canvas, splitter: &Splitter) -> Result<Vec<Vec<Span>>> {
        let hidden = || Some(splitter.clone());
        let mut frames = Vec::new();
        if let Some(start) = canvas.start() {
            frames.push(noise(&start, hidden(), self.piece)?);
            self.caption(&Status::from(&start));
        }
        let mut accepted = Accepted::default();
        let interval = self.interval;
        let is_due = |draft: &Draft<'_>| {
            (draft.step + 1).is_multiple_of(interval) || draft.status != CanvasStatus::Running
        };
        for draft in canvas.drafts().filter(is_due) {
            frames.push(accepted.spans(&draft, hidden(), self.piece)?);
            self.caption(&Status::from(&draft));
        }
        Ok(frames)
    }

    fn caption(&mut self, status: &Status) {
        self.film.captions.push(Caption {
            text: status.to_string(),
            share: status.accepted as f32 / status.tokens as f32,
        });
    }

    /// The steps and times of the finished canvases.
    fn sum_up(&mut self, canvas: &Canvas, done: &FinishedCanvas) {
        let total = &mut self.total;
        total.canvases += 1;
        total.steps += canvas.drafts().count();
        total.tokens += done.answer.len();
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        self.film.captions.push(Caption {
            text: format!(
                "{} in {}: {}",
                count(total.tokens, "token"),
                count(total.steps, "step"),
                match total.canvases {
                    1 => "1 canvas".to_owned(),
                    canvases => format!("{canvases} canvases"),
                }
            ),
            share: 1.0,
        });
    }

    /// Adds what a cell shows from frame `begin` on.
    fn shoot(&mut self, cell: &Cell, begin: usize, frames: &[Vec<Span>]) {
        let mut runs: Vec<(String, Colour, Range<usize>)> = Vec::new();
        for (frame, spans) in (begin..).zip(frames) {
            let text: String = cell
                .positions
                .iter()
                .map(|&p| spans[p].0.as_str())
                .collect();
            let colour = Colour::from(spans[cell.positions[0]].1);
            match runs.last_mut() {
                Some((before, was, _)) if *before == text && *was == colour => {}
                last => {
                    if let Some((_, _, frames)) = last {
                        frames.end = frame;
                    }
                    runs.push((text, colour, frame..STAYS));
                }
            }
        }
        for (text, colour, frames) in runs {
            let is_noise = colour != Colour::Accepted;
            let piece = |area| Piece {
                area,
                colour,
                frames: frames.clone(),
            };
            self.film
                .pieces
                .extend(cell.show(&text, is_noise).into_iter().map(piece));
        }
    }

    fn finish(mut self) -> Film {
        let end = self.film.frames();
        for piece in &mut self.film.pieces {
            piece.frames.end = piece.frames.end.min(end);
        }
        self.film.rows = self.layout.rows();
        self.film
    }
}

/// The text of each position of a finished canvas.
fn finished(
    canvas: &FinishedCanvas,
    splitter: &mut Splitter,
    stream: &mut Utf8Stream,
    piece: PieceOf<'_>,
) -> Result<Vec<Span>> {
    let mut answer = canvas.answer.iter().peekable();
    let text = |token: &Token| {
        // The answer leaves out padding, and what comes after its end.
        let is_part = answer.next_if_eq(&token).is_some();
        Ok(match is_part && splitter.push(*token) == Section::Answer {
            true => (stream.push(&piece(*token)?), Origin::Finished),
            false => (String::new(), Origin::Finished),
        })
    };
    canvas.tokens.iter().map(text).collect()
}
