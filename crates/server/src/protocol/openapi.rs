//! The description of all endpoints, for `/openapi.json`.

use std::sync::LazyLock;

use super::ranges;

/// OpenAPI 3.1, as JSON.
pub static OPENAPI: LazyLock<String> =
    LazyLock::new(|| ranges::described(include_str!("../../openapi.json")));

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use jsonschema::Validator;
    use llama_diffusion::diffusion::LengthScore;
    use llama_diffusion::{BlankAnswer, ChoiceAnswer, FormAnswer};
    use serde_json::{Map, Value, json};

    use super::super::answer::GapEnd;
    use super::super::assemble::Finish;
    use super::super::fields::{Class, Shape};
    use super::super::format::Choice;
    use super::super::format::tests::{call, finished, meta, text};
    use super::super::hostile::endpoints;
    use super::super::request::{Capabilities, Family};
    use super::super::tests::capabilities;
    use super::super::{TABLES, error::ApiError, sampling};
    use super::OPENAPI;

    pub(in crate::protocol) fn document() -> Value {
        serde_json::from_str(&OPENAPI).unwrap()
    }

    /// What `#/…` stands for.
    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => {
                let target = document.pointer(&place[1..]);
                resolved(document, target.unwrap_or_else(|| panic!("{place}")))
            }
            None => value,
        }
    }

    /// All properties of a schema, also those of the schemas that it combines.
    fn properties<'a>(document: &'a Value, schema: &'a Value) -> BTreeMap<&'a str, &'a Value> {
        let schema = resolved(document, schema);
        let own = schema["properties"].as_object().into_iter().flatten();
        let mut all: BTreeMap<_, _> = own.map(|(name, value)| (name.as_str(), value)).collect();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            all.extend(properties(document, part));
        }
        all
    }

    fn request_of<'a>(document: &'a Value, path: &str) -> &'a Value {
        &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    }

    /// A validator for one schema of the document.
    pub(in crate::protocol) fn validator(document: &Value, schema: &Value) -> Validator {
        let mut schema = schema.clone();
        schema["components"] = document["components"].clone();
        jsonschema::validator_for(&schema).unwrap()
    }

    fn check(validator: &Validator, value: &Value) {
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?} in {value}");
    }

    #[test]
    fn every_field_that_a_parser_knows_is_described_with_its_class() {
        let document = document();
        for (path, table) in TABLES {
            let described = properties(&document, request_of(&document, path));
            let mut known: Vec<&str> = Vec::new();
            for (class, names) in table.iter().copied().flatten() {
                for name in names.iter().copied() {
                    known.push(name);
                    let field = described
                        .get(name)
                        .unwrap_or_else(|| panic!("{path}: {name}"));
                    let description = field["description"].as_str().unwrap_or_default();
                    let expected = match class {
                        Class::Used => {
                            !description.contains("ignored.") && !description.starts_with("Refused")
                        }
                        Class::Ignored(_) => description.contains("listed in diffusion.ignored"),
                        Class::Refused(_) => {
                            description.starts_with("Refused, unless it asks for nothing: ")
                        }
                    };
                    assert!(expected, "{path}: {name}: {description:?}");
                    if let Class::Ignored(Shape::Number | Shape::Count) = class {
                        assert!(field["type"].is_array(), "{path}: {name} has no type");
                    }
                }
            }
            known.sort_unstable();
            assert_eq!(
                described.keys().copied().collect::<Vec<_>>(),
                known,
                "{path}"
            );
        }
        let diffusion = properties(&document, &document["components"]["schemas"]["Diffusion"]);
        let mut known = sampling::DIFFUSION.concat();
        known.sort_unstable();
        assert_eq!(diffusion.into_keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn all_references_lead_somewhere() {
        fn walk(document: &Value, value: &Value) {
            resolved(document, value);
            match value {
                Value::Object(map) => map.values().for_each(|value| walk(document, value)),
                Value::Array(list) => list.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn the_same_endpoint_under_two_paths_is_described_once() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        for path in paths.keys().filter(|path| path.starts_with("/v1/")) {
            if let Some(short) = paths.get(&path[3..]) {
                // `/completions` is llama-server's own, `/v1/completions` is OpenAI's.
                assert!(path == "/v1/completions" || *short == paths[path], "{path}");
            }
        }
    }

    #[test]
    fn a_count_has_the_messages_of_an_answer() {
        let document = document();
        let counted = request_of(&document, "/v1/messages/count_tokens");
        let answered = properties(&document, request_of(&document, "/v1/messages"));
        for (name, described) in properties(&document, counted) {
            assert_eq!(answered[name], described, "{name}");
        }
        let validator = validator(&document, counted);
        assert!(!validator.is_valid(&json!({"messages": [{}]})));
        let tools = json!([{"name": "f"}]);
        let messages = json!([{"role": "user", "content": "Hi"}]);
        check(&validator, &json!({"messages": messages}));
        assert!(!validator.is_valid(&json!({"messages": messages, "tools": tools})));
    }

    #[test]
    fn answers_and_errors_are_as_described() {
        let document = document();
        for ((path, _), (read, body)) in TABLES.into_iter().zip(endpoints()) {
            let Value::Object(mut body) = body else {
                panic!("{body}")
            };
            check(
                &validator(&document, request_of(&document, path)),
                &Value::Object(body.clone()),
            );
            body.insert("temperature".into(), json!(0.5));
            let work = read(&body, &capabilities()).unwrap();
            let responses = &document["paths"][path]["post"]["responses"];
            let schema = &responses["200"]["content"]["application/json"]["schema"];
            let validator_of_answers = validator(&document, schema);
            let mut deltas = vec![text("Hé")];
            let finish = match path.ends_with("completions") || path.starts_with("/v1/") {
                true if path.contains("chat")
                    || path.contains("messages")
                    || path.contains("responses") =>
                {
                    deltas.push(call(0, "f", "{}"));
                    Finish::ToolCalls
                }
                _ => Finish::EndOfText,
            };
            let mut end = finished(finish);
            end.form = (path == "/diffusion/fill").then(filled);
            end.end.gap = (path == "/infill").then(gap);
            let answer = work.reply.answer(&meta(), &[Choice::new(deltas, end)]);
            check(&validator_of_answers, &answer);
            // An object without anything is not an answer.
            if path != "/completion" && path != "/infill" {
                assert!(!validator_of_answers.is_valid(&json!({})), "{path}");
            }
            let error = work.reply.error(&ApiError::field("x", "is wrong"));
            let schema = resolved(&document, &responses["default"]);
            check(
                &validator(&document, &schema["content"]["application/json"]["schema"]),
                &error,
            );
        }
    }

    /// A gap whose lengths are listed.
    fn gap() -> GapEnd {
        let (tokens, logprob) = (3, -0.5);
        GapEnd {
            lengths: vec![LengthScore { tokens, logprob }],
            ..GapEnd::default()
        }
    }

    /// A form of one blank with a choice.
    fn filled() -> FormAnswer {
        let (logprob, probability, standard_error) = (0.0, 1.0, Some(0.0));
        let text = String::from("x");
        let choice = ChoiceAnswer {
            text: text.clone(),
            logprob,
            probability,
            standard_error,
        };
        let blank = BlankAnswer {
            name: "1".into(),
            text: text.clone(),
            choice: Some(0),
            logprob,
            probability,
            entropy: 0.0,
            allowed_mass: 1.0,
            standard_error,
            choices: vec![choice],
        };
        FormAnswer {
            text,
            blanks: vec![blank],
            canvas: 16,
            rows: 4,
            passes: 1,
            prompt_tokens: 30,
            cached_tokens: 30,
        }
    }

    /// Whether a body with this field is honoured.
    fn is_read(endpoint: usize, name: &str, value: &Value, capabilities: &Capabilities) -> bool {
        let (read, body) = &endpoints()[endpoint];
        let mut body: Map<String, Value> = serde_json::from_value(body.clone()).unwrap();
        body.insert(name.to_owned(), value.clone());
        read(&body, capabilities).is_ok()
    }

    /// Values that a schema of a number just allows, and just does not.
    fn around(schema: &Value) -> Option<[(Value, bool); 4]> {
        let (low, high) = (&schema["minimum"], &schema["maximum"]);
        let beyond = |end: &Value, step: i64| match (end.as_i64(), end.as_f64()) {
            (Some(end), _) => Some(json!(i128::from(end) + i128::from(step))),
            (None, Some(end)) => Some(json!(end + step as f64 * (1e-6 + 1e-3 * end.abs()))),
            (None, None) => None,
        };
        let (below, above) = (beyond(low, -1)?, beyond(high, 1)?);
        let (low, high) = (low.clone(), high.clone());
        Some([(low, true), (high, true), (below, false), (above, false)])
    }

    /// Reads a body with the field `name` at the ends of its range, and beyond them. `wrap` is the body.
    fn check_range(
        endpoint: usize,
        (name, schema): (&str, &Value),
        family: Family,
        wrap: impl Fn(Value) -> Value,
    ) -> usize {
        let capabilities = Capabilities {
            family,
            slots: usize::MAX,
            ..capabilities()
        };
        let (read, least) = &endpoints()[endpoint];
        let values = around(schema);
        for (value, is_described) in values.iter().flatten() {
            let mut body = least.as_object().unwrap().clone();
            body.extend(wrap(value.clone()).as_object().unwrap().clone());
            let error = read(&body, &capabilities).err();
            let error = error.filter(|error| error.param.as_deref() == Some(name));
            // Within its range, only what else the body has may be the reason.
            let is_out =
                error.is_some_and(|error| !is_described || error.message.contains("but must be"));
            assert_eq!(is_out, !is_described, "{}: {body:?}", TABLES[endpoint].0);
        }
        values.iter().flatten().count()
    }

    #[test]
    fn numbers_are_read_in_the_ranges_that_are_described() {
        let document = document();
        let mut count = 0;
        for (endpoint, (path, _)) in TABLES.into_iter().enumerate() {
            for (name, schema) in properties(&document, request_of(&document, path)) {
                let wrap = |value| json!({name: value});
                count += check_range(endpoint, (name, schema), Family::Canvas, wrap);
            }
        }
        assert!(count > 1000, "{count}");
        let diffusion = &document["components"]["schemas"]["Diffusion"];
        for (name, schema) in properties(&document, diffusion) {
            let family = match sampling::DIFFUSION[2].contains(&name) {
                true => Family::Masked,
                false => Family::Canvas,
            };
            let field = format!("diffusion.{name}");
            let wrap = |value| json!({"diffusion": {name: value}});
            check_range(0, (&field, schema), family, wrap);
        }
    }

    #[test]
    fn every_number_of_a_request_has_a_range() {
        fn walk(value: &Value) {
            let kinds = value["type"].as_array();
            if kinds.is_some_and(|kinds| kinds.contains(&json!("number"))) {
                assert!(value["minimum"].is_number(), "{value}");
                assert!(value["maximum"].is_number(), "{value}");
            }
            assert!(value.get("range").is_none(), "{value}");
            match value {
                Value::Object(map) => map.values().for_each(walk),
                Value::Array(list) => list.iter().for_each(walk),
                _ => {}
            }
        }
        let document = document();
        for (path, _) in TABLES {
            properties(&document, request_of(&document, path))
                .into_values()
                .for_each(walk);
        }
        walk(&document["components"]["schemas"]["Diffusion"]);
    }

    #[test]
    fn what_is_read_is_described() {
        let document = document();
        for (endpoint, (path, table)) in TABLES.into_iter().enumerate() {
            let validator = validator(&document, request_of(&document, path));
            for name in table
                .iter()
                .copied()
                .flatten()
                .flat_map(|(_, names)| names.iter().copied())
            {
                for value in [
                    json!(true),
                    json!("x"),
                    json!(-7),
                    json!(5.5),
                    json!({"type": 5}),
                    json!([[5]]),
                ] {
                    let mut body = endpoints()[endpoint].1.clone();
                    body[name] = value.clone();
                    let is_described = validator.is_valid(&body);
                    assert!(
                        is_described || !is_read(endpoint, name, &value, &capabilities()),
                        "{path}: {name}: {value} is read, but not described"
                    );
                }
            }
        }
    }
}
