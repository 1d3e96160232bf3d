//! From schemas to expressions: each place once, within limits.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use serde_json::Value;

use super::any;
use super::automaton::Effort;
use super::expression::Expression;
use super::located::Located;
use super::refusal::{Largest, refuse};
use super::shape::Shape;
use super::whitespace::Whitespace;
use super::{Cut, SchemaLanguage, SchemaOptions};
use crate::constraint::error::ConstraintError;

/// Arrays and objects inside each other.
const MAX_LEVEL: usize = 64;

/// Schemas that are looked at, each time anew: references can multiply them.
const MAX_WORK: usize = 200_000;

/// Where schemas stand, inside which definitions, and at which level: what their expression depends on.
type Key = (Vec<(Rc<str>, (Vec<Rc<str>>, usize))>, usize);

pub(super) struct Compiler<'a> {
    root: &'a Value,
    options: &'a SchemaOptions,
    known: HashMap<Key, Expression>,
    /// Any value, by its depth.
    any: HashMap<usize, Expression>,
    /// The size of each schema's expression, inner ones first.
    sizes: Vec<(Rc<str>, u64)>,
    /// Pointers of the references at which a recursion was cut.
    cuts: BTreeSet<Rc<str>>,
    /// Pointer of the first schema that contradicts itself.
    contradiction: Option<Rc<str>>,
    effort: Effort,
    work: usize,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(root: &'a Value, options: &'a SchemaOptions) -> Self {
        Self {
            root,
            options,
            known: HashMap::new(),
            any: HashMap::new(),
            sizes: Vec::new(),
            cuts: BTreeSet::new(),
            contradiction: None,
            effort: Effort::new(),
            work: 0,
        }
    }

    /// The language of the whole schema.
    pub(super) fn run(mut self) -> Result<SchemaLanguage, ConstraintError> {
        let expression = self.value(vec![Located::root(self.root)], 0)?;
        if expression.is_nothing() {
            return Err(self.empty());
        }
        let most = |(_, size): &&(Rc<str>, u64)| *size > expression.size() / 2;
        let largest = self
            .sizes
            .iter()
            .find(most)
            .map_or("", |(pointer, _)| pointer);
        Ok(SchemaLanguage {
            cuts: self
                .cuts
                .iter()
                .map(|pointer| Cut::new(pointer, self.options.depth))
                .collect(),
            largest: Largest::new(largest, self.root),
            ..SchemaLanguage::new(&expression)?
        })
    }

    fn empty(&self) -> ConstraintError {
        match (&self.contradiction, self.cuts.first()) {
            (None, Some(cut)) => refuse(
                cut,
                format!(
                    "the recursion does not end within {} levels: allow null or leave the property out of 'required'",
                    self.options.depth
                ),
            ),
            (place, _) => refuse(
                place.as_deref().unwrap_or_default(),
                "no value obeys all of its keywords",
            ),
        }
    }

    /// The values that obey all of these schemas, as JSON. `level` arrays and objects are open around it.
    pub(super) fn value(
        &mut self,
        schemas: Vec<Located<'a>>,
        level: usize,
    ) -> Result<Expression, ConstraintError> {
        let pointer = schemas
            .first()
            .map_or_else(|| "".into(), |schema| schema.pointer.clone());
        if level > MAX_LEVEL {
            return Err(refuse(
                &pointer,
                format!("is nested more than {MAX_LEVEL} levels deep"),
            ));
        }
        let places = schemas
            .iter()
            .map(|schema| (schema.pointer.clone(), schema.scope.key()));
        let key = (places.collect(), level);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let expression = self.fresh_value(schemas, level, &pointer)?;
        if expression.is_too_large() {
            return Err(Largest::new(&pointer, self.root).refuse("too many states"));
        }
        self.sizes.push((pointer, expression.size()));
        self.known.insert(key, expression.clone());
        Ok(expression)
    }

    fn fresh_value(
        &mut self,
        schemas: Vec<Located<'a>>,
        level: usize,
        pointer: &Rc<str>,
    ) -> Result<Expression, ConstraintError> {
        let alternatives = self.alternatives(schemas)?;
        let shapes: Result<Vec<_>, _> = alternatives
            .iter()
            .map(|alternative| Shape::new(&alternative.schemas, self))
            .collect();
        let shapes = shapes?;
        self.check_distinct(&alternatives, &shapes)?;
        let mut parts = Vec::new();
        for (alternative, shape) in alternatives.iter().zip(&shapes) {
            match &alternative.cut {
                Some(reference) => drop(self.cuts.insert(reference.clone())),
                None => parts.push(shape.expression(self, level, pointer)?),
            }
        }
        let expression = Expression::choice(parts);
        if expression.is_nothing() && self.cuts.is_empty() {
            self.contradiction.get_or_insert_with(|| pointer.clone());
        }
        Ok(expression)
    }

    /// Any value, at this level.
    pub(super) fn any(&mut self, level: usize) -> Expression {
        let depth = self.options.depth.saturating_sub(level);
        let whitespace = self.whitespace();
        self.any
            .entry(depth)
            .or_insert_with(|| any::value(depth, whitespace))
            .clone()
    }

    pub(super) fn depth(&self) -> usize {
        self.options.depth
    }

    pub(super) fn whitespace(&self) -> Whitespace {
        self.options.whitespace
    }

    pub(super) fn effort(&mut self) -> &mut Effort {
        &mut self.effort
    }

    /// Counts schemas that are looked at, or what takes as long.
    pub(super) fn work(&mut self, schemas: usize, pointer: &str) -> Result<(), ConstraintError> {
        self.work = self.work.saturating_add(schemas);
        if self.work > MAX_WORK {
            return Err(refuse(
                pointer,
                "has too many combinations of references and branches, or too long patterns: write fewer",
            ));
        }
        Ok(())
    }
}
