//! The bytes of a model's tokens, in an order in which shared prefixes are read once.

use crate::token::Token;

/// The bytes that each token of a model adds to a text, sorted.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Number of tokens, with those that no text may contain.
    size: usize,
    /// Tokens that a text may contain, in ascending order of their bytes.
    tokens: Vec<Token>,
    /// The bytes of all these tokens, and where each begins.
    bytes: Vec<u8>,
    offsets: Vec<usize>,
    /// Number of bytes that each shares with the one before.
    common: Vec<usize>,
}

impl Vocabulary {
    /// The vocabulary whose token n is the n-th item: its bytes, or `None` if no text may contain it
    /// (control tokens, unused ones). Tokens without bytes count as the latter: they would never bring a
    /// text nearer to its end.
    pub fn new(tokens: impl IntoIterator<Item = Option<Vec<u8>>>) -> Self {
        let mut size = 0;
        let mut sorted: Vec<(Vec<u8>, Token)> = Vec::new();
        for (token, bytes) in tokens.into_iter().enumerate() {
            size = token + 1;
            let bytes = bytes.filter(|bytes| !bytes.is_empty());
            sorted.extend(bytes.map(|bytes| (bytes, token as Token)));
        }
        sorted.sort_unstable();
        let mut vocabulary = Self {
            size,
            tokens: sorted.iter().map(|entry| entry.1).collect(),
            bytes: Vec::with_capacity(sorted.iter().map(|entry| entry.0.len()).sum()),
            offsets: vec![0],
            common: Vec::with_capacity(sorted.len()),
        };
        let mut last: &[u8] = &[];
        for (bytes, _) in &sorted {
            let pairs = bytes.iter().zip(last);
            vocabulary
                .common
                .push(pairs.take_while(|(a, b)| a == b).count());
            vocabulary.bytes.extend_from_slice(bytes);
            vocabulary.offsets.push(vocabulary.bytes.len());
            last = bytes;
        }
        vocabulary
    }

    /// Number of tokens, with those that no text may contain.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of bytes of the longest token.
    pub fn longest(&self) -> usize {
        let lengths = self.offsets.windows(2).map(|w| w[1] - w[0]);
        lengths.max().unwrap_or(0)
    }

    /// The tokens that a text may contain, in ascending order of their bytes: the token, its bytes, and how
    /// many of them the one before shares.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (Token, &[u8], usize)> {
        let bytes = self.offsets.windows(2).map(|w| &self.bytes[w[0]..w[1]]);
        let tokens = self.tokens.iter().zip(bytes).zip(&self.common);
        tokens.map(|((&token, bytes), &common)| (token, bytes, common))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sorted_by_bytes_with_common_prefixes() {
        let texts = [
            Some("ba"),
            None,
            Some("b"),
            Some(""),
            Some("bac"),
            Some("a"),
            Some("b"),
        ];
        let vocabulary = Vocabulary::new(texts.map(|text| text.map(|t| t.as_bytes().to_vec())));
        assert_eq!(vocabulary.size(), 7);
        assert_eq!(vocabulary.longest(), 3);
        let sorted: Vec<_> = vocabulary.sorted().collect();
        let expected: [(Token, &[u8], usize); 5] = [
            (5, b"a", 0),
            (2, b"b", 0),
            (6, b"b", 1),
            (0, b"ba", 1),
            (4, b"bac", 2),
        ];
        assert_eq!(sorted, expected);
    }
}
