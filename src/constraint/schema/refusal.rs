//! Makes the errors about a schema: [`At`] for one about a keyword, [`refuse`] for one about a whole schema,
//! each with the place as a JSON pointer. Which keywords are refused is in `keywords.rs`.

use serde_json::Value;

use crate::constraint::error::ConstraintError;
use crate::json::pointer_to;

/// A keyword's place in the schema.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    /// JSON pointer of the schema that the keyword is in.
    pub(super) pointer: &'a str,
    pub(super) keyword: &'a str,
}

impl At<'_> {
    /// JSON pointer of the keyword's value.
    pub(super) fn pointer(&self) -> String {
        pointer_to(self.pointer, self.keyword)
    }

    pub(super) fn refuse(&self, problem: impl Into<String>) -> ConstraintError {
        ConstraintError::Keyword {
            keyword: self.keyword.to_owned(),
            pointer: shown(self.pointer),
            problem: problem.into(),
        }
    }

    /// The value is not what JSON Schema defines for the keyword.
    pub(super) fn malformed(&self, expected: &str) -> ConstraintError {
        self.refuse(format!("must be {expected}"))
    }

    /// A number of characters, items or members.
    pub(super) fn count(&self, value: &Value) -> Result<usize, ConstraintError> {
        let whole =
            |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as usize);
        let count = value
            .as_u64()
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let count = count.or_else(|| value.as_f64().and_then(whole));
        count.ok_or_else(|| self.malformed("an integer from 0 on"))
    }

    pub(super) fn too_large(&self) -> ConstraintError {
        too_large(&self.pointer())
    }
}

/// A schema that cannot be honoured as a whole.
pub(super) fn refuse(pointer: &str, problem: impl Into<String>) -> ConstraintError {
    ConstraintError::Schema {
        pointer: shown(pointer),
        problem: problem.into(),
    }
}

/// How an automaton becomes smaller.
pub(super) const SMALLER: &str = "lower minItems, maxItems, minLength, maxLength or the depth, or list fewer values and properties";

pub(super) fn too_large(pointer: &str) -> ConstraintError {
    refuse(pointer, format!("needs too many states: {SMALLER}"))
}

/// A pointer as a fragment, as references write it.
pub(super) fn shown(pointer: &str) -> String {
    format!("#{pointer}")
}
