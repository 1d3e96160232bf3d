//! Requests of OpenAI's Responses, as chats. `responses_format` writes the answers; the paths are in
//! `routes.rs`.

use llama_diffusion::chat::{Message, Role};
use serde_json::{Map, Value, json};

use super::assemble::Assembly;
use super::chat::{EFFORTS, constrain, continued};
use super::error::ApiError;
use super::fields::{self, RESPONSES};
use super::reply::{Options, Protocol, Reply, Work};
use super::request::{Capabilities, Chat, Input, Request, TokenLimit};
use super::responses_items::take_all;
use super::tools::{Choice, Function, REQUIRED, Tools, chat_choice, resolve};
use super::turns::{self, StoredRequest, Turns};
use super::value::Object;
use super::{language, ranges, sampling};

/// The field that names the response before.
const PREVIOUS: &str = "previous_response_id";

/// Reads a request to `/v1/responses`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let ignored = fields::check(&body, RESPONSES, capabilities.family)?;
    let tools = tools(&body, capabilities)?;
    let before = before(&body, capabilities)?;
    let (chat, thoughts) = conversation(&body, &before, &tools)?;
    let mut request = Request::new(vec![Input::Chat(chat)]);
    sampling::read(&mut request, &body, capabilities)?;
    request.thoughts = thoughts;
    if let Some(limit) = body.get("max_output_tokens") {
        request.tokens = TokenLimit::Tokens(limit.count(ranges::COUNT)?);
    }
    request.logprobs = logprobs(&body, capabilities)?;
    constrain(&mut request, format(&body)?, &tools)?;
    let assembly = Assembly {
        stop: request.stop.clone(),
        calls: tools.calls,
        ..Assembly::default()
    };
    let is_stored = body.boolean("store")?.unwrap_or(true) && capabilities.responses.is_some();
    let echo = echo(&body, is_stored)?;
    let input = body.get("input").map(|input| input.value.to_string());
    let stored = is_stored.then(|| StoredRequest {
        before,
        input: input.unwrap_or_else(|| "null".into()).into(),
    });
    let protocol = Protocol::Responses(Box::new(Head { echo, stored }));
    let options = Options::read(&body, &request, &protocol, ignored)?;
    Ok(Work {
        request,
        reply: Reply {
            protocol,
            assembly,
            options,
        },
    })
}

/// What is known about a response before its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// What it repeats of its request.
    pub echo: Map<String, Value>,
    /// What is stored of its request, if it is stored.
    pub stored: Option<StoredRequest>,
}

/// The turns before a request.
fn before(body: &Object<'_>, capabilities: &Capabilities) -> Result<Turns, ApiError> {
    match body.get(PREVIOUS) {
        Some(field) => turns::find(&field, capabilities.responses.as_deref()),
        None => Ok(Turns::default()),
    }
}

/// The conversation of a request that has these turns before it, and whether the model thinks, if
/// the request says so.
fn conversation(
    body: &Object<'_>,
    before: &Turns,
    tools: &Tools,
) -> Result<(Chat, Option<bool>), ApiError> {
    let mut messages = Vec::new();
    // Instructions of earlier turns do not apply.
    if let Some(instructions) = body.string("instructions")? {
        messages.push(Message::new(Role::System, instructions));
    }
    turns::add(before, PREVIOUS, &mut messages)?;
    if let Some(input) = body.get("input") {
        take_all(&input, &mut messages)?;
    }
    let mut variables = Map::new();
    let reasoning = body.object("reasoning")?;
    let effort = reasoning
        .map(|reasoning| reasoning.choice("effort", &EFFORTS))
        .transpose()?;
    if !tools.declared.is_empty() {
        variables.insert("tools".into(), tools.declared.clone().into());
    }
    Ok((continued("input", messages, variables), effort.flatten()))
}

fn tools(body: &Object<'_>, capabilities: &Capabilities) -> Result<Tools, ApiError> {
    let mut functions = Vec::new();
    for tool in body.list("tools")? {
        let tool = tool.object()?;
        tool.require("type")?.choice(&[("function", ())])?;
        functions.push(Function::read(&tool, "parameters")?);
    }
    let choice = body
        .get("tool_choice")
        .map(|field| chat_choice(&field))
        .transpose()?;
    let parallel = body.boolean("parallel_tool_calls")?.unwrap_or(true);
    resolve(
        &functions,
        (choice.unwrap_or(Choice::Auto), REQUIRED),
        parallel,
        capabilities,
    )
}

fn format(body: &Object<'_>) -> Result<Option<super::request::Constraint>, ApiError> {
    let Some(text) = body.object("text")? else {
        return Ok(None);
    };
    match text.object("format")? {
        Some(format) => language::response_format(&format, "schema"),
        None => Ok(None),
    }
}

/// Log-probabilities, if `include` asks for them.
fn logprobs(body: &Object<'_>, capabilities: &Capabilities) -> Result<Option<usize>, ApiError> {
    let top = body.count("top_logprobs", ranges::LOGPROBS)?;
    for include in body.list("include")? {
        if include.string()? == "message.output_text.logprobs" {
            return match capabilities.scores {
                true => Ok(Some(top.unwrap_or(0))),
                false => Err(include.error("this model has no log-probabilities: remove it")),
            };
        }
    }
    Ok(None)
}

/// What a response repeats of its request, also what has no effect. Whether it is stored is not only
/// up to the request.
fn echo(body: &Object<'_>, is_stored: bool) -> Result<Map<String, Value>, ApiError> {
    if let Some(metadata) = body.object("metadata")? {
        for (name, value) in metadata.members() {
            if !value.is_string() {
                return Err(metadata.error(name, "must be a string"));
            }
        }
    }
    body.choice("truncation", &[("auto", ()), ("disabled", ())])?;
    let fields = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", true.into()),
        (PREVIOUS, Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("temperature", 1.0.into()),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", "auto".into()),
        ("tools", json!([])),
        ("top_p", 1.0.into()),
        ("truncation", "disabled".into()),
    ];
    let echoed = fields.map(|(name, default)| {
        let given = body.get(name).map(|field| field.value.clone());
        (name.to_owned(), given.unwrap_or(default))
    });
    let store = ("store".to_owned(), is_stored.into());
    Ok(echoed.into_iter().chain([store]).collect())
}

#[cfg(test)]
mod tests {
    use super::super::assemble::Calls;
    use super::super::request::Language;
    use super::super::tests::capabilities;
    use super::*;

    fn work(mut body: Value) -> Result<Work, ApiError> {
        if body.get("input").is_none() {
            body["input"] = "Hi".into();
        }
        exact(&body)
    }

    fn exact(body: &Value) -> Result<Work, ApiError> {
        let Value::Object(map) = body else { panic!() };
        read(map, &capabilities())
    }

    #[test]
    fn an_input_may_be_left_out() {
        for (body, roles) in [
            (json!({}), &[][..]),
            (json!({"input": null}), &[]),
            (json!({"instructions": "Be brief."}), &[Role::System]),
        ] {
            let Some(Input::Chat(chat)) = exact(&body).unwrap().request.inputs.pop() else {
                panic!("{body}")
            };
            let found: Vec<_> = chat.messages.iter().map(|message| message.role).collect();
            assert_eq!(found, roles, "{body}");
        }
    }

    #[test]
    fn an_input_that_says_nothing_is_an_error() {
        let empty = json!({"instructions": "Be brief.", "input": []});
        assert_eq!(
            exact(&empty).unwrap_err().message,
            "input: has nothing that the model reads: give a message, or leave it out"
        );
        let error = exact(&json!({"input": 5})).unwrap_err();
        assert_eq!(
            error.message,
            "input: is a number, but must be a string or a list of items"
        );
    }

    fn chat(body: Value) -> Chat {
        match work(body).unwrap().request.inputs.pop() {
            Some(Input::Chat(chat)) => chat,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn items_become_messages() {
        let chat = chat(json!({"instructions": "Be brief.", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        ]}));
        let roles: Vec<_> = chat.messages.iter().map(|message| message.role).collect();
        assert_eq!(
            roles,
            [Role::System, Role::User, Role::Assistant, Role::Tool]
        );
        assert_eq!(
            chat.messages[2].extra["tool_calls"][0]["function"]["arguments"],
            json!({"a": 1})
        );
        assert_eq!(chat.messages[2].extra["tool_calls"][1]["id"], "c2");
        assert_eq!(chat.messages[3].extra["tool_call_id"], "c1");
    }

    #[test]
    fn fields_of_its_own() {
        let format =
            json!({"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}});
        let body = json!({"max_output_tokens": 9, "reasoning": {"effort": "low"}, "text": format, "metadata": {"a": "b"}});
        let work = work(body).unwrap();
        assert_eq!(work.request.tokens, TokenLimit::Tokens(9));
        assert_eq!(work.request.thoughts, Some(true));
        let constraint = work.request.constraint.unwrap();
        assert_eq!(
            constraint.language,
            Language::JsonSchema(json!({"type": "integer"}))
        );
        let Protocol::Responses(head) = work.reply.protocol else {
            panic!()
        };
        assert_eq!(head.echo["metadata"], json!({"a": "b"}));
        let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
        let forced = json!({"tools": tools, "tool_choice": {"type": "function", "name": "f"}});
        let forced = super::tests::work(forced).unwrap().reply.assembly.calls;
        assert_eq!(forced, Calls::Arguments("f".into()));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (body, param) in [
            (json!({"input": 5}), "input"),
            (json!({"metadata": "a"}), "metadata"),
            (json!({"metadata": {"a": 5}}), "metadata.a"),
            (json!({"truncation": "some"}), "truncation"),
            (json!({"input": []}), "input"),
            (
                json!({"input": [{"role": "tool", "content": "a"}]}),
                "input[0].role",
            ),
            (
                json!({"input": [{"type": "item_reference", "id": "x"}]}),
                "input[0].type",
            ),
            (
                json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
                "input[0].content[0].type",
            ),
            (
                json!({"input": [{"type": "function_call", "name": "f", "arguments": "x"}]}),
                "input[0].arguments",
            ),
            (
                json!({"previous_response_id": "resp_1"}),
                "previous_response_id",
            ),
            (json!({"store": "yes"}), "store"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"background": true}), "background"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (
                json!({"text": {"format": {"type": "xml"}}}),
                "text.format.type",
            ),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"reasoning": {"effort": "much"}}), "reasoning.effort"),
            (json!({"n": 2}), "n"),
        ] {
            assert_eq!(
                work(body.clone()).unwrap_err().param.as_deref(),
                Some(param),
                "{body}"
            );
        }
    }
}
