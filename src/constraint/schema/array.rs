//! Arrays: their items and their number.

use std::rc::Rc;

use serde_json::Value;

use super::compiler::Compiler;
use super::expression::Expression;
use super::list::List;
use super::located::Located;
use super::refusal::refuse;
use crate::constraint::error::ConstraintError;

/// What schemas say about arrays.
#[derive(Clone, Default)]
pub(super) struct ArrayRules<'a> {
    layers: Vec<Layer<'a>>,
    min: usize,
    max: Option<usize>,
    /// Pointer of the schema that forbids equal items.
    unique: Option<Rc<str>>,
}

/// What one schema says about items.
#[derive(Clone)]
struct Layer<'a> {
    owner: Located<'a>,
    first: &'a [Value],
    rest: Option<&'a Value>,
}

impl<'a> ArrayRules<'a> {
    /// Takes a keyword, if it is one about arrays.
    pub(super) fn take(
        &mut self,
        owner: &Located<'a>,
        keyword: &str,
        value: &'a Value,
    ) -> Result<bool, ConstraintError> {
        let at = owner.at(keyword);
        match keyword {
            "items" => {
                if value.is_array() {
                    return Err(at.refuse("is an array, as in old drafts: write prefixItems"));
                }
                self.layer(owner).rest = Some(value);
            }
            "prefixItems" => {
                let first = value
                    .as_array()
                    .ok_or_else(|| at.malformed("an array of schemas"))?;
                self.layer(owner).first = first;
            }
            "minItems" => self.min = self.min.max(at.count(value)?),
            "maxItems" => {
                let max = at.count(value)?;
                self.max = Some(self.max.map_or(max, |known| known.min(max)));
            }
            "uniqueItems" => {
                if value
                    .as_bool()
                    .ok_or_else(|| at.malformed("true or false"))?
                {
                    self.unique = Some(owner.pointer.clone());
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.min == 0 && self.max.is_none() && self.unique.is_none()
    }

    fn layer(&mut self, owner: &Located<'a>) -> &mut Layer<'a> {
        let known = self
            .layers
            .last()
            .is_some_and(|layer| Rc::ptr_eq(&layer.owner.pointer, &owner.pointer));
        if !known {
            self.layers.push(Layer {
                owner: owner.clone(),
                first: &[],
                rest: None,
            });
        }
        self.layers.last_mut().expect("pushed above")
    }

    /// The arrays that obey, as JSON.
    pub(super) fn expression(
        &self,
        compiler: &mut Compiler<'a>,
        level: usize,
    ) -> Result<Expression, ConstraintError> {
        if let Some(pointer) = &self.unique
            && self.max.is_none_or(|max| max > 1)
        {
            return Err(refuse(
                pointer,
                "'uniqueItems' can be kept with maxItems up to 1 only: leave it out",
            ));
        }
        let first = self
            .layers
            .iter()
            .map(|layer| layer.first.len())
            .max()
            .unwrap_or(0);
        let first = first.min(self.max.unwrap_or(usize::MAX));
        let first: Result<Vec<_>, _> = (0..first)
            .map(|index| compiler.value(self.items(Some(index)), level + 1))
            .collect();
        let first = first?;
        let rest = match self.max.is_some_and(|max| max <= first.len()) {
            true => Expression::nothing(),
            false => compiler.value(self.items(None), level + 1)?,
        };
        let list = List {
            brackets: ["[", "]"],
            first: &first,
            rest: &rest,
            min: self.min,
            max: self.max,
        };
        Ok(list.expression(compiler.whitespace()))
    }

    /// The schemas of an item: one of the first ones, or one after them.
    fn items(&self, index: Option<usize>) -> Vec<Located<'a>> {
        let item = |layer: &Layer<'a>| {
            let first = index.and_then(|index| layer.first.get(index).zip(Some(index)));
            if let Some((schema, index)) = first {
                return Some(
                    layer
                        .owner
                        .child(&["prefixItems", &index.to_string()], schema),
                );
            }
            layer
                .rest
                .map(|schema| layer.owner.child(&["items"], schema))
        };
        self.layers.iter().filter_map(item).collect()
    }
}
