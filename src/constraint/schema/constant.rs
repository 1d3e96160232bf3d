//! Values that a schema writes out: `const` and `enum`.

use serde_json::{Map, Value};

use super::any::member;
use super::decimal::Decimal;
use super::expression::Expression;
use super::list::List;
use super::text::{quoted, written};
use super::whitespace::Whitespace;

/// Lists and objects inside each other.
const MAX_NESTING: usize = 64;

/// One of these values.
pub(super) fn one_of(values: &[&Value], whitespace: Whitespace) -> Expression {
    let mut written = Vec::new();
    let mut size = 0;
    for value in values {
        let expression = nested(value, whitespace, MAX_NESTING);
        size += expression.size();
        written.push(expression);
        if size > Expression::MAX_SIZE {
            return Expression::too_large();
        }
    }
    Expression::choice(written)
}

/// A value as JSON: members in their order, white space as everywhere.
fn nested(value: &Value, whitespace: Whitespace, depth: usize) -> Expression {
    let inner = |value| match depth.checked_sub(1) {
        Some(depth) => nested(value, whitespace, depth),
        None => Expression::too_large(),
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inner).collect();
            fixed(["[", "]"], &items, whitespace)
        }
        Value::Object(members) => {
            let members = members.iter();
            let members: Vec<_> = members
                .map(|(name, value)| member(string(name), inner(value), whitespace))
                .collect();
            fixed(["{", "}"], &members, whitespace)
        }
        scalar => Expression::text(scalar.to_string()),
    }
}

/// A text as a string of JSON.
pub(super) fn string(text: &str) -> Expression {
    quoted(Expression::text(written(text)))
}

fn fixed(brackets: [&str; 2], elements: &[Expression], whitespace: Whitespace) -> Expression {
    List {
        brackets,
        first: elements,
        rest: &Expression::nothing(),
        min: elements.len(),
        max: Some(elements.len()),
    }
    .expression(whitespace)
}

/// A text that is equal for values that JSON Schema calls equal: 1 and 1.0, members in another order.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:?}", Decimal::new(number)),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        Value::Object(members) => sorted(members),
        other => other.to_string(),
    }
}

fn sorted(members: &Map<String, Value>) -> String {
    let member = |(name, value): (&String, &Value)| format!("{name:?}:{}", canonical(value));
    let mut members: Vec<_> = members.iter().map(member).collect();
    members.sort_unstable();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::schema::automaton::tests::dfa;
    use serde_json::json;

    #[test]
    fn a_constant_is_written_as_it_is() {
        for (value, text) in [
            (json!(null), "null"),
            (json!(-1.5), "-1.5"),
            (json!("a\"\n\u{7f}é"), "\"a\\\"\\n\\u007fé\""),
            (json!([1, [], {}]), "[1,[],{}]"),
            (
                json!({"b": 1, "a": [true, "x"]}),
                "{\"b\": 1, \"a\": [true, \"x\"]}",
            ),
        ] {
            let dfa = dfa(&one_of(&[&value], Whitespace::Flexible));
            assert!(dfa.accepts(text.as_bytes()), "{text}");
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
            assert!(!dfa.accepts(format!("{text} ").as_bytes()));
            assert!(!dfa.accepts(b"1"));
        }
    }

    #[test]
    fn equal_values_have_the_same_canonical_text() {
        for (a, b, equal) in [
            (json!(1), json!(1.0), true),
            (json!([1e2]), json!([100]), true),
            (json!({"a": 1, "b": 2}), json!({"b": 2.0, "a": 1}), true),
            (json!("1"), json!(1), false),
            (json!([1, 2]), json!([2, 1]), false),
            (json!(0), json!(false), false),
            (json!({"a": "b"}), json!({"b": "a"}), false),
        ] {
            assert_eq!(canonical(&a) == canonical(&b), equal, "{a} {b}");
        }
    }
}
