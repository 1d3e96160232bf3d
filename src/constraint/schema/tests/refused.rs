//! What cannot be kept, by keyword and place.

use super::*;

fn refusal(schema: &Value) -> String {
    match json_schema(schema, &SchemaOptions::default()) {
        Ok(_) => panic!("accepted: {schema}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn unsupported_keywords_are_named_with_their_place() {
    for keyword in [
        "not",
        "if",
        "then",
        "else",
        "patternProperties",
        "propertyNames",
        "contains",
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedItems",
        "unevaluatedProperties",
        "$dynamicRef",
        "contentEncoding",
        "additionalItems",
    ] {
        let schema = json!({"properties": {"a/b": {"items": {"type": "string", keyword: {}}}}});
        let error = refusal(&schema);
        assert!(
            error.contains("'#/properties/a~1b/items'")
                && error.contains(&format!("'{keyword}' is not supported")),
            "{error}"
        );
    }
    let error = refusal(&json!({"type": "string", "minLenght": 3}));
    assert!(
        error.contains("'minLenght' is unknown") && error.contains("'#'"),
        "{error}"
    );
}

#[test]
fn annotations_are_ignored() {
    let schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com", "$comment": "", "title": "",
        "description": "", "default": 1, "examples": [], "deprecated": true, "readOnly": true, "writeOnly": false, "x-order": 1, "$defs": {"unused": 5},
        "type": "null"});
    check(schema, &["null"], &["1"]);
}

#[test]
fn malformed_schemas_are_named() {
    for (schema, place, part) in [
        (json!(5), "'#'", "must be a schema"),
        (json!({"items": "x"}), "'#/items'", "must be a schema"),
        (json!({"type": 5}), "'#'", "'type' must be null, boolean"),
        (json!({"type": "strin"}), "'#'", "'type' must be"),
        (json!({"type": []}), "'#'", "'type' must be"),
        (
            json!({"properties": []}),
            "'#'",
            "'properties' must be an object",
        ),
        (
            json!({"required": "a"}),
            "'#'",
            "'required' must be an array of names",
        ),
        (json!({"required": [1]}), "'#'", "'required' must be"),
        (json!({"enum": 1}), "'#'", "'enum' must be an array"),
        (
            json!({"minItems": -1}),
            "'#'",
            "'minItems' must be an integer",
        ),
        (
            json!({"maxLength": 1.5}),
            "'#'",
            "'maxLength' must be an integer",
        ),
        (json!({"minimum": "1"}), "'#'", "'minimum' must be a number"),
        (
            json!({"exclusiveMinimum": true}),
            "'#'",
            "'exclusiveMinimum' must be a number",
        ),
        (json!({"anyOf": []}), "'#'", "'anyOf' must be an array"),
        (json!({"allOf": {}}), "'#'", "'allOf' must be an array"),
        (json!({"pattern": 1}), "'#'", "'pattern' must be a string"),
        (
            json!({"uniqueItems": 1}),
            "'#'",
            "'uniqueItems' must be true or false",
        ),
        (json!({"items": [true]}), "'#'", "write prefixItems"),
        (
            json!({"prefixItems": true}),
            "'#'",
            "'prefixItems' must be an array",
        ),
        (json!({"$ref": 1}), "'#'", "'$ref' must be a string"),
        (
            json!({"properties": {"a": {"$ref": "#/nowhere"}}}),
            "'#/properties/a'",
            "'#/nowhere' leads nowhere",
        ),
        (json!({"$ref": "other.json"}), "'#'", "not in this document"),
        (json!({"$ref": "#name"}), "'#'", "an anchor"),
        (json!({"$ref": "#/%4"}), "'#'", "percent-encoding"),
        (json!({"pattern": "(?=a)"}), "'#'", "look-around"),
        (json!({"pattern": "(a"}), "'#'", "unclosed"),
        (
            json!({"format": "email"}),
            "'#'",
            "'email' is not supported",
        ),
        (
            json!({"uniqueItems": true}),
            "'#'",
            "'uniqueItems' can be kept",
        ),
        (json!({"maxLength": 2001}), "'#'", "lengths up to 2000"),
        (
            json!({"minProperties": 2}),
            "'#'",
            "'minProperties' above 1",
        ),
        (
            json!({"multipleOf": 0.5}),
            "'#'",
            "an integer from 1 to 1000",
        ),
        (
            json!({"enum": [[1]], "minItems": 2}),
            "'#'",
            "cannot be checked",
        ),
        (
            json!({"properties": {"a": {"$id": "b", "items": true}, "c": {"$ref": "#/properties/a/items"}}}),
            "'#/properties/c'",
            "an $id of its own",
        ),
        (
            json!({"properties": {"a": {"$id": "b", "items": {"$ref": "#/$defs/c"}}}, "$defs": {"c": true}}),
            "'#/properties/a/items'",
            "'#/$defs/c' leads nowhere",
        ),
    ] {
        let error = refusal(&schema);
        assert!(
            error.contains(place) && error.contains(part),
            "{schema}: {error}"
        );
    }
}

#[test]
fn what_no_value_obeys_is_refused_with_its_place() {
    for (schema, place) in [
        (json!(false), "'#'"),
        (json!({"type": "string", "enum": [1]}), "'#'"),
        (json!({"minimum": 2, "maximum": 1}), "'#'"),
        (
            json!({"required": ["a"], "properties": {"a": {"type": "string", "const": 1}}}),
            "'#/properties/a'",
        ),
        (
            json!({"required": ["b"], "properties": {}, "additionalProperties": false}),
            "'#/additionalProperties'",
        ),
        (json!({"items": false, "minItems": 1}), "'#/items'"),
        (json!({"enum": []}), "'#'"),
        (json!({"minLength": 2, "maxLength": 1}), "'#'"),
        (
            json!({"allOf": [{"type": "null"}, {"type": "string"}]}),
            "'#'",
        ),
        (
            json!({"properties": {"a": true}, "minProperties": 2}),
            "'#'",
        ),
    ] {
        let error = refusal(&schema);
        assert!(
            error.contains(place) && error.contains("no value obeys"),
            "{schema}: {error}"
        );
    }
    let error = refusal(&json!({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}));
    assert!(
        error.contains("'#/properties/a'") && error.contains("does not end within 4 levels"),
        "{error}"
    );
}

#[test]
fn branches_that_overlap_are_refused() {
    for branches in [
        json!([{"type": "integer"}, {"type": "number"}]),
        json!([{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]),
        json!([{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}, "required": ["a"]}]),
        json!([{"type": "object", "properties": {"a": {"const": 1}}}, {"type": "object", "properties": {"a": {"const": 2}}}]),
        json!([{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"const": 2}}, "required": ["b"]}]),
        json!([{"enum": [1, 2]}, {"enum": [2.0]}]),
        json!([{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}]),
        json!([{}, {"type": "null"}]),
        json!([{"maximum": 1}, {"minimum": 2}]),
    ] {
        let error = refusal(&json!({"items": {"oneOf": branches}}));
        assert!(
            error.contains("'#/items'") && error.contains("'oneOf' has branches"),
            "{branches}: {error}"
        );
    }
}

#[test]
fn too_many_states_name_the_count_or_the_depth() {
    let refusal = |schema: &Value, depth| {
        let options = SchemaOptions {
            depth,
            ..SchemaOptions::default()
        };
        let language = json_schema(schema, &options);
        let automaton = language.and_then(|language| language.automaton(&Limits::default()));
        automaton.unwrap_err().to_string()
    };
    let text = json!({"properties": {"a": {"type": "string", "maxLength": 2000}}});
    assert_eq!(
        refusal(&text, 4),
        "the schema at '#/properties/a': the keyword 'maxLength' is 2000, which needs more than 20000 states: lower it"
    );
    let list =
        json!({"type": "array", "maxItems": 1000, "items": {"type": "string", "maxLength": 300}});
    assert_eq!(
        refusal(&list, 4),
        "the schema at '#': the keyword 'maxItems' is 1000, which needs too many states: lower it"
    );
    let error = refusal(&json!({}), 8);
    let expected = "the schema at '#': needs too many states: lower minItems, maxItems, minLength, maxLength or `depth`,";
    assert!(error.starts_with(expected), "{error}");
    // A count is named as it is written.
    let error = refusal(&json!({"maxLength": 1e30}), 4);
    assert!(
        error.contains("'maxLength' is 1e+30, but lengths up to 2000"),
        "{error}"
    );
}
