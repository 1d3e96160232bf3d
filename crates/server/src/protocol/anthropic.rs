//! Anthropic's messages as chats.

use llama_diffusion::chat::{Message, Role};
use serde_json::{Map, Value};

use super::assemble::Assembly;
use super::chat::{constrain, continued};
use super::error::ApiError;
use super::fields::{self, ANTHROPIC};
use super::messages::{called, text};
use super::reply::{Options, Protocol, Reply, Work};
use super::request::{Capabilities, Chat, Constraint, Input, Request, TokenLimit};
use super::responses_items::add_call;
use super::tools::{Choice, Function, Tools, resolve};
use super::value::Object;
use super::{language, ranges, sampling};

/// Reads a request to `/v1/messages`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let limit = body.require("max_tokens")?.count(ranges::COUNT)?;
    let ignored = fields::check(&body, ANTHROPIC, capabilities.family)?;
    check_container(&body)?;
    let tools = tools(&body, capabilities)?;
    let mut request = Request::new(vec![Input::Chat(conversation(&body, &tools)?)]);
    sampling::read(&mut request, &body, capabilities)?;
    request.tokens = TokenLimit::Tokens(limit);
    if let Some(stop) = body.get("stop_sequences") {
        request.stop = sampling::texts(&stop)?;
    }
    think(&mut request, &body)?;
    constrain(&mut request, format(&body)?, &tools)?;
    let assembly = Assembly {
        stop: request.stop.clone(),
        calls: tools.calls,
        ..Assembly::default()
    };
    let options = Options::read(&body, &request, &Protocol::Anthropic, ignored)?;
    Ok(Work {
        request,
        reply: Reply {
            protocol: Protocol::Anthropic,
            assembly,
            options,
        },
    })
}

/// Checks that no skills come with a container. They would change the answer; the container is only the
/// place where tools of Anthropic's run, and those are refused.
fn check_container(body: &Object<'_>) -> Result<(), ApiError> {
    let Some(field) = body.get("container") else {
        return Ok(());
    };
    let container = match field.value {
        Value::String(_) => return Ok(()),
        Value::Object(_) => field.object()?,
        _ => return Err(field.wrong("a string or an object with an id")),
    };
    container.string("id")?;
    match container.list("skills")?.is_empty() {
        true => Ok(()),
        false => Err(container.error("skills", "the server runs no tools: remove it")),
    }
}

/// Reads a request to `/v1/messages/count_tokens`.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn read_count(
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Request, ApiError> {
    let body = Object::root(body);
    let tools = tools(&body, capabilities)?;
    let mut request = Request::new(vec![Input::Chat(conversation(&body, &tools)?)]);
    think(&mut request, &body)?;
    Ok(request)
}

fn conversation(body: &Object<'_>, tools: &Tools) -> Result<Chat, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = body.get("system") {
        messages.push(Message::new(Role::System, text(&system)?));
    }
    let list = body.require("messages")?;
    let given = list.list()?;
    if given.is_empty() {
        return Err(list.error("is empty: give at least one message"));
    }
    for message in given {
        take(&message.object()?, &mut messages)?;
    }
    let mut variables = Map::new();
    if !tools.declared.is_empty() {
        variables.insert("tools".into(), tools.declared.clone().into());
    }
    Ok(continued("messages", messages, variables))
}

/// Adds a message: its tool results first, each as a message of its own.
fn take(message: &Object<'_>, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let roles = [
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("system", Role::System),
    ];
    let role = message.require("role")?.choice(&roles)?;
    let content = message.require("content")?;
    if let Value::String(text) = content.value {
        messages.push(Message::new(role, text.as_str()));
        return Ok(());
    }
    let (mut texts, mut calls) = (String::new(), Vec::new());
    if !content.value.is_array() {
        return Err(content.wrong("a string or a list of blocks"));
    }
    let blocks = content.list()?;
    let mut results = false;
    for block in &blocks {
        let object = block.object()?;
        let kind = object.require("type")?;
        match (kind.string()?, role) {
            ("text", _) => texts += object.require("text")?.string()?,
            // Thoughts of earlier turns are not shown to the model again.
            ("thinking" | "redacted_thinking", Role::Assistant) => {}
            ("tool_use", Role::Assistant) => calls.push(tool_use(&object)?),
            ("tool_result", Role::User) => {
                messages.push(tool_result(&object)?);
                results = true;
            }
            (other, _) => {
                return Err(kind.error(format!(
                    "is \"{other}\", which a message of this role cannot have here: this model reads text, \
                     tool calls and their results"
                )));
            }
        }
    }
    let is_empty = texts.is_empty() && calls.is_empty();
    if !(results && is_empty) {
        messages.push(Message::new(role, texts));
    }
    calls.into_iter().for_each(|call| add_call(messages, call));
    Ok(())
}

fn tool_use(block: &Object<'_>) -> Result<Value, ApiError> {
    let name = block.require("name")?.string()?;
    let input = block.object("input")?.map(|input| input.members().clone());
    Ok(called(block.string("id")?, name, input.unwrap_or_default()))
}

fn tool_result(block: &Object<'_>) -> Result<Message, ApiError> {
    let id = block.require("tool_use_id")?.string()?;
    let content = block
        .get("content")
        .map(|content| text(&content))
        .transpose()?;
    let mut content = content.unwrap_or_default();
    if block.flag("is_error")? {
        content.insert_str(0, "Error: ");
    }
    let mut message = Message::new(Role::Tool, content);
    message.extra.insert("tool_call_id".into(), id.into());
    Ok(message)
}

/// The choice of a call.
const ANY: &str = "{\"type\": \"any\"}";

fn tools(body: &Object<'_>, capabilities: &Capabilities) -> Result<Tools, ApiError> {
    let mut functions = Vec::new();
    for tool in body.list("tools")? {
        let tool = tool.object()?;
        // Anthropic's own tools have types of their own.
        tool.choice("type", &[("custom", ())])?;
        tool.require("input_schema")?;
        functions.push(Function::read(&tool, "input_schema")?);
    }
    let Some(choice) = body.object("tool_choice")? else {
        return resolve(&functions, (Choice::Auto, ANY), true, capabilities);
    };
    let parallel = !choice.flag("disable_parallel_tool_use")?;
    let kind = choice.require("type")?;
    let choice = match kind.choice(&[("auto", 0), ("any", 1), ("tool", 2), ("none", 3)])? {
        0 => Choice::Auto,
        1 => Choice::Required,
        2 => Choice::Named(choice.require("name")?.string()?.to_owned()),
        _ => Choice::None,
    };
    resolve(&functions, (choice, ANY), parallel, capabilities)
}

fn think(request: &mut Request, body: &Object<'_>) -> Result<(), ApiError> {
    let Some(thinking) = body.object("thinking")? else {
        return Ok(());
    };
    let kinds = [("enabled", true), ("adaptive", true), ("disabled", false)];
    request.thoughts = Some(thinking.require("type")?.choice(&kinds)?);
    request.thought_budget = thinking.count("budget_tokens", ranges::COUNT)?;
    Ok(())
}

/// What the answer is constrained to: `output_config.format`, or `output_format`, which is its earlier name.
fn format(body: &Object<'_>) -> Result<Option<Constraint>, ApiError> {
    let config = body.object("output_config")?;
    if let Some(config) = &config {
        config.string("effort")?; // thoughts are on or off: `thinking` says which
    }
    let current = config.map(|config| config.object("format")).transpose()?;
    let format = match (current.flatten(), body.object("output_format")?) {
        (Some(_), Some(_)) => {
            return Err(body.error("output_format", "output_config.format says another one"));
        }
        (current, earlier) => current.or(earlier),
    };
    match format {
        Some(format) => language::response_format(&format, "schema"),
        None => Ok(None),
    }
}

/// The answer of `count_tokens`.
pub fn counted(tokens: usize) -> Value {
    serde_json::json!({ "input_tokens": tokens })
}

#[cfg(test)]
mod tests {
    use super::super::assemble::Calls;
    use super::super::request::Language;
    use super::super::tests::capabilities;
    use super::*;
    use serde_json::json;

    fn work(mut body: Value) -> Result<Work, ApiError> {
        for (name, value) in [
            ("max_tokens", json!(9)),
            ("messages", json!([{"role": "user", "content": "Hi"}])),
        ] {
            if body.get(name).is_none() {
                body[name] = value;
            }
        }
        let Value::Object(map) = &body else { panic!() };
        read(map, &capabilities())
    }

    fn chat(body: Value) -> Chat {
        match work(body).unwrap().request.inputs.pop() {
            Some(Input::Chat(chat)) => chat,
            other => panic!("{other:?}"),
        }
    }

    /// What Claude Code sends beside its messages.
    #[test]
    fn agents_say_how_much_effort_and_what_to_forget() {
        let work = work(json!({
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "stream": true, "tools": [],
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        }))
        .unwrap();
        assert_eq!(work.request.thoughts, Some(true));
        assert_eq!(work.request.constraint, None);
        assert_eq!(work.reply.options.ignored, ["context_management"]);
    }

    #[test]
    fn answers_have_the_format_that_is_asked_for() {
        let format = json!({"type": "json_schema", "schema": {"type": "integer"}});
        for (body, field) in [
            (
                json!({"output_config": {"format": format}}),
                "output_config.format.schema",
            ),
            (json!({"output_format": format}), "output_format.schema"),
        ] {
            let constraint = work(body).unwrap().request.constraint.unwrap();
            assert_eq!(constraint.field, field);
            assert_eq!(
                constraint.language,
                Language::JsonSchema(json!({"type": "integer"}))
            );
        }
        let without = work(json!({"output_config": {"format": {"type": "json_schema"}}}));
        let param = without.err().unwrap().param;
        assert_eq!(param.as_deref(), Some("output_config.format.schema"));
    }

    #[test]
    fn advice_about_tools_is_in_words_of_the_protocol() {
        let tool = json!({"name": "f", "input_schema": {"type": "object"}});
        let without = Capabilities {
            tools: false,
            ..capabilities()
        };
        for (tools, choice, part) in [
            (
                json!([tool]),
                Value::Null,
                "set tool_choice to {\"type\": \"any\"}",
            ),
            (
                json!([]),
                json!({"type": "any"}),
                "is {\"type\": \"any\"}, but",
            ),
        ] {
            let body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "a"}],
                "tools": tools, "tool_choice": choice});
            let error = read(body.as_object().unwrap(), &without).unwrap_err();
            assert!(error.message.contains(part), "{error:?}");
            assert!(!error.message.contains("required"), "{error:?}");
        }
    }

    #[test]
    fn a_count_is_of_the_prompt_with_its_thoughts() {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        body["thinking"] = json!({"type": "enabled", "budget_tokens": 2000});
        let counted = read_count(body.as_object().unwrap(), &capabilities()).unwrap();
        let mut answered = work(body).unwrap().request;
        answered.tokens = counted.tokens;
        assert_eq!(counted.thoughts, Some(true));
        assert_eq!(counted, answered);
    }

    #[test]
    fn blocks_become_messages() {
        let chat = chat(json!({
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "text", "text": "And?"},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": true}]},
            ],
        }));
        let found: Vec<_> = chat
            .messages
            .iter()
            .map(|message| (message.role, message.content.as_str()))
            .collect();
        let expected = [
            (Role::System, "Be brief."),
            (Role::User, "Weather?"),
            (Role::Assistant, "Let me see."),
            (Role::Tool, "sun"),
            (Role::User, "And?"),
            (Role::Tool, "Error: no"),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            chat.messages[2].extra["tool_calls"][0]["function"]["arguments"],
            json!({"a": 1})
        );
    }

    #[test]
    fn an_assistant_message_at_the_end_is_continued() {
        let messages =
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure:"}]);
        let chat = chat(json!({ "messages": messages }));
        assert_eq!((chat.messages.len(), chat.prefix.as_str()), (1, "Sure:"));
    }

    #[test]
    fn fields_of_its_own() {
        let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
        let work = work(json!({
            "stop_sequences": ["x"], "thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": tools,
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}, "top_k": 5,
        }))
        .unwrap();
        assert_eq!(
            (work.request.stop.as_slice(), work.request.thoughts),
            (&["x".to_owned()][..], Some(true))
        );
        assert_eq!(work.request.thought_budget, Some(1024));
        assert_eq!(work.reply.assembly.calls, Calls::Marked { parallel: false });
        assert_eq!(work.reply.options.ignored, ["top_k"]);
        let body = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": tools});
        let Value::Object(map) = &body else { panic!() };
        let counted = read_count(map, &capabilities()).unwrap();
        let [Input::Chat(chat)] = &counted.inputs[..] else {
            panic!("{counted:?}")
        };
        assert_eq!(chat.variables["tools"][0]["function"]["name"], "f");
    }

    #[test]
    fn a_container_has_no_effect() {
        for container in [
            json!("container_1"),
            json!({"id": "container_1"}),
            json!({"id": null, "skills": []}),
        ] {
            let reply = work(json!({"container": container})).unwrap().reply;
            assert_eq!(reply.options.ignored, ["container"], "{container}");
        }
        let without = work(json!({"container": null})).unwrap().reply;
        assert_eq!(without.options.ignored, [""; 0]);
    }

    #[test]
    fn wrong_fields_are_named() {
        let message = |block| json!({"messages": [{"role": "user", "content": [block]}]});
        for (body, param) in [
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"messages": []}), "messages"),
            (
                json!({"messages": [{"role": "tool", "content": "a"}]}),
                "messages[0].role",
            ),
            (
                message(json!({"type": "image"})),
                "messages[0].content[0].type",
            ),
            (
                message(json!({"type": "tool_use", "name": "f"})),
                "messages[0].content[0].type",
            ),
            (
                message(json!({"type": "tool_result"})),
                "messages[0].content[0].tool_use_id",
            ),
            (json!({"system": 5}), "system"),
            (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
            (
                json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}),
                "tools[0].type",
            ),
            (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
            (json!({"thinking": {"type": "much"}}), "thinking.type"),
            (json!({"stop_sequences": "x"}), "stop_sequences"),
            (json!({"mcp_servers": [{}]}), "mcp_servers"),
            (json!({"container": 5}), "container"),
            (json!({"container": {"id": 5}}), "container.id"),
            (
                json!({"container": {"id": "c", "skills": [{"type": "anthropic"}]}}),
                "container.skills",
            ),
            (
                json!({"output_config": {"effort": 5}}),
                "output_config.effort",
            ),
            (
                json!({"output_config": {"format": {"type": "xml"}}}),
                "output_config.format.type",
            ),
            (
                json!({"output_config": {"format": {"type": "text"}}, "output_format": {"type": "text"}}),
                "output_format",
            ),
            (
                json!({"response_format": {"type": "json_object"}}),
                "response_format",
            ),
            (json!({"n": 2}), "n"),
        ] {
            assert_eq!(
                work(body.clone()).unwrap_err().param.as_deref(),
                Some(param),
                "{body}"
            );
        }
        let error = read(&Map::new(), &capabilities()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("max_tokens"));
    }
}
