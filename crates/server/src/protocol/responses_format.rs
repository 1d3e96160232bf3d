//! Answers of OpenAI's Responses, whole and as a stream.

use serde_json::{Map, Value, json};

use super::answer::AnswerToken;
use super::assemble::{Delta, Finish};
use super::chat_format::call_id;
use super::error::ApiError;
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, chat_logprobs, statistics, timings,
};
use super::reply::Options;
use super::responses_events::{Events, Kind};

/// Writes a stream of events.
pub struct ResponsesStream {
    meta: Meta,
    options: Options,
    /// The response without an answer.
    head: Value,
    events: Events,
    calls: usize,
    /// The response, once it has ended.
    ended: Option<Value>,
}

impl ResponsesStream {
    /// The beginning of a stream. `echo` is what the response repeats of its request.
    pub fn new(meta: Meta, options: Options, echo: Map<String, Value>) -> Self {
        let mut head = json!({
            "id": meta.response_id(),
            "object": "response",
            "created_at": meta.created,
            "status": null,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": meta.model,
            "output": null,
            "usage": null,
        });
        if let Value::Object(head) = &mut head {
            head.extend(echo);
        }
        Self {
            meta,
            options,
            head,
            events: Events::default(),
            calls: 0,
            ended: None,
        }
    }

    /// The response in this state.
    fn response(&self, status: &str) -> Value {
        let mut response = self.head.clone();
        response["status"] = status.into();
        response["output"] = self.events.output().into();
        response
    }

    /// The same with the item whose text goes on.
    fn unfinished(&self, status: &str) -> Value {
        let mut response = self.response(status);
        response["output"] = self.events.unfinished().into();
        response
    }

    /// The id of the next item.
    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}_{}", self.meta.id, self.events.output().len())
    }

    fn end_item(&mut self) {
        self.events.end_item("completed");
    }

    fn text(&mut self, kind: Kind, text: &str, tokens: &[AnswerToken]) {
        if self.events.open() != Some(kind) {
            self.end_item();
            let prefix = match kind {
                Kind::Reasoning => "rs",
                Kind::Message => "msg",
            };
            self.events.begin_item(kind, self.id(prefix));
        }
        let logprobs = match self.options.logprobs {
            true => chat_logprobs(tokens, false)["content"].take(),
            false => json!([]),
        };
        self.events.text(text, &logprobs);
    }

    fn call(&mut self, name: &str, arguments: &str) {
        self.end_item();
        let call = call_id(&self.meta, 0, self.calls);
        self.calls += 1;
        self.events.call(json!({
            "type": "function_call", "id": self.id("fc"), "call_id": call, "name": name,
            "arguments": arguments, "status": "completed",
        }));
    }

    /// Ends the answer. Returns the response.
    fn end(&mut self, finished: &Finished) -> Value {
        let (status, details) = match finished.finish {
            Finish::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            _ => ("completed", Value::Null),
        };
        self.events.end_item(status);
        let usage = finished.end.usage;
        let mut response = self.response(status);
        response["incomplete_details"] = details;
        response["usage"] = json!({
            "input_tokens": usage.prompt,
            // Writing to the cache costs nothing; clients require the field.
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        });
        response["timings"] = timings(&finished.end);
        response["diffusion"] = statistics(&finished.end, &self.options.ignored);
        response
    }
}

impl Stream for ResponsesStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        let response = self.response("in_progress");
        self.events.begin(&response);
        self.events.taken()
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
                Delta::Thought(thought) => self.text(Kind::Reasoning, &thought, &[]),
                Delta::Text { text, tokens } => self.text(Kind::Message, &text, &tokens),
                Delta::Call {
                    name, arguments, ..
                } => self.call(&name, &arguments),
            }
        }
        self.events.taken()
    }

    fn finish(&mut self, _: usize, finished: &Finished) -> Vec<StreamEvent> {
        let response = self.end(finished);
        self.ended = Some(response.clone());
        self.events.end(response);
        self.events.taken()
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        let mut response = self.unfinished("failed");
        response["error"] = json!({"code": "server_error", "message": error.message});
        self.ended = Some(response);
        let code = &error.openai()["error"]["type"];
        let fields = json!({"code": code, "message": error.message, "param": error.param});
        self.events.push("error", fields);
        self.events.taken()
    }

    fn take_response(&mut self) -> Option<Value> {
        let ended = self.ended.take();
        Some(ended.unwrap_or_else(|| self.unfinished("cancelled")))
    }
}

/// Writes a whole answer: the response at the end of its stream.
pub fn answer(
    meta: &Meta,
    options: &Options,
    echo: &Map<String, Value>,
    answers: &[Choice],
) -> Value {
    let mut stream = ResponsesStream::new(meta.clone(), options.clone(), echo.clone());
    let response = answers.first().map(|answer| {
        stream.deltas(0, answer.deltas());
        stream.end(&answer.finished)
    });
    response.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use async_openai::types::responses::{OutputItem, Response, ResponseStreamEvent, Status};

    use super::super::format::tests::{call, finished, meta, text};
    use super::super::responses_events::replay;
    use super::*;

    fn options() -> Options {
        Options {
            choices: 1,
            answers: 1,
            logprobs: true,
            ..Options::default()
        }
    }

    fn echo() -> Map<String, Value> {
        let Value::Object(echo) = json!({
            "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0,
            "tool_choice": "auto", "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": null}],
            "text": {"format": {"type": "text"}}, "top_p": 1.0, "truncation": "disabled",
        }) else {
            panic!()
        };
        echo
    }

    fn deltas() -> Vec<Delta> {
        vec![
            Delta::Thought("Hm".into()),
            Delta::Thought(".".into()),
            text("Let me "),
            text("see."),
            call(0, "f", "{}"),
        ]
    }

    fn stream(finish: Finish) -> Vec<Value> {
        let mut stream = ResponsesStream::new(meta(), options(), echo());
        let mut events = stream.begin();
        events.extend(stream.deltas(0, deltas()));
        events.extend(stream.finish(0, &finished(finish)));
        let data = events.into_iter().map(|event| {
            assert_eq!(event.data["type"].as_str(), event.name);
            serde_json::from_value::<ResponseStreamEvent>(event.data.clone())
                .unwrap_or_else(|error| panic!("{error}: {}", event.data));
            event.data
        });
        data.collect()
    }

    #[test]
    fn the_events_of_a_stream() {
        let events = stream(Finish::ToolCalls);
        let names: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        let expected = [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ];
        let expected: Vec<String> = expected
            .iter()
            .map(|name| format!("response.{name}"))
            .collect();
        assert_eq!(names, expected);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let indexes = events
            .iter()
            .filter_map(|event| event["output_index"].as_u64());
        assert!(indexes.collect::<Vec<_>>().is_sorted());
        let done = &events[13];
        assert_eq!(
            (&done["text"], &done["content_index"]),
            (&json!("Let me see."), &json!(0))
        );
        assert_eq!(done["logprobs"].as_array().unwrap().len(), 11);
        assert_eq!(events[12]["item_id"], events[9]["item"]["id"]);
    }

    /// The events of a stored response.
    fn replayed(response: Value) -> Vec<Value> {
        let Value::Object(response) = response else {
            panic!()
        };
        let mut events = Vec::new();
        replay(response, |event| {
            serde_json::from_value::<ResponseStreamEvent>(event.data.clone())
                .unwrap_or_else(|error| panic!("{error}: {}", event.data));
            assert_eq!(event.data["sequence_number"], events.len());
            events.push(event.data.clone());
        });
        events
    }

    #[test]
    fn the_events_of_a_response_that_ended_early_end() {
        let broken = ApiError::new(super::super::error::ErrorKind::Server, "broken");
        for (error, status, end) in [
            (Some(broken), "failed", "response.failed"),
            (None, "cancelled", "response.incomplete"),
        ] {
            let mut stream = ResponsesStream::new(meta(), options(), echo());
            stream.begin();
            stream.deltas(0, deltas()[..3].to_vec());
            if let Some(error) = error {
                stream.error(&error);
            }
            let response = stream.take_response().unwrap();
            let events = replayed(response.clone());
            let [.., item, last] = &events[..] else {
                panic!()
            };
            assert_eq!(
                (&item["type"], &item["item"]),
                (&json!("response.output_item.done"), &response["output"][1])
            );
            assert_eq!(item["item"]["status"], "incomplete");
            assert_eq!((&last["type"], &last["response"]), (&json!(end), &response));
            assert_eq!(response["status"], status);
            let begin = &events[0]["response"];
            assert_eq!(
                [&begin["status"], &begin["error"], &begin["output"]],
                [&json!("in_progress"), &Value::Null, &json!([])]
            );
        }
    }

    #[test]
    fn the_events_of_a_stored_response_are_those_of_its_stream() {
        for finish in [Finish::ToolCalls, Finish::Length] {
            let mut expected = stream(finish);
            let events = replayed(expected.last().unwrap()["response"].clone());
            // Each text comes at once.
            let is_first =
                |event: &Value| ["Hm", "Let me "].iter().any(|text| event["delta"] == *text);
            expected.retain(|event| !is_first(event));
            for event in &mut expected {
                let done = match event["type"].as_str() {
                    Some("response.reasoning_text.delta") => json!("Hm."),
                    Some("response.output_text.delta") => json!("Let me see."),
                    _ => continue,
                };
                event["delta"] = done;
            }
            assert_eq!(events.len(), expected.len());
            let events = events.into_iter().zip(expected);
            for (number, (event, mut expected)) in events.enumerate() {
                expected["sequence_number"] = number.into();
                if event["type"] == "response.output_text.delta" {
                    assert_eq!(event["logprobs"].as_array().unwrap().len(), 11);
                    expected["logprobs"] = event["logprobs"].clone();
                }
                assert_eq!(event, expected);
            }
        }
    }

    #[test]
    fn a_whole_answer_is_what_others_expect() {
        let choice = Choice::new(deltas(), finished(Finish::ToolCalls));
        let body = answer(&meta(), &options(), &echo(), &[choice]);
        let read: Response = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(
            (read.id.as_str(), read.status),
            ("resp_abc123", Status::Completed)
        );
        let [
            OutputItem::Reasoning(_),
            OutputItem::Message(_),
            OutputItem::FunctionCall(call),
        ] = &read.output[..]
        else {
            panic!("{body}");
        };
        assert_eq!(call.call_id, "call_abc123_0_0");
        assert_eq!(read.usage.unwrap().input_tokens_details.cached_tokens, 20);
        for key in [
            "error",
            "incomplete_details",
            "instructions",
            "metadata",
            "tools",
            "top_p",
        ] {
            assert!(body.as_object().unwrap().contains_key(key), "{key}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_incomplete() {
        let events = stream(Finish::Length);
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.incomplete");
        assert_eq!(
            last["response"]["incomplete_details"]["reason"],
            "max_output_tokens"
        );
        // So is the item whose text is cut.
        for (finish, status) in [
            (Finish::Length, "incomplete"),
            (Finish::EndOfText, "completed"),
        ] {
            let mut stream = ResponsesStream::new(meta(), options(), echo());
            stream.deltas(0, deltas()[..3].to_vec());
            let events = stream.finish(0, &finished(finish));
            let output = &events.last().unwrap().data["response"]["output"];
            assert_eq!(output[0]["status"], "completed");
            assert_eq!(output[1]["status"], status);
        }
    }

    #[test]
    fn an_answer_that_ends_early_has_what_there_is() {
        let mut stream = ResponsesStream::new(meta(), options(), echo());
        stream.begin();
        stream.deltas(0, deltas()[..3].to_vec());
        let cancelled = stream.take_response().unwrap();
        let read: Response = serde_json::from_value(cancelled.clone()).unwrap();
        assert_eq!(read.status, Status::Cancelled);
        let [thoughts, text] = &cancelled["output"].as_array().unwrap()[..] else {
            panic!("{cancelled}");
        };
        assert_eq!(thoughts["status"], "completed");
        assert_eq!(text["status"], "incomplete");
        assert_eq!(text["content"][0]["text"], "Let me ");
        let broken = ApiError::new(super::super::error::ErrorKind::Server, "broken");
        stream.error(&broken);
        let failed = stream.take_response().unwrap();
        assert_eq!(failed["output"], cancelled["output"]);
        let read: Response = serde_json::from_value(failed).unwrap();
        assert_eq!(
            (read.status, read.error.unwrap().message.as_str()),
            (Status::Failed, "broken")
        );
    }

    #[test]
    fn errors_are_events_with_a_number() {
        let mut stream = ResponsesStream::new(meta(), options(), echo());
        stream.begin();
        let events = stream.error(&ApiError::field("x", "is wrong"));
        assert_eq!(
            (events[0].name, &events[0].data["sequence_number"]),
            (Some("error"), &json!(2))
        );
        serde_json::from_value::<ResponseStreamEvent>(events[0].data.clone()).unwrap();
    }
}
