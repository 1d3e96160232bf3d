//! Expressions as automata over bytes: nondeterministic for the schema as a whole, deterministic for
//! intersections.

use std::collections::HashMap;

use regex_automata::nfa::thompson::{BuildError, Builder, NFA, Transition};
use regex_automata::util::primitives::StateID;

use super::expression::{Bytes, Expression, Graph, Kind};
use crate::constraint::determinize::{Determinized, determinize};
use crate::constraint::error::Limits;

/// Elementary steps that all intersections of a schema may take together.
const MAX_STEPS: usize = 10_000_000;

/// Transitions of one automaton of an intersection.
const MAX_TRANSITIONS: usize = 500_000;

/// States of an intersection, and the steps that each of its edges counts for.
const MAX_PRODUCT: usize = 1 << 15;
const STEPS_OF_EDGE: usize = 8;

/// An automaton that is too large to build.
#[derive(Debug)]
pub(super) struct TooLarge;

impl From<BuildError> for TooLarge {
    fn from(_: BuildError) -> Self {
        Self
    }
}

/// The NFA of an expression: anchored, for matches of the whole text.
pub(super) fn nfa(expression: &Expression) -> Result<NFA, TooLarge> {
    let mut builder = Builder::new();
    builder.start_pattern()?;
    let accept = builder.add_match()?;
    let start = add(&mut builder, expression, accept)?;
    builder.finish_pattern(start)?;
    Ok(builder.build(start, start)?)
}

/// Adds the states of an expression that goes on in `next`, and returns its first.
fn add(builder: &mut Builder, expression: &Expression, next: StateID) -> Result<StateID, TooLarge> {
    match expression.kind() {
        Kind::Nothing => Ok(builder.add_fail()?),
        Kind::TooLarge => Err(TooLarge),
        Kind::Text(bytes) => {
            let ranges = bytes.iter().map(|&byte| (byte, byte));
            add_ranges(builder, ranges, next)
        }
        Kind::Class(sequences) => {
            let first = builder.add_union(Vec::new())?;
            for sequence in sequences {
                let start = add_ranges(builder, sequence.iter().copied(), next)?;
                builder.patch(first, start)?;
            }
            Ok(first)
        }
        Kind::Graph(graph) => add_graph(builder, graph, next),
    }
}

fn add_ranges(
    builder: &mut Builder,
    ranges: impl DoubleEndedIterator<Item = Bytes>,
    mut next: StateID,
) -> Result<StateID, TooLarge> {
    for (start, end) in ranges.rev() {
        next = builder.add_range(Transition { start, end, next })?;
    }
    Ok(next)
}

fn add_graph(builder: &mut Builder, graph: &Graph, next: StateID) -> Result<StateID, TooLarge> {
    let mut states = Vec::with_capacity(graph.accepting.len());
    for &accepting in &graph.accepting {
        let alternatives = if accepting { vec![next] } else { Vec::new() };
        states.push(builder.add_union(alternatives)?);
    }
    for (from, expression, to) in &graph.edges {
        let first = add(builder, expression, states[*to])?;
        builder.patch(states[*from], first)?;
    }
    Ok(states[0])
}

/// What is left of the work that the intersections of a schema may cause.
pub(super) struct Effort(usize);

impl Effort {
    pub(super) fn new() -> Self {
        Self(MAX_STEPS)
    }

    fn spend(&mut self, steps: usize) -> Result<(), TooLarge> {
        self.0 = self.0.checked_sub(steps).ok_or(TooLarge)?;
        Ok(())
    }
}

/// A deterministic automaton for matches of the whole text.
pub(super) struct Dfa(Determinized);

impl Dfa {
    pub(super) fn new(expression: &Expression, effort: &mut Effort) -> Result<Self, TooLarge> {
        let limits = Limits {
            determinize_steps: effort.0,
            byte_transitions: MAX_TRANSITIONS,
            ..Limits::default()
        };
        let dfa = determinize(&nfa(expression)?, &limits).map_err(|_| TooLarge)?;
        effort.spend(dfa.steps)?;
        Ok(Self(dfa))
    }

    pub(super) fn accepts(&self, text: &[u8]) -> bool {
        let step = |state, &byte: &u8| {
            let ranges = self.ranges(state);
            let range = ranges
                .iter()
                .find(|(low, high, _)| (*low..=*high).contains(&byte));
            range.map(|&(_, _, next)| next)
        };
        text.iter()
            .try_fold(0, step)
            .is_some_and(|state| self.is_accepting(state))
    }

    fn is_accepting(&self, state: u32) -> bool {
        self.0.accepting[state as usize]
    }

    fn ranges(&self, state: u32) -> &[(u8, u8, u32)] {
        let state = state as usize;
        &self.0.ranges[self.0.offsets[state]..self.0.offsets[state + 1]]
    }
}

/// The texts of both.
pub(super) fn intersection(
    a: &Expression,
    b: &Expression,
    effort: &mut Effort,
) -> Result<Expression, TooLarge> {
    let (a, b) = (Dfa::new(a, effort)?, Dfa::new(b, effort)?);
    let mut graph = Graph::new();
    let mut pairs = vec![(0, 0)];
    let mut numbers = HashMap::from([((0, 0), 0)]);
    let mut done = 0;
    while let Some(&(in_a, in_b)) = pairs.get(done) {
        if a.is_accepting(in_a) && b.is_accepting(in_b) {
            graph.accept(done);
        }
        let targets = targets(a.ranges(in_a), b.ranges(in_b));
        effort.spend(STEPS_OF_EDGE * (targets.len() + 1))?;
        for (target, ranges) in targets {
            let to = *numbers.entry(target).or_insert_with(|| {
                pairs.push(target);
                graph.state()
            });
            graph.edge(done, Expression::bytes(ranges), to);
        }
        if pairs.len() > MAX_PRODUCT {
            return Err(TooLarge);
        }
        done += 1;
    }
    Ok(graph.finish())
}

/// Where a pair of states goes, and by which bytes.
fn targets(a: &[(u8, u8, u32)], b: &[(u8, u8, u32)]) -> Vec<((u32, u32), Vec<Bytes>)> {
    let mut targets: Vec<((u32, u32), Vec<Bytes>)> = Vec::new();
    for &(low_a, high_a, to_a) in a {
        for &(low_b, high_b, to_b) in b {
            let (low, high) = (low_a.max(low_b), high_a.min(high_b));
            if low > high {
                continue;
            }
            match targets.iter_mut().find(|(known, _)| *known == (to_a, to_b)) {
                Some((_, ranges)) => ranges.push((low, high)),
                None => targets.push(((to_a, to_b), vec![(low, high)])),
            }
        }
    }
    targets
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn dfa(expression: &Expression) -> Dfa {
        Dfa::new(expression, &mut Effort::new()).unwrap()
    }

    #[test]
    fn expressions_match_as_a_whole() {
        let a = || Expression::text("a");
        let b = || Expression::text("b");
        for (expression, accepted, rejected) in [
            (Expression::empty(), vec![""], vec!["a"]),
            (Expression::nothing(), vec![], vec!["", "a"]),
            (
                a().repeat(2, Some(3)),
                vec!["aa", "aaa"],
                vec!["a", "aaaa", "aab"],
            ),
            (a().repeat(0, None), vec!["", "a", "aaaaa"], vec!["b"]),
            (a().repeat(3, None), vec!["aaa", "aaaaa"], vec!["aa"]),
            (a().optional().repeat(0, None), vec!["", "aa"], vec!["b"]),
            (a().repeat(2, Some(1)), vec![], vec!["", "a", "aa"]),
            (Expression::nothing().repeat(0, None), vec![""], vec!["a"]),
            (
                Expression::choice([a(), Expression::sequence([a(), b()])]),
                vec!["a", "ab"],
                vec!["b", "abb", ""],
            ),
            (
                Expression::sequence([a(), Expression::nothing()]),
                vec![],
                vec!["a"],
            ),
            (
                Expression::bytes([(b'a', b'c'), (b'x', b'x')]),
                vec!["b", "x"],
                vec!["d", "bx"],
            ),
        ] {
            let dfa = dfa(&expression);
            for text in accepted {
                assert!(dfa.accepts(text.as_bytes()), "{expression:?} {text:?}");
            }
            for text in rejected {
                assert!(!dfa.accepts(text.as_bytes()), "{expression:?} {text:?}");
            }
        }
    }

    #[test]
    fn an_intersection_has_the_texts_of_both() {
        let letters = Expression::bytes([(b'a', b'c')]).repeat(2, Some(5));
        let end = Expression::sequence([
            Expression::bytes([(b'a', b'z')]).repeat(0, None),
            Expression::text("c"),
        ]);
        let both = dfa(&intersection(&letters, &end, &mut Effort::new()).unwrap());
        for (text, expected) in [
            ("c", false),
            ("ac", true),
            ("abac", true),
            ("abcabc", false),
            ("xc", false),
            ("ab", false),
        ] {
            assert_eq!(both.accepts(text.as_bytes()), expected, "{text}");
        }
        let none = intersection(&letters, &Expression::text("x"), &mut Effort::new()).unwrap();
        assert!(none.is_nothing());
    }

    #[test]
    fn exponential_automata_are_too_large() {
        let letter = Expression::bytes([(b'a', b'b')]);
        let tail = Expression::sequence([
            letter.repeat(0, None),
            Expression::text("a"),
            letter.repeat(30, Some(30)),
        ]);
        assert!(intersection(&tail, &tail, &mut Effort::new()).is_err());
        assert!(Dfa::new(&letter.repeat(0, Some(1 << 20)), &mut Effort::new()).is_err());
    }
}
