//! What the server says, read by types that others wrote.

use async_openai::types::chat::{CreateChatCompletionResponse, CreateChatCompletionStreamResponse};
use async_openai::types::completions::CreateCompletionResponse;
use async_openai::types::models::ListModelResponse;
use serde_json::json;

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
