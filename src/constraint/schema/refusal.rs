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

/// How an automaton becomes smaller. `depth` is that of `SchemaOptions`.
const SMALLER: &str = "lower minItems, maxItems, minLength, maxLength or `depth`, or list fewer values and properties";

/// Keywords that repeat what takes up states.
const COUNTS: [&str; 4] = ["minItems", "maxItems", "minLength", "maxLength"];

/// A count that may be why there are too many states. Smaller ones hardly are.
const LARGE_COUNT: usize = 100;

/// A schema that takes up most of an automaton.
#[derive(Clone, Debug, Default)]
pub(super) struct Largest {
    /// JSON pointer of the schema.
    pointer: String,
    /// Its keyword with the greatest count, and the count, if that is large.
    count: Option<(&'static str, usize)>,
}

impl Largest {
    /// The schema at this place of a document.
    pub(super) fn new(pointer: &str, root: &Value) -> Self {
        let schema = root.pointer(pointer);
        let count = |keyword: &'static str| {
            let at = At { pointer, keyword };
            Some((keyword, at.count(schema?.get(keyword)?).ok()?))
        };
        let counts = COUNTS.into_iter().filter_map(count);
        let large = counts.filter(|(_, count)| *count >= LARGE_COUNT);
        Self {
            pointer: pointer.to_owned(),
            count: large.max_by_key(|(_, count)| *count),
        }
    }

    /// What needs this many states, such as "too many states".
    pub(super) fn refuse(&self, states: &str) -> ConstraintError {
        let pointer = &self.pointer;
        match self.count {
            Some((keyword, count)) => At { pointer, keyword }
                .refuse(format!("is {count}, which needs {states}: lower it")),
            None => refuse(pointer, format!("needs {states}: {SMALLER}")),
        }
    }
}

/// What stands here needs too many states.
pub(super) fn too_large(pointer: &str) -> ConstraintError {
    let whole = Largest {
        pointer: pointer.to_owned(),
        count: None,
    };
    whole.refuse("too many states")
}

/// A pointer as a fragment, as references write it.
pub(super) fn shown(pointer: &str) -> String {
    format!("#{pointer}")
}
