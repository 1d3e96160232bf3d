//! The turns of a conversation: stored responses, as later requests build on them.

use std::fmt::Debug;
use std::sync::Arc;

use llama_diffusion::chat::Message;
use serde_json::{Map, Value};

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
    /// The `input` of its request, or null.
    ///
    /// # Errors
    /// It is not JSON, which would be an error of the server.
    pub fn input(&self) -> Result<Value, ApiError> {
        serde_json::from_str(&self.input).map_err(|error| self.unreadable(&error))
    }

    /// The response.
    ///
    /// # Errors
    /// It is not a JSON object, which would be an error of the server.
    pub fn response(&self) -> Result<Map<String, Value>, ApiError> {
        serde_json::from_str(&self.response).map_err(|error| self.unreadable(&error))
    }

    /// The items of the response.
    ///
    /// # Errors
    /// Those of [`Self::response`].
    pub fn output(&self) -> Result<Vec<Value>, ApiError> {
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
/// 400: an answer cannot be read, such as a call that was cut within its arguments. The path of its
/// field has the id of its turn.
pub fn add(turns: &[Arc<Turn>], path: &str, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    for turn in turns {
        let path = format!("{path}[{}]", turn.id);
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

#[cfg(test)]
pub(super) mod tests {
    use llama_diffusion::chat::Role;
    use serde_json::json;

    use super::super::reply::Work;
    use super::super::request::{Chat, Input};
    use super::super::responses;
    use super::super::tests::capabilities;
    use super::*;

    pub fn turn(id: &str, input: &Value, output: &Value) -> Arc<Turn> {
        Arc::new(Turn {
            id: id.into(),
            input: input.to_string().into(),
            response: json!({"id": id, "tools": [], "output": output})
                .to_string()
                .into(),
        })
    }

    /// A turn that calls a function, one with its result, and one that is asked without an input.
    pub fn turns() -> Turns {
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

    pub fn read(body: &Value) -> Result<Work, ApiError> {
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
        let param = "previous_response_id[resp_1].output[0].arguments";
        assert_eq!(error.param.as_deref(), Some(param));
    }
}
