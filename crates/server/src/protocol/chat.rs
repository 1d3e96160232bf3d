//! OpenAI's chat requests, with llama-server's fields.

use llama_diffusion::chat::{ChatTemplate, Message, Role};
use serde_json::{Map, Value};

use super::assemble::{Assembly, Calls, ThoughtFormat};
use super::error::ApiError;
use super::fields::{self, CHAT};
use super::reply::{Options, Protocol, Reply, Work};
use super::request::{Capabilities, Chat, Input, Request};
use super::sampling::check_logprobs;
use super::tools::Tools;
use super::value::Object;
use super::{known, language, messages, ranges, sampling, tools};

/// Reads a request to `/v1/chat/completions`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let ignored = fields::check(&body, CHAT, capabilities.family)?;
    let tools = tools::read(&body, capabilities)?;
    let (chat, thoughts) = conversation(&body, &tools)?;
    let mut request = Request::new(vec![Input::Chat(chat)]);
    sampling::read(&mut request, &body, capabilities)?;
    request.thoughts = thoughts;
    request.thought_budget = thought_budget(&body)?;
    logprobs(&mut request, &body, capabilities)?;
    check_modalities(&body)?;
    constrain(&mut request, language::read(&body)?, &tools)?;
    known::read(&mut request, &body, capabilities)?;
    let formats = [
        ("auto", ThoughtFormat::Separate),
        ("deepseek", ThoughtFormat::Separate),
        ("deepseek-legacy", ThoughtFormat::Separate),
        ("none", ThoughtFormat::Inline),
    ];
    let format = body.choice("reasoning_format", &formats)?;
    let assembly = Assembly {
        stop: request.stop.clone(),
        thoughts: format.unwrap_or_default(),
        calls: tools.calls,
    };
    let mut options = Options::read(&body, &request, &Protocol::Chat, ignored)?;
    options.token_ids = body.flag("return_tokens_as_token_ids")?;
    let reply = Reply {
        protocol: Protocol::Chat,
        assembly,
        options,
    };
    Ok(Work { request, reply })
}

/// The conversation of a body, as `/apply-template` needs it too, and whether the model thinks, if the
/// body says so.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn conversation(body: &Object<'_>, tools: &Tools) -> Result<(Chat, Option<bool>), ApiError> {
    let mut variables = Map::new();
    let mut thoughts = effort(body, &mut variables)?;
    if let Some(given) = body.object("chat_template_kwargs")? {
        if let Some(name) = ChatTemplate::RESERVED
            .iter()
            .find(|name| given.get(name).is_some())
        {
            return Err(given.error(name, "is set by the server: remove it"));
        }
        thoughts = given.boolean("enable_thinking")?.or(thoughts);
        variables.extend(given.members().clone());
        variables.remove("enable_thinking");
    }
    if !tools.declared.is_empty() {
        variables.insert("tools".into(), tools.declared.clone().into());
    }
    let mut messages = messages::read(body)?;
    let prefix = match continues(body, &messages)? {
        true => messages.pop().map(|last| last.content).unwrap_or_default(),
        false => String::new(),
    };
    let chat = Chat {
        field: "messages",
        messages,
        variables,
        prefix,
    };
    Ok((chat, thoughts))
}

/// How much the model thinks, and whether it does.
pub const EFFORTS: [(&str, bool); 7] = [
    ("none", false),
    ("minimal", true),
    ("low", true),
    ("medium", true),
    ("high", true),
    ("xhigh", true),
    ("max", true),
];

fn effort(body: &Object<'_>, variables: &mut Map<String, Value>) -> Result<Option<bool>, ApiError> {
    let effort = body.choice("reasoning_effort", &EFFORTS)?;
    if effort == Some(true) {
        let name = body.string("reasoning_effort")?;
        variables.insert("reasoning_effort".into(), name.into());
    }
    Ok(effort)
}

/// Whether the answer continues the last message: that is the default if the assistant wrote it.
fn continues(body: &Object<'_>, messages: &[Message]) -> Result<bool, ApiError> {
    let opens = body.boolean("add_generation_prompt")?;
    let continues = body.boolean("continue_final_message")?;
    if (opens, continues) == (Some(true), Some(true)) {
        let problem = "add_generation_prompt opens another message: set only one of them";
        return Err(body.error("continue_final_message", problem));
    }
    let last = messages.last().filter(|last| last.role == Role::Assistant);
    let continues = continues.unwrap_or(last.is_some() && opens != Some(true));
    match last {
        None if continues => {
            let problem = "the last message is not the assistant's: there is nothing to continue";
            Err(body.error("continue_final_message", problem))
        }
        None if opens == Some(false) => {
            let problem = "an answer needs the opening of the assistant's message: remove it";
            Err(body.error("add_generation_prompt", problem))
        }
        Some(last) if continues && last.extra.contains_key("tool_calls") => Err(ApiError::field(
            format!("messages[{}].tool_calls", messages.len() - 1),
            "calls have no results yet: add them as tool messages",
        )),
        _ => Ok(continues),
    }
}

/// A conversation of other protocols, which have it in `field`: the assistant's message at the end is
/// continued.
pub fn continued(
    field: &'static str,
    mut messages: Vec<Message>,
    variables: Map<String, Value>,
) -> Chat {
    let is_open =
        |last: &mut Message| last.role == Role::Assistant && !last.extra.contains_key("tool_calls");
    let prefix = messages.pop_if(is_open).map(|last| last.content);
    Chat {
        field,
        messages,
        variables,
        prefix: prefix.unwrap_or_default(),
    }
}

/// Sets `logprobs` and `top_logprobs`, or `n_probs`.
fn logprobs(
    request: &mut Request,
    body: &Object<'_>,
    capabilities: &Capabilities,
) -> Result<(), ApiError> {
    let on = body.flag("logprobs")?;
    let top = body.count("top_logprobs", ranges::LOGPROBS)?;
    if top.is_some_and(|top| top > 0) && !on {
        return Err(body.error("top_logprobs", "needs logprobs: set it to true"));
    }
    let probs = body
        .count("n_probs", ranges::LOGPROBS)?
        .filter(|count| *count > 0);
    let name = if on { "logprobs" } else { "n_probs" };
    request.logprobs = match on {
        true => Some(top.unwrap_or(0)),
        false => probs,
    };
    check_logprobs(request, body, name, capabilities)
}

fn thought_budget(body: &Object<'_>) -> Result<Option<usize>, ApiError> {
    let Some(field) = body.get("thinking_budget_tokens") else {
        return Ok(None);
    };
    let budget = field.integer(ranges::COUNT_OR_ANY)?;
    // -1 means unlimited, also where the server has one.
    Ok(Some(usize::try_from(budget).unwrap_or(usize::MAX)))
}

fn check_modalities(body: &Object<'_>) -> Result<(), ApiError> {
    for modality in body.list("modalities")? {
        modality.choice(&[("text", ())])?;
    }
    Ok(())
}

/// Sets the constraint of a request: a format, or a forced call.
///
/// # Errors
/// 400: there is a format, and the model may or must call tools.
pub fn constrain(
    request: &mut Request,
    format: Option<super::request::Constraint>,
    tools: &Tools,
) -> Result<(), ApiError> {
    request.tool_marks = matches!(tools.calls, Calls::Marked { .. });
    match format {
        Some(format) if tools.calls != Calls::None => Err(ApiError::field(
            format.field,
            "an answer in a format calls no tools: remove it, or set tool_choice to \"none\"",
        )),
        format => {
            request.constraint = format.or_else(|| tools.constraint.clone());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Family, Language};
    use super::*;
    use serde_json::json;

    fn work(mut body: Value) -> Result<Work, ApiError> {
        if body.get("messages").is_none() {
            body["messages"] = json!([{"role": "user", "content": "Hi"}]);
        }
        let Value::Object(map) = &body else { panic!() };
        let capabilities = Capabilities {
            family: Family::Canvas,
            slots: 4,
            vocabulary: 100,
            tools: true,
            scores: true,
            responses: None,
        };
        read(map, &capabilities)
    }

    fn chat(body: Value) -> Chat {
        match work(body).unwrap().request.inputs.pop() {
            Some(Input::Chat(chat)) => chat,
            other => panic!("{other:?}"),
        }
    }

    fn param(body: Value) -> String {
        work(body).unwrap_err().param.unwrap()
    }

    #[test]
    fn thoughts_are_turned_on_and_off() {
        let thoughts = |body| work(body).unwrap().request.thoughts;
        assert_eq!(thoughts(json!({})), None);
        assert_eq!(thoughts(json!({"reasoning_effort": "none"})), Some(false));
        assert_eq!(thoughts(json!({"reasoning_effort": "low"})), Some(true));
        let both =
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}});
        assert_eq!(thoughts(both), Some(false));
        let variables =
            chat(json!({"chat_template_kwargs": {"x": 1}, "reasoning_effort": "high"})).variables;
        assert_eq!(
            Value::Object(variables),
            json!({"reasoning_effort": "high", "x": 1})
        );
        assert_eq!(
            param(json!({"chat_template_kwargs": {"messages": []}})),
            "chat_template_kwargs.messages"
        );
        assert_eq!(
            param(json!({"reasoning_effort": "much"})),
            "reasoning_effort"
        );
        assert_eq!(
            param(json!({"reasoning_format": "xml"})),
            "reasoning_format"
        );
        for (given, expected) in [
            (json!(9), Some(9)),
            (json!(-1), Some(usize::MAX)),
            (Value::Null, None),
        ] {
            let work = work(json!({ "thinking_budget_tokens": given })).unwrap();
            assert_eq!(work.request.thought_budget, expected);
        }
    }

    #[test]
    fn an_assistant_message_at_the_end_is_continued() {
        let last = |text: &str| json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]);
        let continued = chat(json!({"messages": last("Sure:")}));
        assert_eq!(
            (continued.messages.len(), continued.prefix.as_str()),
            (1, "Sure:")
        );
        let opened = chat(json!({"messages": last("Sure:"), "add_generation_prompt": true}));
        assert_eq!((opened.messages.len(), opened.prefix.as_str()), (2, ""));
        let both = json!({"messages": last("a"), "add_generation_prompt": true, "continue_final_message": true});
        assert_eq!(param(both), "continue_final_message");
        assert_eq!(
            param(json!({"continue_final_message": true})),
            "continue_final_message"
        );
        assert_eq!(
            param(json!({"add_generation_prompt": false})),
            "add_generation_prompt"
        );
        let calls = json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]);
        assert_eq!(param(json!({"messages": calls})), "messages[0].tool_calls");
    }

    #[test]
    fn log_probabilities() {
        let wanted = |body| work(body).unwrap().request.logprobs;
        assert_eq!(wanted(json!({"logprobs": false})), None);
        assert_eq!(wanted(json!({"logprobs": true})), Some(0));
        assert_eq!(
            wanted(json!({"logprobs": true, "top_logprobs": 5})),
            Some(5)
        );
        assert_eq!(wanted(json!({"n_probs": 3})), Some(3));
        assert_eq!(param(json!({"top_logprobs": 5})), "top_logprobs");
        assert_eq!(
            param(json!({"logprobs": true, "top_logprobs": 21})),
            "top_logprobs"
        );
        assert_eq!(param(json!({"logprobs": 5})), "logprobs");
    }

    #[test]
    fn formats_and_tools_exclude_each_other() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let format = json!({"type": "json_object"});
        let body = json!({"tools": tools, "response_format": format});
        assert_eq!(param(body), "response_format.type");
        let off = json!({"tools": tools, "response_format": format, "tool_choice": "none"});
        let request = work(off).unwrap().request;
        assert_eq!(request.constraint.unwrap().language, Language::JsonObject);
        assert!(!request.tool_marks);
        let forced = work(json!({"tools": tools, "tool_choice": "required"})).unwrap();
        assert!(forced.request.constraint.is_some());
        assert_eq!(forced.reply.assembly.calls, Calls::Object);
    }

    #[test]
    fn other_fields() {
        assert_eq!(
            param(json!({"modalities": ["text", "audio"]})),
            "modalities[1]"
        );
        assert_eq!(
            param(json!({"stream_options": {"include_usage": 1}})),
            "stream_options.include_usage"
        );
        assert_eq!(param(json!({"functions": [{}]})), "functions");
        let work = work(json!({"temperature": 1, "user": "x", "stream": true, "n": 2})).unwrap();
        assert_eq!(work.reply.options.ignored, ["temperature", "user"]);
        assert_eq!(
            (work.reply.options.stream, work.reply.options.answers),
            (true, 2)
        );
    }
}
