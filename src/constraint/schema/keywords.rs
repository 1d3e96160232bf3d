//! Keywords that say nothing about how a value is written, and those whose meaning cannot be kept.

use super::refusal::At;
use crate::constraint::error::ConstraintError;

/// Keywords that describe, and those that other places read.
const IGNORED: [&str; 18] = [
    "$schema",
    "$id",
    "$comment",
    "$anchor",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
];

/// Keywords of JSON Schema that no automaton of reasonable size keeps, or that are not supported yet.
const UNSUPPORTED: [&str; 22] = [
    "not",
    "if",
    "then",
    "else",
    "patternProperties",
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];

/// Passes over a keyword that may be ignored. As in llguidance, unknown ones may not: they could be
/// misspelt. Keywords of one's own begin with `x-`.
pub(super) fn ignore(at: At<'_>) -> Result<(), ConstraintError> {
    let keyword = at.keyword;
    if IGNORED.contains(&keyword) || keyword.starts_with("x-") {
        return Ok(());
    }
    let problem = match UNSUPPORTED.contains(&keyword) {
        true => "is not supported: leave it out",
        false => "is unknown: correct it or leave it out, or begin it with 'x-'",
    };
    Err(at.refuse(problem))
}
