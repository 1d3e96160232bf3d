//! JSON Schema as a regular language: sound, not complete. Every text of the language is JSON that the
//! schema allows; not every value that the schema allows is in the language. What cannot be kept is
//! refused with its keyword and its place, never ignored.
//!
//! ```text
//! text, whitespace, number, pattern, format, list, any, constant ─▶ expression ─▶ automaton ─▶ NFA
//!                              ▲
//! located, combine ─▶ shape ─▶ string, number, array, object
//! ```

mod any;
mod array;
mod automaton;
mod combine;
mod compiler;
mod constant;
mod decimal;
mod digits;
mod ecma;
mod expression;
mod format;
mod keywords;
mod list;
mod located;
mod number;
mod object;
mod pattern;
mod refusal;
mod shape;
mod string;
mod text;
mod types;
mod whitespace;

use std::fmt;

use regex_automata::nfa::thompson::NFA;
use serde_json::Value;

use self::compiler::Compiler;
use self::expression::Expression;
use self::refusal::Largest;
use super::bytes::ByteAutomaton;
use super::error::{ConstraintError, Limits};

pub use self::whitespace::Whitespace;

/// How a schema becomes a language.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchemaOptions {
    /// How often a recursive definition may stand inside itself, and how many arrays and objects may be
    /// inside each other where the schema allows anything. Each level doubles the automaton at least.
    pub depth: usize,
    /// White space between the tokens of JSON.
    pub whitespace: Whitespace,
}

impl Default for SchemaOptions {
    fn default() -> Self {
        Self {
            depth: 4,
            whitespace: Whitespace::default(),
        }
    }
}

/// The JSON texts that a schema allows.
#[derive(Clone, Debug)]
pub struct SchemaLanguage {
    nfa: NFA,
    /// Where values could be nested deeper than they are in the language.
    pub cuts: Vec<Cut>,
    /// The innermost schema that takes up most of the automaton.
    largest: Largest,
}

impl SchemaLanguage {
    fn new(expression: &Expression) -> Result<Self, ConstraintError> {
        let nfa = automaton::nfa(expression).map_err(|_| refusal::too_large(""))?;
        Ok(Self {
            nfa,
            cuts: Vec::new(),
            largest: Largest::default(),
        })
    }

    /// The automaton of its texts.
    ///
    /// # Errors
    /// [`ConstraintError::Schema`]: it would exceed `limits`; the place is that of the schema to change.
    pub fn automaton(&self, limits: &Limits) -> Result<ByteAutomaton, ConstraintError> {
        ByteAutomaton::from_nfa(&self.nfa, limits).map_err(|error| match error {
            ConstraintError::TooLarge { what, limit } => {
                self.largest.refuse(&format!("more than {limit} {what}"))
            }
            other => other,
        })
    }
}

/// A recursion that ends at the depth of [`SchemaOptions`], although the schema does not end it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// JSON pointer of the schema whose `$ref` is recursive, as a fragment.
    pub pointer: String,
    /// The depth.
    pub depth: usize,
}

impl Cut {
    fn new(pointer: &str, depth: usize) -> Self {
        Self {
            pointer: refusal::shown(pointer),
            depth,
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, depth } = self;
        write!(
            f,
            "the schema at '{pointer}' is recursive: its values are nested at most {depth} deep"
        )
    }
}

/// The JSON texts that `schema` allows. Members are written in the order of `properties`; members that
/// no schema lists are written only where none is listed.
///
/// # Errors
/// [`ConstraintError::Keyword`] and [`ConstraintError::Schema`]: what cannot be kept, with its place.
pub fn json_schema(
    schema: &Value,
    options: &SchemaOptions,
) -> Result<SchemaLanguage, ConstraintError> {
    Compiler::new(schema, options).run()
}

/// Any JSON, at most as deep as `options` say.
///
/// # Errors
/// [`ConstraintError::Schema`]: the depth is too large.
pub fn any_json(options: &SchemaOptions) -> Result<SchemaLanguage, ConstraintError> {
    SchemaLanguage::new(&any::value(options.depth, options.whitespace))
}

/// Any JSON object, at most as deep as `options` say.
///
/// # Errors
/// As [`any_json`].
pub fn any_json_object(options: &SchemaOptions) -> Result<SchemaLanguage, ConstraintError> {
    let value = any::value(options.depth.saturating_sub(1), options.whitespace);
    SchemaLanguage::new(&any::object(&value, options.whitespace))
}

#[cfg(test)]
mod tests;
