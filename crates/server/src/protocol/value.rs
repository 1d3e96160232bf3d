//! Typed reading of JSON bodies: every value knows its path, and every error names it.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use llama_diffusion::internal::parse_json;
use serde_json::{Map, Value};

use super::error::{ApiError, ErrorKind};

/// Parses a body. The content type does not matter.
///
/// # Errors
/// 400: it is not JSON, or not an object.
pub fn body(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let problem = match parse_json(bytes) {
        Ok(Value::Object(map)) => return Ok(map),
        Ok(other) => format!("the body is {}, but must be an object", kind(&other)),
        Err(error) => format!("the body is not JSON: {error}"),
    };
    Err(ApiError::new(ErrorKind::InvalidRequest, problem))
}

/// What a value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value and where it is.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    /// Such as `messages[2].content`.
    pub path: String,
    /// The value; null only where an element of a list is null.
    pub value: &'a Value,
}

/// An object and where it is. A member that is null counts as absent: clients write their optional
/// fields so.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Field<'a> {
    /// An error about this field.
    pub fn error(&self, problem: impl AsRef<str>) -> ApiError {
        ApiError::field(&self.path, problem)
    }

    /// An error about its type.
    pub fn wrong(&self, wanted: &str) -> ApiError {
        self.error(format!("is {}, but must be {wanted}", kind(self.value)))
    }

    /// The string.
    ///
    /// # Errors
    /// It is something else.
    pub fn string(&self) -> Result<&'a str, ApiError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// The boolean.
    ///
    /// # Errors
    /// It is something else.
    pub fn boolean(&self) -> Result<bool, ApiError> {
        self.value.as_bool().ok_or_else(|| self.wrong("a boolean"))
    }

    /// The whole number; it may be written as `5.0`.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
        let Value::Number(number) = self.value else {
            return Err(self.wrong(&one_of("a whole number", &range)));
        };
        // Beyond i64, `f64` shows the side: i64::MAX is 2⁶³ there.
        let is_above = number.as_i64().map_or_else(
            || {
                number
                    .as_f64()
                    .is_some_and(|float| float >= *range.end() as f64)
            },
            |whole| whole > *range.end(),
        );
        let whole = number.as_i64().or_else(|| {
            // Every whole number below 2⁵³ is exact.
            let float = number
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < 2_f64.powi(53));
            float.map(|float| float as i64)
        });
        let whole = whole.filter(|whole| range.contains(whole));
        whole.ok_or_else(|| {
            let bounds = bounds(range.start(), range.end(), is_above);
            self.error(format!("is {number}, but must be a whole number {bounds}"))
        })
    }

    /// The whole number as a count.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn count(&self, range: RangeInclusive<u32>) -> Result<usize, ApiError> {
        let number = self.integer(i64::from(*range.start())..=i64::from(*range.end()))?;
        usize::try_from(number).map_err(|_| self.wrong("a count"))
    }

    /// The number, as a single-precision one.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn number(&self, range: RangeInclusive<f32>) -> Result<f32, ApiError> {
        let Some(number) = self.value.as_f64() else {
            return Err(self.wrong(&one_of("a number", &range)));
        };
        let single = number as f32;
        let is_above = single > *range.end();
        match single.is_finite() && range.contains(&single) {
            true => Ok(single),
            false => {
                let bounds = bounds(range.start(), range.end(), is_above);
                let value = self.value;
                Err(self.error(format!("is {value}, but must be a number {bounds}")))
            }
        }
    }

    /// One of several names.
    ///
    /// # Errors
    /// It is something else.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ApiError> {
        let names = || {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            names.join(", ")
        };
        let Some(given) = self.value.as_str() else {
            return Err(self.wrong(&format!("one of {}", names())));
        };
        let found = choices.iter().find(|(name, _)| *name == given);
        found
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.error(format!("is {}, but must be one of {}", self.value, names())))
    }

    /// The elements of the list.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self) -> Result<Vec<Field<'a>>, ApiError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let element = |(index, value)| Field {
            path: format!("{}[{index}]", self.path),
            value,
        };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// The object.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&self) -> Result<Object<'a>, ApiError> {
        match self.value {
            Value::Object(map) => Ok(Object {
                path: self.path.clone(),
                map,
            }),
            _ => Err(self.wrong("an object")),
        }
    }
}

impl<'a> Object<'a> {
    /// The object of a body.
    pub fn root(map: &'a Map<String, Value>) -> Self {
        Self {
            path: String::new(),
            map,
        }
    }

    /// Its members, whatever they are.
    pub fn members(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// The path of a member.
    pub fn path(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// An error about a member, also one that is not there.
    pub fn error(&self, name: &str, problem: impl AsRef<str>) -> ApiError {
        ApiError::field(self.path(name), problem)
    }

    /// A member, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(Field {
            path: self.path(name),
            value,
        })
    }

    /// The first of several names for the same member.
    pub fn any(&self, names: &[&str]) -> Option<Field<'a>> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A member that must be there.
    ///
    /// # Errors
    /// It is absent or null.
    pub fn require(&self, name: &str) -> Result<Field<'a>, ApiError> {
        self.get(name).ok_or_else(|| self.error(name, "is missing"))
    }

    /// A string, if it is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|field| field.string()).transpose()
    }

    /// A boolean; absent is false.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.boolean(name)?.unwrap_or(false))
    }

    /// A boolean, if it is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name).map(|field| field.boolean()).transpose()
    }

    /// A count, if it is there.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn count(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<usize>, ApiError> {
        self.get(name).map(|field| field.count(range)).transpose()
    }

    /// A number, if it is there.
    ///
    /// # Errors
    /// It is something else, or out of range.
    pub fn number(&self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        self.get(name).map(|field| field.number(range)).transpose()
    }

    /// One of several names, if it is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        self.get(name)
            .map(|field| field.choice(choices))
            .transpose()
    }

    /// The elements of a list; none if it is absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(&self, name: &str) -> Result<Vec<Field<'a>>, ApiError> {
        self.get(name).map_or(Ok(Vec::new()), |field| field.list())
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&self, name: &str) -> Result<Option<Object<'a>>, ApiError> {
        self.get(name).map(|field| field.object()).transpose()
    }
}

/// A range in words; an end that no type goes beyond is left out, unless the number is `above` it.
fn bounds<T: Debug + Bounded>(low: &T, high: &T, above: bool) -> String {
    match high.is_maximum() && !above {
        true => format!("of {low:?} or more"),
        false => format!("from {low:?} to {high:?}"),
    }
}

/// A number of a range in words, where something else stands.
fn one_of<T: Debug + Bounded>(kind: &str, range: &RangeInclusive<T>) -> String {
    let (low, high) = (range.start(), range.end());
    match low.is_minimum() && high.is_maximum() {
        true => kind.to_owned(),
        false => format!("{kind} {}", bounds(low, high, false)),
    }
}

/// Types whose least and greatest values stand for no bound.
trait Bounded {
    fn is_minimum(&self) -> bool;
    fn is_maximum(&self) -> bool;
}

impl Bounded for i64 {
    fn is_minimum(&self) -> bool {
        *self <= -Self::MAX
    }

    fn is_maximum(&self) -> bool {
        *self >= i64::from(u32::MAX)
    }
}

impl Bounded for f32 {
    fn is_minimum(&self) -> bool {
        *self == Self::MIN
    }

    fn is_maximum(&self) -> bool {
        *self == f32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: &Value) -> Field<'_> {
        Field {
            path: "x".into(),
            value,
        }
    }

    fn message<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.param.as_deref(), Some("x"));
        error.message
    }

    #[test]
    fn bodies_are_objects() {
        assert_eq!(body(b"{\"a\": 1}").unwrap()["a"], 1);
        let problem = |bytes: &[u8]| body(bytes).unwrap_err().message;
        assert!(problem(b"[1]").contains("the body is a list, but must be an object"));
        assert!(problem(b"{").starts_with("the body is not JSON: EOF"));
        assert!(problem(b"{\"a\": NaN}").starts_with("the body is not JSON"));
        assert!(problem(b"{\"a\": 1e999}").contains("the number at '/a' is out of range"));
        assert!(problem("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn whole_numbers_of_any_size() {
        let integer = |value: Value| of(&value).integer(-1..=10);
        assert_eq!(integer(json!(-1)), Ok(-1));
        assert_eq!(integer(json!(5.0)), Ok(5));
        for bad in [
            json!(11),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(0.5),
            json!(1e300),
        ] {
            let message = message(integer(bad.clone()));
            assert_eq!(
                message,
                format!("x: is {bad}, but must be a whole number from -1 to 10")
            );
        }
        assert_eq!(
            message(integer(json!("5"))),
            "x: is a string, but must be a whole number from -1 to 10"
        );
        assert_eq!(
            message(of(&json!("5")).integer(-i64::MAX..=i64::MAX)),
            "x: is a string, but must be a whole number"
        );
        assert_eq!(
            message(of(&json!(-1)).count(0..=u32::MAX)),
            "x: is -1, but must be a whole number of 0 or more"
        );
        assert_eq!(
            message(of(&json!(4_294_967_296_u64)).count(0..=u32::MAX)),
            "x: is 4294967296, but must be a whole number from 0 to 4294967295"
        );
        assert_eq!(
            message(of(&json!(1e30)).integer(-1..=i64::MAX)),
            "x: is 1e+30, but must be a whole number from -1 to 9223372036854775807"
        );
    }

    #[test]
    fn numbers_are_finite_in_single_precision() {
        assert_eq!(of(&json!(1)).number(0.0..=1.0), Ok(1.0));
        assert_eq!(
            message(of(&json!(1e300)).number(0.0..=f32::MAX)),
            "x: is 1e+300, but must be a number from 0.0 to 3.4028235e38"
        );
        assert_eq!(
            message(of(&json!("NaN")).number(0.0..=2.0)),
            "x: is a string, but must be a number from 0.0 to 2.0"
        );
        assert_eq!(
            message(of(&json!("1")).number(f32::MIN..=f32::MAX)),
            "x: is a string, but must be a number"
        );
    }

    #[test]
    fn paths_lead_to_the_culprit() {
        let value = json!({"a": [{"b": null}, {"b": {"c": true}}], "d": null});
        let Value::Object(map) = &value else { panic!() };
        let root = Object::root(map);
        assert!(root.get("d").is_none());
        let list = root.list("a").unwrap();
        let param = |error: ApiError| error.param.unwrap();
        let first = list[0].object().unwrap();
        assert_eq!(param(first.require("b").unwrap_err()), "a[0].b");
        let second = list[1].object().unwrap().object("b").unwrap().unwrap();
        assert_eq!(param(second.string("c").unwrap_err()), "a[1].b.c");
        assert_eq!(
            param(root.list("a").unwrap()[1].string().unwrap_err()),
            "a[1]"
        );
    }

    #[test]
    fn a_wrong_choice_lists_the_right_ones() {
        let choice = |value: Value| of(&value).choice(&[("off", 0), ("on", 1)]);
        assert_eq!(choice(json!("on")), Ok(1));
        assert_eq!(
            message(choice(json!("On"))),
            "x: is \"On\", but must be one of \"off\", \"on\""
        );
        assert_eq!(
            message(choice(json!(1))),
            "x: is a number, but must be one of \"off\", \"on\""
        );
    }
}
