//! What answers are constrained to: `response_format`, and its relatives.

use llama_diffusion::constraint::schema::{SchemaOptions, any_json_object, json_schema};
use llama_diffusion::constraint::{ByteAutomaton, ConstraintError, Limits};
use serde_json::Value;

use super::error::ApiError;
use super::request::{Constraint, Language};
use super::value::{Field, Object};

/// Bytes of a schema.
const MAX_SCHEMA: usize = 256 << 10;

/// Reads `response_format`, or `json_schema` beside it, as llama-server has it.
///
/// # Errors
/// 400 with the field that is wrong, or both are given.
pub fn read(body: &Object<'_>) -> Result<Option<Constraint>, ApiError> {
    let format = body
        .object("response_format")?
        .map(|format| response_format(&format, "json_schema"));
    let format = format.transpose()?.flatten();
    match (format, body.get("json_schema")) {
        (Some(_), Some(schema)) => {
            Err(schema.error("response_format says another one: remove one of them"))
        }
        (format, None) => Ok(format),
        (None, Some(schema)) => Ok(Some(of_schema(&schema)?)),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    JsonObject,
    JsonSchema,
    Regex,
}

/// Reads the object of `response_format`, or of `text.format` in Responses. The protocol has the schema in
/// `place`, the field that is named if there is none.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn response_format(format: &Object<'_>, place: &str) -> Result<Option<Constraint>, ApiError> {
    let kinds = [
        ("text", Kind::Text),
        ("json_object", Kind::JsonObject),
        ("json_schema", Kind::JsonSchema),
        ("regex", Kind::Regex),
    ];
    let kind = format.require("type")?.choice(&kinds)?;
    match (kind, format.get("schema")) {
        (Kind::Text, _) => Ok(None),
        // llama-server takes a schema here as well.
        (Kind::JsonObject | Kind::JsonSchema, Some(schema)) => of_schema(&schema).map(Some),
        (Kind::JsonObject, None) => Ok(Some(Constraint {
            field: format.path("type"),
            language: Language::JsonObject,
        })),
        (Kind::JsonSchema, None) => {
            let named = match format.get("json_schema") {
                Some(named) => named,
                None => format.require(place)?,
            };
            of_schema(&named.object()?.require("schema")?).map(Some)
        }
        (Kind::Regex, _) => {
            let pattern = format.require("pattern")?;
            Ok(Some(Constraint {
                language: Language::Regex(pattern.string()?.to_owned()),
                field: pattern.path,
            }))
        }
    }
}

/// The constraint to a schema: an object or a boolean.
///
/// # Errors
/// 400: it is something else, or too large.
pub fn of_schema(schema: &Field<'_>) -> Result<Constraint, ApiError> {
    if !(schema.value.is_object() || schema.value.is_boolean()) {
        return Err(schema.wrong("a schema: an object or a boolean"));
    }
    let bytes = schema.value.to_string().len();
    if bytes > MAX_SCHEMA {
        return Err(schema.error(format!("has {bytes} bytes: make it {MAX_SCHEMA} or less")));
    }
    Ok(Constraint {
        field: schema.path.clone(),
        language: Language::JsonSchema(schema.value.clone()),
    })
}

/// Any of these schemas.
pub fn any_of(schemas: Vec<Value>) -> Value {
    serde_json::json!({ "anyOf": schemas })
}

impl Constraint {
    /// The automaton of the language. It takes long for large schemas: not for a thread that others
    /// wait for.
    ///
    /// # Errors
    /// 400: the schema or the expression cannot be honoured; the message names the place in it.
    pub fn automaton(&self) -> Result<ByteAutomaton, ApiError> {
        let (options, limits) = (SchemaOptions::default(), Limits::default());
        let refuse = |error: ConstraintError| ApiError::field(&self.field, error.to_string());
        let language = match &self.language {
            Language::Regex(pattern) => {
                return ByteAutomaton::from_regex(pattern, &limits).map_err(refuse);
            }
            Language::JsonObject => any_json_object(&options),
            Language::JsonSchema(schema) => json_schema(schema, &options),
        };
        language
            .and_then(|language| language.automaton(&limits))
            .map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn constraint(body: Value) -> Result<Option<Constraint>, ApiError> {
        let Value::Object(map) = &body else { panic!() };
        read(&Object::root(map))
    }

    fn problem(body: Value) -> (String, String) {
        let error = constraint(body).unwrap_err();
        (error.param.unwrap(), error.message)
    }

    #[test]
    fn the_forms_of_a_format() {
        let language = |body| {
            constraint(body)
                .unwrap()
                .map(|constraint| constraint.language)
        };
        let schema = json!({"type": "integer"});
        let expected = Some(Language::JsonSchema(schema.clone()));
        for body in [
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
            json!({"response_format": {"type": "json_schema", "schema": schema}}),
            json!({"response_format": {"type": "json_object", "schema": schema}}),
            json!({"json_schema": schema}),
        ] {
            assert_eq!(language(body), expected);
        }
        assert_eq!(language(json!({"response_format": {"type": "text"}})), None);
        assert_eq!(language(json!({})), None);
        assert_eq!(
            language(json!({"response_format": {"type": "json_object"}})),
            Some(Language::JsonObject)
        );
        assert_eq!(
            language(json!({"response_format": {"type": "regex", "pattern": "a|b"}})),
            Some(Language::Regex("a|b".into()))
        );
    }

    #[test]
    fn wrong_formats_name_their_field() {
        for (format, param) in [
            (json!("json"), "response_format"),
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (
                json!({"type": "json_schema"}),
                "response_format.json_schema",
            ),
            (
                json!({"type": "json_schema", "json_schema": {}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"type": "json_schema", "schema": [1]}),
                "response_format.schema",
            ),
            (json!({"type": "regex"}), "response_format.pattern"),
        ] {
            assert_eq!(problem(json!({"response_format": format})).0, param);
        }
        let both = json!({"response_format": {"type": "json_object"}, "json_schema": {}});
        assert_eq!(problem(both).0, "json_schema");
        let large = json!({"json_schema": {"description": "x".repeat(MAX_SCHEMA)}});
        assert!(problem(large).1.contains("make it 262144 or less"));
    }

    #[test]
    fn a_schema_that_cannot_be_kept_is_refused_with_its_place() {
        let automaton = |body| constraint(body).unwrap().unwrap().automaton();
        assert!(automaton(json!({"json_schema": {"type": "boolean"}})).is_ok());
        assert!(automaton(json!({"response_format": {"type": "json_object"}})).is_ok());
        let error = automaton(json!({"json_schema": {"properties": {"a": {"type": "nonsense"}}}}))
            .unwrap_err();
        assert_eq!(error.param.as_deref(), Some("json_schema"));
        assert!(
            error
                .message
                .contains("'#/properties/a': the keyword 'type'"),
            "{}",
            error.message
        );
        let regex = json!({"response_format": {"type": "regex", "pattern": "("}});
        let error = automaton(regex).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("response_format.pattern"));
    }
}
