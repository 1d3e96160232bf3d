//! `allOf`, `anyOf`, `oneOf` and `$ref`: which schemas a value must obey, in all the ways that they allow.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::compiler::Compiler;
use super::constant::canonical;
use super::located::{Located, Target};
use super::refusal::{At, refuse};
use super::shape::Shape;
use super::types::Types;
use crate::constraint::error::ConstraintError;

/// Objects inside objects at which branches are told apart.
const MAX_DISTINCTION: usize = 4;

/// One way to obey: schemas that all hold.
#[derive(Clone, Default)]
pub(super) struct Alternative<'a> {
    pub(super) schemas: Vec<Located<'a>>,
    /// Schemas that are not taken apart yet.
    waiting: Vec<Located<'a>>,
    forks: Vec<Fork<'a>>,
    /// Pointers of each `oneOf` that was met, and the branch that was taken.
    choices: Vec<(Rc<str>, usize)>,
    /// The `$ref` at which a recursion is cut: the alternative is valid, but it is not written.
    pub(super) cut: Option<Rc<str>>,
}

/// Branches of which one is to be taken.
#[derive(Clone)]
struct Fork<'a> {
    owner: Located<'a>,
    keyword: &'static str,
    branches: &'a [Value],
}

impl<'a> Compiler<'a> {
    /// All ways to obey these schemas.
    pub(super) fn alternatives(
        &mut self,
        schemas: Vec<Located<'a>>,
    ) -> Result<Vec<Alternative<'a>>, ConstraintError> {
        let mut done = Vec::new();
        let mut open = vec![Alternative {
            waiting: schemas.into_iter().rev().collect(),
            ..Alternative::default()
        }];
        while let Some(mut alternative) = open.pop() {
            if let Some(schema) = alternative.waiting.pop() {
                self.work(1 + alternative.schemas.len(), &schema.pointer)?;
                if self.take_apart(schema, &mut alternative)? {
                    open.push(alternative);
                }
            } else if let Some(fork) = alternative.forks.pop() {
                self.work(
                    fork.branches.len() * (1 + alternative.schemas.len()),
                    &fork.owner.pointer,
                )?;
                open.extend(alternative.branches(&fork));
            } else {
                done.push(alternative);
            }
        }
        Ok(done)
    }

    /// Adds what a schema says to an alternative. False if nothing obeys it.
    fn take_apart(
        &mut self,
        located: Located<'a>,
        alternative: &mut Alternative<'a>,
    ) -> Result<bool, ConstraintError> {
        let keywords = match located.schema {
            Value::Bool(allowed) => return Ok(*allowed),
            Value::Object(keywords) => keywords,
            _ => {
                return Err(refuse(
                    &located.pointer,
                    "must be a schema: an object, true or false",
                ));
            }
        };
        for keyword in ["anyOf", "oneOf"] {
            if let Some(value) = keywords.get(keyword) {
                alternative.forks.push(Fork {
                    owner: located.clone(),
                    keyword,
                    branches: branches(located.at(keyword), value)?,
                });
            }
        }
        alternative.waiting.extend(all_of(&located, keywords)?);
        if let Some(reference) = keywords.get("$ref") {
            let Target::Schema(target) = located.follow(reference)? else {
                return Err(located.at("$ref").refuse(
                    "leads back to itself for the same value: put a property or an item in between",
                ));
            };
            if target.scope.reentries >= self.depth() {
                alternative.cut = Some(located.pointer.clone());
            }
            alternative.waiting.push(target);
        }
        alternative.schemas.push(located);
        Ok(true)
    }

    /// Refuses branches of a `oneOf` that a value might obey together.
    pub(super) fn check_distinct(
        &mut self,
        alternatives: &[Alternative<'a>],
        shapes: &[Shape<'a>],
    ) -> Result<(), ConstraintError> {
        for (index, alternative) in alternatives.iter().enumerate() {
            for (other_index, other) in alternatives[..index].iter().enumerate() {
                let Some(pointer) = alternative.chosen_apart(other) else {
                    continue;
                };
                self.work(1, &pointer)?;
                if !self.disjoint(&shapes[index], &shapes[other_index], MAX_DISTINCTION)? {
                    let at = At {
                        pointer: &pointer,
                        keyword: "oneOf",
                    };
                    return Err(at.refuse(
                        "has branches that one value could obey together: give them different types, or a required property \
                         with a different 'const' in each, or write anyOf",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether certainly no value obeys both.
    fn disjoint(
        &mut self,
        a: &Shape<'a>,
        b: &Shape<'a>,
        depth: usize,
    ) -> Result<bool, ConstraintError> {
        let common = a.possible_types().and(b.possible_types());
        if common == Types::NONE || a.number_apart(b, common) || a.values_apart(b) {
            return Ok(true);
        }
        if common != Types::OBJECT || depth == 0 {
            return Ok(false);
        }
        for &name in a.object.required.iter().chain(&b.object.required) {
            let (in_a, in_b) = (
                self.shapes(a.object.schemas(name))?,
                self.shapes(b.object.schemas(name))?,
            );
            if self.all_disjoint(&in_a, &in_b, depth - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn all_disjoint(
        &mut self,
        a: &[Shape<'a>],
        b: &[Shape<'a>],
        depth: usize,
    ) -> Result<bool, ConstraintError> {
        for a in a {
            for b in b {
                self.work(1, "")?;
                if !self.disjoint(a, b, depth)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn shapes(&mut self, schemas: Vec<Located<'a>>) -> Result<Vec<Shape<'a>>, ConstraintError> {
        let alternatives = self.alternatives(schemas)?;
        alternatives
            .iter()
            .map(|alternative| Shape::new(&alternative.schemas, self))
            .collect()
    }
}

impl<'a> Alternative<'a> {
    /// The alternative with each of a fork's branches, the first one last.
    fn branches(self, fork: &Fork<'a>) -> Vec<Self> {
        let Fork {
            owner,
            keyword,
            branches,
        } = fork;
        let exclusive = *keyword == "oneOf";
        let chosen = self
            .choices
            .iter()
            .find(|(pointer, _)| exclusive && *pointer == owner.pointer);
        // The same `oneOf` may be met twice: by two references, for example.
        let allowed = chosen.map_or(0..branches.len(), |&(_, branch)| branch..branch + 1);
        let with = |index: usize| {
            let mut alternative = self.clone();
            if exclusive {
                alternative.choices.push((owner.pointer.clone(), index));
            }
            alternative
                .waiting
                .push(owner.branch(keyword, index, &branches[index]));
            alternative
        };
        allowed.rev().map(with).collect()
    }

    /// A `oneOf` of which the other has taken another branch.
    fn chosen_apart(&self, other: &Self) -> Option<Rc<str>> {
        let apart = |(pointer, branch): &&(Rc<str>, usize)| {
            other
                .choices
                .iter()
                .any(|(known, taken)| known == pointer && taken != branch)
        };
        self.choices
            .iter()
            .find(apart)
            .map(|(pointer, _)| pointer.clone())
    }
}

impl Shape<'_> {
    /// The types of the values that can obey.
    fn possible_types(&self) -> Types {
        let Some(values) = &self.values else {
            return self.types;
        };
        let types = values
            .iter()
            .map(|value| Types::of(value))
            .fold(Types::NONE, Types::or);
        self.types.and(types)
    }

    fn number_apart(&self, other: &Self, common: Types) -> bool {
        common.and(Types::NUMBER) == common && self.number.is_disjoint(&other.number)
    }

    fn values_apart(&self, other: &Self) -> bool {
        let (Some(values), Some(others)) = (&self.values, &other.values) else {
            return false;
        };
        let others: std::collections::HashSet<_> =
            others.iter().map(|value| canonical(value)).collect();
        !values
            .iter()
            .any(|value| others.contains(&canonical(value)))
    }
}

fn branches<'a>(at: At<'_>, value: &'a Value) -> Result<&'a [Value], ConstraintError> {
    let branches = value.as_array().filter(|branches| !branches.is_empty());
    branches
        .map(Vec::as_slice)
        .ok_or_else(|| at.malformed("an array of at least one schema"))
}

/// The schemas of `allOf`, the last one first.
fn all_of<'a>(
    located: &Located<'a>,
    keywords: &'a Map<String, Value>,
) -> Result<Vec<Located<'a>>, ConstraintError> {
    let Some(value) = keywords.get("allOf") else {
        return Ok(Vec::new());
    };
    let schemas = branches(located.at("allOf"), value)?.iter().enumerate();
    Ok(schemas
        .map(|(index, schema)| located.branch("allOf", index, schema))
        .rev()
        .collect())
}
