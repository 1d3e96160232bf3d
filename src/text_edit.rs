//! The text side of an edit: lines that stay, and the message that asks for the rest.

use std::ops::RangeInclusive;

use serde_json::Map;

use crate::chat::thinking::{AnswerText, Section, Splitter};
use crate::diffusion::Token;
use crate::diffusion::edit::Original;
use crate::error::{Error, Result};
use crate::parameter::Parameter;
use crate::text_model::TextModel;

/// The message of the user that asks for an edit: the instruction, a colon and the text.
pub fn edit_message(instruction: &str, text: &str) -> String {
    let instruction = instruction.trim_end();
    let instruction = instruction.strip_suffix(':').unwrap_or(instruction);
    format!("{instruction}: {text}")
}

impl TextModel {
    /// A text to edit with this `strength`, of which the `protected` lines, counted from 1, stay byte for
    /// byte, with the line ends around them.
    ///
    /// # Errors
    /// The text is empty or has no such line, the strength is out of range, or the vocabulary cannot
    /// spell the text.
    pub fn original(
        &self,
        text: &str,
        protected: &[RangeInclusive<usize>],
        strength: f32,
    ) -> Result<Original> {
        let (mut tokens, mut marks) = (Vec::new(), Vec::new());
        for (piece, is_protected) in pieces(text, protected)? {
            let piece = self.vocab().tokenize(piece, false, false)?;
            marks.resize(marks.len() + piece.len(), is_protected);
            tokens.extend(piece);
        }
        if self.vocab().detokenize(&tokens, false)? != text {
            let problem = "the vocabulary cannot spell the text to edit".into();
            return Err(Error::Tokenizer(problem));
        }
        let end = self.answer_end(self.chat_template()?.as_ref(), Map::new())?;
        Ok(Original::new(tokens, marks, strength)?.ending_with(end))
    }

    /// The text of `answer`, an edit of `original`, separate from its thoughts, as
    /// [`answer_text`](Self::answer_text). What is protected is always part of the text: a thought that
    /// contains it counts as text.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn edited_text(
        &self,
        prompt: &[Token],
        original: &Original,
        answer: &[Token],
    ) -> Result<AnswerText> {
        let tokens = self.edited_tokens(prompt, original, answer);
        let splitter = Splitter::new(self.splitter(prompt).channel());
        AnswerText::new(self.vocab(), splitter, &tokens)
    }

    /// The tokens of that text and its thoughts: marks are only around what counts as a thought. The
    /// prompt does not open one for them, and they begin with all that `answer` has before its first mark,
    /// unless the prompt opens a thought.
    pub fn edited_tokens(
        &self,
        prompt: &[Token],
        original: &Original,
        answer: &[Token],
    ) -> Vec<Token> {
        let splitter = self.splitter(prompt);
        let Some(channel) = splitter.channel() else {
            return answer.to_vec();
        };
        let mut parts = parts(splitter, answer);
        keep_protected(&mut parts, original);
        let mut tokens = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            tokens.extend(part.thinks.then(|| channel.open()));
            tokens.extend(part.tokens);
            tokens.extend((part.thinks && !is_last).then(|| channel.close()));
        }
        tokens
    }
}

/// A part of an answer between marks of thoughts.
struct Part<'t> {
    tokens: &'t [Token],
    /// Whether it is a thought.
    thinks: bool,
}

/// The parts of an answer.
fn parts(mut splitter: Splitter, answer: &[Token]) -> Vec<Part<'_>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut thinks = splitter.is_thinking();
    for (at, &token) in answer.iter().enumerate() {
        if splitter.push(token) == Section::Mark {
            let tokens = &answer[start..at];
            parts.push(Part { tokens, thinks });
            (start, thinks) = (at + 1, splitter.is_thinking());
        }
    }
    let tokens = &answer[start..];
    parts.push(Part { tokens, thinks });
    parts
}

/// Takes the thoughts for text without which something that is protected would be missing.
fn keep_protected(parts: &mut [Part<'_>], original: &Original) {
    let whole: Vec<bool> = parts.iter().map(|part| part.thinks).collect();
    let has_all = |parts: &[Part<'_>]| {
        let text = parts.iter().filter(|part| !part.thinks);
        let text: Vec<Token> = text.flat_map(|part| part.tokens.iter().copied()).collect();
        original.is_kept_in(&text)
    };
    if has_all(parts) {
        return;
    }
    parts.iter_mut().for_each(|part| part.thinks = false);
    // Of an edit that was cut, something is missing in any case.
    let is_cut = !has_all(parts);
    for (index, thinks) in whole.into_iter().enumerate().filter(|(_, thinks)| *thinks) {
        parts[index].thinks = thinks;
        parts[index].thinks = is_cut || has_all(parts);
    }
}

/// A text in pieces of which all lines are protected, or none.
fn pieces<'t>(text: &'t str, protected: &[RangeInclusive<usize>]) -> Result<Vec<(&'t str, bool)>> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for range in protected {
        let (first, last) = (*range.start(), *range.end());
        if first == 0 || last < first || last > lines.len() {
            let (count, problem) = (lines.len(), format!("{first}-{last}"));
            return Err(Error::parameter(
                Parameter::Protected,
                format!("the text has no lines {problem}: it has 1 to {count}"),
            ));
        }
    }
    let is_protected = |line: usize| protected.iter().any(|range| range.contains(&(line + 1)));
    // The byte at which each piece ends. The line end before a protected line is protected as well.
    let mut pieces: Vec<(&str, bool)> = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut take = |end: usize, marked: bool, start: &mut usize| {
        if end > *start {
            pieces.push((&text[*start..end], marked));
            *start = end;
        }
    };
    for (line, content) in lines.iter().enumerate() {
        let next_is_protected = line + 1 < lines.len() && is_protected(line + 1);
        end += content.len();
        let line_end = if content.ends_with("\r\n") { 2 } else { 1 };
        match (is_protected(line), next_is_protected) {
            (false, true) => take(end - line_end, false, &mut start),
            (true, false) => take(end, true, &mut start),
            _ => {}
        }
    }
    take(
        end,
        lines.last().is_some_and(|_| is_protected(lines.len() - 1)),
        &mut start,
    );
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_one_colon() {
        for instruction in [
            "Change red to blue",
            "Change red to blue:",
            "Change red to blue: ",
        ] {
            assert_eq!(edit_message(instruction, "Hi"), "Change red to blue: Hi");
        }
    }

    /// Which parts are thoughts in the end, of parts with these tokens and whether they began as thoughts.
    fn kept(parts: &[(&'static [Token], bool)]) -> Vec<bool> {
        let marks = vec![false, true, false, true];
        let original = Original::new(vec![10, 11, 12, 13], marks, 0.5).unwrap();
        let part = |(tokens, thinks): &(&'static [Token], bool)| Part {
            tokens,
            thinks: *thinks,
        };
        let mut parts: Vec<Part<'_>> = parts.iter().map(part).collect();
        keep_protected(&mut parts, &original);
        parts.iter().map(|part| part.thinks).collect()
    }

    #[test]
    fn a_thought_that_has_what_is_protected_is_text() {
        assert_eq!(kept(&[(&[5], true), (&[11, 6, 13], false)]), [true, false]);
        assert_eq!(
            kept(&[(&[5], true), (&[11], true), (&[12, 13], false)]),
            [true, false, false]
        );
        assert_eq!(kept(&[(&[11], true), (&[13], true)]), [false, false]);
    }

    #[test]
    fn the_thoughts_of_an_edit_that_was_cut_stay_thoughts() {
        // Token 13 was never written, so that text would not be whole with them either.
        assert_eq!(kept(&[(&[10], false), (&[11], true)]), [false, true]);
        assert_eq!(kept(&[(&[5], true), (&[11, 12], false)]), [true, false]);
    }

    #[test]
    fn protected_lines_have_the_line_ends_around_them() {
        let text = "a\nb\nc\nd";
        let split = |protected: &[RangeInclusive<usize>]| pieces(text, protected).unwrap();
        assert_eq!(split(&[]), [(text, false)]);
        assert_eq!(split(&[1..=4]), [(text, true)]);
        assert_eq!(split(&[1..=1]), [("a\n", true), ("b\nc\nd", false)]);
        assert_eq!(
            split(&[2..=2, 4..=4]),
            [("a", false), ("\nb\n", true), ("c", false), ("\nd", true)]
        );
        assert_eq!(
            split(&[2..=3]),
            [("a", false), ("\nb\nc\n", true), ("d", false)]
        );
        assert_eq!(
            pieces("a\r\nb\r\nc", &[2..=2]).unwrap(),
            [("a", false), ("\r\nb\r\n", true), ("c", false)]
        );
        assert_eq!(pieces("", &[]).unwrap(), []);
        assert_eq!(
            pieces("\n\nx", &[3..=3]).unwrap(),
            [("\n", false), ("\nx", true)]
        );
        for range in [0..=1, 5..=5, 4..=5, RangeInclusive::new(3, 2)] {
            let error = pieces(text, &[range]).unwrap_err().to_string();
            assert!(
                error.starts_with("protected: the text has no lines "),
                "{error}"
            );
        }
    }
}
