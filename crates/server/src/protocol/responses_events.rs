//! The events of OpenAI's Responses, each with its number: while an answer is computed, and again
//! once it is stored.

use serde_json::{Map, Value, json};

use super::format::StreamEvent;

/// Writes events, and collects the items that they are about.
#[derive(Default)]
pub struct Events {
    events: Vec<StreamEvent>,
    count: u64,
    /// The items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
}

/// An item whose text goes on.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

/// What an item with a text is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Thoughts.
    Reasoning,
    /// The answer.
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

impl Events {
    /// The items that are complete.
    pub fn output(&self) -> &[Value] {
        &self.output
    }

    /// The same and the one whose text goes on, as it is.
    pub fn unfinished(&self) -> Vec<Value> {
        let open = self.open.iter();
        let open = open.map(|open| open.item("incomplete", &json!([open.part()])));
        self.output.iter().cloned().chain(open).collect()
    }

    /// The kind of the item whose text goes on.
    pub fn open(&self) -> Option<Kind> {
        self.open.as_ref().map(|open| open.kind)
    }

    /// The events since this was called last.
    pub fn taken(&mut self) -> Vec<StreamEvent> {
        std::mem::take(&mut self.events)
    }

    /// An event with these fields.
    pub fn push(&mut self, name: &'static str, fields: Value) {
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

    /// Begins with a response that has no output yet.
    pub fn begin(&mut self, response: &Value) {
        for name in ["response.created", "response.in_progress"] {
            self.push(name, json!({ "response": response }));
        }
    }

    /// Begins an item with a text. None is open.
    pub fn begin_item(&mut self, kind: Kind, id: String) {
        let open = Open {
            kind,
            id,
            text: String::new(),
            logprobs: Vec::new(),
        };
        let (item, part) = (open.item("in_progress", &json!([])), open.part());
        self.push_item("response.output_item.added", &item);
        self.open = Some(open);
        self.push_text("response.content_part.added", json!({ "part": part }));
    }

    /// Adds to the text of the open item. `logprobs` is a list.
    pub fn text(&mut self, text: &str, logprobs: &Value) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.text += text;
        open.logprobs
            .extend(logprobs.as_array().into_iter().flatten().cloned());
        let name = open.events()[0];
        let fields = match open.kind {
            Kind::Reasoning => json!({ "delta": text }),
            Kind::Message => json!({"delta": text, "logprobs": logprobs}),
        };
        self.push_text(name, fields);
    }

    /// Ends the open item, if there is one, with this status.
    pub fn end_item(&mut self, status: &str) {
        let Some(open) = &self.open else {
            return;
        };
        let (part, name) = (open.part(), open.events()[1]);
        let item = open.item(status, &json!([part]));
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

    /// A whole call: an item with all its fields.
    pub fn call(&mut self, item: Value) {
        let index = self.output.len();
        let mut begin = item.clone();
        begin["arguments"] = "".into();
        begin["status"] = "in_progress".into();
        self.push_item("response.output_item.added", &begin);
        let place = |field: &str| json!({"item_id": item["id"], "output_index": index, field: item["arguments"]});
        self.push("response.function_call_arguments.delta", place("delta"));
        let mut done = place("arguments");
        done["name"] = item["name"].clone();
        self.push("response.function_call_arguments.done", done);
        self.push_item("response.output_item.done", &item);
        self.output.push(item);
    }

    /// Ends with the response.
    pub fn end(&mut self, response: Value) {
        let name = match response["status"].as_str() {
            Some("completed") => "response.completed",
            Some("failed") => "response.failed",
            _ => "response.incomplete",
        };
        self.push(name, json!({ "response": response }));
    }
}

/// Writes the events of a stored response, numbered from 0: those of a stream that gets each text at
/// once. A response that failed ends with `response.failed`, although its stream ended with `error`,
/// and one that was cancelled with `response.incomplete`, although its stream had no end. So do their
/// last texts.
pub fn replay(mut response: Map<String, Value>, mut write: impl FnMut(&StreamEvent)) {
    let output = response.get_mut("output").map(Value::take);
    let mut begin = response.clone();
    begin.retain(|name, _| !["timings", "diffusion"].contains(&name.as_str()));
    begin.insert("status".into(), "in_progress".into());
    begin.insert("output".into(), json!([]));
    for name in ["error", "incomplete_details", "usage"] {
        begin.insert(name.into(), Value::Null);
    }
    let mut events = Events::default();
    let mut write_all = |events: &mut Events| events.taken().iter().for_each(&mut write);
    events.begin(&begin.into());
    write_all(&mut events);
    let Some(Value::Array(output)) = output else {
        return; // no response is without one
    };
    for mut item in output {
        let kind = match item["type"].as_str() {
            Some("reasoning") => Some(Kind::Reasoning),
            Some("message") => Some(Kind::Message),
            _ => None,
        };
        match kind {
            Some(kind) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (id, status) = (text(&item["id"]), text(&item["status"]));
                let part = item["content"].get_mut(0).map(Value::take);
                let part = part.unwrap_or_default();
                events.begin_item(kind, id);
                events.text(&text(&part["text"]), &part["logprobs"]);
                events.end_item(&status);
            }
            None => events.call(item),
        }
        write_all(&mut events);
    }
    response.insert("output".into(), std::mem::take(&mut events.output).into());
    events.end(response.into());
    write_all(&mut events);
}
