//! Schemas as a whole: what is written, what is refused, and what it costs.

mod hostile;
mod refused;

use serde_json::{Value, json};

use super::*;
use crate::constraint::{ByteAutomaton, Limits};

fn compact() -> SchemaOptions {
    SchemaOptions {
        whitespace: Whitespace::Compact,
        ..SchemaOptions::default()
    }
}

fn automaton(schema: &Value, options: &SchemaOptions) -> ByteAutomaton {
    let language = json_schema(schema, options).unwrap_or_else(|error| panic!("{schema}: {error}"));
    language.automaton(&Limits::default()).unwrap()
}

/// Whether exactly the first of these compact texts are in the language.
fn check(schema: Value, accepted: &[&str], rejected: &[&str]) {
    let automaton = automaton(&schema, &compact());
    for text in accepted {
        assert!(automaton.matches(text.as_bytes()), "{schema} writes {text}");
    }
    for text in rejected {
        assert!(
            !automaton.matches(text.as_bytes()),
            "{schema} does not write {text}"
        );
    }
}

#[test]
fn types() {
    check(json!({"type": "null"}), &["null"], &["", "nul", "true"]);
    check(
        json!({"type": "boolean"}),
        &["true", "false"],
        &["null", "\"true\""],
    );
    check(
        json!({"type": ["integer", "null"]}),
        &["0", "-17", "null"],
        &["1.5", "-0", "01", "\"1\""],
    );
    check(
        json!({"type": ["integer", "number"]}),
        &["0", "1.5", "1e5"],
        &["\"1\""],
    );
    check(
        json!({"type": "string"}),
        &["\"\"", "\"é\\n\\u00e9\""],
        &["\"", "\"\n\"", "x"],
    );
    check(
        json!({"type": "array"}),
        &["[]", "[1,\"a\",[null],{\"a\":{}}]"],
        &["[1,]", "{}"],
    );
    check(
        json!({"type": "object"}),
        &["{}", "{\"a\":[{}],\"b\":1}"],
        &["{\"a\"}", "[]"],
    );
    check(json!(true), &["1", "{\"a\":[]}", "null"], &["", "{"]);
    check(json!({}), &["1", "[[[[1]]]]"], &["[[[[[1]]]]]"]);
}

#[test]
fn rules_without_a_type_imply_one() {
    check(
        json!({"minLength": 2}),
        &["\"ab\""],
        &["\"a\"", "1", "null"],
    );
    check(
        json!({"properties": {"a": {"const": 1}}}),
        &["{}", "{\"a\":1}"],
        &["1", "[]", "{\"a\":2}"],
    );
    check(
        json!({"maximum": 3, "maxItems": 0}),
        &["3", "[]"],
        &["4", "[1]", "\"\""],
    );
    check(json!({"type": "string", "maximum": 3}), &["\"a\""], &["1"]);
}

#[test]
fn members_come_in_order_with_their_commas() {
    let one = json!({"const": 1});
    let schema =
        json!({"type": "object", "properties": {"a": one, "b": one, "c": one}, "required": ["b"]});
    check(
        schema,
        &[
            "{\"b\":1}",
            "{\"a\":1,\"b\":1}",
            "{\"b\":1,\"c\":1}",
            "{\"a\":1,\"b\":1,\"c\":1}",
        ],
        &[
            "{}",
            "{\"a\":1}",
            "{\"b\":1,\"a\":1}",
            "{,\"b\":1}",
            "{\"b\":1,}",
            "{\"a\":1\"b\":1}",
            "{\"b\":1,\"b\":1}",
        ],
    );
    let schema = json!({"properties": {"a": one, "b": one, "c": one}});
    check(
        schema,
        &[
            "{}",
            "{\"a\":1}",
            "{\"b\":1}",
            "{\"c\":1}",
            "{\"a\":1,\"c\":1}",
            "{\"b\":1,\"c\":1}",
        ],
        &["{,}", "{\"c\":1,\"a\":1}", "{\"a\":1,,\"c\":1}"],
    );
    check(json!({"properties": {}}), &["{}"], &["{\"a\":1}"]);
    check(
        json!({"required": ["z"], "properties": {"a": one}}),
        &["{\"z\":[]}", "{\"a\":1,\"z\":2}"],
        &["{}", "{\"z\":1,\"a\":1}"],
    );
    check(
        json!({"properties": {"a\"/\n": one}}),
        &["{\"a\\\"/\\n\":1}"],
        &["{\"a\"/\n\":1}"],
    );
}

#[test]
fn members_are_counted() {
    let one = json!({"const": 1});
    let properties = json!({"a": one, "b": one, "c": one});
    let texts = [
        "{}",
        "{\"b\":1}",
        "{\"a\":1,\"c\":1}",
        "{\"a\":1,\"b\":1,\"c\":1}",
    ];
    for (min, max) in [(0, 3), (1, 2), (2, 9), (3, 3), (0, 0), (2, 2)] {
        let schema = json!({"properties": properties, "minProperties": min, "maxProperties": max});
        let automaton = automaton(&schema, &compact());
        for (count, text) in texts.iter().enumerate() {
            assert_eq!(
                automaton.matches(text.as_bytes()),
                (min..=max).contains(&count),
                "{schema} {text}"
            );
        }
    }
    let schema = json!({"properties": properties, "required": ["c"], "maxProperties": 2});
    check(
        schema,
        &["{\"c\":1}", "{\"b\":1,\"c\":1}"],
        &["{\"a\":1,\"b\":1,\"c\":1}", "{\"a\":1}"],
    );
}

#[test]
fn free_members() {
    let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    check(
        map,
        &["{}", "{\"x\":1}", "{\"x\":1,\"\":2}"],
        &["{\"x\":\"\"}", "{x:1}"],
    );
    let map =
        json!({"additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2});
    check(
        map,
        &["{\"x\":null}", "{\"x\":null,\"y\":null}"],
        &["{}", "{\"a\":null,\"b\":null,\"c\":null}"],
    );
    check(
        json!({"additionalProperties": false}),
        &["{}"],
        &["{\"a\":1}"],
    );
    let closed = json!({"properties": {"a": true}, "additionalProperties": true});
    check(closed, &["{\"a\":1}", "{}"], &["{\"b\":1}"]);
}

#[test]
fn arrays() {
    let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
    check(
        json!({"items": digit}),
        &["[]", "[1,2,3]"],
        &["[10]", "[1,\"\"]"],
    );
    check(
        json!({"items": digit, "minItems": 1, "maxItems": 2}),
        &["[1]", "[1,2]"],
        &["[]", "[1,2,3]"],
    );
    let tuple = json!({"prefixItems": [{"const": "a"}, digit], "items": {"type": "null"}});
    check(
        tuple,
        &["[]", "[\"a\"]", "[\"a\",1]", "[\"a\",1,null]"],
        &["[1]", "[\"a\",null]", "[\"a\",1,2]"],
    );
    check(
        json!({"prefixItems": [digit], "items": false, "minItems": 1}),
        &["[1]"],
        &["[]", "[1,1]"],
    );
    check(
        json!({"prefixItems": [digit, false]}),
        &["[]", "[1]"],
        &["[1,1]"],
    );
    check(
        json!({"prefixItems": [digit, digit, digit], "maxItems": 2}),
        &["[1,2]"],
        &["[1,2,3]"],
    );
    check(
        json!({"items": digit, "uniqueItems": false}),
        &["[1,1]"],
        &[],
    );
    check(
        json!({"items": digit, "uniqueItems": true, "maxItems": 1}),
        &["[]", "[1]"],
        &["[1,2]"],
    );
}

#[test]
fn strings() {
    check(
        json!({"minLength": 1, "maxLength": 3}),
        &["\"a\"", "\"é\\n€\"", "\"😀😀😀\""],
        &["\"\"", "\"abcd\"", "\"😀😀😀😀\""],
    );
    check(
        json!({"pattern": "^[a-z]+$"}),
        &["\"a\""],
        &["\"\"", "\"A\""],
    );
    check(
        json!({"pattern": "b+", "minLength": 3, "maxLength": 4}),
        &["\"abc\"", "\"bbbb\""],
        &["\"b\"", "\"aaa\"", "\"abbbb\""],
    );
    check(
        json!({"pattern": "^a", "allOf": [{"pattern": "z$"}]}),
        &["\"az\"", "\"a\\nz\""],
        &["\"a\"", "\"z\"", "\"za\""],
    );
    check(
        json!({"format": "date", "pattern": "^2024"}),
        &["\"2024-02-29\""],
        &["\"2023-01-01\"", "\"2024-02-30\""],
    );
    check(
        json!({"format": "time", "maxLength": 9}),
        &["\"12:00:00Z\""],
        &["\"12:00:00.5Z\""],
    );
}

#[test]
fn constants_and_enumerations_obey_the_other_keywords() {
    check(
        json!({"enum": ["a", 1, null, [1], {"k": true}]}),
        &["\"a\"", "1", "null", "[1]", "{\"k\":true}"],
        &["\"b\"", "2"],
    );
    check(
        json!({"enum": ["a", 1, 1.5, null], "type": ["number", "null"]}),
        &["1", "1.5", "null"],
        &["\"a\""],
    );
    check(
        json!({"enum": ["a", 1, 1.5, 3], "type": "integer", "minimum": 2}),
        &["3"],
        &["1", "\"a\"", "1.5"],
    );
    check(
        json!({"enum": ["a", "ab", "abc", "zz"], "pattern": "^a", "minLength": 2}),
        &["\"ab\"", "\"abc\""],
        &["\"a\"", "\"zz\""],
    );
    check(
        json!({"enum": [1, 2, 3, 4], "allOf": [{"enum": [4.0, 2, 7]}, {"multipleOf": 4}]}),
        &["4"],
        &["2", "1"],
    );
    check(json!({"const": 1, "type": "integer"}), &["1"], &["2"]);
}

#[test]
fn whole_numbers_that_a_double_rounds_keep_their_digits() {
    // 2^63 - 1, 2^63, 2^63 + 1 and 2^64 - 1 are two doubles; -2^63 is the least of 64 bits.
    let numbers = [
        "9223372036854775807",
        "9223372036854775808",
        "9223372036854775809",
        "18446744073709551615",
        "-9223372036854775808",
        "-9223372036854775807",
    ];
    let written = |number: &str| -> Value { serde_json::from_str(number).unwrap() };
    for number in numbers {
        let others: Vec<&str> = numbers.into_iter().filter(|n| *n != number).collect();
        let value = written(number);
        check(json!({"const": value}), &[number], &others);
        check(
            json!({"type": "integer", "enum": [value]}),
            &[number],
            &others,
        );
        check(
            json!({"enum": [value], "minimum": value, "maximum": value}),
            &[number],
            &others,
        );
        check(
            json!({"const": [{"n": value}]}),
            &[&format!("[{{\"n\":{number}}}]")],
            &[],
        );
    }
    let all: Vec<Value> = numbers.into_iter().map(written).collect();
    check(json!({"enum": all}), &numbers, &["9223372036854775806"]);
    for (keyword, bound, accepted) in [
        ("minimum", numbers[2], &[2, 3][..]),
        ("exclusiveMinimum", numbers[1], &[2, 3]),
        ("maximum", numbers[1], &[0, 1, 4, 5]),
        ("exclusiveMaximum", numbers[1], &[0, 4, 5]),
        ("maximum", numbers[4], &[4]),
        ("exclusiveMaximum", numbers[5], &[4]),
        ("multipleOf", "3", &[2, 3]),
        ("multipleOf", "7", &[0, 5]),
    ] {
        let is_accepted = |i: &usize| accepted.contains(i);
        let (inside, outside): (Vec<usize>, Vec<usize>) = (0..numbers.len()).partition(is_accepted);
        let texts = |of: Vec<usize>| of.into_iter().map(|i| numbers[i]).collect::<Vec<_>>();
        let schema = json!({"enum": all, keyword: written(bound)});
        check(schema, &texts(inside), &texts(outside));
    }
    // Integers of so many digits are never written freely: a maximum among them allows all others.
    check(
        json!({"type": "integer", "maximum": written(numbers[3])}),
        &["0", "-12345678901234567", "12345678901234567"],
        &["18446744073709551615", "18446744073709551616"],
    );
}

#[test]
fn all_of_merges() {
    let schema = json!({"allOf": [
        {"type": "object", "properties": {"a": {"minimum": 1}}, "required": ["a"]},
        {"properties": {"a": {"type": "integer", "maximum": 2}, "b": {"type": "null"}}},
    ]});
    check(
        schema,
        &["{\"a\":1}", "{\"a\":2,\"b\":null}"],
        &["{}", "{\"a\":3}", "{\"a\":0}", "{\"b\":null}"],
    );
    // What one schema calls additional, another may list.
    let schema = json!({"properties": {"a": true}, "additionalProperties": false, "allOf": [{"properties": {"b": true}}]});
    check(schema, &["{}", "{\"a\":1}"], &["{\"b\":1}"]);
    let schema = json!({"prefixItems": [{"const": 1}], "allOf": [{"items": {"type": "integer"}, "maxItems": 2}]});
    check(
        schema,
        &["[]", "[1]", "[1,5]"],
        &["[2]", "[1,\"\"]", "[1,1,1]"],
    );
    check(
        json!({"type": ["string", "integer"], "allOf": [{"type": ["integer", "null"]}]}),
        &["1"],
        &["null", "\"\""],
    );
}

#[test]
fn any_of_and_one_of() {
    check(
        json!({"anyOf": [{"type": "integer"}, {"const": "x"}]}),
        &["1", "\"x\""],
        &["\"y\""],
    );
    let schema = json!({"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"],
        "anyOf": [{"properties": {"k": {"minimum": 5, "maximum": 6}}}, {"properties": {"k": {"const": 1}}}]});
    check(schema, &["{\"k\":5}", "{\"k\":1}"], &["{\"k\":2}", "{}"]);
    check(
        json!({"oneOf": [{"type": "string"}, {"type": "null"}, {"maximum": 1, "type": "number"}, {"minimum": 2, "type": "number"}]}),
        &["\"\"", "null", "1", "2"],
        &["1.5", "true"],
    );
    let shape = |kind: &str, field: &str| json!({"properties": {"kind": {"const": kind}, field: {"type": "integer"}}, "required": ["kind", field]});
    let schema =
        json!({"type": "object", "oneOf": [shape("circle", "r"), shape("square", "side")]});
    check(
        schema,
        &[
            "{\"kind\":\"circle\",\"r\":1}",
            "{\"kind\":\"square\",\"side\":2}",
        ],
        &["{\"kind\":\"circle\",\"side\":1}", "{\"kind\":\"circle\"}"],
    );
    check(
        json!({"oneOf": [{"enum": [1, 2]}, {"enum": ["a"]}, {"const": 3}]}),
        &["1", "\"a\"", "3"],
        &["4"],
    );
    let schema = json!({"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": "string", "maxLength": 1}}});
    check(schema, &["\"a\"", "null"], &["\"ab\""]);
    // Met twice, the same branch is taken twice.
    let schema = json!({"allOf": [{"$ref": "#/$defs/u"}, {"$ref": "#/$defs/u"}], "$defs": {"u": {"oneOf": [{"type": "null"}, {"type": "boolean"}]}}});
    check(schema, &["null", "true"], &["1"]);
}

#[test]
fn references() {
    let schema = json!({"$id": "https://example.com/s", "properties": {"a": {"$ref": "#/$defs/x~1y%20z"}, "b": {"$ref": "https://example.com/s#/$defs/list/0"}},
        "$defs": {"x/y z": {"const": 1}, "list": [{"const": 2}]}});
    check(schema, &["{\"a\":1,\"b\":2}"], &["{\"a\":2}"]);
    let schema = json!({"$ref": "#/definitions/n", "minimum": 3, "definitions": {"n": {"type": "integer", "maximum": 4}}});
    check(schema, &["3", "4"], &["2", "5", "\"\""]);
    // A schema with an identifier has definitions of its own.
    let embedded = |id: &str, value: u32| {
        json!({"$id": id, "properties": {"x": {"$ref": "#/$defs/v"}, "y": {"$ref": format!("{id}#/$defs/v")}},
            "$defs": {"v": {"const": value}}})
    };
    let schema = json!({"properties": {"a": embedded("a", 1), "b": embedded("b", 2), "c": {"$ref": "#/$defs/v"}},
        "$defs": {"v": {"const": 3}}});
    check(
        schema,
        &["{\"a\":{\"x\":1,\"y\":1},\"b\":{\"x\":2,\"y\":2},\"c\":3}"],
        &["{\"a\":{\"x\":3}}", "{\"b\":{\"y\":1}}", "{\"c\":1}"],
    );
    // An anchor is none.
    let anchored = json!({"$id": "#a", "properties": {"x": {"$ref": "#/definitions/v"}}});
    let schema = json!({"properties": {"a": anchored}, "definitions": {"v": {"const": 3}}});
    check(schema, &["{\"a\":{\"x\":3}}"], &["{\"a\":{\"x\":1}}"]);
}

#[test]
fn recursion_goes_to_the_depth_and_says_so() {
    let list = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
    let nested = |depth: usize| {
        format!(
            "{}{{}}{}",
            "{\"next\":".repeat(depth - 1),
            "}".repeat(depth - 1)
        )
    };
    for depth in 1..6 {
        let options = SchemaOptions { depth, ..compact() };
        let language = json_schema(&list, &options).unwrap();
        let automaton = language.automaton(&Limits::default()).unwrap();
        for levels in 1..8 {
            assert_eq!(
                automaton.matches(nested(levels).as_bytes()),
                levels <= depth,
                "{levels} of {depth}"
            );
        }
        let cut = Cut {
            pointer: "#/properties/next".to_owned(),
            depth,
        };
        assert!(
            cut.to_string().contains("'#/properties/next' is recursive"),
            "{cut}"
        );
        assert_eq!(language.cuts, [cut]);
    }
    let definition = json!({"$ref": "#/$defs/node", "$defs": {"node": {
        "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["left"]}}});
    let options = SchemaOptions {
        depth: 2,
        ..compact()
    };
    let trees = automaton(&definition, &options);
    assert!(trees.matches(b"{\"left\":{\"left\":null}}"));
    assert!(!trees.matches(b"{\"left\":{\"left\":{\"left\":null}}}"));
    assert!(
        json_schema(
            &json!({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"const": 1}}}),
            &options
        )
        .unwrap()
        .cuts
        .is_empty()
    );
}

#[test]
fn any_json_is_nested_to_the_depth() {
    for depth in 0..5 {
        let options = SchemaOptions { depth, ..compact() };
        let any = any_json(&options)
            .unwrap()
            .automaton(&Limits::default())
            .unwrap();
        let object = any_json_object(&options)
            .unwrap()
            .automaton(&Limits::default())
            .unwrap();
        for nested in 0..7 {
            let list = format!("{}1{}", "[".repeat(nested), "]".repeat(nested));
            assert_eq!(
                any.matches(list.as_bytes()),
                nested <= depth,
                "{list} at depth {depth}"
            );
            let members = format!("{}1{}", "{\"a\":".repeat(nested), "}".repeat(nested));
            assert_eq!(
                object.matches(members.as_bytes()),
                (1..=depth.max(1)).contains(&nested),
                "{members} at depth {depth}"
            );
        }
    }
}

#[test]
fn white_space_is_optional_and_limited() {
    let schema = json!({"properties": {"a": {"items": {"const": 1}}, "b": {"const": 2}}});
    let flexible = automaton(&schema, &SchemaOptions::default());
    for text in [
        "{\"a\":[1,1],\"b\":2}",
        "{\"a\": [1, 1], \"b\": 2}",
        "{ \"a\": [ 1 ] }",
        "{\n  \"a\": [\n    1,\n    1\n  ],\n  \"b\": 2\n}",
        "{}",
    ] {
        assert_eq!(
            flexible.matches(text.as_bytes()),
            !text.contains(" }"),
            "{text}"
        );
    }
    for text in [
        "{  \"a\":[1]}",
        "{\"a\" :[1]}",
        " {}",
        "{} ",
        "{\t\"b\":2}",
        "{\n\n\"b\":2}",
        "{\"b\":\n2}",
    ] {
        assert!(!flexible.matches(text.as_bytes()), "{text}");
    }
    let too_far = format!("{{\n{}\"b\":2}}", " ".repeat(25));
    assert!(
        !flexible.matches(too_far.as_bytes())
            && flexible.matches(too_far.replacen(' ', "", 1).as_bytes())
    );
    assert!(!automaton(&schema, &compact()).matches(b"{\"b\": 2}"));
}

#[test]
fn an_automaton_that_is_too_large_names_the_place() {
    let schema = json!({"properties": {"a": {"type": "null"}, "b": {"items": {"type": "string", "maxLength": 600}, "maxItems": 5}}});
    let error = json_schema(&schema, &compact())
        .unwrap()
        .automaton(&Limits::default())
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("'#/properties/b'") && error.contains("20000 states"),
        "{error}"
    );
}
