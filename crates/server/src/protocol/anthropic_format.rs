//! Answers of Anthropic's messages, whole and as a stream.

use serde_json::{Value, json};

use super::answer::End;
use super::assemble::{Delta, Finish};
use super::error::ApiError;
use super::format::{Choice, Finished, Meta, Progress, Stream, StreamEvent, statistics, timings};
use super::reply::Options;

/// Writes a stream of events.
pub struct AnthropicStream {
    meta: Meta,
    /// Tokens of the prompt. How many of them are cached is known at the end.
    prompt: usize,
    events: Vec<StreamEvent>,
    /// Blocks so far, and the kind of the one that is open.
    blocks: usize,
    open: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

impl AnthropicStream {
    /// The beginning of a stream after a prompt of so many tokens.
    pub fn new(meta: Meta, prompt: usize) -> Self {
        Self {
            meta,
            prompt,
            events: Vec::new(),
            blocks: 0,
            open: None,
        }
    }

    fn push(&mut self, name: &'static str, mut fields: Value) {
        let mut data = json!({ "type": name });
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, &mut fields) {
            data.append(fields);
        }
        self.events.push(StreamEvent {
            name: Some(name),
            data,
        });
    }

    fn begin_block(&mut self, block: &Value) {
        let index = self.blocks;
        self.push(
            "content_block_start",
            json!({"index": index, "content_block": block}),
        );
    }

    fn delta(&mut self, delta: &Value) {
        let index = self.blocks;
        self.push(
            "content_block_delta",
            json!({"index": index, "delta": delta}),
        );
    }

    fn end_block(&mut self) {
        let index = self.blocks;
        self.push("content_block_stop", json!({ "index": index }));
        self.blocks += 1;
        self.open = None;
    }

    /// Ends a text, if one is open. A thought ends with its signature, which is empty here.
    fn end_text(&mut self) {
        if self.open == Some(Kind::Thinking) {
            self.delta(&json!({"type": "signature_delta", "signature": ""}));
        }
        if self.open.is_some() {
            self.end_block();
        }
    }

    fn text(&mut self, kind: Kind, text: &str) {
        if self.open != Some(kind) {
            self.end_text();
            let block = match kind {
                Kind::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                Kind::Text => json!({"type": "text", "text": ""}),
            };
            self.begin_block(&block);
            self.open = Some(kind);
        }
        let delta = match kind {
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
            Kind::Text => json!({"type": "text_delta", "text": text}),
        };
        self.delta(&delta);
    }

    fn call(&mut self, index: usize, name: &str, arguments: &str) {
        self.end_text();
        let id = tool_id(&self.meta, index);
        self.begin_block(&json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
        self.delta(&json!({"type": "input_json_delta", "partial_json": arguments}));
        self.end_block();
    }

    fn taken(&mut self) -> Vec<StreamEvent> {
        std::mem::take(&mut self.events)
    }
}

impl Stream for AnthropicStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        let mut message = message(&self.meta, json!([]));
        message["usage"]["input_tokens"] = self.prompt.into();
        self.push("message_start", json!({ "message": message }));
        self.taken()
    }

    // The protocol has no events for these, and its clients read no others.
    fn progress(&mut self, _: usize, _: &Progress) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn draft(&mut self, _: usize, _: &Value) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn deltas(&mut self, _: usize, deltas: Vec<Delta>) -> Vec<StreamEvent> {
        for delta in deltas {
            match delta {
                Delta::Thought(thought) => self.text(Kind::Thinking, &thought),
                Delta::Text { text, .. } => self.text(Kind::Text, &text),
                Delta::Call {
                    index,
                    name,
                    arguments,
                } => self.call(index, &name, &arguments),
            }
        }
        self.taken()
    }

    fn finish(&mut self, _: usize, finished: &Finished) -> Vec<StreamEvent> {
        self.end_text();
        let (reason, sequence) = stop(&finished.finish);
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        let usage = usage(&finished.end);
        self.push("message_delta", json!({"delta": delta, "usage": usage}));
        self.push("message_stop", json!({}));
        self.taken()
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        vec![StreamEvent {
            name: Some("error"),
            data: error.anthropic(),
        }]
    }
}

/// Writes a whole answer.
pub fn answer(meta: &Meta, options: &Options, answers: &[Choice]) -> Value {
    let Some(answer) = answers.first() else {
        return Value::Null;
    };
    let mut content = Vec::new();
    if !answer.thoughts.is_empty() {
        content.push(json!({"type": "thinking", "thinking": answer.thoughts, "signature": ""}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    for (index, (name, arguments)) in answer.calls.iter().enumerate() {
        let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
        let id = tool_id(meta, index);
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
    }
    let end = &answer.finished.end;
    let (reason, sequence) = stop(&answer.finished.finish);
    let mut body = message(meta, content.into());
    body["stop_reason"] = reason.into();
    body["stop_sequence"] = sequence;
    body["usage"] = usage(end);
    body["timings"] = timings(end);
    body["diffusion"] = statistics(end, &options.ignored);
    body
}

/// A message whose end is not known. Strict clients need all of its fields.
fn message(meta: &Meta, content: Value) -> Value {
    json!({
        "id": format!("msg_{}", meta.id),
        "type": "message",
        "role": "assistant",
        "model": meta.model,
        "content": content,
        "stop_reason": null,
        "stop_sequence": null,
        "container": null,
        "usage": {
            "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    })
}

/// The prompt without what was cached, which counts by itself.
fn usage(end: &End) -> Value {
    json!({
        "input_tokens": end.usage.prompt - end.usage.cached.min(end.usage.prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": end.usage.cached,
        "output_tokens": end.usage.completion,
    })
}

fn stop(finish: &Finish) -> (&'static str, Value) {
    match finish {
        Finish::EndOfText => ("end_turn", Value::Null),
        Finish::StopString(word) => ("stop_sequence", word.clone().into()),
        Finish::ToolCalls => ("tool_use", Value::Null),
        Finish::Length => ("max_tokens", Value::Null),
    }
}

fn tool_id(meta: &Meta, index: usize) -> String {
    format!("toolu_{}_{index}", meta.id)
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::{call, finished, meta, text};
    use super::*;

    fn deltas() -> Vec<Delta> {
        vec![
            Delta::Thought("Hm.".into()),
            text("Let me "),
            text("see."),
            call(0, "f", "{\"a\":1}"),
            call(1, "g", "{}"),
        ]
    }

    /// Puts the events of a stream together as Anthropic's clients do.
    fn accumulated(events: &[StreamEvent]) -> Value {
        let mut message = Value::Null;
        let mut json = Vec::<String>::new();
        for event in events {
            let data = &event.data;
            assert_eq!(data["type"].as_str(), event.name);
            let index = data["index"].as_u64().unwrap_or(0) as usize;
            match event.name.unwrap() {
                "message_start" => message = data["message"].clone(),
                "content_block_start" => {
                    let blocks = message["content"].as_array_mut().unwrap();
                    assert_eq!(blocks.len(), index);
                    blocks.push(data["content_block"].clone());
                    json.push(String::new());
                }
                "content_block_delta" => {
                    let (block, delta) = (&mut message["content"][index], &data["delta"]);
                    for field in ["text", "thinking", "signature"] {
                        if let Some(text) = delta[field].as_str() {
                            block[field] =
                                format!("{}{text}", block[field].as_str().unwrap()).into();
                        }
                    }
                    json[index] += delta["partial_json"].as_str().unwrap_or("");
                }
                "content_block_stop" if !json[index].is_empty() => {
                    message["content"][index]["input"] =
                        serde_json::from_str(&json[index]).unwrap();
                }
                "message_delta" => {
                    message["stop_reason"] = data["delta"]["stop_reason"].clone();
                    message["stop_sequence"] = data["delta"]["stop_sequence"].clone();
                    message["usage"] = data["usage"].clone();
                }
                _ => {}
            }
        }
        message
    }

    #[test]
    fn a_stream_adds_up_to_the_whole_answer() {
        let mut stream = AnthropicStream::new(meta(), 12);
        let mut events = stream.begin();
        events.extend(stream.deltas(0, deltas()));
        events.extend(stream.finish(0, &finished(Finish::ToolCalls)));
        assert_eq!(events.last().unwrap().name, Some("message_stop"));
        let whole = Choice::new(deltas(), finished(Finish::ToolCalls));
        let mut whole = answer(&meta(), &Options::default(), &[whole]);
        let body = whole.as_object_mut().unwrap();
        assert!(body.remove("timings").is_some() && body.remove("diffusion").is_some());
        assert_eq!(accumulated(&events), whole);
        assert_eq!(
            whole["content"][0],
            json!({"type": "thinking", "thinking": "Hm.", "signature": ""})
        );
        assert_eq!(whole["content"][2]["input"], json!({"a": 1}));
        assert_eq!(
            (&whole["type"], &whole["stop_reason"]),
            (&json!("message"), &json!("tool_use"))
        );
        assert_eq!(
            (
                &whole["usage"]["input_tokens"],
                &whole["usage"]["output_tokens"]
            ),
            (&json!(10), &json!(10))
        );
    }

    #[test]
    fn a_message_starts_with_all_its_fields() {
        let events = AnthropicStream::new(meta(), 12).begin();
        let message = &events[0].data["message"];
        for (name, value) in [
            ("type", json!("message")),
            ("role", json!("assistant")),
            ("content", json!([])),
            ("stop_reason", Value::Null),
        ] {
            assert_eq!(message.get(name), Some(&value));
        }
        assert_eq!(message["usage"]["output_tokens"], 0);
    }

    #[test]
    fn a_thought_is_signed_before_it_ends() {
        let mut stream = AnthropicStream::new(meta(), 12);
        let events = stream.deltas(0, vec![Delta::Thought("a".into()), text("b")]);
        let kinds: Vec<_> = events
            .iter()
            .map(|event| (event.name.unwrap(), event.data["delta"]["type"].as_str()))
            .collect();
        assert_eq!(
            kinds,
            [
                ("content_block_start", None),
                ("content_block_delta", Some("thinking_delta")),
                ("content_block_delta", Some("signature_delta")),
                ("content_block_stop", None),
                ("content_block_start", None),
                ("content_block_delta", Some("text_delta")),
            ]
        );
    }

    #[test]
    fn reasons_to_stop() {
        assert_eq!(
            stop(&Finish::StopString("x".into())),
            ("stop_sequence", json!("x"))
        );
        assert_eq!(stop(&Finish::Length).0, "max_tokens");
        let error = ApiError::field("x", "is wrong");
        let events = AnthropicStream::new(meta(), 12).error(&error);
        assert_eq!(
            (events[0].name, &events[0].data["type"]),
            (Some("error"), &json!("error"))
        );
    }
}
