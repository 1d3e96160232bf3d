//! What several schemas say together about one value, by type.

use std::collections::HashSet;

use serde_json::Value;

use super::array::ArrayRules;
use super::compiler::Compiler;
use super::constant::{self, canonical};
use super::expression::Expression;
use super::located::Located;
use super::number::NumberRules;
use super::object::ObjectRules;
use super::refusal::{At, refuse};
use super::string::StringRules;
use super::types::Types;
use super::{any, keywords};
use crate::constraint::error::ConstraintError;

/// The rules of a value.
#[derive(Clone)]
pub(super) struct Shape<'a> {
    /// The types that `type` allows.
    pub(super) types: Types,
    /// Whether `type` says anything.
    typed: bool,
    /// The types that other keywords speak about.
    spoken_of: Types,
    /// The values of `const` and `enum`.
    pub(super) values: Option<Vec<&'a Value>>,
    pub(super) number: NumberRules,
    string: StringRules,
    array: ArrayRules<'a>,
    pub(super) object: ObjectRules<'a>,
}

impl<'a> Shape<'a> {
    /// Reads schemas that all hold. Those that combine others have been taken apart before.
    pub(super) fn new(
        schemas: &[Located<'a>],
        compiler: &mut Compiler<'a>,
    ) -> Result<Self, ConstraintError> {
        let mut shape = Self {
            types: Types::ALL,
            typed: false,
            spoken_of: Types::NONE,
            values: None,
            number: NumberRules::default(),
            string: StringRules::default(),
            array: ArrayRules::default(),
            object: ObjectRules::default(),
        };
        for schema in schemas {
            for (keyword, value) in schema.schema.as_object().into_iter().flatten() {
                shape.take(schema, keyword, value, compiler)?;
            }
        }
        Ok(shape)
    }

    fn take(
        &mut self,
        schema: &Located<'a>,
        keyword: &str,
        value: &'a Value,
        compiler: &mut Compiler<'a>,
    ) -> Result<(), ConstraintError> {
        let at = schema.at(keyword);
        let spoken_of = match keyword {
            "type" => {
                self.types = self.types.and(Types::read(value, at)?);
                self.typed = true;
                return Ok(());
            }
            "const" => {
                check_digits(at, value)?;
                self.restrict(vec![value]);
                return Ok(());
            }
            "enum" => {
                let values = value
                    .as_array()
                    .ok_or_else(|| at.malformed("an array of values"))?;
                check_digits(at, value)?;
                self.restrict(values.iter().collect());
                return Ok(());
            }
            _ if self.number.take(at, value)? => Types::NUMBER,
            _ if self.string.take(at, value, compiler)? => Types::STRING,
            _ if self.array.take(schema, keyword, value)? => Types::ARRAY,
            _ if self.object.take(schema, keyword, value)? => Types::OBJECT,
            _ => return keywords::ignore(at, value),
        };
        self.spoken_of = self.spoken_of.or(spoken_of);
        Ok(())
    }

    /// Keeps the values that are among these, too.
    fn restrict(&mut self, values: Vec<&'a Value>) {
        self.values = Some(match self.values.take() {
            None => values,
            Some(known) => {
                let allowed: HashSet<_> = values.into_iter().map(canonical).collect();
                known
                    .into_iter()
                    .filter(|value| allowed.contains(&canonical(value)))
                    .collect()
            }
        });
    }

    /// The types that are written. Where `type` is missing, rules about strings mean a string.
    fn written_types(&self) -> Types {
        if self.typed || self.spoken_of == Types::NONE {
            self.types
        } else {
            self.spoken_of
        }
    }

    /// The values that obey, as JSON.
    pub(super) fn expression(
        &self,
        compiler: &mut Compiler<'a>,
        level: usize,
        pointer: &str,
    ) -> Result<Expression, ConstraintError> {
        if let Some(values) = &self.values {
            let values = self.admitted(values, compiler, pointer)?;
            return Ok(constant::one_of(&values, compiler.whitespace()));
        }
        let types = self.written_types();
        if types == Types::ALL && self.spoken_of == Types::NONE {
            return Ok(compiler.any(level));
        }
        let mut parts = Vec::new();
        if types.has(Types::NULL) {
            parts.push(Expression::text("null"));
        }
        if types.has(Types::BOOLEAN) {
            parts.push(any::boolean());
        }
        if types.has(Types::NUMBER) {
            parts.push(self.number.expression(types, compiler.effort())?);
        }
        if types.has(Types::STRING) {
            parts.push(self.string.expression(compiler.effort())?);
        }
        if types.has(Types::ARRAY) {
            parts.push(self.array.expression(compiler, level)?);
        }
        if types.has(Types::OBJECT) {
            parts.push(self.object.expression(compiler, level)?);
        }
        Ok(Expression::choice(parts))
    }

    /// Which values of `const` and `enum` obey the other rules.
    fn admitted(
        &self,
        values: &[&'a Value],
        compiler: &mut Compiler<'a>,
        pointer: &str,
    ) -> Result<Vec<&'a Value>, ConstraintError> {
        let strings: Vec<_> = values.iter().filter_map(|value| value.as_str()).collect();
        let strings: HashSet<_> = self
            .string
            .admitted(&strings, compiler.effort())?
            .into_iter()
            .collect();
        let mut admitted = Vec::new();
        for &value in values {
            let obeys = match value {
                Value::Number(number) => self.number.admit(number),
                Value::String(text) => strings.contains(text.as_str()),
                Value::Array(_) if !self.array.is_empty() => {
                    return Err(unchecked(pointer, "array"));
                }
                Value::Object(_) if !self.object.is_empty() => {
                    return Err(unchecked(pointer, "object"));
                }
                _ => true,
            };
            if obeys && self.types.has(Types::of(value)) {
                admitted.push(value);
            }
        }
        Ok(admitted)
    }
}

/// Refuses a value with a number whose digits may be lost: a double of 2⁵³ or more, which the schema
/// wrote with a point, an exponent or more than 64 bits.
fn check_digits(at: At<'_>, value: &Value) -> Result<(), ConstraintError> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Number(number) => {
            let inexact = number
                .as_f64()
                .filter(|x| number.is_f64() && x.abs() >= EXACT);
            match inexact {
                Some(number) => Err(at.refuse(format!(
                    "has a number of about {number:e}, whose digits are not kept: write an integer of at \
                     most 64 bits without a point and an exponent, or a string"
                ))),
                None => Ok(()),
            }
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_digits(at, item)),
        Value::Object(members) => members
            .values()
            .try_for_each(|member| check_digits(at, member)),
        _ => Ok(()),
    }
}

fn unchecked(pointer: &str, what: &str) -> ConstraintError {
    refuse(
        pointer,
        format!(
            "an {what} of 'const' or 'enum' cannot be checked against the other keywords: leave them out"
        ),
    )
}
