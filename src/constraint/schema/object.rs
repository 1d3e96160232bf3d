//! Objects: members in the order of the schema, of which some may be left out.

use std::collections::HashSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::any::{self, member};
use super::compiler::Compiler;
use super::constant;
use super::expression::{Expression, Graph};
use super::list::List;
use super::located::Located;
use super::refusal::refuse;
use super::text::{any_content, quoted};
use super::whitespace::Whitespace;
use crate::constraint::error::ConstraintError;

/// What schemas say about objects.
#[derive(Clone, Default)]
pub(super) struct ObjectRules<'a> {
    layers: Vec<Layer<'a>>,
    /// Names of members that must be there, in their order.
    pub(super) required: Vec<&'a str>,
    min: usize,
    max: Option<usize>,
    /// Pointer of the schema with `minProperties`.
    counted: Option<Rc<str>>,
}

/// What one schema says about members.
#[derive(Clone)]
struct Layer<'a> {
    owner: Located<'a>,
    properties: Option<&'a Map<String, Value>>,
    additional: Option<&'a Value>,
}

/// A member that is listed.
struct Member {
    expression: Expression,
    required: bool,
}

impl<'a> ObjectRules<'a> {
    /// Takes a keyword, if it is one about objects.
    pub(super) fn take(
        &mut self,
        owner: &Located<'a>,
        keyword: &str,
        value: &'a Value,
    ) -> Result<bool, ConstraintError> {
        let at = owner.at(keyword);
        match keyword {
            "properties" => {
                let properties = value
                    .as_object()
                    .ok_or_else(|| at.malformed("an object of schemas"))?;
                self.layer(owner).properties = Some(properties);
            }
            "additionalProperties" => self.layer(owner).additional = Some(value),
            "required" => {
                let names = value
                    .as_array()
                    .map(|names| names.iter().map(Value::as_str).collect());
                let names: Option<Vec<_>> = names.flatten();
                self.required
                    .extend(names.ok_or_else(|| at.malformed("an array of names"))?);
            }
            "minProperties" => {
                self.min = self.min.max(at.count(value)?);
                self.counted = Some(owner.pointer.clone());
            }
            "maxProperties" => {
                let max = at.count(value)?;
                self.max = Some(self.max.map_or(max, |known| known.min(max)));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.required.is_empty() && self.min == 0 && self.max.is_none()
    }

    fn layer(&mut self, owner: &Located<'a>) -> &mut Layer<'a> {
        let known = self
            .layers
            .last()
            .is_some_and(|layer| Rc::ptr_eq(&layer.owner.pointer, &owner.pointer));
        if !known {
            self.layers.push(Layer {
                owner: owner.clone(),
                properties: None,
                additional: None,
            });
        }
        self.layers.last_mut().expect("pushed above")
    }

    /// The schemas that a member of this name must obey.
    pub(super) fn schemas(&self, name: &str) -> Vec<Located<'a>> {
        let schema = |layer: &Layer<'a>| {
            if let Some(schema) = layer.properties.and_then(|properties| properties.get(name)) {
                return Some(layer.owner.child(&["properties", name], schema));
            }
            layer.additional()
        };
        self.layers.iter().filter_map(schema).collect()
    }

    /// The objects that obey, as JSON. Members that no schema lists are written only if none is listed.
    pub(super) fn expression(
        &self,
        compiler: &mut Compiler<'a>,
        level: usize,
    ) -> Result<Expression, ConstraintError> {
        let lists = self.layers.iter().any(|layer| layer.properties.is_some());
        if !lists && self.required.is_empty() {
            return self.free(compiler, level);
        }
        let required: HashSet<_> = self.required.iter().copied().collect();
        let mut members = Vec::new();
        let mut size = 0;
        for name in self.names() {
            let required = required.contains(name);
            let value = compiler.value(self.schemas(name), level + 1)?;
            if value.is_nothing() && required {
                return Ok(Expression::nothing());
            }
            if !value.is_nothing() {
                let expression = member(constant::string(name), value, compiler.whitespace());
                size += expression.size();
                if size > Expression::MAX_SIZE {
                    return Ok(Expression::too_large());
                }
                members.push(Member {
                    expression,
                    required,
                });
            }
        }
        Ok(self.listed(&members, compiler.whitespace()))
    }

    /// The names that schemas list, then those that are required only.
    fn names(&self) -> Vec<&'a str> {
        let listed = self.layers.iter().filter_map(|layer| layer.properties);
        let listed = listed.flat_map(|properties| properties.keys().map(String::as_str));
        let mut seen = HashSet::new();
        let mut names: Vec<_> = listed.chain(self.required.iter().copied()).collect();
        names.retain(|name| seen.insert(*name));
        names
    }

    fn free(
        &self,
        compiler: &mut Compiler<'a>,
        level: usize,
    ) -> Result<Expression, ConstraintError> {
        if let Some(pointer) = self.counted.as_ref().filter(|_| self.min > 1) {
            return Err(refuse(
                pointer,
                "'minProperties' above 1 can be kept for listed properties only: names that are free could repeat",
            ));
        }
        let schemas = self.layers.iter().filter_map(Layer::additional).collect();
        let value = compiler.value(schemas, level + 1)?;
        let whitespace = compiler.whitespace();
        if self.min == 0 && self.max.is_none() {
            return Ok(any::object(&value, whitespace));
        }
        let list = List {
            brackets: ["{", "}"],
            first: &[],
            rest: &member(quoted(any_content()), value, whitespace),
            min: self.min,
            max: self.max,
        };
        Ok(list.expression(whitespace))
    }

    /// A graph over members and how many of them are written. Numbers that make no difference are one.
    fn listed(&self, members: &[Member], whitespace: Whitespace) -> Expression {
        let required = members.iter().filter(|member| member.required).count();
        let min = if self.min > required { self.min } else { 0 };
        let max = self.max.filter(|&max| max < members.len());
        if min > max.unwrap_or(members.len()) || max.is_some_and(|max| max < required) {
            return Expression::nothing();
        }
        let counts = max.unwrap_or(min.max(1));
        if (counts as u64).saturating_mul(members.len() as u64) > Expression::MAX_SIZE {
            return Expression::too_large();
        }
        let mut graph = Graph::new();
        let opened = graph.step(0, Expression::text("{"));
        // By the number of members before: where the next one may begin.
        let mut before: Vec<_> = (0..=counts).map(|_| graph.state()).collect();
        graph.edge(opened, Expression::empty(), before[0]);
        for member in members {
            let after: Vec<_> = (0..=counts).map(|_| graph.state()).collect();
            let begins: Vec<_> = (0..=counts).map(|_| graph.state()).collect();
            for count in 0..=counts {
                if !member.required {
                    graph.edge(before[count], Expression::empty(), after[count]);
                }
                let comma = Expression::text(if count == 0 { "" } else { "," });
                match count < counts {
                    true => graph.edge(before[count], comma, begins[count + 1]),
                    false if max.is_none() => graph.edge(before[count], comma, begins[count]),
                    false => {}
                }
            }
            for count in 1..=counts {
                let written =
                    Expression::sequence([whitespace.before_member(), member.expression.clone()]);
                graph.edge(begins[count], written, after[count]);
            }
            before = after;
        }
        let end = graph.state();
        graph.accept(end);
        for (count, state) in before.into_iter().enumerate().skip(min) {
            let space = if count == 0 {
                Expression::empty()
            } else {
                whitespace.before_close()
            };
            graph.edge(
                state,
                Expression::sequence([space, Expression::text("}")]),
                end,
            );
        }
        graph.finish()
    }
}

impl<'a> Layer<'a> {
    fn additional(&self) -> Option<Located<'a>> {
        self.additional
            .map(|schema| self.owner.child(&["additionalProperties"], schema))
    }
}
