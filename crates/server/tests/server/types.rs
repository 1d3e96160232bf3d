//! What the server says, read by types that others wrote.

use async_openai::types::chat::{CreateChatCompletionResponse, CreateChatCompletionStreamResponse};
use async_openai::types::completions::CreateCompletionResponse;
use async_openai::types::models::ListModelResponse;
use async_openai::types::responses::{
    DeleteResponse, Response, ResponseItemList, ResponseStreamEvent, Status,
};
use serde_json::{Value, json};

use crate::process::{QUESTION, Server, chat};

#[test]
fn async_openai_reads_all_answers() {
    let server = Server::start("");
    let body = chat(QUESTION);
    let answer = server.ask("/v1/chat/completions", &body);
    let typed: CreateChatCompletionResponse = serde_json::from_value(answer).unwrap();
    assert!(typed.usage.unwrap().completion_tokens > 0);
    for event in server.stream("/v1/chat/completions", &body) {
        serde_json::from_value::<CreateChatCompletionStreamResponse>(event).unwrap();
    }
    let text = server.ask("/v1/completions", &json!({"prompt": "Hi", "max_tokens": 4}));
    let typed: CreateCompletionResponse = serde_json::from_value(text).unwrap();
    assert_eq!(typed.choices.len(), 1);
    let models: ListModelResponse = serde_json::from_value(server.json("/v1/models")).unwrap();
    assert_eq!(models.data.len(), 1);
}

#[test]
fn async_openai_reads_responses_and_what_is_stored_of_them() {
    let server = Server::start("");
    let body = json!({"input": QUESTION, "reasoning": {"effort": "none"}});
    let answered = server.ask("/v1/responses", &body);
    let first: Response = serde_json::from_value(answered).unwrap();
    assert_eq!(first.status, Status::Completed);
    let second = json!({"input": "And then?", "previous_response_id": first.id});
    let mut last = None;
    for event in server.stream("/v1/responses", &second) {
        last = Some(serde_json::from_value::<ResponseStreamEvent>(event).unwrap());
    }
    let Some(ResponseStreamEvent::ResponseCompleted(end)) = last else {
        panic!("{last:?}");
    };
    let path = format!("/v1/responses/{}", end.response.id);
    let stored: Response = serde_json::from_value(server.json(&path)).unwrap();
    assert_eq!(stored.output, end.response.output);
    let again = server.get(&format!("{path}?stream=true")).send().unwrap();
    let again = again.text().unwrap();
    let events = again.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.map(|data| serde_json::from_str::<ResponseStreamEvent>(data).unwrap());
    assert!(events.count() > 5, "{again}");
    let items = server.json(&format!("{path}/input_items?order=asc"));
    let items: ResponseItemList = serde_json::from_value(items).unwrap();
    // The first turn with its answer, and the second question.
    assert_eq!((items.data.len(), items.has_more), (3, false));
    let deleted = server.client.delete(format!("{}{path}", server.base));
    let deleted: Value = deleted.send().unwrap().json().unwrap();
    let deleted: DeleteResponse = serde_json::from_value(deleted).unwrap();
    assert!(deleted.deleted && deleted.id == end.response.id);
}
