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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kept::Limits;
    use crate::protocol::error::ErrorKind;
    use crate::protocol::format::Meta;
    use crate::protocol::request::{Capabilities, Family};
    use crate::protocol::responses;

    const ME: Owner = Owner(0);

    fn kept() -> Arc<Kept> {
        let bytes = 1 << 20;
        Arc::new(Kept::new(Limits { count: 9, bytes }))
    }

    /// The stream of a request that builds on another one, if it names one.
    fn stream(kept: &Arc<Kept>, id: &str, before: Option<&str>) -> KeptStream {
        let capabilities = Capabilities {
            family: Family::Canvas,
            slots: 1,
            vocabulary: 100,
            tools: true,
            scores: true,
            responses: kept.of(ME),
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
        let beginning = reply.kept().unwrap().clone();
        let keeper = Keeper::new(Arc::clone(kept), ME, beginning);
        let mut stream = KeptStream::new(reply.stream(meta), keeper);
        stream.begin();
        let text = Delta::Text {
            text: "So far".into(),
            tokens: Vec::new(),
        };
        stream.deltas(0, vec![text]);
        stream
    }

    fn response(kept: &Kept, id: &str) -> Value {
        let turns = kept.get(ME, id).unwrap();
        serde_json::from_str(&turns.last().unwrap().response).unwrap()
    }

    #[test]
    fn an_answer_that_ends_early_is_kept_as_it_is() {
        let kept = kept();
        let first = stream(&kept, "1", None);
        assert!(kept.get(ME, "resp_1").is_none(), "it has not ended");
        drop(first);
        let cancelled = response(&kept, "resp_1");
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(cancelled["output"][0]["content"][0]["text"], "So far");
        let mut second = stream(&kept, "2", Some("resp_1"));
        let broken = ApiError::new(ErrorKind::Server, "broken");
        assert_eq!(second.error(&broken)[0].name, Some("error"));
        let failed = response(&kept, "resp_2");
        drop(second);
        // It ends once.
        assert_eq!(response(&kept, "resp_2"), failed);
        assert_eq!(
            (&failed["status"], &failed["error"]["message"]),
            (&json!("failed"), &json!("broken"))
        );
        let turns = kept.get(ME, "resp_2").unwrap();
        let inputs: Vec<&str> = turns.iter().map(|turn| &*turn.input).collect();
        assert_eq!(inputs, ["\"1\"", "\"2\""]);
    }
}
