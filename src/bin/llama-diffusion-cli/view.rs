//! What is shown while an answer comes into being: finished canvases, and drafts if asked for.

use std::io::{self, IsTerminal as _, Stdout, Write};
use std::mem;
use std::path::PathBuf;

use crossterm::style::{StyledContent, Stylize as _};
use crossterm::terminal::{self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use crossterm::{cursor, queue};
use llama_diffusion::diffusion::{Draft, Progress};
use llama_diffusion::{Error, Event, Result, Token, Utf8Stream};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::args::Args;
use crate::thinking::{Channel, Part, Splitter};

/// Gives the bytes of a token; control tokens have none.
pub type PieceOf<'a> = &'a dyn Fn(Token) -> Result<Vec<u8>>;

/// Writes an answer to the standard output, canvas by canvas.
pub struct View<'a> {
    piece: PieceOf<'a>,
    text: Utf8Stream,
    /// Whether the output stands at the beginning of a line.
    at_line_start: bool,
    interval: u32,
    drafts: Drafts,
    splitter: Splitter,
    thoughts: Thoughts,
}

enum Drafts {
    Hidden,
    /// A line for each on the standard error.
    Lines,
    /// On the terminal, in place, behind what is finished.
    Live(Live<Stdout>),
}

/// What becomes of the model's thoughts.
enum Thoughts {
    /// The user is told once that there are some.
    Hidden { told: bool },
    /// They go to the standard error.
    Shown(Utf8Stream),
}

impl<'a> View<'a> {
    /// A view of one answer of a model whose thoughts are in `channel`.
    pub fn new(args: &Args, piece: PieceOf<'a>, channel: Option<Channel>) -> Self {
        let options = &args.output;
        // Log lines would tear a live view.
        let live =
            io::stdout().is_terminal() && options.has_colors(true) && !options.logs_details();
        let drafts = match options.drafts || options.progress {
            false => Drafts::Hidden,
            true if live => Drafts::Live(Live::new(io::stdout(), options.drafts, options.progress)),
            true => Drafts::Lines,
        };
        Self {
            piece,
            text: Utf8Stream::new(),
            at_line_start: true,
            interval: options.interval,
            drafts,
            splitter: Splitter::new(channel),
            thoughts: match args.chat.show_thinking {
                true => Thoughts::Shown(Utf8Stream::new()),
                false => Thoughts::Hidden { told: false },
            },
        }
    }

    /// Shows a step or a finished canvas.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn show(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Draft(draft) => {
                let due = (draft.step + 1).is_multiple_of(self.interval);
                if due || draft.progress != Progress::Running {
                    self.show_draft(&draft)?;
                }
                Ok(())
            }
            Event::CanvasDone(canvas) => {
                // The region stands where thoughts and text go now.
                if let Drafts::Live(live) = &mut self.drafts {
                    live.remove(terminal_size()).map_err(output_error)?;
                }
                let mut text = String::new();
                for &token in &canvas.answer {
                    match self.splitter.push(token) {
                        Part::Answer => text += &self.text.push(&(self.piece)(token)?),
                        Part::Thought => self.think(token)?,
                        Part::Mark => self.end_thought(),
                    }
                }
                match &mut self.drafts {
                    Drafts::Live(live) => live.finish_canvas(&text).map_err(output_error),
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
                eprintln!("[thinking; --show-thinking shows it]");
            }
            Thoughts::Shown(text) => eprint!("{}", text.push(&(self.piece)(token)?)),
        }
        Ok(())
    }

    fn end_thought(&mut self) {
        if let (Thoughts::Shown(text), false) = (&mut self.thoughts, self.splitter.is_thinking()) {
            eprintln!("{}", text.finish());
        }
    }

    fn show_draft(&mut self, draft: &Draft<'_>) -> Result<()> {
        match &mut self.drafts {
            Drafts::Hidden => Ok(()),
            Drafts::Lines => {
                eprintln!("{}, mean entropy {:.4}", status(draft), draft.mean_entropy);
                Ok(())
            }
            Drafts::Live(live) => {
                let hide = matches!(self.thoughts, Thoughts::Hidden { .. });
                let splitter = hide.then(|| self.splitter.clone());
                let spans = live.draft_spans(draft, splitter, self.piece)?;
                live.draw(&spans, draft, terminal_size())
                    .map_err(output_error)
            }
        }
    }

    /// Ends the answer: what was held back is written, and the line ended.
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
            eprintln!();
        }
        self.write(&rest)?;
        if !self.at_line_start {
            self.write("\n")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if let Some(last) = text.chars().next_back() {
            self.at_line_start = last == '\n';
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(output_error)
    }
}

fn terminal_size() -> (u16, u16) {
    let size = terminal::size().ok().filter(|(width, _)| *width > 0);
    size.unwrap_or((80, 24))
}

fn output_error(source: io::Error) -> Error {
    Error::Io {
        path: PathBuf::from("standard output"),
        source,
    }
}

/// Undoes what a live view does to the terminal, for a program that ends in the middle of one.
pub fn restore_terminal() {
    let mut out = io::stdout();
    if out.is_terminal() {
        // The program is about to end; there is nobody left to tell.
        let _ = queue!(out, EndSynchronizedUpdate, cursor::Show).and_then(|()| out.flush());
    }
}

fn status(draft: &Draft<'_>) -> String {
    format!(
        "canvas {}, step {} of {}: {} of {} tokens accepted",
        draft.block + 1,
        draft.step + 1,
        draft.max_steps,
        draft.accepted.iter().filter(|a| **a).count(),
        draft.canvas.len()
    )
}

/// How a piece of text came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Of a finished canvas.
    Finished,
    /// Accepted in an earlier step, and again.
    Kept,
    /// Accepted in this step.
    Accepted,
    /// Random, to be denoised.
    Noise,
}

impl Origin {
    fn style(self, text: &str) -> StyledContent<&str> {
        match self {
            Self::Finished | Self::Kept => text.stylize(),
            Self::Accepted => text.green(),
            Self::Noise => text.dim(),
        }
    }
}

type Span = (String, Origin);

/// A region of the terminal's normal buffer that is drawn anew with each draft.
struct Live<W: Write> {
    out: W,
    /// The last line of the finished canvases, which the draft goes on with. The lines before it
    /// are written and scroll up with the terminal.
    finished: String,
    /// The accepted tokens of the draft before, by position.
    accepted: Vec<Option<Token>>,
    /// Columns of each row of the region; the cursor is in the row below.
    rows: Vec<usize>,
    show_text: bool,
    show_progress: bool,
}

impl<W: Write> Live<W> {
    fn new(out: W, show_text: bool, show_progress: bool) -> Self {
        Self {
            out,
            finished: String::new(),
            accepted: Vec::new(),
            rows: Vec::new(),
            show_text,
            show_progress,
        }
    }

    /// Writes the lines that a canvas completes, where the region was.
    fn finish_canvas(&mut self, text: &str) -> io::Result<()> {
        self.finished += text;
        self.accepted.clear();
        let lines = self.finished.rfind('\n').map_or(0, |end| end + 1);
        self.out.write_all(&self.finished.as_bytes()[..lines])?;
        self.finished.drain(..lines);
        self.out.flush()
    }

    /// The text so far and the draft behind it. Special tokens have no text, nor have the thoughts
    /// that `hidden` finds.
    fn draft_spans(
        &mut self,
        draft: &Draft<'_>,
        mut hidden: Option<Splitter>,
        piece: impl Fn(Token) -> Result<Vec<u8>>,
    ) -> Result<Vec<Span>> {
        let mut spans = vec![(self.finished.clone(), Origin::Finished)];
        let mut text = Utf8Stream::new();
        self.accepted.resize(draft.canvas.len(), None);
        let positions = draft.canvas.iter().zip(draft.accepted);
        for ((&token, &accepted), before) in positions.zip(&mut self.accepted) {
            let origin = match accepted {
                false => Origin::Noise,
                true if *before == Some(token) => Origin::Kept,
                true => Origin::Accepted,
            };
            *before = accepted.then_some(token);
            let part = match (&mut hidden, accepted) {
                (Some(splitter), true) => splitter.push(token),
                (Some(splitter), false) => splitter.part_of_noise(),
                (None, _) => Part::Answer,
            };
            if part == Part::Answer {
                spans.push((text.push(&piece(token)?), origin));
            } else if part == Part::Mark && hidden.as_ref().is_some_and(Splitter::is_thinking) {
                spans.push(("[thinking]".into(), Origin::Noise));
            }
        }
        Ok(spans)
    }

    fn draw(
        &mut self,
        spans: &[Span],
        draft: &Draft<'_>,
        (width, height): (u16, u16),
    ) -> io::Result<()> {
        let mut rows = Vec::new();
        if self.show_text {
            rows = wrap(spans, width.into());
        }
        if self.show_progress {
            let line: String = progress_line(draft).chars().take(width.into()).collect();
            rows.push(vec![(line, Origin::Finished)]);
        }
        // The last row of the terminal is the cursor's. What does not fit is cut at the top: the
        // work goes on at the bottom.
        let room = height.saturating_sub(1);
        rows.drain(..rows.len().saturating_sub(room.into()));

        queue!(self.out, BeginSynchronizedUpdate, cursor::Hide)?;
        self.clear((width, height))?;
        for row in &rows {
            for (text, origin) in row {
                write!(self.out, "{}", origin.style(text))?;
            }
            self.out.write_all(b"\r\n")?;
        }
        self.rows = rows.iter().map(|row| columns(row)).collect();
        queue!(self.out, EndSynchronizedUpdate)?;
        self.out.flush()
    }

    /// Removes the region. A terminal that became narrower since has broken its rows.
    fn clear(&mut self, (width, height): (u16, u16)) -> io::Result<()> {
        let width = usize::from(width.max(1));
        let rows: usize = mem::take(&mut self.rows)
            .into_iter()
            .map(|columns| columns.div_ceil(width).max(1))
            .sum();
        // What is above the terminal's first row cannot be reached.
        match u16::try_from(rows)
            .unwrap_or(u16::MAX)
            .min(height.saturating_sub(1))
        {
            0 => Ok(()),
            rows => queue!(
                self.out,
                cursor::MoveToPreviousLine(rows),
                Clear(ClearType::FromCursorDown)
            ),
        }
    }

    fn remove(&mut self, size: (u16, u16)) -> io::Result<()> {
        self.clear(size)?;
        self.out.flush()
    }

    /// Removes the region and gives back the line that is not written yet.
    fn finish(mut self) -> io::Result<String> {
        self.leave()?;
        Ok(mem::take(&mut self.finished))
    }

    fn leave(&mut self) -> io::Result<()> {
        self.clear(terminal_size())?;
        queue!(self.out, cursor::Show)?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Live<W> {
    fn drop(&mut self) {
        // An error was reported where it counted.
        let _ = self.leave();
    }
}

const BAR: usize = 24;

fn progress_line(draft: &Draft<'_>) -> String {
    let done = match draft.progress {
        Progress::Running => (draft.step + 1) as usize * BAR / draft.max_steps as usize,
        _ => BAR,
    };
    format!(
        "[{}{}] {}",
        "#".repeat(done),
        " ".repeat(BAR - done),
        status(draft)
    )
}

/// Breaks text into rows of at most `width` columns. Wide characters take two.
fn wrap(spans: &[Span], width: usize) -> Vec<Vec<Span>> {
    let mut rows = vec![Vec::new()];
    let mut column = 0;
    for (text, origin) in spans {
        let mut run = String::new();
        for character in text.chars() {
            // Noise must not make the rows below it jump.
            let is_break = character == '\n' && *origin != Origin::Noise;
            let character = if character.is_whitespace() {
                ' '
            } else {
                character
            };
            // Control characters have no width: they could do anything to the terminal.
            let Some(columns) = character.width() else {
                continue;
            };
            if is_break || column + columns > width {
                push(&mut rows, &mut run, *origin);
                rows.push(Vec::new());
                column = 0;
            }
            if !is_break {
                run.push(character);
                column += columns;
            }
        }
        push(&mut rows, &mut run, *origin);
    }
    rows
}

/// Columns that a row takes.
fn columns(row: &[Span]) -> usize {
    row.iter().map(|(text, _)| text.width()).sum()
}

fn push(rows: &mut [Vec<Span>], run: &mut String, origin: Origin) {
    if let Some(row) = rows.last_mut()
        && !run.is_empty()
    {
        row.push((mem::take(run), origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rows: &[Vec<Span>]) -> Vec<String> {
        let text = |row: &Vec<Span>| row.iter().map(|(text, _)| text.as_str()).collect();
        rows.iter().map(text).collect()
    }

    fn wrapped(text: &str, origin: Origin, width: usize) -> Vec<String> {
        texts(&wrap(&[(text.into(), origin)], width))
    }

    #[test]
    fn rows_are_as_wide_as_the_terminal() {
        assert_eq!(wrapped("abcdef", Origin::Kept, 3), ["abc", "def"]);
        assert_eq!(wrapped("abcdefg", Origin::Kept, 3), ["abc", "def", "g"]);
    }

    #[test]
    fn wide_characters_take_two_columns_and_accents_none() {
        assert_eq!(wrapped("日本語", Origin::Kept, 5), ["日本", "語"]);
        assert_eq!(
            wrapped("a\u{301}bc\u{301}", Origin::Kept, 3),
            ["a\u{301}bc\u{301}"]
        );
    }

    #[test]
    fn lines_of_noise_are_not_broken() {
        assert_eq!(wrapped("a\n\nb", Origin::Kept, 9), ["a", "", "b"]);
        assert_eq!(wrapped("a\n\nb", Origin::Noise, 9), ["a  b"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(wrapped("a\x1b[2J\x07\tb\r", Origin::Noise, 9), ["a[2J b "]);
    }

    #[test]
    fn origins_are_kept_across_rows() {
        let spans = [("ab".into(), Origin::Kept), ("cd".into(), Origin::Noise)];
        let rows = wrap(&spans, 3);
        assert_eq!(
            rows,
            [
                vec![("ab".into(), Origin::Kept), ("c".into(), Origin::Noise)],
                vec![("d".into(), Origin::Noise)]
            ]
        );
    }

    const SAMPLED: [Token; 3] = [1, 2, 3];

    fn draft<'a>(canvas: &'a [Token; 3], accepted: &'a [bool; 3], step: u32) -> Draft<'a> {
        Draft {
            block: 0,
            step,
            max_steps: 48,
            temperature: 0.8,
            argmax: &SAMPLED,
            sampled: &SAMPLED,
            entropy: &[0.0; 3],
            accepted,
            canvas,
            mean_entropy: 0.0,
            stable: false,
            progress: Progress::Running,
        }
    }

    /// Token 1 is "a", and so on; 0 is a control token.
    fn letter(token: Token) -> Result<Vec<u8>> {
        Ok(if token == 0 {
            vec![]
        } else {
            vec![b'`' + token as u8]
        })
    }

    #[test]
    fn a_token_is_accepted_once_then_kept_and_noise_when_it_is_given_up() {
        let mut live = Live::new(Vec::new(), true, false);
        live.finish_canvas("a line\nx").unwrap();
        let mut origins = |canvas, accepted| {
            let spans = live
                .draft_spans(&draft(&canvas, &accepted, 0), None, letter)
                .unwrap();
            assert_eq!(spans[0], ("x".into(), Origin::Finished));
            spans[1..]
                .iter()
                .map(|(_, origin)| *origin)
                .collect::<Vec<_>>()
        };
        use Origin::{Accepted, Kept, Noise};
        assert_eq!(
            origins([1, 2, 9], [true, true, false]),
            [Accepted, Accepted, Noise]
        );
        assert_eq!(
            origins([1, 5, 9], [true, true, false]),
            [Kept, Accepted, Noise]
        );
        assert_eq!(
            origins([8, 5, 3], [false, true, true]),
            [Noise, Kept, Accepted]
        );
    }

    #[test]
    fn special_tokens_have_no_text() {
        let mut live = Live::new(Vec::new(), true, false);
        let spans = live
            .draft_spans(&draft(&[1, 0, 2], &[true; 3], 0), None, letter)
            .unwrap();
        assert_eq!(texts(&wrap(&spans, 9)), ["ab"]);
    }

    #[test]
    fn the_region_is_drawn_in_place_and_removed() {
        let mut out = Vec::new();
        {
            let mut live = Live::new(&mut out, true, true);
            for step in 0..2 {
                let draft = draft(&[1, 2, 3], &[true; 3], step);
                let spans = live.draft_spans(&draft, None, letter).unwrap();
                live.draw(&spans, &draft, (2, 24)).unwrap();
                assert_eq!(live.rows.len(), 3); // ab, c, and the progress
            }
        }
        let out = String::from_utf8(out).unwrap();
        // The second draft replaces the first one, and the end the second one.
        assert_eq!(out.matches("\x1b[3F\x1b[J").count(), 2, "{out:?}");
        assert_eq!(out.matches("\x1b[?2026h").count(), 2, "{out:?}");
        assert_eq!(out.matches("\x1b[?2026l").count(), 2, "{out:?}");
        assert!(out.ends_with("\x1b[3F\x1b[J\x1b[?25h"), "{out:?}");
    }

    #[test]
    fn a_terminal_that_became_narrower_has_broken_the_rows() {
        let mut live = Live::new(Vec::new(), true, false);
        let draft = draft(&[1, 2, 3], &[true; 3], 0);
        let spans = [("abcdefgh\n日本\n\ni".into(), Origin::Finished)];
        live.draw(&spans, &draft, (80, 24)).unwrap();
        assert_eq!(live.rows, [8, 4, 0, 1]);
        live.out.clear();
        live.draw(&spans, &draft, (3, 24)).unwrap();
        // 3 + 2 + 1 + 1
        let text = String::from_utf8(live.out.clone()).unwrap();
        assert!(text.contains("\x1b[7F\x1b[J"), "{text:?}");
        live.out.clear();
        live.draw(&spans, &draft, (3, 4)).unwrap();
        let text = String::from_utf8(live.out.clone()).unwrap();
        assert!(text.contains("\x1b[3F\x1b[J"), "{text:?}");
    }

    #[test]
    fn complete_lines_scroll_up_and_the_last_one_stays_with_the_draft() {
        let mut live = Live::new(Vec::new(), true, false);
        live.finish_canvas("one\ntwo\nth").unwrap();
        live.finish_canvas("ree").unwrap();
        assert_eq!(live.out, b"one\ntwo\n");
        assert_eq!(live.finish().unwrap(), "three");
    }

    #[test]
    fn hidden_thoughts_leave_a_mark_in_the_draft() {
        let mut live = Live::new(Vec::new(), true, false);
        let channel = serde_json::from_str(r#"{"open": 3, "close": 4}"#).unwrap();
        let mut texts = |canvas| {
            let splitter = Some(Splitter::new(Some(channel)));
            let spans = live.draft_spans(&draft(&canvas, &[true; 3], 0), splitter, letter);
            spans
                .unwrap()
                .into_iter()
                .map(|(text, _)| text)
                .collect::<String>()
        };
        assert_eq!(texts([1, 3, 2]), "a[thinking]");
        assert_eq!(texts([3, 4, 2]), "[thinking]b");
    }

    #[test]
    fn a_region_is_never_higher_than_the_terminal() {
        let mut live = Live::new(Vec::new(), true, false);
        let draft = draft(&[1, 2, 3], &[true; 3], 0);
        let spans = [("v\nw\nx\ny\nz".into(), Origin::Finished)];
        live.draw(&spans, &draft, (80, 4)).unwrap();
        assert_eq!(live.rows.len(), 3);
        let text = String::from_utf8(live.out.clone()).unwrap();
        assert!(
            text.contains("x\r\ny\r\nz\r\n") && !text.contains('w'),
            "{text:?}"
        );
    }
}
