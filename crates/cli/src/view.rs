//! What is shown while an answer is generated: finished canvases, and drafts on request.

mod draft;
mod region;
mod suspend;

use std::io::{self, IsTerminal as _, Stdout, Write};
use std::mem;
use std::time::Duration;

use llama_diffusion::chat::thinking::{Section, Splitter};
use llama_diffusion::diffusion::{CanvasStatus, Draft, NewCanvas, ScoredCanvas};
use llama_diffusion::{CancelFlag, Event, Result, Token, Utf8Stream};

pub use draft::{Accepted, Origin, Span, Status, noise, shown};
pub use region::{exit, make_way, make_way_for_panics};
pub use suspend::handle as handle_stops;

use crate::interrupt::pause;
use draft::{painted, wrap};
use llama_diffusion_flags::streams::{output_error, print, say, say_part};
use region::{Region, terminal_size};

/// A line about the tokens that a check doubts.
fn doubts(canvas: &ScoredCanvas<'_>) -> String {
    let count = canvas
        .doubted
        .iter()
        .filter(|is_doubted| **is_doubted)
        .count();
    format!("canvas {}: {count} tokens doubted", canvas.block + 1)
}

/// Gives the bytes of a token; control tokens have none.
pub type PieceOf<'a> = &'a dyn Fn(Token) -> Result<Vec<u8>>;

/// Writes an answer to the standard output, canvas by canvas.
pub struct View<'a> {
    piece: PieceOf<'a>,
    text: Utf8Stream,
    /// The part of the last line that is not written yet.
    line: String,
    /// Whether a line is written only when it is complete: otherwise lines about steps would
    /// interrupt it.
    whole_lines: bool,
    /// Whether the output is at the beginning of a line.
    at_line_start: bool,
    pace: Pace,
    cancel: &'a CancelFlag,
    drafts: Drafts,
    splitter: Splitter,
    thoughts: Thoughts,
}

enum Drafts {
    Hidden,
    /// A line for each on the standard error.
    Lines,
    /// On the terminal, in place, after the finished text.
    Live(Live<Stdout>),
}

/// What happens to the model's thoughts.
enum Thoughts {
    /// The user is informed once that there are some.
    Hidden { told: bool },
    /// They go to the standard error.
    Shown(Utf8Stream),
}

/// Which drafts are shown, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Every how many steps.
    pub interval: u32,
    /// The pause after a draft.
    pub delay: Duration,
}

/// What is shown of an answer beside its text.
#[derive(Clone, Debug)]
pub struct Show {
    /// Each draft of a canvas.
    pub drafts: bool,
    /// How many steps of a canvas are done.
    pub progress: bool,
    pub pace: Pace,
    /// What the model thinks.
    pub thoughts: bool,
    /// Whether the output gets colours.
    pub colors: bool,
    /// Whether log lines may appear on the terminal meanwhile.
    pub logs_details: bool,
    /// Whether hidden thoughts are not mentioned.
    pub quiet: bool,
}

impl<'a> View<'a> {
    /// A view of one answer, whose thoughts `splitter` finds. `cancel` ends the pauses between
    /// drafts.
    pub fn new(
        show: &Show,
        piece: PieceOf<'a>,
        splitter: Splitter,
        cancel: &'a CancelFlag,
    ) -> Self {
        let can_draw = io::stdout().is_terminal()
            && std::env::var_os("TERM").is_none_or(|name| name != "dumb");
        // Log lines would disturb a live view.
        let live = can_draw && show.colors && !show.logs_details;
        let drafts = match show.drafts || show.progress {
            false => Drafts::Hidden,
            true if live => Drafts::Live(Live::new(io::stdout(), show.drafts, show.progress)),
            true => Drafts::Lines,
        };
        let others_write = matches!(drafts, Drafts::Lines) || show.logs_details;
        Self {
            piece,
            text: Utf8Stream::new(),
            line: String::new(),
            whole_lines: others_write && io::stdout().is_terminal(),
            at_line_start: true,
            pace: show.pace,
            cancel,
            drafts,
            splitter,
            thoughts: match show.thoughts {
                true => Thoughts::Shown(Utf8Stream::new()),
                false => Thoughts::Hidden { told: show.quiet },
            },
        }
    }

    /// Shows a step or a finished canvas.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn show(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::PromptEncoded(_) => Ok(()),
            Event::Scored(canvas) => {
                // Otherwise the drafts of a repair show which tokens are free again.
                if let (Drafts::Lines, true) = (&self.drafts, canvas.doubted.contains(&true)) {
                    say(doubts(&canvas));
                }
                Ok(())
            }
            Event::CanvasBegun(canvas) => self.show_noise(&canvas),
            Event::Draft(draft) => {
                let due = (draft.step + 1).is_multiple_of(self.pace.interval);
                if due || draft.status != CanvasStatus::Running {
                    self.show_draft(&draft)?;
                }
                Ok(())
            }
            Event::CanvasDone(canvas) => {
                // The region is where thoughts and text go now.
                if let Drafts::Live(live) = &mut self.drafts {
                    live.region.remove().map_err(output_error)?;
                }
                let mut text = String::new();
                for &token in &canvas.answer {
                    match self.splitter.push(token) {
                        Section::Answer => text += &self.text.push(&(self.piece)(token)?),
                        Section::Thought => self.think(token)?,
                        Section::Mark => self.end_thought(),
                    }
                }
                match &mut self.drafts {
                    Drafts::Live(live) => live
                        .finish_canvas(&text, terminal_size())
                        .map_err(output_error),
                    _ => self.write(&text),
                }
            }
        }
    }

    fn think(&mut self, token: Token) -> Result<()> {
        match &mut self.thoughts {
            Thoughts::Hidden { told: true } => {}
            Thoughts::Hidden { told } => {
                *told = true;
                say("[thinking; --show-thinking shows it]");
            }
            Thoughts::Shown(text) => say_part(text.push(&(self.piece)(token)?)),
        }
        Ok(())
    }

    fn end_thought(&mut self) {
        if let (Thoughts::Shown(text), false) = (&mut self.thoughts, self.splitter.is_thinking()) {
            say(text.finish());
        }
    }

    /// Finds the thoughts that a draft must not show.
    fn hidden(&self) -> Option<Splitter> {
        let hide = matches!(self.thoughts, Thoughts::Hidden { .. });
        hide.then(|| self.splitter.clone())
    }

    fn show_noise(&mut self, canvas: &NewCanvas<'_>) -> Result<()> {
        let hidden = self.hidden();
        if let Drafts::Live(live) = &mut self.drafts {
            let spans = noise(canvas, hidden, self.piece)?;
            live.draw(&canvas.into(), spans, terminal_size())
                .map_err(output_error)?;
            pause(self.pace.delay, self.cancel);
        }
        Ok(())
    }

    fn show_draft(&mut self, draft: &Draft<'_>) -> Result<()> {
        let hidden = self.hidden();
        let status = Status::from(draft);
        match &mut self.drafts {
            Drafts::Hidden => return Ok(()),
            Drafts::Lines => {
                let entropy = draft.mean_entropy;
                say(format_args!("{status}, mean entropy {entropy:.4}"));
            }
            Drafts::Live(live) => {
                let spans = live.accepted.spans(draft, hidden, self.piece)?;
                live.draw(&status, spans, terminal_size())
                    .map_err(output_error)?;
            }
        }
        pause(self.pace.delay, self.cancel);
        Ok(())
    }

    /// Ends the answer: writes what was held back, and ends the line.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(&mut self) -> Result<()> {
        let mut rest = self.text.finish();
        if let Drafts::Live(live) = mem::replace(&mut self.drafts, Drafts::Hidden) {
            rest = live.finish().map_err(output_error)? + &rest;
        }
        if self.splitter.is_thinking() && matches!(self.thoughts, Thoughts::Shown(_)) {
            // The answer was cut in the middle of a thought.
            say("");
        }
        self.whole_lines = false;
        self.write(&rest)?;
        if !self.at_line_start {
            self.write("\n")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.line += text;
        let end = match self.whole_lines {
            true => self.line.rfind('\n').map_or(0, |end| end + 1),
            false => self.line.len(),
        };
        let text: String = self.line.drain(..end).collect();
        if let Some(last) = text.chars().next_back() {
            self.at_line_start = last == '\n';
        }
        print(&text)
    }
}

/// The current draft, on the terminal after the finished text.
struct Live<W: Write> {
    region: Region<W>,
    /// The last line of the finished canvases, which the draft continues. The lines before it are
    /// written and scroll up with the terminal.
    finished: String,
    accepted: Accepted,
    /// Rows of the region, and the width of the terminal that they were computed for.
    height: usize,
    width: usize,
    show_text: bool,
    show_progress: bool,
}

impl<W: Write> Live<W> {
    fn new(out: W, show_text: bool, show_progress: bool) -> Self {
        Self {
            region: Region::new(out),
            finished: String::new(),
            accepted: Accepted::default(),
            height: 0,
            width: 0,
            show_text,
            show_progress,
        }
    }

    /// Writes the lines that a canvas completes. The last one stays visible.
    fn finish_canvas(&mut self, text: &str, size: (usize, usize)) -> io::Result<()> {
        self.finished += text;
        self.accepted = Accepted::default();
        let lines = self.finished.rfind('\n').map_or(0, |end| end + 1);
        self.region.commit(&self.finished[..lines])?;
        self.finished.drain(..lines);
        let rows = self.rows(Vec::new(), size.0);
        self.show(rows, None, size)
    }

    fn draw(&mut self, status: &Status, spans: Vec<Span>, size: (usize, usize)) -> io::Result<()> {
        let rows = self.rows(if self.show_text { spans } else { Vec::new() }, size.0);
        let progress = self.show_progress.then(|| status.line(size.0));
        self.show(rows, progress, size)
    }

    /// The unfinished line and a draft after it.
    fn rows(&self, draft: Vec<Span>, width: usize) -> Vec<String> {
        let mut spans = vec![(self.finished.clone(), Origin::Finished)];
        spans.extend(draft);
        if spans.iter().all(|(text, _)| text.is_empty()) {
            return Vec::new();
        }
        wrap(&spans, width).iter().map(|row| painted(row)).collect()
    }

    /// The region keeps its rows while drafts change, so that nothing above it moves. It begins
    /// with twice the rows of the first draft, because line breaks come with time.
    fn show(
        &mut self,
        mut rows: Vec<String>,
        progress: Option<String>,
        (width, height): (usize, usize),
    ) -> io::Result<()> {
        let below = usize::from(progress.is_some());
        // A row of the terminal is left for what was there before.
        let room = height.saturating_sub(1).max(1);
        if self.width != width {
            self.width = width;
            self.height = 2 * rows.len() + below;
        }
        self.height = self.height.max(rows.len() + below).min(room);
        let text = self.height.saturating_sub(below);
        // What does not fit is cut at the top: changes happen at the bottom.
        rows.drain(..rows.len().saturating_sub(text));
        rows.resize(text, String::new());
        rows.extend(progress);
        self.region.draw(&rows)
    }

    /// Removes the region and writes the pending line.
    fn finish(mut self) -> io::Result<String> {
        self.region.remove()?;
        Ok(self.finished)
    }
}

#[cfg(test)]
mod tests {
    use super::draft::tests::{draft, letter};
    use super::*;

    /// The contents of a terminal of this size.
    fn drawn(live: &mut Live<Vec<u8>>, text: &str, size: (usize, usize)) -> String {
        let draft = draft(&[1, 2, 3], &[true; 3]);
        live.region.out().clear();
        live.draw(&(&draft).into(), vec![(text.into(), Origin::Kept)], size)
            .unwrap();
        String::from_utf8(live.region.out().clone()).unwrap()
    }

    #[test]
    fn the_region_keeps_its_rows_and_grows_where_it_must() {
        let mut live = Live::new(Vec::new(), true, true);
        drawn(&mut live, "abcdef", (3, 24));
        assert_eq!(live.height, 5); // twice ab and cdef, and the progress
        drawn(&mut live, "a", (3, 24));
        assert_eq!(live.height, 5);
        drawn(&mut live, "a\nb\nc\nd\ne", (3, 24));
        assert_eq!(live.height, 6);
        // Another width has other rows.
        drawn(&mut live, "abcdef", (6, 24));
        assert_eq!(live.height, 3);
    }

    #[test]
    fn a_region_is_never_higher_than_the_terminal() {
        let mut live = Live::new(Vec::new(), true, false);
        let text = drawn(&mut live, "v\nw\nx\ny\nz", (80, 4));
        assert_eq!(live.height, 3);
        assert!(
            text.contains("x\r\n\x1b[Ky\r\n\x1b[K\x1b[2G\x1b[J\x1b[1Gz\r") && !text.contains('w'),
            "{text:?}"
        );
    }

    #[test]
    fn complete_lines_scroll_up_and_the_last_one_stays_with_the_draft() {
        let mut live = Live::new(Vec::new(), true, false);
        live.finish_canvas("one\ntwo\nth", (80, 24)).unwrap();
        assert!(live.region.out().starts_with(b"one\ntwo\n"));
        live.finish_canvas("ree", (80, 24)).unwrap();
        assert!(drawn(&mut live, " four", (80, 24)).contains("three four\r"));
        assert_eq!(live.finish().unwrap(), "three");
    }

    #[test]
    fn the_first_tokens_of_a_canvas_are_new() {
        let mut live = Live::new(Vec::new(), true, false);
        let draft = draft(&[1, 2, 3], &[true; 3]);
        let origin = |live: &mut Live<_>| live.accepted.spans(&draft, None, &letter).unwrap()[0].1;
        assert_eq!(origin(&mut live), Origin::Accepted);
        assert_eq!(origin(&mut live), Origin::Kept);
        live.finish_canvas("abc", (80, 24)).unwrap();
        assert_eq!(origin(&mut live), Origin::Accepted);
    }
}
