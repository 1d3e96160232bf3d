//! Stop strings: searched in the whole text of an answer, which arrives in parts.

/// Finds the first stop string. What could be the beginning of one is held back until more text
/// decides it.
#[derive(Clone, Debug, Default)]
pub struct StopFilter {
    /// The stop strings, none of them empty.
    words: Vec<String>,
    /// Text that is not decided yet.
    held: String,
    /// The stop string that was found.
    found: Option<usize>,
}

impl StopFilter {
    /// A filter for these stop strings. Empty ones stop nothing.
    pub fn new(words: &[String]) -> Self {
        Self {
            words: words
                .iter()
                .filter(|word| !word.is_empty())
                .cloned()
                .collect(),
            ..Self::default()
        }
    }

    /// The stop string that ended the text.
    pub fn found(&self) -> Option<&str> {
        self.found.map(|index| self.words[index].as_str())
    }

    /// Takes the next part of the text, and returns what is known to be before any stop string. After
    /// a stop string there is nothing more.
    pub fn push(&mut self, part: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(part);
        let begin = self.first_begin();
        let decided = match begin {
            Some((at, _)) => at,
            None => self.held.len(),
        };
        if let Some((at, Some(word))) = begin {
            self.found = Some(word);
            self.held.truncate(at);
        }
        self.held.drain(..decided).collect()
    }

    /// The rest of the text, which ends here.
    pub fn finish(&mut self) -> String {
        // What was held back for a stop string that is incomplete may contain another one.
        let places = self.held.char_indices().map(|(at, _)| at);
        let whole = places
            .filter_map(|at| Some((at, self.whole_at(at)?)))
            .next();
        if let Some((at, word)) = whole {
            self.found = Some(word);
            self.held.truncate(at);
        }
        std::mem::take(&mut self.held)
    }

    /// The stop string at a place of the text that is held. Of several ones the one that is complete
    /// first counts, so that the parts do not matter.
    fn whole_at(&self, at: usize) -> Option<usize> {
        let words = self.words.iter().enumerate();
        let whole = words.filter(|(_, word)| self.held[at..].starts_with(word.as_str()));
        whole
            .min_by_key(|(_, word)| word.len())
            .map(|(index, _)| index)
    }

    /// Where the first stop string begins, whole or cut off by the end of the text.
    fn first_begin(&self) -> Option<(usize, Option<usize>)> {
        let mut places = self.held.char_indices().map(|(at, _)| at);
        places.find_map(|at| match self.whole_at(at) {
            Some(word) => Some((at, Some(word))),
            None => {
                let rest = &self.held[at..];
                let is_cut = self.words.iter().any(|word| word.starts_with(rest));
                is_cut.then_some((at, None))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// The text before the first stop string, and that string: by the definition.
    fn expected(text: &str, words: &[String]) -> (String, Option<String>) {
        let found = words.iter().filter(|word| !word.is_empty());
        let found =
            found.filter_map(|word| text.find(word.as_str()).map(|at| (at, word.len(), word)));
        match found.min() {
            Some((at, _, word)) => (text[..at].to_owned(), Some(word.clone())),
            None => (text.to_owned(), None),
        }
    }

    fn filtered(parts: &[&str], words: &[String]) -> (String, Option<String>) {
        let mut filter = StopFilter::new(words);
        let mut text: String = parts.iter().map(|part| filter.push(part)).collect();
        text += &filter.finish();
        (text, filter.found().map(str::to_owned))
    }

    #[test]
    fn a_stop_string_across_parts_is_found_and_left_out() {
        let mut filter = StopFilter::new(&words(&["\nUser:", "END"]));
        assert_eq!(filter.push("Hello\nUs"), "Hello");
        assert_eq!(filter.push("er: x"), "");
        assert_eq!(filter.found(), Some("\nUser:"));
        assert_eq!(filter.push("more"), "");
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn what_only_looks_like_one_comes_later() {
        let mut filter = StopFilter::new(&words(&["abab!"]));
        assert_eq!(filter.push("xabab"), "x");
        assert_eq!(filter.push("ab?"), "ababab?");
        assert_eq!(filter.push("ab"), "");
        assert_eq!(filter.finish(), "ab");
        assert_eq!(filter.found(), None);
    }

    #[test]
    fn a_held_beginning_hides_no_later_whole_word() {
        // "abcx" is begun at 0 and wrong at 3, "bc" is whole at 1.
        let stop = words(&["abcx", "bc"]);
        assert_eq!(
            filtered(&["abc", "d"], &stop),
            ("a".into(), Some("bc".into()))
        );
        assert_eq!(
            filtered(&["abc", "x"], &stop),
            (String::new(), Some("abcx".into()))
        );
    }

    #[test]
    fn at_the_end_a_held_beginning_hides_no_whole_word() {
        let stop = words(&["abcx", "bc"]);
        assert_eq!(
            filtered(&["ab", "c"], &stop),
            ("a".into(), Some("bc".into()))
        );
    }

    #[test]
    fn empty_stop_strings_stop_nothing() {
        assert_eq!(filtered(&["a", "b"], &words(&[""])), ("ab".into(), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn parts_do_not_matter(
            text in "[ab]{0,6}\u{e9}?[ab]{0,6}",
            stop in prop::collection::vec("[ab]{0,4}\u{e9}?", 0..4),
            cuts in prop::collection::vec(0usize..25, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(filtered(&parts, &stop), expected(&text, &stop));
        }
    }
}
