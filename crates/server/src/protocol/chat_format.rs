//! Answers of OpenAI's chat, whole and as a stream.

use serde_json::{Map, Value, json};

use super::answer::AnswerToken;
use super::assemble::{Delta, Finish};
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, TotalUsage, chat_logprobs, milliseconds,
    statistics, timings,
};
use super::reply::Options;

/// Writes a stream of chunks.
pub struct ChatStream {
    meta: Meta,
    options: Options,
    usage: TotalUsage,
    /// For each answer, the text so far, if chunks repeat it.
    shown: Vec<String>,
    /// The timings of the answer that ended last.
    timings: Value,
}

impl ChatStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options) -> Self {
        Self {
            meta,
            usage: TotalUsage::default(),
            shown: vec![String::new(); options.answers],
            timings: Value::Null,
            options,
        }
    }

    /// A chunk with these choices.
    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = head(&self.meta, "chatcmpl-", "chat.completion.chunk");
        chunk["choices"] = choices;
        if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// A chunk with one delta.
    fn delta(&self, choice: usize, delta: &Value) -> Value {
        let choice =
            json!({"index": choice, "delta": delta, "logprobs": null, "finish_reason": null});
        self.chunk(json!([choice]))
    }

    fn text(&mut self, choice: usize, text: String, tokens: &[AnswerToken]) -> StreamEvent {
        let content = match self.options.replaced {
            true => {
                self.shown[choice] += &text;
                self.shown[choice].clone()
            }
            false => text,
        };
        let mut chunk = self.delta(choice, &json!({ "content": content }));
        if self.options.logprobs {
            chunk["choices"][0]["logprobs"] = chat_logprobs(tokens, self.options.token_ids);
        }
        if self.options.tokens {
            chunk["tokens"] = tokens.iter().map(|token| token.id).collect();
        }
        StreamEvent::unnamed(chunk)
    }

    fn call(&self, choice: usize, index: usize, name: &str, arguments: &str) -> [StreamEvent; 2] {
        let id = call_id(&self.meta, choice, index);
        let begin = json!({
            "index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""},
        });
        let rest = json!({"index": index, "function": {"arguments": arguments}});
        [begin, rest]
            .map(|call| StreamEvent::unnamed(self.delta(choice, &json!({"tool_calls": [call]}))))
    }
}

impl Stream for ChatStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        let role = json!({"role": "assistant", "content": null});
        let choices = 0..self.options.answers;
        choices
            .map(|choice| StreamEvent::unnamed(self.delta(choice, &role)))
            .collect()
    }

    fn progress(&mut self, choice: usize, progress: &Progress) -> Vec<StreamEvent> {
        let mut chunk = self.delta(choice, &json!({}));
        chunk["prompt_progress"] = prompt_progress(progress);
        vec![StreamEvent::unnamed(chunk)]
    }

    fn draft(&mut self, choice: usize, payload: &Value) -> Vec<StreamEvent> {
        if self.options.replaced {
            let Some(draft) = payload["text"]
                .as_str()
                .filter(|_| payload["event"] == "draft")
            else {
                return Vec::new();
            };
            let content = format!("{}{draft}", self.shown[choice]);
            let chunk = self.delta(choice, &json!({ "content": content }));
            return vec![StreamEvent::unnamed(chunk)];
        }
        let mut chunk = self.delta(choice, &json!({}));
        if payload["event"] == "draft" && payload["text"].is_string() {
            // What Unsloth Studio's page shows.
            chunk["type"] = "diffusion_frame".into();
            for (name, from) in [
                ("block", "block"),
                ("step", "step"),
                ("total", "max_steps"),
                ("text", "text"),
            ] {
                chunk[name] = payload[from].clone();
            }
        }
        chunk["diffusion"] = payload.clone();
        vec![StreamEvent::unnamed(chunk)]
    }

    fn deltas(&mut self, choice: usize, deltas: Vec<Delta>) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        for delta in deltas {
            match delta {
                Delta::Thought(thought) => {
                    let delta = json!({ "reasoning_content": thought });
                    events.push(StreamEvent::unnamed(self.delta(choice, &delta)));
                }
                Delta::Text { text, tokens } => events.push(self.text(choice, text, &tokens)),
                Delta::Call {
                    index,
                    name,
                    arguments,
                } => {
                    events.extend(self.call(choice, index, &name, &arguments));
                }
            }
        }
        events
    }

    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent> {
        self.usage.add(choice, self.options.choices, &finished.end);
        self.timings = timings(&finished.end);
        let mut chunk = self.delta(choice, &json!({}));
        chunk["choices"][0]["finish_reason"] = finish_reason(&finished.finish).into();
        chunk["diffusion"] = statistics(&finished.end, &self.options.ignored);
        if !self.options.include_usage {
            chunk["timings"] = self.timings.clone();
        }
        vec![StreamEvent::unnamed(chunk)]
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        if !self.options.include_usage {
            return Vec::new();
        }
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = self.usage.openai();
        chunk["timings"] = self.timings.clone();
        vec![StreamEvent::unnamed(chunk)]
    }

    fn is_marked_done(&self) -> bool {
        true
    }
}

/// Writes whole answers.
pub fn answer(meta: &Meta, options: &Options, answers: &[Choice]) -> Value {
    let mut body = head(meta, "chatcmpl-", "chat.completion");
    let choices = answers.iter().enumerate();
    body["choices"] = choices
        .map(|(index, answer)| whole(meta, options, index, answer))
        .collect();
    body["usage"] = TotalUsage::of(answers, options.choices).openai();
    // Answers to the same request run together: the last one ends when the request does.
    if let (Some(first), Some(last)) = (answers.first(), answers.last()) {
        body["timings"] = timings(&last.finished.end);
        body["diffusion"] = statistics(&first.finished.end, &options.ignored);
    }
    body
}

fn whole(meta: &Meta, options: &Options, index: usize, answer: &Choice) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = match answer.text.is_empty() && !answer.calls.is_empty() {
        true => Value::Null,
        false => answer.text.clone().into(),
    };
    message.insert("content".into(), content);
    message.insert("refusal".into(), Value::Null);
    if !answer.thoughts.is_empty() {
        message.insert("reasoning_content".into(), answer.thoughts.clone().into());
    }
    if !answer.calls.is_empty() {
        let call = |(number, (name, arguments)): (usize, &(String, String))| {
            json!({
                "id": call_id(meta, index, number),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })
        };
        let calls = answer.calls.iter().enumerate().map(call);
        message.insert("tool_calls".into(), calls.collect());
    }
    let mut choice = json!({
        "index": index,
        "message": message,
        "logprobs": options.logprobs.then(|| chat_logprobs(&answer.tokens, options.token_ids)),
        "finish_reason": finish_reason(&answer.finished.finish),
    });
    if options.tokens {
        choice["tokens"] = answer.tokens.iter().map(|token| token.id).collect();
    }
    if options.answers > 1 {
        choice["diffusion"] = statistics(&answer.finished.end, &options.ignored);
    }
    choice
}

/// What all bodies begin with.
pub(super) fn head(meta: &Meta, prefix: &str, object: &str) -> Value {
    json!({
        "id": format!("{prefix}{}", meta.id),
        "object": object,
        "created": meta.created,
        "model": meta.model,
        "system_fingerprint": meta.fingerprint,
    })
}

/// The object `prompt_progress` of llama-server.
pub(super) fn prompt_progress(progress: &Progress) -> Value {
    json!({
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.processed,
        "time_ms": milliseconds(progress.time),
    })
}

/// Unique among all calls of all answers.
pub(super) fn call_id(meta: &Meta, choice: usize, index: usize) -> String {
    format!("call_{}_{choice}_{index}", meta.id)
}

/// `finish_reason`.
pub(super) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndOfText | Finish::StopString(_) => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
    }
}

#[cfg(test)]
mod tests {
    use async_openai::types::chat::{
        CreateChatCompletionResponse, CreateChatCompletionStreamResponse, FinishReason,
    };

    use super::super::format::tests::{call, finished, meta, text};
    use super::*;

    fn options() -> Options {
        Options {
            choices: 1,
            answers: 1,
            logprobs: true,
            ignored: vec!["temperature".into()],
            ..Options::default()
        }
    }

    fn deltas() -> Vec<Delta> {
        vec![
            Delta::Thought("Hm.".into()),
            text("Let me see."),
            call(0, "f", "{\"a\":1}"),
        ]
    }

    /// All events of a stream, each of which must be what async-openai expects.
    fn stream(options: Options) -> Vec<Value> {
        let mut stream = ChatStream::new(meta(), options);
        let mut events = stream.begin();
        events.extend(stream.draft(
            0,
            &json!({"event": "draft", "block": 0, "step": 3, "max_steps": 48, "text": "Le"}),
        ));
        events.extend(stream.deltas(0, deltas()));
        events.extend(stream.finish(0, &finished(Finish::ToolCalls)));
        events.extend(stream.close());
        assert!(stream.is_marked_done());
        let data = events.into_iter().map(|event| {
            assert_eq!(event.name, None);
            serde_json::from_value::<CreateChatCompletionStreamResponse>(event.data.clone())
                .unwrap();
            event.data
        });
        data.collect()
    }

    #[test]
    fn whole_answers_are_what_others_expect() {
        let choice = Choice::new(deltas(), finished(Finish::ToolCalls));
        let body = answer(&meta(), &options(), &[choice]);
        let read: CreateChatCompletionResponse = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(read.id, "chatcmpl-abc123");
        let choice = &read.choices[0];
        assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
        assert_eq!(choice.message.content.as_deref(), Some("Let me see."));
        assert_eq!(choice.message.tool_calls.as_ref().unwrap().len(), 1);
        let logprobs = choice.logprobs.as_ref().unwrap().content.as_ref().unwrap();
        assert_eq!((logprobs.len(), logprobs[0].token.as_str()), (11, "L"));
        assert_eq!(read.usage.unwrap().total_tokens, 40);
        // What OpenAI's schema requires, and what llama-server has.
        let message = &body["choices"][0]["message"];
        assert_eq!(message["refusal"], Value::Null);
        assert!(message.as_object().unwrap().contains_key("refusal"));
        assert_eq!(message["reasoning_content"], "Hm.");
        assert_eq!(body["timings"]["predicted_n"], 10);
        assert_eq!(body["diffusion"]["ignored"], json!(["temperature"]));
        assert_eq!(body["diffusion"]["seed"], 42);
    }

    #[test]
    fn required_keys_are_there_even_if_null() {
        let plain = Choice::new([text("Hi")], finished(Finish::EndOfText));
        let options = Options {
            logprobs: false,
            ..options()
        };
        let body = answer(&meta(), &options, &[plain]);
        let choice = body["choices"][0].as_object().unwrap();
        assert_eq!(choice["logprobs"], Value::Null);
        assert_eq!(choice["finish_reason"], "stop");
        assert!(
            !choice["message"]
                .as_object()
                .unwrap()
                .contains_key("tool_calls")
        );
    }

    #[test]
    fn an_answer_of_calls_alone_has_no_content() {
        let choice = Choice::new(
            [call(0, "f", "{}"), call(1, "f", "{}")],
            finished(Finish::ToolCalls),
        );
        let body = answer(&meta(), &options(), &[choice]);
        let message = &body["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null);
        assert_ne!(
            message["tool_calls"][0]["id"],
            message["tool_calls"][1]["id"]
        );
    }

    #[test]
    fn the_order_of_a_stream() {
        let events = stream(options());
        let deltas: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0]["delta"])
            .collect();
        assert_eq!(deltas[0], &json!({"role": "assistant", "content": null}));
        assert_eq!(deltas[1], &json!({}));
        assert_eq!(
            (&events[1]["diffusion"]["step"], &events[1]["type"]),
            (&json!(3), &json!("diffusion_frame"))
        );
        assert_eq!(deltas[2], &json!({"reasoning_content": "Hm."}));
        assert_eq!(deltas[3], &json!({"content": "Let me see."}));
        let id = &deltas[4]["tool_calls"][0]["id"];
        assert!(id.as_str().unwrap().starts_with("call_"));
        assert_eq!(
            deltas[4]["tool_calls"][0]["function"],
            json!({"name": "f", "arguments": ""})
        );
        assert_eq!(
            deltas[5],
            &json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\":1}"}}]})
        );
        let last = events.last().unwrap();
        assert_eq!(last["choices"][0]["delta"], json!({}));
        assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(last["timings"]["cache_n"], 20);
        assert_eq!(events.len(), 7);
        assert!(events.iter().all(|event| event["id"] == "chatcmpl-abc123"));
    }

    #[test]
    fn the_usage_comes_last_if_it_is_wanted() {
        let events = stream(Options {
            include_usage: true,
            ..options()
        });
        let (last, others) = events.split_last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 20);
        assert!(last["timings"].is_object());
        assert!(
            others
                .iter()
                .all(|event| event["usage"].is_null() && event.get("timings").is_none())
        );
    }

    #[test]
    fn a_replaced_stream_repeats_the_text_so_far() {
        let mut stream = ChatStream::new(
            meta(),
            Options {
                replaced: true,
                logprobs: false,
                ..options()
            },
        );
        let mut events = stream.deltas(0, vec![text("One ")]);
        events.extend(stream.draft(0, &json!({"event": "draft", "text": "twx"})));
        events.extend(stream.draft(0, &json!({"event": "canvas"})));
        events.extend(stream.deltas(0, vec![text("two")]));
        let contents: Vec<_> = events
            .iter()
            .map(|event| &event.data["choices"][0]["delta"]["content"])
            .collect();
        assert_eq!(contents, ["One ", "One twx", "One two"]);
    }
}
