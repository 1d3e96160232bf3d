//! A draft as rows of text, coloured by the state of each token.

use std::fmt;
use std::mem;

use crossterm::style::{StyledContent, Stylize as _};
use llama_diffusion::chat::thinking::{Section, Splitter};
use llama_diffusion::diffusion::{CanvasStatus, Draft, NewCanvas};
use llama_diffusion::{Result, Token, Utf8Stream};
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::PieceOf;

/// The state of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Of a finished canvas.
    Finished,
    /// Accepted in an earlier step, and again.
    Kept,
    /// Accepted in this step.
    Accepted,
    /// Random again, where the step before accepted a token.
    GivenUp,
    /// Random, where the model is nearly sure of what belongs there.
    Likely,
    /// Random, to be denoised.
    Noise,
}

/// Entropy in nats below which the model is nearly sure: two tokens that are equally likely have
/// 0.69.
const LIKELY: f32 = 0.7;

impl Origin {
    fn style(self, text: &str) -> StyledContent<&str> {
        match self {
            Self::Finished | Self::Kept => text.stylize(),
            Self::Accepted => text.green(),
            Self::GivenUp => text.dark_red(),
            Self::Likely => text.dark_yellow().dim(),
            Self::Noise => text.dim(),
        }
    }

    pub fn is_noise(self) -> bool {
        matches!(self, Self::GivenUp | Self::Likely | Self::Noise)
    }
}

pub type Span = (String, Origin);

/// Replaces a hidden thought.
const THINKING: &str = "[thinking]";

/// The tokens that were accepted in the latest draft of a canvas, by position.
#[derive(Default)]
pub struct Accepted(Vec<Option<Token>>);

impl Accepted {
    /// The text of a draft, a span for each position.
    pub fn spans(
        &mut self,
        draft: &Draft<'_>,
        hidden: Option<Splitter>,
        piece: PieceOf<'_>,
    ) -> Result<Vec<Span>> {
        let origins = self.origins(draft);
        spans(draft.canvas.iter().copied().zip(origins), hidden, piece)
    }

    fn origins(&mut self, draft: &Draft<'_>) -> Vec<Origin> {
        self.0.resize(draft.canvas.len(), None);
        let origin = |(position, before): (usize, &mut Option<Token>)| {
            let token = draft.canvas[position];
            let accepted = draft.accepted[position];
            let before = mem::replace(before, accepted.then_some(token));
            match accepted {
                true if before == Some(token) => Origin::Kept,
                true => Origin::Accepted,
                false if before.is_some() => Origin::GivenUp,
                false if draft.entropy[position] < LIKELY => Origin::Likely,
                false => Origin::Noise,
            }
        };
        self.0.iter_mut().enumerate().map(origin).collect()
    }
}

/// The text of a canvas that no step has read, a span for each position.
pub fn noise(
    canvas: &NewCanvas<'_>,
    hidden: Option<Splitter>,
    piece: PieceOf<'_>,
) -> Result<Vec<Span>> {
    let positions = canvas.tokens.iter().map(|&token| (token, Origin::Noise));
    spans(positions, hidden, piece)
}

/// The text of each position. Special tokens have none, nor have the thoughts that `hidden` finds.
fn spans(
    positions: impl Iterator<Item = (Token, Origin)>,
    mut hidden: Option<Splitter>,
    piece: PieceOf<'_>,
) -> Result<Vec<Span>> {
    let thinking = || (THINKING.into(), Origin::Noise);
    // A thought of an earlier canvas, or one that the prompt opened.
    let mut opened = hidden.as_ref().is_some_and(Splitter::is_thinking);
    let mut text = Utf8Stream::new();
    let span = |(token, origin): (Token, Origin)| {
        let part = match &mut hidden {
            Some(splitter) if origin.is_noise() => splitter.section_of_noise(),
            Some(splitter) => splitter.push(token),
            None => Section::Answer,
        };
        Ok(match part {
            Section::Answer => (text.push(&piece(token)?), origin),
            Section::Mark if hidden.as_ref().is_some_and(Splitter::is_thinking) => thinking(),
            Section::Thought if mem::take(&mut opened) => thinking(),
            Section::Mark | Section::Thought => (String::new(), origin),
        })
    };
    positions.map(span).collect()
}

/// Breaks text into rows of at most `width` columns.
pub fn wrap(spans: &[Span], width: usize) -> Vec<Vec<Span>> {
    let text: String = spans.iter().map(|(text, _)| text.as_str()).collect();
    let mut rows = vec![Vec::new()];
    let mut column = 0;
    let mut run = String::new();
    let mut run_origin = Origin::Finished;
    let mut ends = spans.iter().scan(0, |end, (text, origin)| {
        *end += text.len();
        Some((*end, *origin))
    });
    let mut span = ends.next();
    for (at, cluster) in text.grapheme_indices(true) {
        // A character may consist of several tokens: the first one determines its colour.
        while span.is_some_and(|(end, _)| end <= at) {
            span = ends.next();
        }
        let origin = span.map_or(run_origin, |(_, origin)| origin);
        // Noise must not move the rows below it.
        let is_break = cluster.ends_with('\n') && !origin.is_noise();
        let columns = columns(cluster);
        if is_break || column + columns > width {
            push(&mut rows, &mut run, run_origin);
            rows.push(Vec::new());
            column = 0;
        }
        if origin != run_origin {
            push(&mut rows, &mut run, run_origin);
            run_origin = origin;
        }
        if !is_break {
            run.extend(cluster.chars().filter_map(shown));
            column += columns;
        }
    }
    push(&mut rows, &mut run, run_origin);
    rows
}

/// The replacement of a character. Control characters could change the terminal in any way.
pub fn shown(character: char) -> Option<char> {
    match character.is_whitespace() {
        true => Some(' '),
        false => character.width().map(|_| character),
    }
}

/// A number of columns that no terminal exceeds: some give a joined emoji the width of its parts,
/// others the width of one.
fn columns(cluster: &str) -> usize {
    let shown: String = cluster.chars().filter_map(shown).collect();
    let parts: usize = shown.chars().filter_map(char::width).sum();
    parts.max(shown.width())
}

fn push(rows: &mut [Vec<Span>], run: &mut String, origin: Origin) {
    if let Some(row) = rows.last_mut()
        && !run.is_empty()
    {
        row.push((mem::take(run), origin));
    }
}

/// A row with its colours, as escape sequences.
pub fn painted(row: &[Span]) -> String {
    row.iter()
        .map(|(text, origin)| origin.style(text).to_string())
        .collect()
}

/// The progress of a canvas.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Index of the canvas.
    block: u32,
    /// Completed steps.
    steps: u32,
    max_steps: u32,
    /// Tokens that the last step accepted.
    pub accepted: usize,
    /// Tokens of the canvas.
    pub tokens: usize,
    /// Whether another step follows.
    runs: bool,
}

impl From<&NewCanvas<'_>> for Status {
    fn from(canvas: &NewCanvas<'_>) -> Self {
        Self {
            block: canvas.block,
            steps: 0,
            max_steps: canvas.max_steps,
            accepted: 0,
            tokens: canvas.tokens.len(),
            runs: true,
        }
    }
}

impl From<&Draft<'_>> for Status {
    fn from(draft: &Draft<'_>) -> Self {
        Self {
            block: draft.block,
            steps: draft.step + 1,
            max_steps: draft.max_steps,
            accepted: draft.accepted.iter().filter(|a| **a).count(),
            tokens: draft.canvas.len(),
            runs: draft.status == CanvasStatus::Running,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "canvas {}, step {} of {}: {} of {} tokens accepted",
            self.block + 1,
            self.steps,
            self.max_steps,
            self.accepted,
            self.tokens
        )
    }
}

const BAR: usize = 24;

impl Status {
    /// The same as a bar, in at most `width` columns.
    pub fn line(&self, width: usize) -> String {
        let done = match self.runs {
            true => self.steps as usize * BAR / self.max_steps as usize,
            false => BAR,
        };
        let (done, open) = ("#".repeat(done), " ".repeat(BAR - done));
        let line = format!("[{done}{open}] {self}");
        line.chars().take(width).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn wrapped(text: &str, origin: Origin, width: usize) -> Vec<String> {
        texts(&wrap(&[(text.into(), origin)], width))
    }

    fn texts(rows: &[Vec<Span>]) -> Vec<String> {
        let text = |row: &Vec<Span>| row.iter().map(|(text, _)| text.as_str()).collect();
        rows.iter().map(text).collect()
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
    fn what_is_one_character_for_the_reader_is_not_broken() {
        let family = "\u{1f469}\u{200d}\u{1f467}";
        assert_eq!(
            wrapped(&format!("ab{family}c"), Origin::Kept, 5),
            ["ab", &format!("{family}c")]
        );
        // A heart with the mark that makes it an emoji usually takes two columns.
        assert_eq!(
            wrapped("abc\u{2764}\u{fe0f}", Origin::Kept, 4),
            ["abc", "\u{2764}\u{fe0f}"]
        );
        // The same over two tokens.
        let spans = [
            ("ab\u{1f469}".into(), Origin::Kept),
            ("\u{200d}\u{1f467}c".into(), Origin::Noise),
        ];
        assert_eq!(
            wrap(&spans, 5),
            [
                vec![("ab".into(), Origin::Kept)],
                vec![(family.into(), Origin::Kept), ("c".into(), Origin::Noise)]
            ]
        );
    }

    #[test]
    fn lines_of_noise_are_not_broken() {
        assert_eq!(wrapped("a\n\nb", Origin::Kept, 9), ["a", "", "b"]);
        assert_eq!(wrapped("a\r\nb", Origin::Kept, 9), ["a", "b"]);
        assert_eq!(wrapped("a\n\nb", Origin::Noise, 9), ["a  b"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(wrapped("a\x1b[2J\x07\tb\r", Origin::Noise, 9), ["a[2J b "]);
    }

    #[test]
    fn origins_are_kept_across_rows() {
        let spans = [("ab".into(), Origin::Kept), ("cd".into(), Origin::Noise)];
        assert_eq!(
            wrap(&spans, 3),
            [
                vec![("ab".into(), Origin::Kept), ("c".into(), Origin::Noise)],
                vec![("d".into(), Origin::Noise)]
            ]
        );
    }

    const SAMPLED: [Token; 3] = [1, 2, 3];

    pub fn draft<'a>(canvas: &'a [Token; 3], accepted: &'a [bool; 3]) -> Draft<'a> {
        Draft {
            block: 0,
            step: 0,
            max_steps: 48,
            temperature: 0.8,
            argmax: &SAMPLED,
            sampled: &SAMPLED,
            entropy: &[0.0, 0.1, 2.0],
            probability: &[0.9; 3],
            accepted,
            canvas,
            mean_entropy: 0.0,
            stable: false,
            status: CanvasStatus::Running,
        }
    }

    /// Token 1 is "a", and so on; 0 is a control token.
    pub fn letter(token: Token) -> Result<Vec<u8>> {
        Ok(if token == 0 {
            vec![]
        } else {
            vec![b'`' + token as u8]
        })
    }

    #[test]
    fn a_token_is_accepted_once_then_kept_and_noise_when_it_is_given_up() {
        let mut before = Accepted::default();
        let mut origins = |canvas, accepted| -> Vec<Origin> {
            let spans = before
                .spans(&draft(&canvas, &accepted), None, &letter)
                .unwrap();
            spans.iter().map(|(_, origin)| *origin).collect()
        };
        use Origin::{Accepted as New, GivenUp, Kept, Likely, Noise};
        assert_eq!(origins([1, 2, 9], [true, true, false]), [New, New, Noise]);
        assert_eq!(origins([1, 5, 9], [true, true, false]), [Kept, New, Noise]);
        assert_eq!(
            origins([8, 5, 3], [false, true, true]),
            [GivenUp, Kept, New]
        );
        assert_eq!(
            origins([8, 5, 3], [false, true, true]),
            [Likely, Kept, Kept]
        );
    }

    #[test]
    fn special_tokens_have_no_text() {
        let spans = Accepted::default().spans(&draft(&[1, 0, 2], &[true; 3]), None, &letter);
        assert_eq!(texts(&wrap(&spans.unwrap(), 9)), ["ab"]);
    }

    #[test]
    fn hidden_thoughts_leave_a_mark_in_the_draft() {
        let channel = serde_json::from_str(r#"{"open": 3, "close": 4}"#).unwrap();
        let texts_after = |splitter, canvas, accepted: [bool; 3]| {
            let spans = Accepted::default().spans(&draft(canvas, &accepted), splitter, &letter);
            spans
                .unwrap()
                .into_iter()
                .map(|(text, _)| text)
                .collect::<String>()
        };
        let outside = Splitter::new(Some(channel));
        let texts = |canvas, accepted| texts_after(Some(outside.clone()), canvas, accepted);
        assert_eq!(texts(&[1, 3, 2], [true; 3]), "a[thinking]");
        assert_eq!(texts(&[3, 4, 2], [true; 3]), "[thinking]b");
        // An end mark without a beginning.
        assert_eq!(texts(&[1, 4, 2], [true; 3]), "ab");
        let inside = || Some(outside.clone().in_thought());
        assert_eq!(texts_after(inside(), &[1, 4, 2], [true; 3]), "[thinking]b");
        // Noise belongs to what surrounds it, and neither begins nor ends a thought.
        let noise = [true, false, true];
        assert_eq!(texts(&[3, 1, 4], noise), "[thinking]");
        assert_eq!(texts(&[3, 4, 2], noise), "[thinking]");
        assert_eq!(texts(&[1, 3, 2], noise), "acb");
        assert_eq!(texts_after(inside(), &[1, 2, 4], [false; 3]), "[thinking]");
    }
}
