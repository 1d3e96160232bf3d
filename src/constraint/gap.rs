//! The language of a text with a gap: what comes before and after it is known.

use regex_syntax::hir::{Dot, Hir, Repetition};

use super::bytes::ByteAutomaton;
use super::error::{Limits, Result};

impl ByteAutomaton {
    /// The texts that begin with `before` and end with `after`, with any characters between them.
    ///
    /// Read token by token, a text of it has tokens across both edges of the gap wherever the vocabulary
    /// has them.
    ///
    /// # Errors
    /// [`ConstraintError::TooLarge`](super::ConstraintError::TooLarge).
    pub fn around_gap(before: &[u8], after: &[u8], limits: &Limits) -> Result<Self> {
        let any = Hir::repetition(Repetition {
            min: 0,
            max: None,
            greedy: true,
            sub: Box::new(Hir::dot(Dot::AnyChar)),
        });
        let hir = Hir::concat(vec![Hir::literal(before), any, Hir::literal(after)]);
        Self::from_hir(&hir, limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(before: &str, after: &str, text: &str) -> bool {
        let automaton =
            ByteAutomaton::around_gap(before.as_bytes(), after.as_bytes(), &Limits::default());
        automaton.unwrap().matches(text.as_bytes())
    }

    #[test]
    fn what_is_known_frames_any_text() {
        for gap in ["", "x", "\n\r\n\t", "é🦙", "ab", "aab.", "\0"] {
            for (before, after) in [
                ("", ""),
                ("a", "ab"),
                ("é", "🦙"),
                ("(.*", "$^\\"),
                ("", "aa"),
                ("\n", ""),
            ] {
                assert!(matches(before, after, &format!("{before}{gap}{after}")));
                for text in [
                    format!("{before}{gap}{after}?"),
                    format!("?{before}{gap}{after}"),
                ] {
                    let expected = text.len() >= before.len() + after.len()
                        && text.starts_with(before)
                        && text.ends_with(after);
                    assert_eq!(matches(before, after, &text), expected, "{text:?}");
                }
            }
        }
        // They may not overlap.
        assert!(!matches("ab", "ba", "aba"));
        assert!(matches("ab", "ba", "abba"));
    }

    #[test]
    fn a_gap_holds_characters_and_no_other_bytes() {
        let automaton = ByteAutomaton::around_gap(b"a", b"b", &Limits::default()).unwrap();
        assert!(automaton.matches("aéb".as_bytes()));
        assert!(!automaton.matches(b"a\xc3b"));
        // The edges may lie within a character.
        let [first, second] = [0xc3, 0xa9];
        let edge = ByteAutomaton::around_gap(&[second], &[first], &Limits::default()).unwrap();
        assert!(edge.matches(&[second, b'x', first]));
    }
}
