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

/// Writes a stream of events, each with its number.
pub struct ResponsesStream {
    meta: Meta,
    options: Options,
    /// What the response repeats of its request.
    echo: Map<String, Value>,
    events: Vec<StreamEvent>,
    count: u64,
    /// The items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
    calls: usize,
}

/// An item whose text goes on.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Open {
    /// The part that holds the text so far.
    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            Kind::Message => json!({
                "type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs,
            }),
        }
    }

    fn item(&self, status: &str, content: &Value) -> Value {
        match self.kind {
            Kind::Reasoning => json!({
                "type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status,
            }),
            Kind::Message => json!({
                "type": "message", "id": self.id, "role": "assistant", "content": content, "status": status,
            }),
        }
    }

    /// The names of the events of its text.
    fn events(&self) -> [&'static str; 2] {
        match self.kind {
            Kind::Reasoning => [
                "response.reasoning_text.delta",
                "response.reasoning_text.done",
            ],
            Kind::Message => ["response.output_text.delta", "response.output_text.done"],
        }
    }
}

impl ResponsesStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options, echo: Map<String, Value>) -> Self {
        Self {
            meta,
            options,
            echo,
            events: Vec::new(),
            count: 0,
            output: Vec::new(),
            open: None,
            calls: 0,
        }
    }

    fn push(&mut self, name: &'static str, fields: Value) {
        let mut data = json!({"type": name, "sequence_number": self.count});
        if let (Value::Object(data), Value::Object(fields)) = (&mut data, fields) {
            data.extend(fields);
        }
        self.count += 1;
        self.events.push(StreamEvent {
            name: Some(name),
            data,
        });
    }

    /// An event about a text of the open item.
    fn push_text(&mut self, name: &'static str, fields: Value) {
        let Some(open) = &self.open else {
            return;
        };
        let mut all = json!({
            "item_id": open.id, "output_index": self.output.len(), "content_index": 0,
        });
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        self.push(name, all);
    }

    /// An event about an item.
    fn push_item(&mut self, name: &'static str, item: &Value) {
        let index = self.output.len();
        self.push(name, json!({"output_index": index, "item": item}));
    }

    /// The response in this state.
    fn response(&self, status: &str) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", self.meta.id),
            "object": "response",
            "created_at": self.meta.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.meta.model,
            "output": self.output,
            "usage": null,
        });
        if let Value::Object(response) = &mut response {
            response.extend(self.echo.clone());
        }
        response
    }

    fn text(&mut self, kind: Kind, text: &str, tokens: &[AnswerToken]) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.end_item();
            self.begin_item(kind);
        }
        let logprobs = match self.options.logprobs {
            true => chat_logprobs(tokens, false)["content"].take(),
            false => json!([]),
        };
        let Some(open) = &mut self.open else {
            return;
        };
        open.text += text;
        open.logprobs
            .extend(logprobs.as_array().into_iter().flatten().cloned());
        let name = open.events()[0];
        let fields = match kind {
            Kind::Reasoning => json!({ "delta": text }),
            Kind::Message => json!({"delta": text, "logprobs": logprobs}),
        };
        self.push_text(name, fields);
    }

    fn begin_item(&mut self, kind: Kind) {
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
        };
        let open = Open {
            kind,
            id: format!("{prefix}_{}_{}", self.meta.id, self.output.len()),
            text: String::new(),
            logprobs: Vec::new(),
        };
        let (item, part) = (open.item("in_progress", &json!([])), open.part());
        self.push_item("response.output_item.added", &item);
        self.open = Some(open);
        self.push_text("response.content_part.added", json!({ "part": part }));
    }

    fn end_item(&mut self) {
        let Some(open) = &self.open else {
            return;
        };
        let (part, name) = (open.part(), open.events()[1]);
        let item = open.item("completed", &json!([part]));
        let done = match open.kind {
            Kind::Reasoning => json!({ "text": open.text }),
            Kind::Message => json!({"text": open.text, "logprobs": open.logprobs}),
        };
        self.push_text(name, done);
        self.push_text("response.content_part.done", json!({ "part": part }));
        self.push_item("response.output_item.done", &item);
        self.open = None;
        self.output.push(item);
    }

    fn call(&mut self, name: &str, arguments: &str) {
        self.end_item();
        let index = self.output.len();
        let id = format!("fc_{}_{index}", self.meta.id);
        let call = call_id(&self.meta, 0, self.calls);
        self.calls += 1;
        let item = |arguments: &str, status: &str| {
            json!({
                "type": "function_call", "id": id, "call_id": call, "name": name,
                "arguments": arguments, "status": status,
            })
        };
        self.push_item("response.output_item.added", &item("", "in_progress"));
        let place = |field: &str| json!({"item_id": id, "output_index": index, field: arguments});
        self.push("response.function_call_arguments.delta", place("delta"));
        let mut done = place("arguments");
        done["name"] = name.into();
        self.push("response.function_call_arguments.done", done);
        let item = item(arguments, "completed");
        self.push_item("response.output_item.done", &item);
        self.output.push(item);
    }

    fn taken(&mut self) -> Vec<StreamEvent> {
        std::mem::take(&mut self.events)
    }
}

impl Stream for ResponsesStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        let response = self.response("in_progress");
        for name in ["response.created", "response.in_progress"] {
            self.push(name, json!({ "response": response }));
        }
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
                Delta::Thought(thought) => self.text(Kind::Reasoning, &thought, &[]),
                Delta::Text { text, tokens } => self.text(Kind::Message, &text, &tokens),
                Delta::Call {
                    name, arguments, ..
                } => self.call(&name, &arguments),
            }
        }
        self.taken()
    }

    fn finish(&mut self, _: usize, finished: &Finished) -> Vec<StreamEvent> {
        self.end_item();
        let (name, status, details) = match finished.finish {
            Finish::Length => {
                let details = json!({"reason": "max_output_tokens"});
                ("response.incomplete", "incomplete", details)
            }
            _ => ("response.completed", "completed", Value::Null),
        };
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
        self.push(name, json!({ "response": response }));
        self.taken()
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn unfinished(&self, status: &str, error: Option<&ApiError>) -> Option<Value> {
        let mut response = self.response(status);
        if let (Some(open), Value::Array(output)) = (&self.open, &mut response["output"]) {
            output.push(open.item("incomplete", &json!([open.part()])));
        }
        if let Some(error) = error {
            response["error"] = json!({"code": "server_error", "message": error.message});
        }
        Some(response)
    }

    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        let code = &error.openai()["error"]["type"];
        let fields = json!({"code": code, "message": error.message, "param": error.param});
        self.push("error", fields);
        self.taken()
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
    let mut last = Vec::new();
    if let Some(answer) = answers.first() {
        stream.deltas(0, answer.deltas());
        last = stream.finish(0, &answer.finished);
    }
    let response = last.pop().map(|mut event| event.data["response"].take());
    response.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use async_openai::types::responses::{OutputItem, Response, ResponseStreamEvent, Status};

    use super::super::format::tests::{call, finished, meta, text};
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
    }

    #[test]
    fn an_answer_that_ends_early_has_what_there_is() {
        let mut stream = ResponsesStream::new(meta(), options(), echo());
        stream.begin();
        stream.deltas(0, deltas()[..3].to_vec());
        let cancelled = stream.unfinished("cancelled", None).unwrap();
        let read: Response = serde_json::from_value(cancelled.clone()).unwrap();
        assert_eq!(read.status, Status::Cancelled);
        let [thoughts, text] = &cancelled["output"].as_array().unwrap()[..] else {
            panic!("{cancelled}");
        };
        assert_eq!(thoughts["status"], "completed");
        assert_eq!(text["status"], "incomplete");
        assert_eq!(text["content"][0]["text"], "Let me ");
        let broken = ApiError::new(super::super::error::ErrorKind::Server, "broken");
        let failed = stream.unfinished("failed", Some(&broken)).unwrap();
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
