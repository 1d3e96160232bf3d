//! Values of which a schema says nothing: any JSON, nested to a depth.

use super::digits::any_number;
use super::expression::Expression;
use super::list::List;
use super::text::{any_content, quoted};
use super::whitespace::Whitespace;

/// Any value, with at most so many lists and objects inside each other.
pub(super) fn value(depth: usize, whitespace: Whitespace) -> Expression {
    let mut value = scalar();
    for _ in 0..depth {
        if value.is_too_large() {
            break;
        }
        value = Expression::choice([
            scalar(),
            array(&value, whitespace),
            object(&value, whitespace),
        ]);
    }
    value
}

fn scalar() -> Expression {
    Expression::choice([
        Expression::text("null"),
        boolean(),
        any_number(),
        quoted(any_content()),
    ])
}

pub(super) fn boolean() -> Expression {
    Expression::choice([Expression::text("false"), Expression::text("true")])
}

/// An array of any number of such items.
fn array(item: &Expression, whitespace: Whitespace) -> Expression {
    List {
        brackets: ["[", "]"],
        first: &[],
        rest: item,
        min: 0,
        max: None,
    }
    .expression(whitespace)
}

/// An object of any number of such members, under any names.
pub(super) fn object(value: &Expression, whitespace: Whitespace) -> Expression {
    List {
        brackets: ["{", "}"],
        first: &[],
        rest: &member(quoted(any_content()), value.clone(), whitespace),
        min: 0,
        max: None,
    }
    .expression(whitespace)
}

/// A member with this name, in quotes.
pub(super) fn member(name: Expression, value: Expression, whitespace: Whitespace) -> Expression {
    Expression::sequence([name, Expression::text(":"), whitespace.after_colon(), value])
}
