//! The messages of chat requests.

use llama_diffusion::chat::{Message, Role};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::value::{Field, Object};

const ROLES: [(&str, Role); 6] = [
    ("system", Role::System),
    ("developer", Role::Developer),
    ("user", Role::User),
    ("assistant", Role::Assistant),
    ("model", Role::Assistant),
    ("tool", Role::Tool),
];

/// Reads `messages`.
///
/// # Errors
/// 400 with the message and its field.
pub fn read(body: &Object<'_>) -> Result<Vec<Message>, ApiError> {
    let field = body.require("messages")?;
    let messages: Vec<Message> = field
        .list()?
        .iter()
        .map(message)
        .collect::<Result<_, _>>()?;
    let mut roles = messages.iter().rev().map(|message| message.role);
    match (roles.next(), roles.next()) {
        (None, _) => Err(field.error("is empty: give at least one message")),
        (Some(Role::Assistant), Some(Role::Assistant)) => Err(ApiError::field(
            format!("messages[{}]", messages.len() - 1),
            "is the second assistant message at the end: join them",
        )),
        _ => Ok(messages),
    }
}

fn message(field: &Field<'_>) -> Result<Message, ApiError> {
    let object = field.object()?;
    let role = object.require("role")?.choice(&ROLES)?;
    let calls = match role {
        Role::Assistant => tool_calls(&object)?,
        _ => Vec::new(),
    };
    let content = match object.get("content") {
        Some(content) => text(&content)?,
        None if role == Role::Assistant => String::new(),
        None => return Err(object.error("content", "is missing")),
    };
    let mut message = Message::new(role, content);
    for name in ["name", "tool_call_id"] {
        if let Some(text) = object.string(name)? {
            message.extra.insert(name.into(), text.into());
        }
    }
    // Thoughts of earlier turns are not shown to the model again.
    if !calls.is_empty() {
        message.extra.insert("tool_calls".into(), calls.into());
    }
    Ok(message)
}

/// Content: a string, or a list of text parts, whose texts are joined.
///
/// # Errors
/// 400: it is something else, or a part is not text.
pub fn text(content: &Field<'_>) -> Result<String, ApiError> {
    if let Some(text) = content.value.as_str() {
        return Ok(text.to_owned());
    }
    if !content.value.is_array() {
        return Err(content.wrong("a string or a list of text parts"));
    }
    let parts = content.list()?;
    parts
        .iter()
        .map(|part| text_part(&part.object()?))
        .collect()
}

/// The text of a part.
fn text_part<'a>(part: &Object<'a>) -> Result<&'a str, ApiError> {
    let kind = part.require("type")?;
    match kind.string()? {
        "text" | "input_text" | "output_text" => part.require("text")?.string(),
        "refusal" => part.require("refusal")?.string(),
        other => Err(kind.error(format!(
            "is \"{other}\", but this model reads only text: send \"text\", or use a model that reads it"
        ))),
    }
}

/// The calls of an assistant message, with their arguments as objects, which templates need.
fn tool_calls(message: &Object<'_>) -> Result<Vec<Value>, ApiError> {
    let calls = message.list("tool_calls")?;
    calls
        .iter()
        .map(|call| tool_call(&call.object()?))
        .collect()
}

fn tool_call(call: &Object<'_>) -> Result<Value, ApiError> {
    if let Some(kind) = call.get("type") {
        kind.choice(&[("function", ())])?;
    }
    let function = call.require("function")?.object()?;
    let name = function.require("name")?.string()?;
    let arguments = match function.get("arguments") {
        Some(arguments) => arguments_object(&arguments)?,
        None => Map::new(),
    };
    Ok(called(call.string("id")?, name, arguments))
}

/// A call as templates read it.
pub fn called(id: Option<&str>, name: &str, arguments: Map<String, Value>) -> Value {
    let mut call = json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    if let Some(id) = id {
        call["id"] = id.into();
    }
    call
}

/// The arguments of a call: JSON in a string, or an object.
///
/// # Errors
/// 400: they are something else.
pub fn arguments_object(field: &Field<'_>) -> Result<Map<String, Value>, ApiError> {
    match field.value {
        Value::Object(object) => Ok(object.clone()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => serde_json::from_str(text)
            .map_err(|error| field.error(format!("is not an object in JSON: {error}"))),
        _ => Err(field.wrong("an object, or a string with an object in JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(list: Value) -> Result<Vec<Message>, ApiError> {
        let body = json!({ "messages": list });
        let Value::Object(map) = &body else { panic!() };
        read(&Object::root(map))
    }

    fn problem(list: Value) -> (String, String) {
        let error = messages(list).unwrap_err();
        (error.param.unwrap(), error.message)
    }

    #[test]
    fn all_roles_and_forms_of_content() {
        let read = messages(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
                {"function": {"name": "g", "arguments": ""}}
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "2"}
        ]))
        .unwrap();
        assert_eq!(read[0], Message::new(Role::Developer, "Be brief."));
        assert_eq!(
            (read[1].content.as_str(), &read[1].extra["name"]),
            ("ab", &json!("me"))
        );
        assert_eq!(
            Value::Object(read[2].extra.clone()),
            json!({"tool_calls": [
                {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}, "id": "call_1"},
                {"type": "function", "function": {"name": "g", "arguments": {}}}
            ]})
        );
        assert_eq!(read[3].extra["tool_call_id"], "call_1");
    }

    #[test]
    fn wrong_messages_name_the_place() {
        for (list, param) in [
            (json!("hi"), "messages"),
            (json!([]), "messages"),
            (json!([5]), "messages[0]"),
            (json!([null]), "messages[0]"),
            (json!([{"content": "a"}]), "messages[0].role"),
            (
                json!([{"role": "pirate", "content": "a"}]),
                "messages[0].role",
            ),
            (json!([{"role": "user"}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": 5}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]),
                "messages[1]",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"type": "custom"}]}]),
                "messages[0].tool_calls[0].type",
            ),
        ] {
            assert_eq!(problem(list.clone()).0, param, "{list}");
        }
        let (_, image) = problem(json!([{"role": "user", "content": [{"type": "image_url"}]}]));
        assert!(image.contains("this model reads only text"), "{image}");
    }
}
