//! Messages are read if, and only if, `/openapi.json` describes them.

use serde_json::{Map, Value, json};

use super::hostile::Read;
use super::openapi::tests::{document, validator};
use super::tests::capabilities;
use super::{anthropic, chat, responses};

/// Every object that has one of the values of each field, or lacks it.
fn objects(fields: &[(&str, Vec<Value>)]) -> Vec<Value> {
    let Some(((name, values), rest)) = fields.split_first() else {
        return vec![json!({})];
    };
    let without = objects(rest);
    let with = without.iter().flat_map(|object| {
        values.iter().map(move |value| {
            let mut map = Map::from_iter([((*name).to_owned(), value.clone())]);
            map.extend(object.as_object().unwrap().clone());
            Value::Object(map)
        })
    });
    with.chain(without.iter().cloned()).collect()
}

/// Strings, and what looks like one.
fn texts() -> Vec<Value> {
    vec![json!("a"), json!(5), Value::Null]
}

/// Contents that texts are made of, and others.
fn contents(others: &[Value]) -> Vec<Value> {
    let kinds = ["text", "input_text", "output_text", "refusal", "image_url"];
    let mut kinds: Vec<Value> = kinds.map(Value::from).to_vec();
    kinds.extend([json!(5), Value::Null]);
    let parts = objects(&[("type", kinds), ("text", texts()), ("refusal", texts())]);
    let mut all = vec![
        Value::Null,
        json!("a"),
        json!(5),
        json!({}),
        json!([]),
        json!(["a"]),
    ];
    all.extend(parts.into_iter().map(|part| json!([part])));
    all.extend_from_slice(others);
    all
}

/// Some contents: one of each kind.
fn few_contents() -> Vec<Value> {
    vec![
        json!("a"),
        json!([{"type": "text", "text": "a"}]),
        json!([{"type": "text"}]),
        json!(5),
        Value::Null,
    ]
}

/// Compares what a schema says about each element of a list with what becomes of it.
fn compare(schema: &str, read: Read, elements: Vec<Value>, body: impl Fn(Value) -> Value) {
    let document = document();
    let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
    let validator = validator(&document, &reference);
    let (mut valid, mut invalid) = (0, 0);
    for element in elements {
        let is_described = validator.is_valid(&element);
        let Value::Object(body) = body(element.clone()) else {
            panic!()
        };
        let found = read(&body, &capabilities());
        assert_eq!(
            found.is_ok(),
            is_described,
            "{element}: described {is_described}, but {:?}",
            found.err()
        );
        valid += usize::from(is_described);
        invalid += usize::from(!is_described);
    }
    assert!(
        valid > 10 && invalid > 10,
        "{schema}: {valid} and {invalid}"
    );
}

fn calls() -> Vec<Value> {
    let arguments = vec![
        json!("{\"a\": 1}"),
        json!({}),
        json!(5),
        json!([]),
        Value::Null,
    ];
    let mut functions = objects(&[("name", texts()), ("arguments", arguments)]);
    functions.extend([json!("f"), Value::Null]);
    let kinds = vec![json!("function"), json!("custom"), Value::Null];
    let calls = objects(&[("id", texts()), ("type", kinds), ("function", functions)]);
    let mut all: Vec<_> = calls.into_iter().map(|call| json!([call])).collect();
    all.extend([json!([]), json!({}), json!(["f"]), Value::Null]);
    all
}

#[test]
fn messages_of_chats() {
    let roles = [
        "system",
        "developer",
        "user",
        "assistant",
        "model",
        "tool",
        "pirate",
    ];
    let mut roles: Vec<Value> = roles.map(Value::from).to_vec();
    roles.extend([json!(5), Value::Null]);
    let mut messages = objects(&[("role", roles.clone()), ("content", contents(&[]))]);
    let some = [json!("assistant"), json!("user")];
    messages.extend(objects(&[("role", some.to_vec()), ("tool_calls", calls())]));
    messages.extend(objects(&[
        ("role", roles),
        ("content", few_contents()),
        (
            "tool_calls",
            vec![json!([{"function": {"name": "f"}}]), json!(5)],
        ),
        ("name", texts()),
        ("tool_call_id", texts()),
    ]));
    compare(
        "Message",
        chat::read,
        messages,
        |message| json!({"messages": [message, {"role": "user", "content": "b"}]}),
    );
}

#[test]
fn messages_of_anthropic() {
    let kinds = [
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "image",
    ];
    let mut kinds: Vec<Value> = kinds.map(Value::from).to_vec();
    kinds.extend([json!(5), Value::Null]);
    let mut blocks = objects(&[
        ("type", kinds),
        ("text", texts()),
        ("name", texts()),
        ("id", texts()),
        ("input", vec![json!({}), json!("{}"), Value::Null]),
    ]);
    let result = vec![json!("tool_result")];
    let errors = vec![json!(true), json!("x"), Value::Null];
    let (id, results) = (vec![json!("t")], contents(&[]));
    blocks.extend(objects(&[
        ("type", result.clone()),
        ("tool_use_id", id),
        ("content", results),
    ]));
    blocks.extend(objects(&[
        ("type", result),
        ("tool_use_id", texts()),
        ("content", few_contents()),
        ("is_error", errors),
    ]));
    let mut contents: Vec<Value> = blocks.into_iter().map(|block| json!([block])).collect();
    contents.extend([
        json!("a"),
        json!(5),
        json!({}),
        json!([]),
        json!(["a"]),
        Value::Null,
    ]);
    let roles = ["user", "assistant", "system", "tool"].map(Value::from);
    let messages = objects(&[("role", roles.to_vec()), ("content", contents)]);
    compare(
        "AnthropicInput",
        anthropic::read,
        messages,
        |message| json!({"max_tokens": 5, "messages": [message, {"role": "user", "content": "b"}]}),
    );
}

#[test]
fn the_system_message_of_anthropic() {
    let systems = contents(&[]);
    let systems = systems.into_iter().filter(|system| !system.is_null());
    compare("Content", anthropic::read, systems.collect(), |system| {
        let messages = json!([{"role": "user", "content": "b"}]);
        json!({"max_tokens": 5, "system": system, "messages": messages})
    });
}

#[test]
fn items_of_responses() {
    let kinds = [
        "message",
        "function_call",
        "function_call_output",
        "reasoning",
        "file",
    ];
    let mut kinds: Vec<Value> = kinds.map(Value::from).to_vec();
    kinds.extend([json!(5), Value::Null]);
    let roles = ["system", "developer", "user", "assistant", "tool"].map(Value::from);
    let mut items = objects(&[
        ("type", kinds[..1].to_vec()),
        ("role", roles.to_vec()),
        ("content", contents(&[])),
    ]);
    let output = vec![json!("function_call_output")];
    let id = vec![json!("c")];
    items.extend(objects(&[
        ("type", output),
        ("call_id", id),
        ("output", contents(&[])),
    ]));
    items.extend(objects(&[
        ("type", kinds),
        ("role", vec![json!("user"), json!(5)]),
        ("content", few_contents()),
        ("name", texts()),
        ("call_id", texts()),
        (
            "arguments",
            vec![json!("{}"), json!({}), json!(5), Value::Null],
        ),
        ("output", few_contents()),
    ]));
    compare(
        "InputItem",
        responses::read,
        items,
        |item| json!({"input": [item, {"role": "user", "content": "b"}]}),
    );
}
