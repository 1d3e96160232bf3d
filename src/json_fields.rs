//! Requests as objects in JSON, whose errors name the field that is wrong.

use serde::de::{Deserialize as _, DeserializeOwned, Deserializer, Error as _};
use serde_json::{Map, Value};

use crate::json::{self, pointer_to};

/// What is wrong with a request.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The field, if a single one is; of an item of a list its JSON pointer.
    pub(crate) field: Option<String>,
    pub(crate) problem: String,
}

/// Reads an object. Members that are null count as absent: clients write their optional fields so.
/// `required` are the fields that a request must have, with values that make one.
///
/// # Errors
/// It is not an object, or a field of it is missing or wrong.
pub(crate) fn read<T: DeserializeOwned>(
    text: &str,
    required: &[(&str, Value)],
) -> Result<T, Wrong> {
    let fields: Map<String, Value> = json::read(text).map_err(|error| Wrong {
        field: None,
        problem: in_plain_words(&error),
    })?;
    let fields = members_without_nulls(fields);
    let whole = serde_json::from_value(Value::Object(fields.clone()));
    whole.map_err(|error| culprit::<T>(fields, required, &error))
}

/// Reads a list of objects: serde also reads a list as an object, by the order of its fields.
///
/// # Errors
/// An item is not an object, or not one of these.
pub(crate) fn objects<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let items = Vec::<Map<String, Value>>::deserialize(deserializer)?;
    let items = items.into_iter().map(Value::Object);
    items
        .map(|item| serde_json::from_value(item).map_err(D::Error::custom))
        .collect()
}

/// The field that alone does not make a request either.
fn culprit<T: DeserializeOwned>(
    fields: Map<String, Value>,
    required: &[(&str, Value)],
    error: &serde_json::Error,
) -> Wrong {
    let required = required.iter().cloned();
    let valid: Map<String, Value> = required
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let error_of = |name: &str, value: Value| {
        let mut alone = valid.clone();
        alone.insert(name.to_owned(), value);
        serde_json::from_value::<T>(Value::Object(alone)).err()
    };
    for (name, value) in fields {
        let Some(whole) = error_of(&name, value.clone()) else {
            continue;
        };
        let is_list = error_of(&name, Value::Array(Vec::new())).is_none();
        let items = value.as_array().filter(|_| is_list);
        let items = items.into_iter().flatten().enumerate();
        let mut items = items.filter_map(|(index, item)| {
            let of_item = |item: Value| error_of(&name, Value::Array(vec![item]));
            let error = of_item(item.clone())?;
            let place = pointer_to(&pointer_to("", &name), &index.to_string());
            let member = member_at_fault(item, &error, of_item);
            let place = member.map_or(place.clone(), |member| pointer_to(&place, member));
            Some((place, error))
        });
        let (field, error) = items.next().unwrap_or((name.clone(), whole));
        return Wrong {
            field: Some(field),
            problem: in_plain_words(&error),
        };
    }
    Wrong {
        field: None,
        problem: in_plain_words(error),
    }
}

/// The member of an item that this error is about: the last of the first members that have the same error.
/// `None` if the item is not an object, or lacks a member.
fn member_at_fault<'a>(
    item: &'a Value,
    error: &serde_json::Error,
    error_of: impl Fn(Value) -> Option<serde_json::Error>,
) -> Option<&'a str> {
    let members = item.as_object()?;
    let fails_alike = |count: &usize| {
        let first = members.iter().take(*count);
        let first = first.map(|(name, value)| (name.clone(), value.clone()));
        error_of(Value::Object(first.collect()))
            .is_some_and(|found| found.to_string() == error.to_string())
    };
    let count = (0..=members.len()).find(fails_alike)?;
    members
        .keys()
        .nth(count.checked_sub(1)?)
        .map(String::as_str)
}

/// A message without the names of Rust's types. Names of fields stand between quotation marks: between
/// backticks they would be parameters.
fn in_plain_words(error: &serde_json::Error) -> String {
    let from_0 = |max: u64| format!("a whole number from 0 to {max}");
    let names = [
        ("usize", from_0(usize::MAX as u64)),
        ("u64", from_0(u64::MAX)),
        ("u32", from_0(u32::MAX.into())),
        ("i64", format!("a whole number of at most {}", i64::MAX)),
        ("a sequence", "a list".into()),
        ("a map", "an object".into()),
    ];
    let text = error.to_string().replace('`', "\"");
    names.into_iter().fold(text, |text, (from, to)| {
        text.replace(&format!("expected {from}"), &format!("expected {to}"))
    })
}

fn members_without_nulls(members: Map<String, Value>) -> Map<String, Value> {
    let members = members.into_iter().filter(|(_, value)| !value.is_null());
    members
        .map(|(name, value)| (name, without_nulls(value)))
        .collect()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(members_without_nulls(members)),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their errors matter")]
    struct Request {
        text: String,
        #[serde(default)]
        parts: Vec<Part>,
        #[serde(default)]
        count: usize,
        #[serde(default)]
        number: u32,
        #[serde(default)]
        seed: u64,
        #[serde(default)]
        limit: i64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their errors matter")]
    struct Part {
        name: String,
    }

    /// The field and the message.
    fn wrong(request: &Value) -> (Option<String>, String) {
        let required = [("text", "a".into())];
        let wrong = read::<Request>(&request.to_string(), &required).unwrap_err();
        (wrong.field, wrong.problem)
    }

    #[test]
    fn items_of_lists_are_named_by_their_pointers() {
        for (parts, field, problem) in [
            (
                json!([{"name": "a"}, {"name": "b", "nme": 1}]),
                "/parts/1/nme",
                "unknown field \"nme\", expected \"name\"",
            ),
            (
                json!([{"name": 5}]),
                "/parts/0/name",
                "invalid type: integer",
            ),
            (
                json!([{"a/b~": 1, "name": 5}]),
                "/parts/0/a~1b~0",
                "unknown field \"a/b~\"",
            ),
            (json!([{}]), "/parts/0", "missing field \"name\""),
            (
                json!([{"name": "a"}, 5]),
                "/parts/1",
                "invalid type: integer",
            ),
            (json!(5), "parts", "expected a list"),
        ] {
            let found = wrong(&json!({"text": "a", "parts": parts}));
            assert_eq!(found.0.as_deref(), Some(field), "{}", found.1);
            assert!(found.1.contains(problem), "{}", found.1);
        }
    }

    #[test]
    fn numbers_out_of_range_have_the_range_in_plain_words() {
        for (field, value, range) in [
            (
                "count",
                json!(-1),
                "a whole number from 0 to 18446744073709551615",
            ),
            (
                "seed",
                json!(1e30),
                "a whole number from 0 to 18446744073709551615",
            ),
            (
                "number",
                json!(4_294_967_296_u64),
                "a whole number from 0 to 4294967295",
            ),
            ("number", json!(-1), "a whole number from 0 to 4294967295"),
            (
                "limit",
                json!(u64::MAX),
                "a whole number of at most 9223372036854775807",
            ),
        ] {
            let found = wrong(&json!({"text": "a", field: value}));
            assert_eq!(found.0.as_deref(), Some(field));
            assert!(
                found.1.ends_with(&format!("expected {range}")),
                "{}",
                found.1
            );
        }
    }
}
