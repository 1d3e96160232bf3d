//! A language whose texts all begin with known bytes.

use super::bytes::{ByteAutomaton, DEAD};

impl ByteAutomaton {
    /// Its texts, each after the bytes `before`.
    ///
    /// Read token by token, a text has tokens across the edge wherever the vocabulary has them.
    #[must_use]
    pub fn after(mut self, before: &[u8]) -> Self {
        for byte in before.iter().rev() {
            self = self.after_byte(*byte);
        }
        self
    }

    fn after_byte(mut self, byte: u8) -> Self {
        self.separate(byte);
        let (count, class) = (self.class_count, usize::from(self.class_of(byte)));
        let later = |state: &u32| if *state == DEAD { DEAD } else { *state + 1 };
        let mut table = vec![DEAD; count];
        table[class] = 1;
        table.extend(self.table.iter().map(later));
        self.accepting.insert(0, false);
        Self { table, ..self }
    }

    /// Gives `byte` a class of its own, if it shares one: not all bytes of that begin a text.
    fn separate(&mut self, byte: u8) {
        let shared = self.class_of(byte);
        if self
            .classes
            .iter()
            .filter(|class| **class == shared)
            .count()
            == 1
        {
            return;
        }
        let count = self.class_count;
        // Fewer than 256 classes, as two bytes share one.
        self.classes[usize::from(byte)] = count as u8;
        let rows = self.table.chunks_exact(count);
        let with_own = |row: &[u32]| [row, &[row[usize::from(shared)]]].concat();
        self.table = rows.flat_map(with_own).collect();
        self.class_count = count + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::Limits;

    #[test]
    fn each_text_follows_the_known_bytes_and_nothing_else_does() {
        for (before, pattern) in [
            (" ", "[a-z ]+"),
            ("  ", "^a?$"),
            ("é", "(?x) a b # comment"),
            ("", "a*"),
            ("aaab", "a*b"),
        ] {
            let language = ByteAutomaton::from_regex(pattern, &Limits::default()).unwrap();
            let longer = language.clone().after(before.as_bytes());
            for text in ["", "a", "b", "ab", " a", "aab", "a b", "é", "zz"] {
                for front in ["", " ", "  ", "é", "aaab", "aab"] {
                    let whole = format!("{front}{text}");
                    let rest = whole.strip_prefix(before);
                    let expected = rest.is_some_and(|rest| language.matches(rest.as_bytes()));
                    assert_eq!(
                        longer.matches(whole.as_bytes()),
                        expected,
                        "{pattern}: {whole:?}"
                    );
                }
            }
        }
    }
}
