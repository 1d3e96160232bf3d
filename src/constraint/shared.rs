//! What an answer is constrained to, ready for one vocabulary.

use std::sync::Arc;

use super::automaton::TokenAutomaton;

/// A language for the tokens of one model, shared by the answers that belong to it.
#[derive(Debug, Clone)]
pub struct Constraint {
    automaton: Arc<TokenAutomaton>,
}

impl Constraint {
    /// For answers that `automaton` accepts.
    pub fn new(automaton: TokenAutomaton) -> Self {
        Self {
            automaton: Arc::new(automaton),
        }
    }

    /// The automaton.
    pub fn automaton(&self) -> &TokenAutomaton {
        &self.automaton
    }
}

impl PartialEq for Constraint {
    /// Whether they share one automaton.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.automaton, &other.automaton)
    }
}
