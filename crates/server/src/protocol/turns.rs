//! The turns of a conversation: stored responses, as later requests build on them and as their items are
//! listed.

use std::fmt::Debug;
use std::sync::Arc;

use llama_diffusion::chat::Message;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ErrorKind};
use super::responses_items::{take, take_all};
use super::value::Field;

/// How the store is turned on.
pub const TURN_ON: &str =
    "start the server with more than 0 for --responses-kept and --responses-ram";

/// That there is no response with this id, and why.
pub fn not_stored(id: &str) -> String {
    format!(
        "there is no response with the id '{id}': it was not stored, has not ended, was deleted or was \
         evicted"
    )
}

/// A response and what it answers, as JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// The id of the response.
    pub id: String,
    /// The `input` of its request, or `null`.
    pub input: Arc<str>,
    /// The response.
    pub response: Box<str>,
}

/// The turns of a conversation, the oldest first.
pub type Turns = Arc<[Arc<Turn>]>;

/// The responses that one client may build on.
pub trait StoredResponses: Debug + Send + Sync {
    /// The conversation that ends with the response of this id.
    fn turns(&self, id: &str) -> Option<Turns>;
}

/// What is stored of a request, next to its response.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRequest {
    /// The turns before it.
    pub before: Turns,
    /// Its `input`, or `null`.
    pub input: Arc<str>,
}

impl Turn {
    fn input(&self) -> Result<Value, ApiError> {
        serde_json::from_str(&self.input).map_err(|error| self.unreadable(&error))
    }

    /// The response.
    ///
    /// # Errors
    /// It is not a JSON object, which would be an error of the server.
    pub fn response(&self) -> Result<Map<String, Value>, ApiError> {
        serde_json::from_str(&self.response).map_err(|error| self.unreadable(&error))
    }

    fn output(&self) -> Result<Vec<Value>, ApiError> {
        match self.response()?.remove("output") {
            Some(Value::Array(output)) => Ok(output),
            _ => Ok(Vec::new()),
        }
    }

    fn unreadable(&self, error: &serde_json::Error) -> ApiError {
        let message = format!("the response '{}' cannot be read: {error}", self.id);
        ApiError::new(ErrorKind::Server, message)
    }
}

/// The turns before a request that names the last of them in `field`.
///
/// # Errors
/// 400: the server stores no responses, or not this one.
pub fn find(field: &Field<'_>, responses: Option<&dyn StoredResponses>) -> Result<Turns, ApiError> {
    let id = field.string()?;
    let Some(responses) = responses else {
        return Err(field.error(format!(
            "the server stores no responses: send the whole conversation as input, or {TURN_ON}"
        )));
    };
    responses.turns(id).ok_or_else(|| {
        let problem = not_stored(id) + "; send the whole conversation as input";
        field
            .error(problem)
            .with_code("previous_response_not_found")
    })
}

/// Adds the messages of turns that the request has in the field of this path.
///
/// # Errors
/// 400: an answer cannot be read, such as a call that was cut within its arguments.
pub fn add(turns: &[Arc<Turn>], path: &str, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    for turn in turns {
        let input = turn.input()?;
        if !input.is_null() {
            let path = format!("{path}.input");
            take_all(
                &Field {
                    path,
                    value: &input,
                },
                messages,
            )?;
        }
        for (index, item) in turn.output()?.iter().enumerate() {
            let path = format!("{path}.output[{index}]");
            take(&Field { path, value: item }, messages)?;
        }
    }
    Ok(())
}

/// Which items of a conversation a client wants to see.
#[derive(Clone, Debug)]
pub struct Page {
    /// The id of the item before the first one.
    pub after: Option<String>,
    /// Maximum number of items.
    pub limit: usize,
    /// Whether the oldest comes first.
    pub ascends: bool,
}

/// A page of the items that the last response of a conversation answers: earlier turns, then its input.
///
/// # Errors
/// 400: there is no item after which to begin.
pub fn page(turns: &[Arc<Turn>], page: &Page) -> Result<Value, ApiError> {
    let mut items = listed(turns)?;
    if !page.ascends {
        items.reverse();
    }
    let begin = match &page.after {
        Some(id) => {
            let found = items.iter().position(|item| item["id"] == **id);
            let problem = format!("there is no item '{id}': give the last_id of a page");
            found.ok_or_else(|| ApiError::field("after", problem))? + 1
        }
        None => 0,
    };
    let rest = items.len() - begin;
    let data: Vec<Value> = items.drain(begin..).take(page.limit).collect();
    Ok(json!({
        "object": "list",
        "first_id": data.first().map(|item| &item["id"]),
        "last_id": data.last().map(|item| &item["id"]),
        "has_more": rest > data.len(),
        "data": data,
    }))
}

fn listed(turns: &[Arc<Turn>]) -> Result<Vec<Value>, ApiError> {
    let mut items = Vec::new();
    for (number, turn) in turns.iter().enumerate() {
        let number_of = turn.id.trim_start_matches("resp_");
        match turn.input()? {
            Value::String(text) => {
                let message = json!({"role": "user", "content": text});
                items.push(item(&message, number_of, 0));
            }
            Value::Array(list) => {
                let list = list.iter().enumerate();
                items.extend(list.map(|(index, given)| item(given, number_of, index)));
            }
            _ => {} // there was none
        }
        if number + 1 < turns.len() {
            items.extend(turn.output()?);
        }
    }
    Ok(items)
}

/// An item of an input with all that clients expect of one. `of` and `index` make its id, if it has none.
fn item(given: &Value, of: &str, index: usize) -> Value {
    let kind = given["type"].as_str().unwrap_or("message");
    let id = |prefix: &str| match given["id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("{prefix}_{of}_in{index}"),
    };
    match kind {
        "function_call" => {
            let id = id("fc");
            let arguments = match &given["arguments"] {
                Value::String(text) => text.clone(),
                object => object.to_string(),
            };
            let call = given["call_id"].as_str().unwrap_or(&id);
            json!({
                "type": kind, "id": id, "call_id": call, "name": given["name"], "arguments": arguments,
                "status": "completed",
            })
        }
        "function_call_output" => {
            let output = match &given["output"] {
                Value::Array(list) => parts(list, false).into(),
                text => text.clone(),
            };
            json!({
                "type": kind, "id": id("fco"), "call_id": given["call_id"], "output": output,
                "status": "completed",
            })
        }
        "reasoning" => {
            let list = |name: &str| given[name].as_array().cloned().unwrap_or_default();
            json!({
                "type": kind, "id": id("rs"), "summary": list("summary"), "content": list("content"),
                "status": "completed",
            })
        }
        _ => {
            let content = match &given["content"] {
                Value::Array(list) => list.clone(),
                text => vec![json!({"type": "text", "text": text})],
            };
            let role = &given["role"];
            json!({
                "type": "message", "id": id("msg"), "role": role,
                "content": parts(&content, role == "assistant"), "status": "completed",
            })
        }
    }
}

/// Parts of a content, in the names that Responses have for them.
fn parts(content: &[Value], is_answer: bool) -> Vec<Value> {
    let part = |part: &Value| match (part["type"].as_str(), is_answer) {
        (Some("refusal"), _) => json!({"type": "refusal", "refusal": part["refusal"]}),
        (_, true) => json!({
            "type": "output_text", "text": part["text"], "annotations": [], "logprobs": [],
        }),
        (_, false) => json!({"type": "input_text", "text": part["text"]}),
    };
    content.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use llama_diffusion::chat::Role;

    use super::super::reply::Work;
    use super::super::request::{Chat, Input};
    use super::super::responses;
    use super::super::tests::capabilities;
    use super::*;

    fn turn(id: &str, input: &Value, output: &Value) -> Arc<Turn> {
        Arc::new(Turn {
            id: id.into(),
            input: input.to_string().into(),
            response: json!({"id": id, "tools": [], "output": output})
                .to_string()
                .into(),
        })
    }

    /// A turn that calls a function, one with its result, and one that is asked without an input.
    fn turns() -> Turns {
        let answer = |text: &str| {
            json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}]})
        };
        let call = json!({"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f",
            "arguments": "{\"a\":1}", "status": "completed"});
        let thoughts = json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": [],
            "status": "completed"});
        let result = json!([{"type": "function_call_output", "call_id": "c1", "output": "sun"}]);
        Turns::from([
            turn("resp_1", &json!("Weather?"), &json!([thoughts, call])),
            turn("resp_2", &result, &json!([answer("Sunny.")])),
            turn("resp_3", &Value::Null, &json!([answer("And warm.")])),
        ])
    }

    /// Stores the conversation of [`turns`].
    #[derive(Debug)]
    struct Three;

    impl StoredResponses for Three {
        fn turns(&self, id: &str) -> Option<Turns> {
            let turns = turns();
            let number = turns.iter().position(|turn| turn.id == id)?;
            Some(turns[..=number].into())
        }
    }

    fn read(body: &Value) -> Result<Work, ApiError> {
        let mut capabilities = capabilities();
        capabilities.responses = Some(Arc::new(Three));
        let body: &Map<_, _> = body.as_object().unwrap();
        responses::read(body, &capabilities)
    }

    fn chat(body: &Value) -> Chat {
        match read(body).unwrap().request.inputs.pop() {
            Some(Input::Chat(chat)) => chat,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_conversation_goes_on_as_if_all_of_it_were_the_input() {
        let mut input = Vec::new();
        for turn in turns()[..2].iter() {
            match turn.input().unwrap() {
                Value::Array(items) => input.extend(items),
                text => input.push(json!({"role": "user", "content": text})),
            }
            input.extend(turn.output().unwrap());
        }
        input.push(json!({"role": "user", "content": "Thanks."}));
        let whole = json!({"instructions": "Be brief.", "input": input});
        let built = json!({
            "instructions": "Be brief.", "previous_response_id": "resp_2", "input": "Thanks.",
        });
        assert_eq!(chat(&built), chat(&whole));
        let roles: Vec<_> = chat(&built).messages.iter().map(|it| it.role).collect();
        let expected = [
            Role::System,
            Role::User,
            Role::Assistant,
            Role::Tool,
            Role::Assistant,
            Role::User,
        ];
        assert_eq!(roles, expected);
        // Without an input the last answer is continued.
        let continued = chat(&json!({"previous_response_id": "resp_3"}));
        assert_eq!(continued.prefix, "And warm.");
    }

    #[test]
    fn what_is_stored_of_a_request() {
        let body =
            json!({"previous_response_id": "resp_1", "input": [{"role": "user", "content": "a"}]});
        let reply = read(&body).unwrap().reply;
        let stored = reply.stored().unwrap();
        assert_eq!(*stored.before, turns()[..1]);
        assert_eq!(&*stored.input, "[{\"role\":\"user\",\"content\":\"a\"}]");
        let nothing = read(&json!({})).unwrap().reply;
        assert_eq!(&*nothing.stored().unwrap().input, "null");
        let unstored = read(&json!({"store": false})).unwrap().reply;
        assert_eq!(unstored.stored(), None);
    }

    #[test]
    fn a_response_that_is_not_there_is_an_error_of_its_field() {
        let error = read(&json!({"previous_response_id": "resp_9"})).unwrap_err();
        assert!(error.message.contains("'resp_9'"), "{error:?}");
        let body = error.openai();
        assert_eq!(
            [
                &body["error"]["code"],
                &body["error"]["param"],
                &body["error"]["type"]
            ],
            [
                "previous_response_not_found",
                "previous_response_id",
                "invalid_request_error"
            ]
        );
        let body = json!({"previous_response_id": "resp_1"});
        let off = responses::read(body.as_object().unwrap(), &capabilities()).unwrap_err();
        assert!(off.message.contains("stores no responses"), "{off:?}");
        assert_eq!((off.status(), off.code), (400, None));
    }

    #[test]
    fn a_call_that_was_cut_is_an_error_of_the_field() {
        let call = json!({"type": "function_call", "name": "f", "arguments": "{\"a\":"});
        let turns = [turn("resp_1", &json!("Hi"), &json!([call]))];
        let error = add(&turns, "previous_response_id", &mut Vec::new()).unwrap_err();
        let param = "previous_response_id.output[0].arguments";
        assert_eq!(error.param.as_deref(), Some(param));
    }

    /// The ids of a page.
    fn ids(after: Option<&str>, limit: usize, ascends: bool) -> (Vec<String>, bool) {
        let page = Page {
            after: after.map(str::to_owned),
            limit,
            ascends,
        };
        let list = super::page(&turns(), &page).unwrap();
        let data = list["data"].as_array().unwrap();
        let ids: Vec<String> = data
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(list["first_id"].as_str(), ids.first().map(String::as_str));
        assert_eq!(list["last_id"].as_str(), ids.last().map(String::as_str));
        (ids, list["has_more"] == true)
    }

    #[test]
    fn pages_of_items() {
        let all = ["msg_1_in0", "rs_1", "fc_1", "fco_2_in0", "msg_1"];
        let owned = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ids(None, 20, true), (owned(&all), false));
        assert_eq!(ids(None, 2, true), (owned(&all[..2]), true));
        assert_eq!(ids(Some("rs_1"), 3, true), (owned(&all[2..]), false));
        assert_eq!(ids(None, 2, false), (owned(&["msg_1", "fco_2_in0"]), true));
        assert_eq!(ids(Some("rs_1"), 9, false), (owned(&all[..1]), false));
        assert_eq!(ids(Some("msg_1"), 9, true), (vec![], false));
        let missing = Page {
            after: Some("x".into()),
            limit: 1,
            ascends: true,
        };
        let error = super::page(&turns(), &missing).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("after"));
    }

    /// Whatever an input may have, its items are listed as `/openapi.json` and other clients expect them.
    #[test]
    fn items_have_all_that_clients_expect() {
        use super::super::openapi::tests::{document, validator};
        let input = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "refusal", "refusal": "no"}]},
            {"type": "message", "id": "mine", "role": "developer", "content": []},
            {"type": null, "id": 5, "role": "system", "content": [{"type": "output_text", "text": "c"}]},
            {"type": "function_call", "name": "f", "arguments": {"a": 1}},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "d"}]},
            {"type": "reasoning", "summary": "nonsense"},
        ]);
        assert!(read(&json!({"input": input})).is_ok());
        let turns = [turn("resp_7", &input, &json!([]))];
        let all = Page {
            after: None,
            limit: 100,
            ascends: true,
        };
        let list = super::page(&turns, &all).unwrap();
        let document = document();
        let schema = validator(&document, &json!({"$ref": "#/components/schemas/ItemList"}));
        assert!(schema.is_valid(&list), "{list:#}");
        let data = list["data"].as_array().unwrap();
        assert_eq!((data.len(), &data[2]["id"]), (7, &json!("mine")));
        assert_eq!(
            data[0]["content"],
            json!([{"type": "input_text", "text": "a"}])
        );
        assert_eq!(data[1]["content"][0]["type"], "output_text");
        assert_eq!(data[4]["arguments"], "{\"a\":1}");
        assert_eq!(data[4]["call_id"], data[4]["id"]);
    }
}
