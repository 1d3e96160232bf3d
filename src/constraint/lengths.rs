//! How many tokens the texts of a language may have, and which of its tokens may stand where.

use super::automaton::TokenAutomaton;
use super::edges::Edges;
use crate::token::Token;

impl TokenAutomaton {
    /// The numbers of tokens, from 1 to `max`, that a text may have, ascending.
    pub fn lengths(&self, max: usize) -> Vec<usize> {
        let reached = self.spread([0], &self.outgoing, max);
        let ends = |states: &Vec<bool>| self.accepting.iter().any(|state| states[*state as usize]);
        (1..=max).filter(|len| ends(&reached[*len])).collect()
    }

    /// For each position of the texts of `len` tokens, the classes that one of them has there, ascending.
    pub fn classes_at(&self, len: usize) -> Vec<Vec<u16>> {
        let before = self.spread([0], &self.outgoing, len);
        let after = self.spread(self.accepting.iter().copied(), &self.incoming, len);
        let at = |position: usize| {
            let mut classes = vec![false; self.class_count()];
            let left = &after[len - position - 1];
            for (state, _) in before[position].iter().enumerate().filter(|(_, is)| **is) {
                let edges = self.outgoing.of(state as u32).iter();
                for edge in edges.filter(|edge| left[edge.state as usize]) {
                    let group = &self.groups[edge.group as usize];
                    group.iter().for_each(|k| classes[usize::from(*k)] = true);
                }
            }
            chosen(&classes)
        };
        (0..len).map(at).collect()
    }

    /// The classes of all tokens that texts may have, ascending.
    pub fn text_classes(&self) -> Vec<u16> {
        let mut classes = vec![false; self.class_count()];
        for state in 0..self.state_count() as u32 {
            for edge in self.outgoing.of(state) {
                let group = &self.groups[edge.group as usize];
                group.iter().for_each(|k| classes[usize::from(*k)] = true);
            }
        }
        chosen(&classes)
    }

    /// Whether no token ends its texts: see [`filling`](Self::filling).
    pub fn is_filling(&self) -> bool {
        self.groups[self.end as usize].is_empty()
    }

    /// The tokens of some classes.
    pub(crate) fn tokens_of(&self, classes: &[u16]) -> impl Iterator<Item = Token> {
        classes
            .iter()
            .flat_map(|class| self.members(*class))
            .copied()
    }

    /// For each number of tokens up to `max`, the states that are so many edges from `sources`.
    fn spread(
        &self,
        sources: impl IntoIterator<Item = u32>,
        edges: &Edges,
        max: usize,
    ) -> Vec<Vec<bool>> {
        let mut first = vec![false; self.state_count()];
        sources
            .into_iter()
            .for_each(|state| first[state as usize] = true);
        let mut all = vec![first];
        for tokens in 0..max {
            let mut next = vec![false; self.state_count()];
            for (state, _) in all[tokens].iter().enumerate().filter(|(_, is)| **is) {
                let neighbours = edges.of(state as u32).iter();
                neighbours.for_each(|edge| next[edge.state as usize] = true);
            }
            all.push(next);
        }
        all
    }
}

fn chosen(classes: &[bool]) -> Vec<u16> {
    let classes = classes.iter().enumerate().filter(|(_, is)| **is);
    classes.map(|(class, _)| class as u16).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex::Regex;

    use super::*;
    use crate::constraint::{ByteAutomaton, Limits, Vocabulary};

    /// Token 3 stands in no text.
    const TEXTS: [Option<&str>; 6] = [
        Some("a"),
        Some("b"),
        Some("ab"),
        None,
        Some("é"),
        Some("ba"),
    ];

    fn automaton(pattern: &str) -> TokenAutomaton {
        let limits = Limits::default();
        let language = ByteAutomaton::from_regex(pattern, &limits).unwrap();
        let vocabulary = Vocabulary::new(TEXTS.map(|text| text.map(|t| t.as_bytes().to_vec())));
        TokenAutomaton::filling(&language, &vocabulary, &limits).unwrap()
    }

    /// All texts of `len` tokens that the expression matches.
    fn texts(pattern: &str, len: u32) -> Vec<Vec<usize>> {
        let regex = Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        let count = TEXTS.len();
        let all = (0..count.pow(len))
            .map(|n| -> Vec<usize> { (0..len).map(|i| n / count.pow(i) % count).collect() });
        let is_text = |tokens: &Vec<usize>| {
            let pieces: Option<String> = tokens.iter().map(|token| TEXTS[*token]).collect();
            pieces.is_some_and(|text| regex.is_match(&text))
        };
        all.filter(is_text).collect()
    }

    #[test]
    fn lengths_and_places_are_those_of_the_enumerated_texts() {
        const MAX: usize = 5;
        for pattern in [
            "a",
            "(ab){2}",
            "a*b",
            "é?(ab|ba)+",
            "(aba|bab){1,2}",
            "[abé]{3}",
            "a?",
        ] {
            let automaton = automaton(pattern);
            assert!(automaton.is_filling());
            let has_texts = |len: &usize| !texts(pattern, *len as u32).is_empty();
            let lengths: Vec<usize> = (1..=MAX).filter(has_texts).collect();
            assert_eq!(automaton.lengths(MAX), lengths, "{pattern}");
            let mut all = BTreeSet::new();
            for len in 1..=MAX {
                let places = automaton.classes_at(len);
                assert_eq!(places.len(), len);
                for (position, classes) in places.iter().enumerate() {
                    let found: BTreeSet<Token> = automaton.tokens_of(classes).collect();
                    let expected: BTreeSet<Token> = texts(pattern, len as u32)
                        .iter()
                        .map(|tokens| tokens[position] as Token)
                        .collect();
                    assert_eq!(found, expected, "{pattern}: {position} of {len}");
                    all.extend(found);
                }
            }
            let possible = automaton.text_classes();
            assert_eq!(automaton.tokens_of(&possible).collect::<BTreeSet<_>>(), all);
        }
    }
}
