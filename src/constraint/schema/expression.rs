//! Regular expressions over bytes, as graphs that share their parts. A tree would hold a part once for
//! each of its uses: exponentially often in nested lists.

use std::rc::Rc;

use regex_syntax::hir::ClassUnicode;
use regex_syntax::utf8::Utf8Sequences;

/// An inclusive range of bytes.
pub(super) type Bytes = (u8, u8);

/// A language. Clones share its parts.
#[derive(Clone, Debug)]
pub(super) struct Expression(Rc<Node>);

#[derive(Debug)]
struct Node {
    kind: Kind,
    size: u64,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// No text at all.
    Nothing,
    /// More states than [`Expression::MAX_SIZE`].
    TooLarge,
    /// Exactly these bytes.
    Text(Vec<u8>),
    /// One of these sequences of ranges.
    Class(Vec<Vec<Bytes>>),
    Graph(Graph),
}

/// The texts on the paths from state 0 to an accepting state.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) accepting: Vec<bool>,
    pub(super) edges: Vec<(usize, Expression, usize)>,
}

impl Graph {
    /// A graph of one state, where it starts.
    pub(super) fn new() -> Self {
        Self {
            accepting: vec![false],
            edges: Vec::new(),
        }
    }

    pub(super) fn state(&mut self) -> usize {
        self.accepting.push(false);
        self.accepting.len() - 1
    }

    pub(super) fn edge(&mut self, from: usize, expression: Expression, to: usize) {
        if !matches!(expression.kind(), Kind::Nothing) {
            self.edges.push((from, expression, to));
        }
    }

    /// Adds an edge to a new state.
    pub(super) fn step(&mut self, from: usize, expression: Expression) -> usize {
        let to = self.state();
        self.edge(from, expression, to);
        to
    }

    pub(super) fn accept(&mut self, state: usize) {
        self.accepting[state] = true;
    }

    pub(super) fn finish(self) -> Expression {
        if !self.accepts_something() {
            return Expression::nothing();
        }
        let states = self.accepting.len() as u64;
        let size = self.edges.iter().fold(states, |size, (_, expression, _)| {
            size.saturating_add(expression.size())
        });
        if size > Expression::MAX_SIZE {
            return Expression::too_large();
        }
        Expression::new(Kind::Graph(self), size)
    }

    fn accepts_something(&self) -> bool {
        let mut targets = vec![Vec::new(); self.accepting.len()];
        for &(from, _, to) in &self.edges {
            targets[from].push(to);
        }
        let mut reached = vec![false; self.accepting.len()];
        reached[0] = true;
        let mut waiting = vec![0];
        while let Some(state) = waiting.pop() {
            if self.accepting[state] {
                return true;
            }
            for &to in &targets[state] {
                if !std::mem::replace(&mut reached[to], true) {
                    waiting.push(to);
                }
            }
        }
        false
    }
}

impl Expression {
    /// States of the automaton that an expression may take up. What is larger is never built.
    pub(super) const MAX_SIZE: u64 = 250_000;

    fn new(kind: Kind, size: u64) -> Self {
        Self(Rc::new(Node { kind, size }))
    }

    pub(super) fn nothing() -> Self {
        Self::new(Kind::Nothing, 0)
    }

    pub(super) fn too_large() -> Self {
        Self::new(Kind::TooLarge, Self::MAX_SIZE + 1)
    }

    pub(super) fn text(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        if size > Self::MAX_SIZE {
            return Self::too_large();
        }
        Self::new(Kind::Text(bytes), size)
    }

    pub(super) fn empty() -> Self {
        Self::text([])
    }

    /// One of these characters, in UTF-8.
    pub(super) fn characters(class: &ClassUnicode) -> Self {
        let ranges = class.ranges().iter();
        let sequences = ranges.flat_map(|range| Utf8Sequences::new(range.start(), range.end()));
        let bytes = |range: &regex_syntax::utf8::Utf8Range| (range.start, range.end);
        let sequences = sequences.map(|sequence| sequence.as_slice().iter().map(bytes).collect());
        Self::class(sequences.collect())
    }

    /// One of these bytes. The ranges ascend.
    pub(super) fn bytes(ranges: impl IntoIterator<Item = Bytes>) -> Self {
        let mut merged: Vec<Vec<Bytes>> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut().map(|range| &mut range[0]) {
                Some((_, end)) if end.checked_add(1) == Some(low) => *end = high,
                _ => merged.push(vec![(low, high)]),
            }
        }
        Self::class(merged)
    }

    /// One ASCII digit of a range, if there is one.
    pub(super) fn digit(from: u8, to: u8) -> Self {
        Self::bytes((from <= to).then_some((b'0' + from, b'0' + to)))
    }

    fn class(sequences: Vec<Vec<Bytes>>) -> Self {
        match sequences.iter().map(Vec::len).sum::<usize>() as u64 {
            0 => Self::nothing(),
            size if size > Self::MAX_SIZE => Self::too_large(),
            size => Self::new(Kind::Class(sequences), size),
        }
    }

    /// One after the other.
    pub(super) fn sequence(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut graph = Graph::new();
        let mut end = 0;
        for part in parts {
            end = graph.step(end, part);
        }
        graph.accept(end);
        graph.finish()
    }

    /// One of them.
    pub(super) fn choice(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut graph = Graph::new();
        let end = graph.state();
        graph.accept(end);
        for part in parts {
            graph.edge(0, part, end);
        }
        match <[_; 1]>::try_from(std::mem::take(&mut graph.edges)) {
            Ok([(_, only, _)]) => only,
            Err(edges) => {
                graph.edges = edges;
                graph.finish()
            }
        }
    }

    pub(super) fn optional(self) -> Self {
        Self::choice([self, Self::empty()])
    }

    /// So many of them, one after the other.
    pub(super) fn repeat(&self, min: usize, max: Option<usize>) -> Self {
        if max.is_some_and(|max| max < min) {
            return Self::nothing();
        }
        let copies = max.unwrap_or(min).max(1) as u64;
        if copies.saturating_mul(self.size().max(1)) > Self::MAX_SIZE {
            return Self::too_large();
        }
        let mut graph = Graph::new();
        let mut end = 0;
        for _ in 0..min {
            end = graph.step(end, self.clone());
        }
        graph.accept(end);
        match max {
            Some(max) => {
                for _ in min..max {
                    end = graph.step(end, self.clone());
                    graph.accept(end);
                }
            }
            // A state of its own: the last of the sequence may be where the graph starts.
            None => {
                let again = graph.step(end, Self::empty());
                graph.edge(again, self.clone(), again);
                graph.accept(again);
            }
        }
        graph.finish()
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// States that it takes up, about.
    pub(super) fn size(&self) -> u64 {
        self.0.size
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.kind(), Kind::Nothing)
    }

    pub(super) fn is_too_large(&self) -> bool {
        matches!(self.kind(), Kind::TooLarge)
    }
}
