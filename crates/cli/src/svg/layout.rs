//! The position of the text of each token, in columns and rows.

use std::iter;

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use crate::view::{Span, shown};

/// Columns of a row.
pub const COLUMNS: usize = 72;

/// Fills the columns of a token of noise whose text is narrower.
const BLANK: char = '·';

/// Columns of a token whose final text is empty.
const MAX_NOISE: usize = 8;

/// A part of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Area {
    pub row: usize,
    pub column: usize,
    /// In columns.
    pub width: usize,
    pub text: String,
}

/// The place of a token, or of several that make a character together.
#[derive(Debug, Default, PartialEq)]
pub struct Cell {
    /// The tokens' positions in the canvas.
    pub positions: Vec<usize>,
    /// Its final text.
    pub text: String,
    areas: Vec<Area>,
}

impl Cell {
    /// The layout of the tokens with this text. Noise fills its columns.
    pub fn show(&self, text: &str, is_noise: bool) -> Vec<Area> {
        if text == self.text {
            return self.areas.clone();
        }
        let widest = self.areas.iter().rev().max_by_key(|area| area.width);
        let show = |area: &Area| {
            let mut text = cut(text, area.width);
            if is_noise {
                let rest = area.width - text.width();
                text.extend(iter::repeat_n(BLANK, rest));
            }
            Area {
                text,
                ..area.clone()
            }
        };
        widest.map(show).into_iter().collect()
    }

    fn put(&mut self, row: usize, column: usize, text: &str, width: usize) {
        match self.areas.last_mut() {
            Some(area) if area.row == row && area.column + area.width == column => {
                area.text += text;
                area.width += width;
            }
            _ => self.areas.push(Area {
                row,
                column,
                width,
                text: text.to_owned(),
            }),
        }
    }
}

/// The text that is already laid out.
#[derive(Default)]
pub struct Layout {
    row: usize,
    column: usize,
    rows: usize,
}

impl Layout {
    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Places the finished texts of a canvas's positions after the existing ones, broken between
    /// words. Positions of `noise` after the last text get columns of their own.
    pub fn place(&mut self, texts: &[String], noise: &[Span]) -> Vec<Cell> {
        let mut cells = cells(texts);
        let glyphs: Vec<Glyph> = cells
            .iter()
            .enumerate()
            .flat_map(|(cell, of)| of.text.graphemes(true).map(move |g| Glyph::new(cell, g)))
            .collect();
        for (index, glyph) in glyphs.iter().enumerate() {
            let begins = index.checked_sub(1).is_none_or(|i| !glyphs[i].is_ink());
            let word = glyphs[index..].iter().take_while(|glyph| glyph.is_ink());
            let width: usize = word.map(|glyph| glyph.width).sum();
            let fits = self.column + width <= COLUMNS || width > COLUMNS;
            if glyph.breaks || (glyph.is_ink() && begins && !fits) {
                self.break_row();
            }
            if !glyph.breaks && (glyph.is_ink() || self.column + glyph.width <= COLUMNS) {
                self.put(&mut cells[glyph.cell], &glyph.text, glyph.width);
            }
        }
        let end = texts.iter().rposition(|text| !text.is_empty());
        let rest = end.map_or(0, |last| last + 1);
        for (position, (text, _)) in noise.iter().enumerate().skip(rest) {
            let width = printable(text).width().min(MAX_NOISE);
            let mut cell = Cell {
                positions: vec![position],
                ..Cell::default()
            };
            self.put(&mut cell, "", width);
            cells.push(cell);
        }
        cells
    }

    /// The following text begins below an empty row.
    pub fn end_answer(&mut self) {
        self.row = self.rows + 1;
        self.column = 0;
    }

    fn put(&mut self, cell: &mut Cell, text: &str, width: usize) {
        if self.column + width > COLUMNS {
            self.break_row();
        }
        cell.put(self.row, self.column, text, width);
        self.column += width;
        self.rows = self.rows.max(self.row + 1);
    }

    fn break_row(&mut self) {
        self.row += 1;
        self.column = 0;
    }
}

/// What a reader sees as one character.
struct Glyph {
    cell: usize,
    text: String,
    width: usize,
    breaks: bool,
}

impl Glyph {
    fn new(cell: usize, cluster: &str) -> Self {
        let text = printable(cluster);
        Self {
            cell,
            width: text.width(),
            breaks: cluster.ends_with('\n'),
            text,
        }
    }

    fn is_ink(&self) -> bool {
        !self.breaks && self.text != " "
    }
}

/// A cell for each position with text. One that continues the previous character shares its cell.
fn cells(texts: &[String]) -> Vec<Cell> {
    let whole = texts.concat();
    let mut begins = whole.grapheme_indices(true).map(|(at, _)| at).peekable();
    let mut cells: Vec<Cell> = Vec::new();
    let mut at = 0;
    for (position, text) in texts.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
        while begins.next_if(|begin| *begin < at).is_some() {}
        if begins.peek() == Some(&at) {
            cells.push(Cell::default());
        }
        if let Some(cell) = cells.last_mut() {
            cell.positions.push(position);
            cell.text += text;
        }
        at += text.len();
    }
    cells
}

/// The part of a text that fits this number of columns.
fn cut(text: &str, width: usize) -> String {
    let mut rest = width;
    let fits = |cluster: &String| match rest.checked_sub(cluster.width()) {
        Some(less) => {
            rest = less;
            true
        }
        None => false,
    };
    text.graphemes(true)
        .map(printable)
        .take_while(fits)
        .collect()
}

/// A text that can be drawn: without what would end a row, change its direction, or be invalid in
/// XML.
pub fn printable(text: &str) -> String {
    text.chars().filter_map(drawn).collect()
}

fn drawn(character: char) -> Option<char> {
    match character {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        '\u{fffe}' | '\u{ffff}' => Some(char::REPLACEMENT_CHARACTER),
        _ => shown(character),
    }
}
