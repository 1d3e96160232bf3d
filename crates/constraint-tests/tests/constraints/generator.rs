//! Random schemas over all supported keywords. Each of them allows some value.

use serde_json::{Map, Value, json};

use crate::random::Random;

/// The keywords of which a thousand schemas must use each several times.
pub(crate) const KEYWORDS: [&str; 34] = [
    "type",
    "const",
    "enum",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "deprecated",
    "readOnly",
];

const NAMES: [&str; 12] = [
    "name",
    "age",
    "city",
    "id",
    "tags",
    "a b",
    "quo\"te",
    "back\\slash",
    "é",
    "line\nbreak",
    "/~",
    "",
];

/// Patterns, and lengths that some of their matches have.
const PATTERNS: [(&str, usize, usize); 12] = [
    ("^[a-z]+$", 2, 6),
    ("foo", 3, 8),
    ("^(red|green|blue)$", 4, 5),
    ("^\\d{3}-\\d{4}$", 8, 8),
    ("^[A-Z][a-z]*( [A-Z][a-z]*)?$", 1, 9),
    ("^[^\"]*$", 0, 4),
    ("\\\\|\"|\\t", 1, 3),
    ("^\\w+@\\w+\\.(com|org)$", 7, 12),
    ("^$|^x", 0, 2),
    ("[\\u00e0-\\u00ff]{2}", 2, 5),
    ("^a.c$", 3, 3),
    ("(^|,)\\s*7", 1, 6),
];

/// A schema as a whole, with definitions.
pub(crate) fn document(random: &mut Random) -> Value {
    let mut schema = schema(random, 3);
    if !schema.is_object() {
        schema = json!({"allOf": [schema]});
    }
    let uses = schema.to_string();
    let definitions: Map<_, _> = [
        ("leaf", scalar(random)),
        ("list", list(random)),
        ("tree", tree(random)),
    ]
    .into_iter()
    .filter(|(name, _)| uses.contains(&format!("#/$defs/{name}")))
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect();
    if !definitions.is_empty() {
        // What the definitions refer to, too.
        let mut definitions = definitions;
        definitions
            .entry("leaf")
            .or_insert_with(|| json!({"type": "boolean"}));
        schema["$defs"] = Value::Object(definitions);
    }
    schema
}

fn list(random: &mut Random) -> Value {
    let next = match random.once_in(2) {
        true => json!({"$ref": "#/$defs/list"}),
        false => json!({"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}),
    };
    json!({"type": "object", "properties": {"value": {"$ref": "#/$defs/leaf"}, "next": next}, "required": ["value"]})
}

fn tree(random: &mut Random) -> Value {
    let most = random.between(1, 2);
    let children = json!({"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": most});
    json!({"type": "object", "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "children": children}, "required": ["leaf", "children"]})
}

fn schema(random: &mut Random, depth: usize) -> Value {
    let mut schema = match (depth, random.below(14)) {
        (0, _) | (_, 0..4) => scalar(random),
        (_, 4..7) => object(random, depth - 1),
        (_, 7) => map(random, depth - 1),
        (_, 8) => array(random, depth - 1),
        (_, 9) => tuple(random, depth - 1),
        (_, 10) => any_of(random, depth - 1),
        (_, 11) => one_of(random, depth - 1),
        (_, 12) => all_of(random, depth - 1),
        _ => reference(random),
    };
    if let Some(keywords) = schema.as_object_mut() {
        annotate(random, keywords);
    }
    schema
}

fn annotate(random: &mut Random, keywords: &mut Map<String, Value>) {
    for (keyword, value) in [
        ("title", json!("A title")),
        ("description", json!("What it \"is\"")),
        ("default", json!(null)),
        ("examples", json!([1, "x"])),
        ("$comment", json!("")),
        ("deprecated", json!(true)),
        ("readOnly", json!(false)),
        ("x-order", json!(1)),
    ] {
        if random.once_in(20) {
            keywords.insert(keyword.to_owned(), value);
        }
    }
}

fn reference(random: &mut Random) -> Value {
    json!({"$ref": format!("#/$defs/{}", random.one_of(&["leaf", "leaf", "list", "tree"]))})
}

fn scalar(random: &mut Random) -> Value {
    match random.below(14) {
        0 => json!({"type": random.one_of(&["null", "boolean", "string", "integer", "number"])}),
        1 => json!({"type": ["integer", "null"], "minimum": random.between(-5, 5)}),
        2 => json!({"type": ["string", "boolean"], "maxLength": random.below(4)}),
        3..6 => integer(random),
        6 | 7 => number(random),
        8..11 => string(random),
        11 => json!({"const": constant(random)}),
        _ => {
            let count = 1 + random.below(5);
            let values: Vec<_> = (0..count).map(|_| constant(random)).collect();
            json!({"enum": values})
        }
    }
}

fn constant(random: &mut Random) -> Value {
    random.one_of(&[
        json!(null),
        json!(true),
        json!(0),
        json!(-17),
        json!(2.5),
        json!(1e-7),
        json!(""),
        json!("red"),
        json!("tab\tquote\"\u{7f}é😀"),
        json!([1, [], "x"]),
        json!({"k": [null], "é": {}}),
    ])
}

fn integer(random: &mut Random) -> Value {
    let mut schema = json!({"type": "integer"});
    let divisor = random.one_of(&[1, 1, 2, 3, 5, 7, 10, 12, 100]);
    if random.once_in(3) {
        schema["multipleOf"] = json!(divisor);
    }
    let low = random.between(-1200, 1200);
    let high = low
        + random.one_of(&[0, 3, 20, 5000])
        + if schema.get("multipleOf").is_some() {
            divisor
        } else {
            0
        };
    match random.below(6) {
        0 => schema["minimum"] = json!(low),
        1 => schema["maximum"] = json!(high),
        2 => schema["exclusiveMinimum"] = json!(low as f64 - 0.5),
        3 => {
            schema["minimum"] = json!(low);
            schema["maximum"] = json!(high);
        }
        4 => {
            schema["exclusiveMinimum"] = json!(low - 1);
            schema["exclusiveMaximum"] = json!(high + 1);
        }
        _ => {}
    }
    schema
}

fn number(random: &mut Random) -> Value {
    let low = random.between(-40, 40) as f64 / 8.0;
    let high = low + random.one_of(&[0.25, 1.0, 7.5, 1000.0]);
    match random.below(5) {
        0 => json!({"type": "number", "minimum": low}),
        1 => json!({"type": "number", "exclusiveMaximum": high}),
        2 => json!({"type": "number", "minimum": low, "maximum": low}),
        3 => json!({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}),
        _ => json!({"type": "number", "minimum": low, "exclusiveMaximum": high}),
    }
}

fn string(random: &mut Random) -> Value {
    let (pattern, low, high) = random.one_of(&PATTERNS);
    let min = random.below(5);
    match random.below(8) {
        0 => json!({"type": "string", "minLength": min}),
        1 => json!({"type": "string", "maxLength": min + 3}),
        2 => json!({"type": "string", "minLength": min, "maxLength": min + random.below(6)}),
        3 => json!({"type": "string", "pattern": pattern}),
        4 => json!({"type": "string", "pattern": pattern, "maxLength": high}),
        5 => json!({"type": "string", "pattern": pattern, "minLength": low, "maxLength": high}),
        6 => {
            json!({"enum": ["red", "green", "a\"b", "blue", ""], "minLength": 1 + random.below(4)})
        }
        _ => {
            json!({"type": "string", "format": random.one_of(&["date", "time", "date-time", "uuid", "ipv4"])})
        }
    }
}

fn names(random: &mut Random, count: usize) -> Vec<&'static str> {
    let mut names = NAMES.to_vec();
    (0..count)
        .map(|_| names.remove(random.below(names.len())))
        .collect()
}

fn object(random: &mut Random, depth: usize) -> Value {
    let count = random.below(5);
    let names = names(random, count);
    let properties: Map<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), schema(random, depth)))
        .collect();
    let required: Vec<_> = names.iter().filter(|_| random.once_in(2)).collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if random.once_in(2) {
        schema["additionalProperties"] =
            random.one_of(&[json!(false), json!(true), json!({"type": "null"})]);
    }
    if random.once_in(6) {
        schema["minProperties"] = json!(random.between(required.len() as i64, count as i64));
    }
    if random.once_in(6) {
        let least = schema
            .get("minProperties")
            .and_then(Value::as_u64)
            .unwrap_or(0)
            .max(required.len() as u64);
        schema["maxProperties"] = json!(random.between(least as i64, count as i64 + 1));
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn map(random: &mut Random, depth: usize) -> Value {
    let mut map = json!({"type": "object", "additionalProperties": schema(random, depth.min(1))});
    if random.once_in(2) {
        map["maxProperties"] = json!(1 + random.below(3));
    }
    if random.once_in(2) {
        map["minProperties"] = json!(random.below(2));
    }
    map
}

fn array(random: &mut Random, depth: usize) -> Value {
    let mut array = json!({"type": "array", "items": schema(random, depth)});
    let min = random.below(3);
    match random.below(5) {
        0 => array["minItems"] = json!(min),
        1 => array["maxItems"] = json!(min + 1),
        2 => {
            array["minItems"] = json!(min);
            array["maxItems"] = json!(min + random.below(3));
        }
        3 => {
            array["uniqueItems"] = json!(true);
            array["maxItems"] = json!(1);
        }
        _ => {}
    }
    array
}

fn tuple(random: &mut Random, depth: usize) -> Value {
    let count = 1 + random.below(3);
    let first: Vec<_> = (0..count).map(|_| schema(random, depth.min(1))).collect();
    let mut tuple = json!({"type": "array", "prefixItems": first});
    match random.below(3) {
        0 => tuple["items"] = json!(false),
        1 => tuple["items"] = scalar(random),
        _ => tuple["maxItems"] = json!(count),
    }
    if random.once_in(2) {
        tuple["minItems"] = json!(random.below(count + 1));
    }
    tuple
}

fn any_of(random: &mut Random, depth: usize) -> Value {
    if random.once_in(3) {
        let low = random.between(0, 9);
        return json!({"type": "integer", "minimum": low, "anyOf": [{"maximum": low + 3}, {"multipleOf": 10, "maximum": 200}]});
    }
    let count = 2 + random.below(2);
    let branches: Vec<_> = (0..count).map(|_| schema(random, depth)).collect();
    json!({"anyOf": branches})
}

fn one_of(random: &mut Random, depth: usize) -> Value {
    match random.below(3) {
        0 => json!({"oneOf": [string(random), integer(random), {"type": "null"}]}),
        1 => {
            let high = random.between(-5, 5);
            json!({"oneOf": [{"type": "number", "maximum": high}, {"type": "number", "exclusiveMinimum": high}, {"type": "boolean"}]})
        }
        _ => {
            let kinds = ["circle", "square", "line"].map(|kind| {
                json!({"properties": {"kind": {"const": kind}, "value": schema(random, depth.min(1))}, "required": ["kind", "value"]})
            });
            json!({"type": "object", "oneOf": kinds})
        }
    }
}

fn all_of(random: &mut Random, depth: usize) -> Value {
    match random.below(3) {
        0 => {
            let low = random.between(-50, 50);
            json!({"type": "integer", "allOf": [{"minimum": low}, {"maximum": low + random.between(0, 300)}]})
        }
        1 => {
            json!({"type": "string", "allOf": [{"minLength": 1}, {"maxLength": 1 + random.below(6)}, {"pattern": "^[a-z]"}]})
        }
        _ => {
            let names = names(random, 3);
            let part = |name: &str, random: &mut Random| json!({"properties": {name: schema(random, depth.min(1))}, "required": [name]});
            let parts = [part(names[0], random), part(names[1], random)];
            json!({"type": "object", "properties": {(names[2]): scalar(random)}, "allOf": parts})
        }
    }
}
