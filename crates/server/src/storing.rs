//! A response on its way to the store: it is written and stored when it ends, before its client
//! has the end.

use std::sync::Arc;

use serde_json::Value;
use tokio::task::block_in_place;

use crate::access::Owner;
use crate::protocol::format::Stream;
use crate::protocol::turns::{StoredRequest, Turn};
use crate::response_store::ResponseStore;

/// Stores a response.
pub struct Storing {
    store: Arc<ResponseStore>,
    owner: Owner,
    id: String,
    request: StoredRequest,
}

impl Storing {
    /// Stores the response of this id to a request of this client.
    pub fn new(
        store: Arc<ResponseStore>,
        owner: Owner,
        id: String,
        request: StoredRequest,
    ) -> Self {
        Self {
            store,
            owner,
            id,
            request,
        }
    }

    /// Stores the response. Returns it as it is written. Other tasks of this thread move to another
    /// one: the response may be long, and so may be those that are evicted.
    pub fn store(self, response: impl FnOnce() -> Value) -> Arc<Turn> {
        block_in_place(|| {
            let turn = Arc::new(Turn {
                id: self.id,
                input: self.request.input,
                response: response().to_string().into(),
            });
            let before = self.request.before.iter().cloned();
            let turns = before.chain([Arc::clone(&turn)]).collect();
            self.store.insert(self.owner, turns);
            turn
        })
    }
}

/// Stores the response of a stream that has ended or lost its client, once, if it is to be stored.
pub fn store_end(storing: &mut Option<Storing>, stream: &mut dyn Stream) {
    if let Some(storing) = storing.take()
        && let Some(response) = stream.take_response()
    {
        storing.store(|| response);
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::assemble::Delta;
    use crate::protocol::error::{ApiError, ErrorKind};
    use crate::protocol::format::Meta;
    use crate::protocol::request::{Capabilities, Family};
    use crate::protocol::responses;
    use crate::response_store::Limits;

    const ME: Owner = Owner(0);

    pub fn store() -> Arc<ResponseStore> {
        let bytes = 1 << 20;
        Arc::new(ResponseStore::new(Limits { count: 9, bytes }))
    }

    /// The stream of a request that builds on another one, if it names one, after its first text.
    pub fn stream(
        store: &Arc<ResponseStore>,
        id: &str,
        before: Option<&str>,
    ) -> (Box<dyn Stream>, Option<Storing>) {
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
        let storing = Storing::new(Arc::clone(store), ME, meta.response_id(), request);
        let mut stream = reply.stream(meta, 1);
        stream.begin();
        let text = Delta::Text {
            text: "So far".into(),
            tokens: Vec::new(),
        };
        stream.deltas(0, vec![text]);
        (stream, Some(storing))
    }

    pub fn response(store: &ResponseStore, id: &str) -> Value {
        let turns = store.get(ME, id).unwrap();
        serde_json::from_str(&turns.last().unwrap().response).unwrap()
    }

    #[test]
    fn a_response_that_ends_early_is_stored_as_it_is() {
        let store = store();
        let (mut first, mut storing) = stream(&store, "1", None);
        assert!(store.get(ME, "resp_1").is_none(), "it has not ended");
        store_end(&mut storing, first.as_mut());
        let cancelled = response(&store, "resp_1");
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(cancelled["output"][0]["content"][0]["text"], "So far");
        let (mut second, mut storing) = stream(&store, "2", Some("resp_1"));
        let broken = ApiError::new(ErrorKind::Server, "broken");
        assert_eq!(second.error(&broken)[0].name, Some("error"));
        store_end(&mut storing, second.as_mut());
        let failed = response(&store, "resp_2");
        // It ends once.
        store_end(&mut storing, second.as_mut());
        assert_eq!(response(&store, "resp_2"), failed);
        assert_eq!(
            (&failed["status"], &failed["error"]["message"]),
            (&json!("failed"), &json!("broken"))
        );
        let turns = store.get(ME, "resp_2").unwrap();
        let inputs: Vec<&str> = turns.iter().map(|turn| &*turn.input).collect();
        assert_eq!(inputs, ["\"1\"", "\"2\""]);
    }

    #[test]
    fn a_response_is_written_once() {
        let store = store();
        let (_, storing) = stream(&store, "1", None);
        let turn = storing.unwrap().store(|| json!({"id": "other"}));
        // Its id is that of its request, whatever the response says.
        assert!(Arc::ptr_eq(&turn, &store.get(ME, "resp_1").unwrap()[0]));
        assert_eq!(&*turn.response, "{\"id\":\"other\"}");
    }
}
