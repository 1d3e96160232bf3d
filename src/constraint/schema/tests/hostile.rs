//! Schemas made to take for ever, or all memory.

use std::time::Duration;

use super::*;
use crate::constraint::timed::timed;

/// An error within a time that leaves the rest of the two seconds to other parts. Builds without
/// optimization are given more.
fn ends(name: &str, schema: &Value) {
    let (took, result) = timed(|| json_schema(schema, &SchemaOptions::default()));
    eprintln!(
        "{name}: {took:?} {}",
        result.as_ref().map_or_else(
            |error| error.to_string().chars().take(100).collect(),
            |_| "accepted".to_owned()
        )
    );
    assert!(result.is_err(), "{name}");
    let limit = if cfg!(debug_assertions) { 40 } else { 2 };
    assert!(took < Duration::from_secs(limit), "{name}: {took:?}");
}

#[test]
fn nesting() {
    let mut schema = json!({"type": "null"});
    for _ in 0..1000 {
        schema = json!({"items": schema});
    }
    ends("deep items", &schema);
    let mut schema = json!({"type": "null"});
    for _ in 0..100 {
        schema = json!({"properties": {"a": schema}, "required": ["a"]});
    }
    ends("deep properties", &schema);
    let mut constant = json!(1);
    for _ in 0..1000 {
        constant = json!([constant]);
    }
    ends("deep constant", &json!({"const": constant}));
}

#[test]
fn references() {
    ends("itself", &json!({"$ref": "#"}));
    ends(
        "each other",
        &json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
    );
    let mut definitions = serde_json::Map::new();
    for index in 0..60 {
        let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
        definitions.insert(
            format!("d{index}"),
            json!({"properties": {"x": next, "y": next}, "required": ["x", "y"]}),
        );
    }
    definitions.insert("d60".to_owned(), json!({"type": "null"}));
    ends(
        "exponential",
        &json!({"$ref": "#/$defs/d0", "$defs": definitions}),
    );
    let names: Vec<_> = (0..20).map(|index| format!("d{index}")).collect();
    let all: serde_json::Map<_, _> = names
        .iter()
        .map(|name| (name.clone(), json!({"$ref": format!("#/$defs/{name}")})))
        .collect();
    let definitions: serde_json::Map<_, _> = names
        .iter()
        .map(|name| (name.clone(), json!({"properties": all})))
        .collect();
    ends(
        "all in all",
        &json!({"$ref": "#/$defs/d0", "$defs": definitions}),
    );
    let wide: Vec<_> = (0..20)
        .map(|_| json!({"anyOf": [{"minimum": 1}, {"maximum": 3}, {"type": "integer"}]}))
        .collect();
    ends("branches times branches", &json!({"allOf": wide}));
}

#[test]
fn sizes() {
    let values: Vec<_> = (0..200_000)
        .map(|index| json!(format!("value number {index} {}", index * 7919)))
        .collect();
    ends("many values", &json!({"enum": values}));
    ends("a long value", &json!({"const": "x".repeat(1 << 20)}));
    ends(
        "many items",
        &json!({"items": {"type": "string", "maxLength": 1000}, "maxItems": 1_000_000}),
    );
    ends(
        "very many items",
        &json!({"items": {"type": "null"}, "minItems": u64::MAX}),
    );
    ends(
        "counted members",
        &json!({"additionalProperties": {"type": "null"}, "maxProperties": 1e15}),
    );
    let members: serde_json::Map<_, _> = (0..3000)
        .map(|index| (format!("p{index}"), json!({})))
        .collect();
    ends("many members", &json!({"properties": members}));
    let members: serde_json::Map<_, _> = (0..2000)
        .map(|index| (format!("p{index}"), json!({"const": 1})))
        .collect();
    ends(
        "many members, counted",
        &json!({"properties": members, "minProperties": 1000}),
    );
}

#[test]
fn patterns() {
    ends(
        "repetitions",
        &json!({"pattern": "^((a{1000}){1000}){1000}$"}),
    );
    ends(
        "subsets with a length",
        &json!({"pattern": "^(a|b)*a(a|b){30}$", "maxLength": 1000}),
    );
    ends("groups", &json!({"pattern": "(".repeat(100_000)}));
    ends(
        "classes",
        &json!({"pattern": "\\p{L}\\p{N}\\w".repeat(3000)}),
    );
    let members: serde_json::Map<_, _> = (0..1000)
        .map(|index| {
            (
                format!("p{index}"),
                json!({"pattern": "\\p{L}{0}".repeat(20)}),
            )
        })
        .collect();
    ends("many classes", &json!({"properties": members}));
    let members: serde_json::Map<_, _> = (0..1000)
        .map(|index| {
            (
                format!("p{index}"),
                json!({"pattern": format!("^(a|b)*a(a|b){{10}}{index}$"), "maxLength": 30}),
            )
        })
        .collect();
    ends("many products", &json!({"properties": members}));
    let members: serde_json::Map<_, _> = (0..2000)
        .map(|index| {
            (
                format!("p{index}"),
                json!({"multipleOf": 1000 - index % 10}),
            )
        })
        .collect();
    ends("many divisors", &json!({"properties": members}));
}
