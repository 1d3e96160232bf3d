//! Which canvases continue a text of a language.

use super::automaton::{State, TokenAutomaton};
use super::error::{ConstraintError, Result};
use crate::token::Token;

/// The canvases that continue a text of a language.
///
/// A canvas of C tokens is valid if it is text as a whole, or text that may end, one end token, and then
/// anything (the *tail*). After each of its tokens the text can still be completed within the budget. So no
/// budget cuts a text in two, and a text that is complete at the edge of the canvas needs no end token.
#[derive(Debug, Clone, Copy)]
pub struct CanvasLanguage<'a> {
    automaton: &'a TokenAutomaton,
    start: State,
    len: usize,
    budget: usize,
}

/// What a valid canvas holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Number of tokens before the end token; all of them if there is none.
    pub text: usize,
    /// Whether there is an end token.
    pub ended: bool,
    /// The state after the text: the next canvas continues from it.
    pub state: State,
}

impl<'a> CanvasLanguage<'a> {
    /// The canvases of `len` tokens that continue a text from `start`. From there on, in this canvas and the
    /// following ones, at most `budget` tokens may be written, without the end token.
    ///
    /// # Errors
    /// [`ConstraintError::Budget`]: no text is that short.
    pub fn new(
        automaton: &'a TokenAutomaton,
        start: State,
        len: usize,
        budget: usize,
    ) -> Result<Self> {
        let needed = automaton.min_tokens(start);
        if needed > budget {
            return Err(ConstraintError::Budget { needed, budget });
        }
        Ok(Self {
            automaton,
            start,
            len,
            budget,
        })
    }

    pub(crate) fn automaton(&self) -> &'a TokenAutomaton {
        self.automaton
    }

    pub(super) fn start(&self) -> State {
        self.start
    }

    /// Number of its tokens.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the budget allows to complete a text that is in `state` after `tokens` tokens.
    pub(super) fn affords(&self, state: u32, tokens: usize) -> bool {
        self.automaton.min_tokens(State(state)) + tokens <= self.budget
    }

    /// Reads a canvas; `None` if it is not valid.
    pub fn read(&self, canvas: &[Token]) -> Option<Reading> {
        let mut state = self.start;
        for (text, &token) in canvas.iter().enumerate() {
            if self.automaton.accepts(state) && self.automaton.is_end(token) {
                let ended = true;
                return Some(Reading { text, ended, state });
            }
            state = self.automaton.next(state, token)?;
            if !self.affords(state.0, text + 1) {
                return None;
            }
        }
        Some(Reading {
            text: canvas.len(),
            ended: false,
            state,
        })
    }
}
