//! Requests as objects in JSON, whose errors name the field that is wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What is wrong with a request.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// The field, if a single one is.
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
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| Wrong {
        field: None,
        problem: in_plain_words(&error),
    })?;
    let fields = members_without_nulls(fields);
    let whole = serde_json::from_value(Value::Object(fields.clone()));
    whole.map_err(|error| culprit::<T>(fields, required, &error))
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
    for (name, value) in fields {
        let mut alone = valid.clone();
        alone.insert(name.clone(), value);
        if let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) {
            return Wrong {
                field: Some(name),
                problem: in_plain_words(&error),
            };
        }
    }
    Wrong {
        field: None,
        problem: in_plain_words(error),
    }
}

/// A message without the names of Rust's types. Names of fields stand between quotation marks: between
/// backticks they would be parameters.
fn in_plain_words(error: &serde_json::Error) -> String {
    let names = [
        (
            "expected usize",
            "expected a whole number from 0 to 18446744073709551615",
        ),
        (
            "expected u64",
            "expected a whole number from 0 to 18446744073709551615",
        ),
        (
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        ),
        (
            "expected i64",
            "expected a whole number of at most 9223372036854775807",
        ),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
    ];
    let replace = |text: String, (from, to): (&str, &str)| text.replace(from, to);
    let text = error.to_string().replace('`', "\"");
    names.into_iter().fold(text, replace)
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
