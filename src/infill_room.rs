//! What is left of the texts around a gap if the model has no room for all of them: what is nearest to
//! the gap.

use crate::error::Result;
use crate::infill::InfillExtra;
use crate::text_model::TextModel;

/// Maximum number of tokens of what comes before a gap that the model's turn begins with; the message has
/// all of it.
const TURN: usize = 512;

/// The texts around a gap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GapTexts<'t> {
    /// Other texts, which come first.
    pub extra: &'t [InfillExtra],
    /// What comes before the gap.
    pub before: &'t str,
    /// What comes after it.
    pub after: &'t str,
    /// Maximum number of tokens of `before` that the model's turn begins with.
    pub turn: usize,
}

impl<'t> GapTexts<'t> {
    /// Whole texts.
    pub(crate) fn new(extra: &'t [InfillExtra], before: &'t str, after: &'t str) -> Self {
        Self {
            extra,
            before,
            after,
            turn: TURN,
        }
    }

    /// What is nearest to the gap: at least the last `bytes` of the text before it, and the first of the text
    /// after it, and other texts as long as that. To make tokens of all of a long text takes long.
    pub(crate) fn nearest(&self, bytes: usize) -> Self {
        let mut begin = self.before.len().saturating_sub(bytes);
        while !self.before.is_char_boundary(begin) {
            begin -= 1;
        }
        let mut end = bytes.min(self.after.len());
        while !self.after.is_char_boundary(end) {
            end += 1;
        }
        let mut length = 0;
        let near = self.extra.iter().rev().take_while(|extra| {
            let is_near = length <= bytes;
            length += extra.text.len();
            is_near
        });
        Self {
            extra: &self.extra[self.extra.len() - near.count()..],
            before: &self.before[begin..],
            after: &self.after[..end],
            turn: self.turn,
        }
    }

    /// What is left of them in `room` tokens: the last lines before the gap, the first ones after it, and
    /// the last of the other texts. `repeats` says whether the model's turn begins with the text before.
    pub(crate) fn within(&self, room: usize, repeats: bool, model: &TextModel) -> Result<Self> {
        let count = |text: &str| -> Result<usize> { Ok(model.spelled(text)?.len()) };
        let before = count(self.before)?;
        let turn = match repeats {
            true => TURN.min(room / 4),
            false => 0,
        };
        let left = room - turn.min(before);
        let (before, after) = shares(left, before, count(self.after)?);
        let mut left = left - before - after;
        let mut kept = self.extra.len();
        while let Some(next) = kept.checked_sub(1) {
            let size = model
                .vocab()
                .tokenize(&self.extra[next].shown(), false, false)?;
            let Some(rest) = left.checked_sub(size.len()) else {
                break;
            };
            (left, kept) = (rest, next);
        }
        Ok(Self {
            extra: &self.extra[kept..],
            before: &self.before[model.last_lines(self.before, before)?..],
            after: &self.after[..model.first_lines(self.after, after)?],
            turn,
        })
    }
}

/// How many tokens of texts of `before` and `after` tokens stay in a room: of the text after the gap a
/// quarter of the room, or what the text before leaves.
fn shares(room: usize, before: usize, after: usize) -> (usize, usize) {
    let after = after.min((room / 4).max(room.saturating_sub(before)));
    (before.min(room - after), after)
}

impl TextModel {
    /// Where the last lines of a text begin that have at most `count` tokens. Of a line that has more, its
    /// end.
    pub(crate) fn last_lines(&self, text: &str, count: usize) -> Result<usize> {
        let pieces = self.spelled(text)?;
        let Some(dropped) = pieces.len().checked_sub(count).filter(|n| *n > 0) else {
            return Ok(0);
        };
        let from: usize = pieces[..dropped].iter().map(Vec::len).sum();
        let line_end = text.as_bytes()[from..].iter().position(|b| *b == b'\n');
        let mut begin = line_end.map_or(from, |line_end| from + line_end + 1);
        while !text.is_char_boundary(begin) {
            begin += 1;
        }
        Ok(begin)
    }

    /// Where the first lines of a text end that have at most `count` tokens. Of a line that has more, its
    /// beginning.
    fn first_lines(&self, text: &str, count: usize) -> Result<usize> {
        let pieces = self.spelled(text)?;
        if pieces.len() <= count {
            return Ok(text.len());
        }
        let to: usize = pieces[..count].iter().map(Vec::len).sum();
        let line_end = text.as_bytes()[..to].iter().rposition(|b| *b == b'\n');
        let mut end = line_end.map_or(to, |line_end| line_end + 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_texts_are_whole_characters_and_whole_other_texts() {
        let extra = |text: &str| InfillExtra {
            text: text.into(),
            ..InfillExtra::default()
        };
        let extra = ["far", "near", "next"].map(extra);
        let texts = GapTexts::new(&extra, "aéb", "xéy");
        for (bytes, before, after, extras) in [
            (0, "", "", 1),
            (1, "b", "x", 1),
            (2, "éb", "xé", 1),
            (3, "éb", "xé", 1),
            (4, "aéb", "xéy", 2),
            (7, "aéb", "xéy", 2),
            (8, "aéb", "xéy", 3),
        ] {
            let near = texts.nearest(bytes);
            assert_eq!((near.before, near.after), (before, after), "{bytes}");
            assert_eq!(near.extra, &extra[3 - extras..], "{bytes}");
        }
    }

    #[test]
    fn the_text_before_has_three_quarters_or_what_the_other_leaves() {
        for (room, before, after, expected) in [
            (100, 1000, 1000, (75, 25)),
            (100, 1000, 10, (90, 10)),
            (100, 30, 1000, (30, 70)),
            (100, 60, 40, (60, 40)),
            (100, 0, 1000, (0, 100)),
            (0, 5, 5, (0, 0)),
        ] {
            assert_eq!(shares(room, before, after), expected);
        }
    }
}
