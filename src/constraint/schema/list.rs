//! What stands between brackets with commas: the items of arrays, and members whose names are free.

use super::expression::{Expression, Graph};
use super::whitespace::Whitespace;

/// A list in brackets.
pub(super) struct List<'a> {
    pub(super) brackets: [&'a str; 2],
    /// The first elements, each of its own kind.
    pub(super) first: &'a [Expression],
    /// All that follow.
    pub(super) rest: &'a Expression,
    pub(super) min: usize,
    pub(super) max: Option<usize>,
}

impl List<'_> {
    pub(super) fn expression(&self, whitespace: Whitespace) -> Expression {
        // Without a maximum, the last counted element repeats.
        let counted = self
            .max
            .unwrap_or_else(|| self.min.max(self.first.len() + 1));
        let states =
            (counted.saturating_sub(self.first.len()) as u64).saturating_mul(self.rest.size());
        if states > Expression::MAX_SIZE {
            return Expression::too_large();
        }
        let mut graph = Graph::new();
        let end = graph.state();
        graph.accept(end);
        let [open, close] = self.brackets;
        let mut after = graph.step(0, Expression::text(open));
        if self.min == 0 {
            graph.edge(after, Expression::text(close), end);
        }
        for index in 0..counted {
            let element = self.first.get(index).unwrap_or(self.rest);
            if element.is_nothing() {
                break;
            }
            let comma = Expression::text(if index == 0 { "" } else { "," });
            let before = graph.step(
                after,
                Expression::sequence([comma, whitespace.before_member()]),
            );
            after = graph.step(before, element.clone());
            if index + 1 >= self.min {
                let close =
                    Expression::sequence([whitespace.before_close(), Expression::text(close)]);
                graph.edge(after, close, end);
            }
            if index + 1 == counted && self.max.is_none() {
                let comma =
                    Expression::sequence([Expression::text(","), whitespace.before_member()]);
                graph.edge(after, comma, before);
            }
        }
        graph.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::tests::dfa;

    #[test]
    fn lists_have_their_lengths_and_commas() {
        let digit = Expression::digit(0, 9);
        let first = [Expression::text("a"), Expression::text("b")];
        for (first, min, max, accepted, rejected) in [
            (
                &first[..0],
                0,
                None,
                vec!["[]", "[1]", "[1,2,3]", "[ 1, 2]", "[\n  1,\n  2\n]"],
                vec!["[,]", "[1,]", "[1 ,2]", "[1,,2]", "[", "1", "[1 ]"],
            ),
            (
                &first[..0],
                2,
                None,
                vec!["[1,2]", "[1,2,3,4]"],
                vec!["[]", "[1]"],
            ),
            (
                &first[..0],
                0,
                Some(2),
                vec!["[]", "[1,2]"],
                vec!["[1,2,3]"],
            ),
            (&first[..0], 0, Some(0), vec!["[]"], vec!["[1]"]),
            (
                &first[..0],
                3,
                Some(2),
                vec![],
                vec!["[]", "[1,2]", "[1,2,3]"],
            ),
            (
                &first[..],
                1,
                None,
                vec!["[a]", "[a,b]", "[a,b,1,2]"],
                vec!["[]", "[b]", "[1]", "[a,1]"],
            ),
            (
                &first[..],
                0,
                Some(3),
                vec!["[]", "[a,b,1]"],
                vec!["[a,b,1,2]"],
            ),
        ] {
            let list = List {
                brackets: ["[", "]"],
                first,
                rest: &digit,
                min,
                max,
            };
            let dfa = dfa(&list.expression(Whitespace::Flexible));
            for text in accepted {
                assert!(dfa.accepts(text.as_bytes()), "{text:?} of {min}..={max:?}");
            }
            for text in rejected {
                assert!(!dfa.accepts(text.as_bytes()), "{text:?} of {min}..={max:?}");
            }
        }
    }

    #[test]
    fn nothing_ends_a_list_and_many_are_too_large() {
        let (nothing, a) = (Expression::nothing(), Expression::text("a"));
        let list = |rest, min, max| {
            List {
                brackets: ["[", "]"],
                first: &[],
                rest,
                min,
                max,
            }
            .expression(Whitespace::Compact)
        };
        assert!(dfa(&list(&nothing, 0, Some(usize::MAX))).accepts(b"[]"));
        assert!(list(&nothing, 1, None).is_nothing());
        assert!(list(&a, 0, Some(usize::MAX)).is_too_large());
        assert!(list(&a, usize::MAX, None).is_too_large());
    }
}
