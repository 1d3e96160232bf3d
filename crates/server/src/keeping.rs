//! An answer is kept when it ends, as it was written.

use std::sync::Arc;

use serde_json::Value;

use crate::access::Owner;
use crate::kept::Kept;
use crate::protocol::assemble::Delta;
use crate::protocol::error::ApiError;
use crate::protocol::format::{Finished, Progress, Stream, StreamEvent};
use crate::protocol::kept::{Beginning, Turn};

/// Where an answer is kept.
pub struct Keeper {
    kept: Arc<Kept>,
    owner: Owner,
    beginning: Beginning,
}

impl Keeper {
    /// Keeps the answer to a request of this client.
    pub fn new(kept: Arc<Kept>, owner: Owner, beginning: Beginning) -> Self {
        Self {
            kept,
            owner,
            beginning,
        }
    }

    /// Keeps the answer.
    pub fn keep(self, response: &Value) {
        let turn = Turn {
            id: response["id"].as_str().unwrap_or_default().to_owned(),
            input: self.beginning.input,
            response: response.to_string().into(),
        };
        let before = self.beginning.before.iter().cloned();
        let turns = before.chain([Arc::new(turn)]).collect();
        self.kept.keep(self.owner, turns);
    }
}

/// A stream whose answer is kept before its client has the last event. If it is dropped before its end, its
/// client is gone, and the answer is cancelled.
pub struct KeptStream {
    stream: Box<dyn Stream>,
    keeper: Option<Keeper>,
}

impl KeptStream {
    /// A stream of which nothing is written yet.
    pub fn new(stream: Box<dyn Stream>, keeper: Keeper) -> Self {
        Self {
            stream,
            keeper: Some(keeper),
        }
    }

    fn keep_unfinished(&mut self, status: &str, error: Option<&ApiError>) {
        let Some(keeper) = self.keeper.take() else {
            return;
        };
        if let Some(response) = self.stream.unfinished(status, error) {
            keeper.keep(&response);
        }
    }
}

impl Drop for KeptStream {
    fn drop(&mut self) {
        self.keep_unfinished("cancelled", None);
    }
}

impl Stream for KeptStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        self.stream.begin()
    }

    fn progress(&mut self, choice: usize, progress: &Progress) -> Vec<StreamEvent> {
        self.stream.progress(choice, progress)
    }

    fn draft(&mut self, choice: usize, payload: &Value) -> Vec<StreamEvent> {
        self.stream.draft(choice, payload)
    }

    fn deltas(&mut self, choice: usize, deltas: Vec<Delta>) -> Vec<StreamEvent> {
        self.stream.deltas(choice, deltas)
    }

    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent> {
        let events = self.stream.finish(choice, finished);
        let response = events.last().map(|event| &event.data["response"]);
        if let (Some(response), Some(keeper)) = (response, self.keeper.take()) {
            keeper.keep(response);
        }
        events
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        self.stream.close()
    }

    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        self.keep_unfinished("failed", Some(error));
        self.stream.error(error)
    }

    fn is_marked_done(&self) -> bool {
        self.stream.is_marked_done()
    }
}
