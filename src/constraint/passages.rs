//! Whether a language has texts with passages that are known.

use super::automaton::{State, TokenAutomaton};
use crate::token::Token;

impl TokenAutomaton {
    /// The number of the first of the `passages` that no text has after all those before it; `None` if there is
    /// a text with all of them, in order. `begins` is whether the first one begins the text.
    pub fn first_missing(&self, passages: &[&[Token]], begins: bool) -> Option<usize> {
        let mut states = vec![self.start()];
        for (number, passage) in passages.iter().enumerate() {
            if number > 0 || !begins {
                states = self.with_later(states);
            }
            let after = |state: &State| {
                let mut tokens = passage.iter();
                tokens.try_fold(*state, |state, token| self.next(state, *token))
            };
            states = states.iter().filter_map(after).collect();
            if states.is_empty() {
                return Some(number);
            }
        }
        None
    }

    /// These states and all that can follow.
    fn with_later(&self, mut states: Vec<State>) -> Vec<State> {
        let mut known = vec![false; self.state_count()];
        states
            .iter()
            .for_each(|state| known[state.0 as usize] = true);
        let mut next = 0;
        while let Some(state) = states.get(next) {
            for edge in self.outgoing.of(state.0) {
                if !std::mem::replace(&mut known[edge.state as usize], true) {
                    states.push(State(edge.state));
                }
            }
            next += 1;
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::{ByteAutomaton, Limits, Vocabulary};

    #[test]
    fn passages_are_found_in_order() {
        let texts = ["a", "b", "ab", "\n"];
        let vocabulary = Vocabulary::new(texts.map(|text| Some(text.as_bytes().to_vec())));
        let missing = |pattern: &str, passages: &[&[Token]], begins: bool| {
            let limits = Limits::default();
            let language = ByteAutomaton::from_regex(pattern, &limits).unwrap();
            let automaton = TokenAutomaton::filling(&language, &vocabulary, &limits);
            automaton.unwrap().first_missing(passages, begins)
        };
        assert_eq!(missing("a+b", &[], true), None);
        assert_eq!(missing("a+b", &[&[2]], false), None);
        assert_eq!(missing("a+b", &[&[0, 0], &[1]], true), None);
        assert_eq!(missing("a+b", &[&[1], &[0]], false), Some(1));
        assert_eq!(missing("a+b", &[&[1]], true), Some(0));
        assert_eq!(
            missing("a{2}\n(ab)*", &[&[0, 3], &[2], &[0, 1]], false),
            None
        );
        assert_eq!(
            missing("a{2}\n(ab)?", &[&[0, 3], &[2], &[0, 1]], false),
            Some(2)
        );
        // Each passage is a part of its own.
        assert_eq!(missing("a{3}", &[&[0, 0], &[0, 0]], false), Some(1));
        assert_eq!(missing("a{3}", &[&[7]], false), Some(0));
    }
}
