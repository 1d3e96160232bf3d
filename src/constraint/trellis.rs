//! The positions and states of a canvas, and the ways between them.

use super::automaton::TokenAutomaton;
use super::edges::{Edge, distances};
use super::language::CanvasLanguage;

/// Positions × states, with a further state for the tail: what comes after the end token.
pub(super) struct Trellis<'a> {
    pub language: &'a CanvasLanguage<'a>,
    pub automaton: &'a TokenAutomaton,
    /// The tail's number, after those of the automaton's states.
    pub tail: usize,
    /// Fewest tokens from the start to each state.
    reached: Vec<usize>,
}

/// A way into a state: from a state, by a group of classes, or by any token within the tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub from: usize,
    pub group: Option<u32>,
}

impl<'a> Trellis<'a> {
    pub(super) fn new(language: &'a CanvasLanguage<'a>) -> Self {
        let automaton = language.automaton();
        let reached = distances(&automaton.outgoing, [language.start().0]);
        Self {
            language,
            automaton,
            tail: automaton.state_count(),
            reached: reached
                .into_iter()
                .map(|d| d.unwrap_or(usize::MAX))
                .collect(),
        }
    }

    /// Number of states with the tail.
    pub(super) fn width(&self) -> usize {
        self.tail + 1
    }

    pub(super) fn positions(&self) -> usize {
        self.language.len()
    }

    pub(super) fn start(&self) -> usize {
        self.language.start().0 as usize
    }

    /// The states in which the text can be after `tokens` tokens.
    pub(super) fn open(&self, tokens: usize) -> impl Iterator<Item = usize> {
        let open = move |&state: &usize| {
            self.reached[state] <= tokens && self.language.affords(state as u32, tokens)
        };
        (0..self.tail).filter(open)
    }

    /// All ways into `state`.
    pub(super) fn steps_into(&self, state: usize) -> Vec<Step> {
        if state != self.tail {
            let edges = self.automaton.incoming.of(state as u32).iter();
            let step = |edge: &Edge| Step {
                from: edge.state as usize,
                group: Some(edge.group),
            };
            return edges.map(step).collect();
        }
        let ends = self.automaton.accepting.iter().map(|&state| Step {
            from: state as usize,
            group: Some(self.automaton.end),
        });
        let stay = Step {
            from: self.tail,
            group: None,
        };
        ends.chain([stay]).collect()
    }
}
