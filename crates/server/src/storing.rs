//! A response is stored when it ends, as it was written.

use std::sync::Arc;

use serde_json::Value;

use crate::access::Owner;
use crate::protocol::assemble::Delta;
use crate::protocol::error::ApiError;
use crate::protocol::format::{Finished, Progress, Stream, StreamEvent};
use crate::protocol::turns::{StoredRequest, Turn};
use crate::response_store::ResponseStore;

/// Where an answer is store.
pub struct Storing {
    store: Arc<ResponseStore>,
    owner: Owner,
    request: StoredRequest,
}

impl Storing {
    /// Stores the answer to a request of this client.
    pub fn new(store: Arc<ResponseStore>, owner: Owner, request: StoredRequest) -> Self {
        Self {
            store,
            owner,
            request,
        }
    }

    /// Stores the answer.
    pub fn store(self, response: &Value) {
        let turn = Turn {
            id: response["id"].as_str().unwrap_or_default().to_owned(),
            input: self.request.input,
            response: response.to_string().into(),
        };
        let before = self.request.before.iter().cloned();
        let turns = before.chain([Arc::new(turn)]).collect();
        self.store.insert(self.owner, turns);
    }
}

/// A stream whose answer is store before its client has the last event. If it is dropped before its end, its
/// client is gone, and the answer is cancelled.
pub struct StoringStream {
    stream: Box<dyn Stream>,
    storing: Option<Storing>,
}

impl StoringStream {
    /// A stream of which nothing is written yet.
    pub fn new(stream: Box<dyn Stream>, storing: Storing) -> Self {
        Self {
            stream,
            storing: Some(storing),
        }
    }

    fn store_unfinished(&mut self, status: &str, error: Option<&ApiError>) {
        let Some(storing) = self.storing.take() else {
            return;
        };
        if let Some(response) = self.stream.unfinished(status, error) {
            storing.store(&response);
        }
    }
}

impl Drop for StoringStream {
    fn drop(&mut self) {
        self.store_unfinished("cancelled", None);
    }
}

impl Stream for StoringStream {
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
        if let (Some(response), Some(storing)) = (response, self.storing.take()) {
            storing.store(response);
        }
        events
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        self.stream.close()
    }

    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        self.store_unfinished("failed", Some(error));
        self.stream.error(error)
    }

    fn is_marked_done(&self) -> bool {
        self.stream.is_marked_done()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::error::ErrorKind;
    use crate::protocol::format::Meta;
    use crate::protocol::request::{Capabilities, Family};
    use crate::protocol::responses;
    use crate::response_store::Limits;

    const ME: Owner = Owner(0);

    fn store() -> Arc<ResponseStore> {
        let bytes = 1 << 20;
        Arc::new(ResponseStore::new(Limits { count: 9, bytes }))
    }

    /// The stream of a request that builds on another one, if it names one.
    fn stream(store: &Arc<ResponseStore>, id: &str, before: Option<&str>) -> StoringStream {
        let capabilities = Capabilities {
            family: Family::Canvas,
            slots: 1,
            vocabulary: 100,
            tools: true,
            scores: true,
            responses: store.of(ME),
        };
        let body = json!({"input": id, "previous_response_id": before});
        let work = responses::read(body.as_object().unwrap(), &capabilities);
        let reply = work.unwrap().reply;
        let meta = Meta {
            id: id.into(),
            created: 0,
            model: "m".into(),
            fingerprint: "b1".into(),
        };
        let request = reply.stored().unwrap().clone();
        let storing = Storing::new(Arc::clone(store), ME, request);
        let mut stream = StoringStream::new(reply.stream(meta), storing);
        stream.begin();
        let text = Delta::Text {
            text: "So far".into(),
            tokens: Vec::new(),
        };
        stream.deltas(0, vec![text]);
        stream
    }

    fn response(store: &ResponseStore, id: &str) -> Value {
        let turns = store.get(ME, id).unwrap();
        serde_json::from_str(&turns.last().unwrap().response).unwrap()
    }

    #[test]
    fn an_answer_that_ends_early_is_kept_as_it_is() {
        let store = store();
        let first = stream(&store, "1", None);
        assert!(store.get(ME, "resp_1").is_none(), "it has not ended");
        drop(first);
        let cancelled = response(&store, "resp_1");
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(cancelled["output"][0]["content"][0]["text"], "So far");
        let mut second = stream(&store, "2", Some("resp_1"));
        let broken = ApiError::new(ErrorKind::Server, "broken");
        assert_eq!(second.error(&broken)[0].name, Some("error"));
        let failed = response(&store, "resp_2");
        drop(second);
        // It ends once.
        assert_eq!(response(&store, "resp_2"), failed);
        assert_eq!(
            (&failed["status"], &failed["error"]["message"]),
            (&json!("failed"), &json!("broken"))
        );
        let turns = store.get(ME, "resp_2").unwrap();
        let inputs: Vec<&str> = turns.iter().map(|turn| &*turn.input).collect();
        assert_eq!(inputs, ["\"1\"", "\"2\""]);
    }
}
