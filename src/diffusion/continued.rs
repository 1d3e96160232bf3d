//! The constraint of an answer from canvas to canvas.

use super::Token;
use super::run::{Blank, Budget};
use crate::constraint::{CanvasLanguage, Constraint, ConstraintError, State};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// The error of a constraint that cannot be honoured.
pub(crate) fn refused(error: ConstraintError) -> Error {
    Error::parameter(Parameter::Constraint, error.to_string())
}

/// The most likely answer of a canvas: how many of its tokens are text, and whether nothing follows
/// them.
pub(super) struct Written {
    pub(super) text: usize,
    /// Whether there is an end token after the text.
    pub(super) has_end: bool,
    /// Whether the answer is complete.
    pub(super) is_complete: bool,
}

/// An answer's constraint at the beginning of a canvas.
#[derive(Debug, Clone)]
pub(super) struct Continued {
    constraint: Constraint,
    state: State,
    budget: usize,
    /// The constraint is about the first positions of the canvas, as many as these.
    span: Option<usize>,
}

impl Continued {
    /// The constraint after the answer so far, if there is one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn of(constraint: Option<&Constraint>, blank: &Blank<'_>) -> Result<Option<Self>> {
        constraint
            .map(|constraint| Self::new(constraint, blank))
            .transpose()
    }

    /// The constraint after the answer so far.
    ///
    /// # Errors
    /// The answer is not the beginning of any text of the language.
    pub(super) fn new(constraint: &Constraint, blank: &Blank<'_>) -> Result<Self> {
        let automaton = constraint.automaton();
        let mut tokens = blank.answer.iter();
        let state = tokens.try_fold(automaton.start(), |state, token| {
            automaton.next(state, *token)
        });
        let problem = "the answer so far does not follow it";
        Ok(Self {
            constraint: constraint.clone(),
            state: state.ok_or_else(|| Error::parameter(Parameter::Constraint, problem))?,
            budget: blank.budget,
            span: None,
        })
    }

    /// The same for the first `span` positions of the canvas, which hold text alone: it can be completed by
    /// `budget` tokens from the first of them on.
    pub(super) fn within(self, span: usize, budget: usize) -> Self {
        Self {
            budget,
            span: Some(span),
            ..self
        }
    }

    /// Minimum number of tokens that complete the text.
    pub(super) fn min_tokens(&self) -> usize {
        self.constraint.automaton().min_tokens(self.state)
    }

    /// The language of a canvas of `len` tokens.
    ///
    /// # Errors
    /// The budget is too small.
    pub(super) fn language(&self, len: usize) -> Result<CanvasLanguage<'_>> {
        let automaton = self.constraint.automaton();
        let len = self.span.unwrap_or(len);
        CanvasLanguage::new(automaton, self.state, len, self.budget).map_err(refused)
    }

    /// Reads a canvas of the language.
    pub(super) fn read(&self, canvas: &[Token]) -> Option<Written> {
        let reading = self.language(canvas.len()).ok()?.read(canvas)?;
        let automaton = self.constraint.automaton();
        let is_last = automaton.is_complete(reading.state) || reading.text == self.budget;
        Some(Written {
            text: reading.text,
            has_end: reading.ended,
            is_complete: reading.ended || (automaton.accepts(reading.state) && is_last),
        })
    }
}

/// Checks that an answer within `budget` can follow a constraint. `more_canvases` is the advice where the
/// number of canvases is the limit.
pub(super) fn check_constraint(
    constraint: Option<&Constraint>,
    budget: Budget,
    more_canvases: &str,
) -> Result<()> {
    let Some(constraint) = constraint else {
        return Ok(());
    };
    let automaton = constraint.automaton();
    let needed = automaton.min_tokens(automaton.start());
    if needed <= budget.tokens {
        return Ok(());
    }
    let error = ConstraintError::Budget {
        needed,
        budget: budget.tokens,
    };
    let problem = format!("{error}: {}", budget.advice(more_canvases));
    Err(Error::parameter(Parameter::Constraint, problem))
}
