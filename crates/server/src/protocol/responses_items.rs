//! The items of OpenAI's Responses, as messages of a chat.

use llama_diffusion::chat::{Message, Role};
use serde_json::{Value, json};

use super::error::ApiError;
use super::messages;
use super::value::{Field, Object};

/// Adds an input, which has at least one message, to the messages.
///
/// # Errors
/// 400 with the item that is wrong.
pub fn take_all(input: &Field<'_>, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    match input.value {
        Value::String(text) => messages.push(Message::new(Role::User, text.as_str())),
        Value::Array(_) => {
            let before = messages.len();
            for item in input.list()? {
                take(&item, messages)?;
            }
            if messages.len() == before {
                return Err(input
                    .error("has nothing that the model reads: give a message, or leave it out"));
            }
        }
        _ => return Err(input.wrong("a string or a list of items")),
    }
    Ok(())
}

/// Adds an item of the input to the messages.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn take(item: &Field<'_>, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let object = item.object()?;
    let kind = object.get("type");
    match kind.as_ref().map(Field::string).transpose()? {
        None | Some("message") => messages.push(message(&object)?),
        Some("function_call") => {
            let name = object.require("name")?.string()?;
            let arguments = messages::arguments_object(&object.require("arguments")?)?;
            let call = messages::called(object.string("call_id")?, name, arguments);
            add_call(messages, call);
        }
        Some("function_call_output") => {
            let mut message = Message::new(Role::Tool, messages::text(&object.require("output")?)?);
            let id = object.require("call_id")?.string()?;
            message.extra.insert("tool_call_id".into(), id.into());
            messages.push(message);
        }
        // Thoughts of earlier turns are not shown to the model again.
        Some("reasoning") => {}
        Some(other) => {
            let problem = format!(
                "is \"{other}\", but must be \"message\", \"function_call\", \
                 \"function_call_output\" or \"reasoning\""
            );
            return Err(object.error("type", problem));
        }
    }
    Ok(())
}

fn message(object: &Object<'_>) -> Result<Message, ApiError> {
    let roles = [
        ("system", Role::System),
        ("developer", Role::Developer),
        ("user", Role::User),
        ("assistant", Role::Assistant),
    ];
    let role = object.require("role")?.choice(&roles)?;
    Ok(Message::new(
        role,
        messages::text(&object.require("content")?)?,
    ))
}

/// Adds a call to the assistant's message that is last, or to a new one.
pub fn add_call(messages: &mut Vec<Message>, call: Value) {
    if messages
        .last()
        .is_none_or(|last| last.role != Role::Assistant)
    {
        messages.push(Message::new(Role::Assistant, ""));
    }
    if let Some(last) = messages.last_mut() {
        let calls = last.extra.entry("tool_calls").or_insert_with(|| json!([]));
        if let Value::Array(calls) = calls {
            calls.push(call);
        }
    }
}
