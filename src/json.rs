//! JSON in which an object has each name once. Where a name stands twice, readers disagree on which value
//! counts (RFC 8259, section 4), and one of them would be dropped without a word.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Reads a value.
///
/// # Errors
/// It is not JSON, an object has a name twice, or a number is too large for a double.
pub fn parse(text: &[u8]) -> serde_json::Result<Value> {
    let place = RefCell::default();
    let mut input = serde_json::Deserializer::from_slice(text);
    let value = Distinct(&place).deserialize(&mut input);
    let value = value.and_then(|value| input.end().map(|()| value));
    value.map_err(|error| located(error, &place.into_inner()))
}

/// An error about a number that is too large, with the place of the number: the innermost name comes first.
fn located(error: serde_json::Error, place: &[String]) -> serde_json::Error {
    let problem = error.to_string();
    let Some(position) = problem.strip_prefix("number out of range") else {
        return error;
    };
    if place.is_empty() {
        return error;
    }
    let names = place.iter().rev();
    let pointer = names.fold(String::new(), |pointer, name| pointer_to(&pointer, name));
    serde_json::Error::custom(format!(
        "the number at '{pointer}' is out of range: give one from -{max:e} to {max:e}{position}",
        max = f64::MAX
    ))
}

/// The JSON pointer of a member or an item of what `pointer` points to.
pub(crate) fn pointer_to(pointer: &str, token: &str) -> String {
    format!("{pointer}/{}", token.replace('~', "~0").replace('/', "~1"))
}

/// Reads what has this type.
///
/// # Errors
/// As [`parse`]; or the value has another type.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    parse(text.as_bytes()).and_then(serde_json::from_value)
}

/// Reads a value without names that stand twice. Where that fails, the list gets the names and indices that
/// lead to the place, the innermost first.
#[derive(Clone, Copy)]
struct Distinct<'a>(&'a RefCell<Vec<String>>);

impl<'de> DeserializeSeed<'de> for Distinct<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Distinct<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let failed = |error, index: usize| {
            self.0.borrow_mut().push(index.to_string());
            error
        };
        while let Some(item) = items
            .next_element_seed(self)
            .map_err(|error| failed(error, list.len()))?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match object.entry(name) {
                Entry::Vacant(place) => match members.next_value_seed(self) {
                    Ok(value) => drop(place.insert(value)),
                    Err(error) => {
                        self.0.borrow_mut().push(place.key().clone());
                        return Err(error);
                    }
                },
                Entry::Occupied(place) => {
                    let problem = format!("the name {:?} stands twice", place.key());
                    return Err(A::Error::custom(problem));
                }
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_library_for_json() {
        for text in [
            "null",
            "[true, false, []]",
            "[0, -1, 18446744073709551615, -9223372036854775808, 0.5, 1e300, 123456789012345678901]",
            r#"{"b": {"a": "\u00e9\n"}, "a": [{"a": 1}, {"a": 2}], "": ""}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            let value = parse(text.as_bytes()).unwrap();
            assert_eq!(value.to_string(), expected.to_string());
        }
    }

    #[test]
    fn what_is_not_json_has_the_place_of_the_library_for_json() {
        let deep = "[".repeat(200);
        for text in [
            "",
            "{",
            "[1,]",
            "{1: 2}",
            "1e400",
            "[1] 2",
            "\"\\ud800\"",
            &deep,
        ] {
            let expected = serde_json::from_str::<Value>(text).unwrap_err();
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected.to_string());
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_name_that_stands_twice_is_an_error_at_any_depth() {
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"[{"b": {"a": 1, "c": 2, "a": 3}}]"#,
            r#"{"a": 1, "\u0061": 2}"#,
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with("the name \"a\" stands twice at line 1 column"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_number_that_is_too_large_has_its_place() {
        for (text, place) in [
            (r#"{"a/b": {"minimum": 1e400}}"#, "/a~1b/minimum"),
            (r#"[1, {"enum": [2, -1e999]}]"#, "/1/enum/1"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            let expected = format!("the number at '{place}' is out of range: give one from -1.797");
            assert!(error.to_string().starts_with(&expected), "{error}");
            let own = serde_json::from_str::<Value>(text).unwrap_err();
            assert_eq!((error.line(), error.column()), (own.line(), own.column()));
            assert!(
                error
                    .to_string()
                    .ends_with(&format!("column {}", own.column()))
            );
        }
    }
}
