//! A second client follows the drafts of an answer by its id.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use llama_diffusion::Result as OfModel;
use llama_diffusion::chat::thinking::Splitter;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::answers::next_draft;
use crate::drafts::{DraftSlot, Payloads};
use crate::followed::{Followed, Story};
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::format;
use crate::protocol::request::Drafts;
use crate::protocol::sampling;
use crate::protocol::value::Object;
use crate::reply::error_response;
use crate::served::Served;
use crate::sse::{self, Writer};
use crate::state::State;

/// A stream of what `diffusion` has in the chunks of a stream of its own.
pub fn respond(state: &State, id: &str, query: &HashMap<String, String>) -> Response {
    match begin(state, id, query) {
        Ok(body) => sse::response(body),
        Err(error) => error_response(&error),
    }
}

fn begin(state: &State, id: &str, query: &HashMap<String, String>) -> Result<Body, ApiError> {
    let served = &state.ready_or_draining()?.served;
    let wanted = wanted(query)?;
    let followed = state.register.get(id).ok_or_else(|| {
        let message = format!(
            "no answer with the id '{id}' is in progress: give the id of a stream that has not ended"
        );
        ApiError::new(ErrorKind::NotFound, message)
    })?;
    let viewer = Viewer::new(followed, served, wanted, state);
    Ok(sse::body(state.config.ping, |writer| viewer.write(writer)))
}

/// Which drafts a viewer wants: the fields of `diffusion`, in the query.
fn wanted(query: &HashMap<String, String>) -> Result<Drafts, ApiError> {
    let mut fields = Map::from_iter([("drafts".into(), Value::from("text"))]);
    for (name, value) in query {
        let number = value.parse().map(|number: i64| number.into());
        fields.insert(
            name.clone(),
            number.unwrap_or_else(|_| value.as_str().into()),
        );
    }
    let fields = Object::root(&fields);
    let off = || {
        fields.error(
            "drafts",
            "is \"off\": give \"text\", \"tokens\" or \"full\"",
        )
    };
    sampling::drafts(&fields)?.ok_or_else(off)
}

/// A client that follows the answers to a request.
struct Viewer {
    followed: Arc<Followed>,
    slot: Arc<DraftSlot>,
    story: watch::Receiver<Story>,
    answers: Vec<View>,
}

/// What it has seen of an answer.
struct View {
    payloads: Payloads,
    /// Where the next canvas begins.
    splitter: Splitter,
    /// Finished canvases, and the number of the next one.
    canvases: usize,
    block: u32,
    has_ended: bool,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.followed.remove(&self.slot);
    }
}

impl Viewer {
    fn new(followed: Arc<Followed>, served: &Arc<Served>, wanted: Drafts, state: &State) -> Self {
        let metrics = Arc::clone(&state.metrics);
        let slot = Arc::new(DraftSlot::new(wanted, followed.begins.len(), metrics));
        followed.add(&slot);
        let answers = followed.begins.iter().map(|begin| View {
            payloads: Payloads::new(served, wanted.level),
            splitter: begin.splitter.clone(),
            canvases: 0,
            block: 0,
            has_ended: false,
        });
        Self {
            answers: answers.collect(),
            story: followed.story(),
            slot,
            followed,
        }
    }

    /// Writes until all answers have ended.
    async fn write(mut self, writer: Writer) {
        for (index, (view, begin)) in self.answers.iter().zip(&self.followed.begins).enumerate() {
            let start = view.payloads.start(&begin.splitter, begin.seed);
            write(&writer, index, start);
        }
        let mut pause = None;
        loop {
            let is_closed = self.story.borrow_and_update().is_closed;
            for index in 0..self.answers.len() {
                let lines = self.news(index).unwrap_or_else(|error| {
                    vec![ApiError::new(ErrorKind::Server, error.to_string()).openai()]
                });
                write(&writer, index, lines);
                writer.sent().await;
            }
            if self.answers.iter().all(|view| view.has_ended) {
                return;
            }
            if is_closed {
                let message = "the answer was cancelled or failed";
                let error = ApiError::new(ErrorKind::Unavailable, message);
                writer.write_data(&error.openai());
                return;
            }
            tokio::select! {
                biased;
                changed = self.story.changed() => if changed.is_err() {
                    return;
                },
                _ = next_draft(Some(&self.slot), pause) => {
                    let interval = self.slot.wanted().min_interval;
                    pause = Some(tokio::time::Instant::now() + interval);
                }
                never = writer.ping() => match never {},
            }
        }
    }

    /// What has happened in an answer since it was last asked, in order.
    fn news(&mut self, index: usize) -> OfModel<Vec<Value>> {
        let view = &mut self.answers[index];
        let (canvases, ended) = {
            let story = self.story.borrow();
            let chapter = &story.answers[index];
            (
                chapter.canvases[view.canvases..].to_vec(),
                chapter.ended.clone(),
            )
        };
        // The story first: the last draft of each of its canvases is in its place by then. What comes
        // after a canvas that is not in the story waits for it.
        let next = canvases.last().map_or(view.block, |last| last.block + 1);
        let drafts = self.slot.take_until(index, next);
        let mut lines = Vec::new();
        let mut canvases = canvases.into_iter().peekable();
        for draft in drafts {
            while let Some(canvas) = canvases.next_if(|canvas| canvas.block < draft.block()) {
                lines.extend(view.canvas(&canvas)?);
            }
            // Its canvas may have been sent already.
            if draft.block() >= view.block {
                lines.extend(view.payloads.show(&draft, &view.splitter)?);
            }
        }
        for canvas in canvases {
            lines.extend(view.canvas(&canvas)?);
        }
        if let Some(ended) = ended.filter(|_| !view.has_ended) {
            view.has_ended = true;
            let seed = self.followed.begins[index].seed;
            let ignored = &self.followed.ignored;
            lines.push(format::ending(
                &ended.statistics,
                ended.reused,
                seed,
                ignored,
            ));
        }
        Ok(lines)
    }
}

impl View {
    fn canvas(
        &mut self,
        canvas: &llama_diffusion::diffusion::FinishedCanvas,
    ) -> OfModel<Vec<Value>> {
        for &token in &canvas.answer {
            self.splitter.push(token);
        }
        self.canvases += 1;
        self.block = canvas.block + 1;
        self.payloads.canvas(canvas)
    }
}

/// Writes lines about an answer.
fn write(writer: &Writer, index: usize, lines: Vec<Value>) {
    for mut line in lines {
        line["index"] = json!(index);
        writer.write_data(&line);
    }
}
