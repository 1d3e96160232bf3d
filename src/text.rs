//! Text from token pieces, which may end in the middle of a character.

use std::char::REPLACEMENT_CHARACTER;

/// Turns a stream of bytes into a stream of text.
///
/// A tokenizer with byte fallback spreads one character over several tokens. The bytes of an
/// incomplete character are held back until the rest arrives; bytes that can never become a
/// character turn into U+FFFD. All outputs together equal [`String::from_utf8_lossy`] of all inputs
/// together, however they were split.
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    /// The beginning of a character: at most three bytes.
    held_back: Vec<u8>,
}

impl Utf8Stream {
    /// A stream at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, and returns the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut input = std::mem::take(&mut self.held_back);
        input.extend_from_slice(bytes);
        let mut text = String::with_capacity(input.len());
        let mut chunks = input.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && may_become_a_character(invalid) {
                self.held_back = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(REPLACEMENT_CHARACTER);
            }
        }
        text
    }

    /// Ends the stream: returns U+FFFD if a character is incomplete, else nothing.
    pub fn finish(&mut self) -> String {
        if std::mem::take(&mut self.held_back).is_empty() {
            String::new()
        } else {
            REPLACEMENT_CHARACTER.into()
        }
    }
}

fn may_become_a_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pieces: &[&[u8]]) -> Vec<String> {
        let mut stream = Utf8Stream::new();
        let mut texts: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        texts.push(stream.finish());
        texts
    }

    #[test]
    fn complete_text_passes_at_once() {
        assert_eq!(
            stream(&["Grüße".as_bytes(), b"", b"!"]),
            ["Grüße", "", "!", ""]
        );
    }

    #[test]
    fn an_emoji_split_at_every_byte_arrives_whole() {
        let text = "a🦙é€b".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                let texts = stream(&pieces);
                assert_eq!(texts.concat(), "a🦙é€b");
                assert!(texts.iter().all(|t| !t.contains(REPLACEMENT_CHARACTER)));
            }
        }
    }

    #[test]
    fn single_bytes_are_held_back_until_the_last() {
        let bytes = "🦙".as_bytes();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(stream(&pieces), ["", "", "", "🦙", ""]);
    }

    #[test]
    fn what_can_never_be_a_character_is_replaced_at_once() {
        assert_eq!(stream(&[b"a\xffb"]), ["a\u{fffd}b", ""]);
        assert_eq!(stream(&[b"\xf0\x9f", b"x"]), ["", "\u{fffd}x", ""]);
        assert_eq!(
            stream(&[b"\xed\xa0", b"\x80"]),
            ["\u{fffd}\u{fffd}", "\u{fffd}", ""]
        );
    }

    #[test]
    fn an_incomplete_end_is_replaced_once() {
        assert_eq!(stream(&[b"ok\xf0\x9f\xa6"]), ["ok", "\u{fffd}"]);
        let mut stream = Utf8Stream::new();
        stream.push(b"\xc3");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
        assert_eq!(stream.push(b"\xa9"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select("é€🦙\u{7ff}".as_bytes().to_vec())],
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut pieces = Vec::new();
            for end in ends {
                pieces.push(&bytes[start..end]);
                start = end;
            }
            prop_assert_eq!(stream(&pieces).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
