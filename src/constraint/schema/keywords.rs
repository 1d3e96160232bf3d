//! Keywords that say nothing about how a value is written, and those whose meaning cannot be kept.

use serde_json::Value;

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

/// Where other schemas stand, for references to them.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Passes over a keyword that may be ignored. As in llguidance, unknown ones may not: they could be
/// misspelt. Keywords of one's own begin with `x-`.
pub(super) fn ignore(at: At<'_>, value: &Value) -> Result<(), ConstraintError> {
    let keyword = at.keyword;
    if DEFINITIONS.contains(&keyword) && !value.is_object() {
        return Err(at.malformed("an object"));
    }
    if IGNORED.contains(&keyword) || keyword.starts_with("x-") {
        return Ok(());
    }
    let problem = match UNSUPPORTED.contains(&keyword) {
        true => "is not supported: leave it out",
        false => "is unknown: correct it or leave it out, or begin it with 'x-'",
    };
    Err(at.refuse(problem))
}
