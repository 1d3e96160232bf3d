//! A film as SVG. Pieces that are visible at the same time are one group, which a CSS animation
//! shows and hides.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::ops::Range;
use std::time::Duration;

use super::film::{Colour, Film, Piece};
use super::layout::COLUMNS;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// When frames begin.
pub struct Clock {
    frame: Duration,
    frames: usize,
    length: Duration,
}

impl Clock {
    /// This number of frames of the same duration, the last of which is held.
    pub fn new(frame: Duration, frames: usize, hold: Duration) -> Self {
        let frames_take = frame.saturating_mul(u32::try_from(frames).unwrap_or(u32::MAX));
        Self {
            frame,
            frames,
            length: frames_take.saturating_add(hold),
        }
    }

    /// The duration until the animation repeats.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The beginning of a frame, as a share of the duration.
    fn begin(&self, frame: usize) -> Percent {
        match frame < self.frames {
            true => Percent(frame as f64 * self.share(self.frame).0),
            false => Percent(100.0),
        }
    }

    fn share(&self, time: Duration) -> Percent {
        Percent(time.as_secs_f64() / self.length.as_secs_f64() * 100.0)
    }
}

/// A share of the film's duration, in CSS syntax.
#[derive(Clone, Copy)]
struct Percent(f64);

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:.3}", self.0);
        write!(f, "{}%", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// How long an accepted token is shown as new.
const FADE: Duration = Duration::from_millis(900);

// In pixels.
const COLUMN: usize = 9; // 0.6 em, as in most monospaced fonts
const ROW: usize = 23;
const BASELINE: usize = 16;
const MARGIN: usize = 22;
const FOOTER: usize = 44;
const BAR: usize = 12;
const CAPTION: usize = 38;
const WIDTH: usize = COLUMNS * COLUMN + 2 * MARGIN;

const STYLE: &str = "\
svg{--back:#fff;--line:#d1d9e0;--text:#1f2328;--note:#59636e;--noise:#a5afba;--likely:#c2a05a;--new:#1a7f37;--lost:#cf222e}\
@media(prefers-color-scheme:dark){svg{--back:#0d1117;--line:#3d444d;--text:#f0f6fc;--note:#9198a1;--noise:#59636e;\
--likely:#7d6632;--new:#3fb950;--lost:#f85149}}\
text{font:15px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;white-space:pre}\
.s,.s text{font-size:12px}.e{text-anchor:end}\
.n{fill:var(--noise)}.l{fill:var(--likely)}.g{fill:var(--lost)}.a{fill:var(--text)}.s{fill:var(--note)}.w{fill:var(--new)}\
.h{visibility:hidden}.b{transform-box:fill-box;transform-origin:left}";

impl Colour {
    /// The class in [`STYLE`].
    fn class(self) -> char {
        match self {
            Self::Noise => 'n',
            Self::Likely => 'l',
            Self::GivenUp => 'g',
            Self::Accepted => 'a',
        }
    }
}

/// A whole SVG document.
pub fn document(film: &Film, clock: &Clock) -> String {
    let mut drawing = Drawing {
        clock,
        frames: film.frames(),
        names: BTreeMap::new(),
        keyframes: String::new(),
        body: String::new(),
    };
    let text = film.rows.max(1) * ROW;
    drawing.footer(film, MARGIN + text);
    drawing.text(film);
    let Drawing {
        keyframes, body, ..
    } = drawing;
    let height = 2 * MARGIN + text + FOOTER;
    let (inner_width, inner_height) = (WIDTH - 1, height - 1);
    let label = escaped(film.text.trim_end());
    let seconds = clock.length().as_secs_f64();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\" xml:space=\"preserve\">\
         <style>{STYLE}\n\
         @media(prefers-reduced-motion:no-preference){{.k{{animation:{seconds}s step-end infinite}}}}\n\
         {keyframes}</style>\n\
         <rect x=\".5\" y=\".5\" width=\"{inner_width}\" height=\"{inner_height}\" rx=\"9\" \
         style=\"fill:var(--back);stroke:var(--line)\"/>\n\
         {body}</svg>\n"
    )
}

/// A document while it is written.
struct Drawing<'a> {
    clock: &'a Clock,
    frames: usize,
    /// The animation of what is visible in these frames, and whether its colour fades.
    names: BTreeMap<(usize, usize, bool), usize>,
    keyframes: String,
    body: String,
}

impl Drawing<'_> {
    fn text(&mut self, film: &Film) {
        let mut groups: BTreeMap<(usize, usize, Colour), Vec<&Piece>> = BTreeMap::new();
        for piece in &film.pieces {
            let key = (piece.frames.start, piece.frames.end, piece.colour);
            groups.entry(key).or_default().push(piece);
        }
        for ((start, end, colour), pieces) in groups {
            let texts = texts(pieces);
            self.group(
                start..end,
                colour.class(),
                colour == Colour::Accepted,
                &texts,
            );
        }
    }

    /// The bar, the line below it, and the legend of the colours.
    fn footer(&mut self, film: &Film, top: usize) {
        let width = COLUMNS * COLUMN;
        let bar = format!(
            "x=\"{MARGIN}\" y=\"{}\" width=\"{width}\" height=\"3\" rx=\"1.5\"",
            top + BAR
        );
        let shares = film.captions.iter().enumerate().map(|(frame, caption)| {
            format!(
                "{}{{transform:scaleX({:.3})}}",
                self.clock.begin(frame),
                caption.share
            )
        });
        let shares: String = shares.collect();
        let _ = writeln!(self.keyframes, "@keyframes b{{{shares}}}");
        let y = top + CAPTION;
        let right = WIDTH - MARGIN;
        let _ = write!(
            self.body,
            "<rect {bar} style=\"fill:var(--line)\"/>\
             <rect class=\"w b k\" style=\"animation-name:b\" {bar}/>\n\
             <text class=\"s e\" x=\"{right}\" y=\"{y}\"><tspan class=\"n\">noise</tspan>  \
             <tspan class=\"l\">nearly sure</tspan>  <tspan class=\"w\">accepted</tspan>  \
             <tspan class=\"g\">given up</tspan></text>\n"
        );
        for (frame, caption) in film.captions.iter().enumerate() {
            let text = format!(
                "<text x=\"{MARGIN}\" y=\"{y}\">{}</text>",
                escaped(&caption.text)
            );
            self.group(frame..frame + 1, 's', false, &text);
        }
    }

    /// What is visible in some frames. Without animations, the last one is.
    fn group(&mut self, frames: Range<usize>, class: char, fades: bool, content: &str) {
        let hidden = match frames.end < self.frames {
            true => " h",
            false => "",
        };
        let name = self.animation(frames, fades);
        let _ = writeln!(
            self.body,
            "<g class=\"{class}{hidden} k\" style=\"animation-name:k{name}\">{content}</g>"
        );
    }

    fn animation(&mut self, frames: Range<usize>, fades: bool) -> usize {
        let next = self.names.len();
        let key = (frames.start, frames.end, fades);
        let name = *self.names.entry(key).or_insert(next);
        if name == next {
            self.write_animation(name, &frames, fades);
        }
        name
    }

    fn write_animation(&mut self, name: usize, frames: &Range<usize>, fades: bool) {
        let (begin, end) = (self.clock.begin(frames.start), self.clock.begin(frames.end));
        let css = &mut self.keyframes;
        let _ = write!(css, "@keyframes k{name}{{");
        if frames.start > 0 {
            css.push_str("0%{visibility:hidden}");
        }
        let _ = write!(css, "{begin}{{visibility:visible");
        if fades {
            let plain = Percent((begin.0 + self.clock.share(FADE).0).min(end.0));
            css.push_str(";fill:var(--new);animation-timing-function:ease-in}");
            let _ = write!(css, "{plain}{{fill:var(--text)");
        }
        css.push('}');
        if frames.end < self.frames {
            let _ = write!(css, "{end}{{visibility:hidden}}");
        }
        css.push_str("}\n");
    }
}

/// Pieces of one group; adjacent ones are joined.
fn texts(mut pieces: Vec<&Piece>) -> String {
    pieces.sort_by_key(|piece| (piece.area.row, piece.area.column));
    let mut rows: Vec<(usize, usize, String)> = Vec::new();
    for piece in pieces {
        let area = &piece.area;
        if let Some((row, column, text)) = rows.last_mut()
            && *row == area.row
            && let Some(gap) = area.column.checked_sub(*column + text.width())
            && gap <= MAX_GAP
            && is_monospaced(text)
            && is_monospaced(&area.text)
        {
            text.extend(std::iter::repeat_n(' ', gap));
            text.push_str(&area.text);
        } else {
            rows.push((area.row, area.column, area.text.clone()));
        }
    }
    rows.iter()
        .map(|(row, column, text)| line(*row, *column, text))
        .collect()
}

/// Number of spaces that cost less than another element.
const MAX_GAP: usize = 12;

/// Whether all characters are of the reader's monospaced font, as Latin, Greek and Cyrillic letters
/// are. Others come from fonts of other widths, which must not move their neighbours.
fn is_monospaced(text: &str) -> bool {
    text.chars().all(|c| c < '\u{530}' && c.width() == Some(1))
}

/// The width is given because fonts differ.
fn line(row: usize, column: usize, text: &str) -> String {
    let ink = text.trim_start();
    let column = column + text.width() - ink.width();
    let ink = ink.trim_end();
    if ink.is_empty() {
        return String::new();
    }
    format!(
        "<text x=\"{}\" y=\"{}\" textLength=\"{}\">{}</text>",
        MARGIN + column * COLUMN,
        MARGIN + row * ROW + BASELINE,
        ink.width() * COLUMN,
        escaped(ink)
    )
}

/// Text between tags or quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::layout::Area;
    use super::*;

    #[test]
    fn only_text_of_one_width_shares_an_element() {
        let elements = |first: &str, column: usize, second: &str| {
            let piece = |column, text: &str| Piece {
                area: Area {
                    row: 0,
                    column,
                    width: text.width(),
                    text: text.to_owned(),
                },
                colour: Colour::Accepted,
                frames: 0..1,
            };
            let (first, second) = (piece(0, first), piece(column, second));
            texts(vec![&second, &first])
        };
        assert_eq!(
            elements(" ab", 5, "c "),
            r#"<text x="31" y="38" textLength="45">ab  c</text>"#
        );
        let two = |texts: String| texts.matches("<text ").count() == 2;
        assert!(two(elements("a", 2 + MAX_GAP, "b")));
        for other in ["漢", "\u{2764}\u{fe0f}", "\u{fffd}", "e\u{301}", "\u{5d0}"] {
            assert!(two(elements(other, other.width(), "a")), "{other}");
            assert!(two(elements("a", 1, other)), "{other}");
        }
    }

    #[test]
    fn times_are_shares_of_all_frames_and_the_hold() {
        let seconds = Duration::from_secs;
        let clock = Clock::new(seconds(1), 3, seconds(3));
        assert_eq!(clock.length(), seconds(6));
        let begin = |frame| clock.begin(frame).to_string();
        assert_eq!(
            [begin(0), begin(1), begin(2), begin(3)],
            ["0%", "16.667%", "33.333%", "100%"]
        );
    }
}
