//! Every endpoint against bodies that nobody should send: no panic, and every error names a field.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::assemble::Finish;
use super::error::ApiError;
use super::format::Choice;
use super::format::tests::{call, finished, meta, text};
use super::reply::Work;
use super::request::{Capabilities, Family};
use super::tests::capabilities;
use super::{
    TABLES, anthropic, chat, edit, form, native, responses, sampling, text as completion, tokens,
};

pub(super) type Read = fn(&Map<String, Value>, &Capabilities) -> Result<Work, ApiError>;

/// The endpoints in the order of the tables, each with the least that it needs.
pub(super) fn endpoints() -> [(Read, Value); 9] {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    [
        (chat::read, json!({ "messages": messages })),
        (completion::read, json!({"prompt": "Hi"})),
        (completion::read_fim, json!({"prompt": "Hi"})),
        (native::read, json!({"prompt": "Hi"})),
        (
            native::read_infill,
            json!({"input_prefix": "a", "input_suffix": "b"}),
        ),
        (responses::read, json!({})),
        (
            anthropic::read,
            json!({"messages": messages, "max_tokens": 5}),
        ),
        (edit::read, json!({"text": "a", "instruction": "b"})),
        (form::read, json!({"messages": messages, "form": "▢"})),
    ]
}

fn names(table: usize) -> Vec<&'static str> {
    let groups = TABLES[table].1.iter().copied().flatten();
    groups
        .flat_map(|(_, names)| names.iter().copied())
        .collect()
}

/// Names that parsers look for below the first level.
const INNER: [&str; 25] = [
    "type",
    "role",
    "content",
    "text",
    "name",
    "function",
    "arguments",
    "parameters",
    "tool_calls",
    "id",
    "call_id",
    "output",
    "input",
    "input_schema",
    "tool_use_id",
    "schema",
    "json_schema",
    "pattern",
    "prompt_string",
    "filename",
    "include_usage",
    "effort",
    "format",
    "drafts",
    "choices",
];

/// Values that parsers look for.
const TEXTS: [&str; 20] = [
    "",
    "text",
    "function",
    "user",
    "assistant",
    "tool",
    "json_schema",
    "json_object",
    "regex",
    "auto",
    "none",
    "required",
    "message",
    "function_call",
    "function_call_output",
    "tool_use",
    "tool_result",
    "NaN",
    "\u{0}",
    "-1",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![
            0,
            1,
            -1,
            5,
            i64::MIN,
            i64::MAX,
            i64::from(u32::MAX) + 1
        ])
        .prop_map(Value::from),
        Just(json!(u64::MAX)),
        prop::sample::select(vec![
            0.5,
            -0.0,
            1e300,
            -1e300,
            1e-300,
            f64::from(f32::MAX) * 2.0
        ])
        .prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name =
            prop::sample::select([&INNER[..], sampling::DIFFUSION.concat().as_slice()].concat());
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4).prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect())
            }),
        ]
    })
}

/// An endpoint, and a body with some of its fields.
fn request() -> impl Strategy<Value = (usize, Map<String, Value>)> {
    (0..TABLES.len()).prop_flat_map(|endpoint| {
        let name = prop::sample::select(names(endpoint));
        let fields = prop::collection::vec((name, value()), 0..4);
        (Just(endpoint), fields).prop_map(|(endpoint, fields)| {
            let Value::Object(mut body) = endpoints()[endpoint].1.clone() else {
                unreachable!("bodies are objects");
            };
            body.extend(
                fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value)),
            );
            (endpoint, body)
        })
    })
}

fn check(result: Result<(), ApiError>, body: &Map<String, Value>) -> Result<(), TestCaseError> {
    let Err(error) = result else {
        return Ok(());
    };
    prop_assert_eq!(error.status(), 400);
    let param = error.param.clone().unwrap_or_default();
    prop_assert!(!param.is_empty(), "{error:?} names no field of {body:?}");
    prop_assert!(error.message.starts_with(&param), "{}", error.message);
    Ok(())
}

#[test]
fn the_least_that_an_endpoint_needs_is_enough() {
    for (read, body) in endpoints() {
        let Value::Object(body) = body else {
            panic!("{body}")
        };
        let work = read(&body, &capabilities()).unwrap();
        assert_eq!(work.reply.options.ignored, [""; 0]);
        for name in body.keys() {
            let mut without = body.clone();
            without.remove(name);
            let error = read(&without, &capabilities()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name.as_str()));
        }
    }
}

#[test]
fn unknown_fields_are_ignored() {
    for (read, mut body) in endpoints() {
        body["nobody_knows_this"] = json!({"a": [1]});
        let Value::Object(body) = body else {
            panic!("{body}")
        };
        assert!(read(&body, &capabilities()).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_error_names_a_field_and_nothing_panics(
        (endpoint, body) in request(),
        masked in any::<bool>(),
        scores in any::<bool>(),
        tools in any::<bool>(),
    ) {
        let capabilities = Capabilities {
            family: if masked { Family::Masked } else { Family::Canvas },
            scores,
            tools,
            ..capabilities()
        };
        let read = endpoints()[endpoint].0;
        check(read(&body, &capabilities).map(drop), &body)?;
        check(tokens::apply_template(&body, &capabilities).map(drop), &body)?;
        check(anthropic::read_count(&body, &capabilities).map(drop), &body)?;
    }

    #[test]
    fn other_bodies_name_a_field_too(
        fields in prop::collection::vec((prop::sample::select(vec![
            "content", "tokens", "add_special", "parse_special", "with_pieces",
        ]), value()), 0..4),
    ) {
        let body: Map<_, _> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        check(tokens::Tokenize::read(&body, &capabilities()).map(drop), &body)?;
        check(tokens::detokenize(&body, &capabilities()).map(drop), &body)?;
    }

    #[test]
    fn any_request_that_is_honoured_is_answered((endpoint, body) in request()) {
        let read = endpoints()[endpoint].0;
        let Ok(work) = read(&body, &capabilities()) else {
            return Ok(());
        };
        let deltas = || vec![text("a"), call(0, "f", "{}")];
        let answers: Vec<Choice> = (0..work.reply.options.answers)
            .map(|_| Choice::new(deltas(), finished(Finish::Length)))
            .collect();
        prop_assert!(!work.reply.answer(&meta(), &answers).is_null());
        let mut stream = work.reply.stream(meta(), 1);
        stream.begin();
        for choice in 0..answers.len() {
            stream.deltas(choice, deltas());
            prop_assert!(!stream.finish(choice, &finished(Finish::Length)).is_empty());
        }
        stream.close();
    }
}
