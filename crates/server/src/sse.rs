//! Streams of server-sent events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::mem::take;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use crate::answers::{Answers, Happening};
use crate::outcomes::Outcomes;
use crate::protocol::format::{Stream, StreamEvent};
use crate::storing::{Storing, store_end};

/// A response of events.
pub fn response(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}

/// A body that `write` writes, in the task of its connection: no other task is woken, and `write` is
/// polled only while the connection has room for more. Therefore what stops an answer early, such as a
/// stop string, is noticed only then. What `write` holds is dropped with the body when the client is
/// gone. `ping` is the silence after which a comment is sent.
pub fn body<F>(ping: Option<Duration>, write: impl FnOnce(Writer) -> F) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let frames = Arc::default();
    let writer = Writer {
        frames: Arc::clone(&frames),
        ping,
    };
    let writing = Some(Box::pin(write(writer)));
    Body::from_stream(Frames { writing, frames })
}

/// What was written and not sent yet.
type Written = Arc<Mutex<String>>;

fn with<T>(written: &Written, change: impl FnOnce(&mut String) -> T) -> T {
    change(&mut written.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The frames of a body.
struct Frames<F> {
    /// Until it ends.
    writing: Option<Pin<Box<F>>>,
    frames: Written,
}

impl<F: Future<Output = ()>> tokio_stream::Stream for Frames<F> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let writing = self.writing.as_mut();
        if writing.is_some_and(|writing| writing.as_mut().poll(context).is_ready()) {
            self.writing = None;
        }
        let frames = with(&self.frames, take);
        match (frames.is_empty(), &self.writing) {
            (false, _) => Poll::Ready(Some(Ok(frames.into()))),
            (true, Some(_)) => Poll::Pending,
            (true, None) => Poll::Ready(None),
        }
    }
}

/// Writes events.
pub struct Writer {
    frames: Written,
    ping: Option<Duration>,
}

impl Writer {
    fn write(&self, frame: &str) {
        with(&self.frames, |frames| frames.push_str(frame));
    }

    /// Writes an event without a name.
    pub fn write_data(&self, data: &Value) {
        self.write(&format!("data: {data}\n\n"));
    }

    /// Waits while much is written that is not sent yet: it leaves before more is made.
    pub async fn sent(&self) {
        const MUCH: usize = 64 << 10;
        // Nobody needs to be woken: the body has something to send, and is polled again after that.
        poll_fn(|_| match with(&self.frames, |frames| frames.len() > MUCH) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    /// Writes comments, one after each silence.
    pub async fn ping(&self) -> Infallible {
        loop {
            match self.ping {
                Some(ping) => tokio::time::sleep(ping).await,
                None => std::future::pending().await,
            }
            self.write(": ping\n\n");
        }
    }

    fn write_all(&self, events: Vec<StreamEvent>) {
        with(&self.frames, |frames| {
            for event in events {
                add_frame(frames, &event);
            }
        });
    }
}

/// Adds the text of an event.
pub fn add_frame(frames: &mut String, event: &StreamEvent) {
    // A String takes all.
    if let Some(name) = event.name {
        let _ = writeln!(frames, "event: {name}");
    }
    let _ = write!(frames, "data: {}\n\n", event.data);
}

/// Events of which the last one has these timings.
fn with_timings(mut events: Vec<StreamEvent>, timings: Option<Value>) -> Vec<StreamEvent> {
    if let (Some(last), Some(timings)) = (events.last_mut(), timings) {
        last.data["timings"] = timings;
    }
    events
}

/// Shows answers while they are computed. When it is dropped early, the answers are cancelled. A
/// response that is to be stored is stored before its end is written.
pub struct Show {
    /// Until no more of them is shown.
    pub answers: Option<Answers>,
    /// Counts how they end.
    pub outcomes: Outcomes,
    /// Writes their events.
    pub stream: Box<dyn Stream>,
    /// The response, if it is to be stored.
    pub storing: Option<Storing>,
}

impl Drop for Show {
    fn drop(&mut self) {
        self.outcomes.cancelled();
        self.answers = None; // what still runs is cancelled
        self.store_end();
    }
}

impl Show {
    /// Writes the events until the last one.
    pub async fn write(mut self, writer: Writer) {
        writer.write_all(self.stream.begin());
        while let Some(answers) = &mut self.answers {
            let next = tokio::select! {
                biased;
                next = answers.next() => next,
                never = writer.ping() => match never {},
            };
            let events = match next {
                Ok(Some((index, happening))) => self.events(index, happening),
                Ok(None) => {
                    self.answers = None;
                    self.stream.close()
                }
                Err(error) => {
                    self.outcomes.failed();
                    self.answers = None;
                    let events = self.stream.error(&error);
                    self.store_end();
                    writer.write_all(events);
                    return;
                }
            };
            writer.write_all(events);
            writer.sent().await;
        }
        if self.stream.is_marked_done() {
            writer.write("data: [DONE]\n\n");
        }
    }

    fn events(&mut self, index: usize, happening: Happening) -> Vec<StreamEvent> {
        match happening {
            Happening::Progress(progress) => self.stream.progress(index, &progress),
            Happening::Payload(payload) => self.stream.draft(index, &payload),
            Happening::Deltas { deltas, timings } => {
                with_timings(self.stream.deltas(index, deltas), timings)
            }
            Happening::Finished(finished) => {
                self.outcomes.finished(&finished);
                let events = self.stream.finish(index, &finished);
                self.store_end();
                events
            }
        }
    }

    fn store_end(&mut self) {
        store_end(&mut self.storing, self.stream.as_mut());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::runtime::Builder;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::answers::Wishes;
    use crate::engine::board::Shown;
    use crate::followed::Register;
    use crate::metrics::Metrics;
    use crate::storing::tests::{response as stored, store, stream};

    /// Shows answers of which so many have not ended, for a response that is to be stored as `resp_1`.
    /// Reports afterwards how they were counted, and what was stored.
    fn show(left: usize, test: impl FnOnce(Show)) -> (Vec<String>, Value) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let register = Arc::new(Register::default());
        let wishes = Wishes {
            progress: false,
            timings: false,
            thought_budget: None,
            constraint: None,
        };
        let (_updates, receiver) = unbounded_channel();
        let listed = register.list("1", &Arc::default());
        let answers = Answers::new(Vec::new(), receiver, None, wishes, listed, &metrics);
        let store = store();
        let (stream, storing) = stream(&store, "1", None);
        test(Show {
            answers: Some(answers),
            outcomes: Outcomes::new(&metrics, "responses", left),
            stream,
            storing,
        });
        assert!(register.get("1").is_none(), "nobody can follow it now");
        let text = metrics.text(&Shown::default(), 0, (0, 0)).unwrap();
        let counts = text.lines().filter(|line| line.contains("endpoint="));
        let counts = counts.map(|line| line.rsplit("finish=").next().unwrap().to_owned());
        (counts.collect(), stored(&store, "resp_1"))
    }

    #[test]
    fn each_answer_of_a_body_that_is_dropped_before_its_first_event_is_cancelled_once() {
        let (counts, stored) = show(3, |show| drop(body(None, |writer| show.write(writer))));
        assert_eq!(counts, ["\"cancelled\"} 3"]);
        assert_eq!(stored["status"], "cancelled");
    }

    #[test]
    fn a_body_that_is_dropped_after_the_end_of_its_answers_counts_nothing() {
        // Their end was written, but waits to be sent.
        let (counts, _) = show(0, |show| drop(body(None, |writer| show.write(writer))));
        assert!(counts.is_empty(), "{counts:?}");
        // All was sent.
        let (counts, _) = show(0, |show| {
            run(async {
                let mut chunks = body(None, |writer| show.write(writer)).into_data_stream();
                assert!(chunks.next().await.is_some());
                while chunks.next().await.is_some() {}
            });
        });
        assert!(counts.is_empty(), "{counts:?}");
    }

    /// Runs a test as the connection's task runs a body.
    fn run(test: impl Future<Output = ()>) {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_time().build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn what_is_ready_is_sent_together() {
        run(async {
            let (sender, mut receiver) = unbounded_channel();
            let body = body(None, |writer| async move {
                while let Some(number) = receiver.recv().await {
                    writer.write_data(&json!(number));
                }
                writer.write_data(&json!("end"));
            });
            let mut chunks = body.into_data_stream();
            sender.send(1).unwrap();
            sender.send(2).unwrap();
            let first = chunks.next().await.unwrap().unwrap();
            assert_eq!(first, "data: 1\n\ndata: 2\n\n");
            sender.send(3).unwrap();
            drop(sender);
            let last = chunks.next().await.unwrap().unwrap();
            assert_eq!(last, "data: 3\n\ndata: \"end\"\n\n");
            assert!(chunks.next().await.is_none());
        });
    }

    #[test]
    fn a_lot_leaves_before_more_is_written() {
        run(async {
            let body = body(None, |writer| async move {
                for number in 0..100 {
                    writer.write_data(&json!("x".repeat(10_000)));
                    writer.write_data(&json!(number));
                    writer.sent().await;
                }
            });
            let mut chunks = body.into_data_stream();
            let mut all = Vec::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.unwrap();
                assert!(chunk.len() < 80_000, "{}", chunk.len());
                all.extend_from_slice(&chunk);
            }
            let text = String::from_utf8(all).unwrap();
            let numbers = text
                .lines()
                .filter_map(|line| line.strip_prefix("data: ")?.parse::<i32>().ok());
            assert!(numbers.eq(0..100_i32));
        });
    }

    #[test]
    fn a_body_that_is_dropped_drops_what_its_writer_holds() {
        run(async {
            let held = Arc::new(());
            let kept = Arc::clone(&held);
            let body = body(None, |writer| async move {
                writer.write_data(&json!(1));
                std::future::pending::<()>().await;
                drop(kept);
            });
            let mut chunks = body.into_data_stream();
            assert!(chunks.next().await.is_some());
            assert_eq!(Arc::strong_count(&held), 2);
            drop(chunks);
            assert_eq!(Arc::strong_count(&held), 1);
        });
    }

    #[test]
    fn each_silence_has_a_comment() {
        run(async {
            let ping = Some(Duration::from_millis(1));
            let body = body(ping, |writer| async move { match writer.ping().await {} });
            let mut chunks = body.into_data_stream();
            for _ in 0..3 {
                assert_eq!(chunks.next().await.unwrap().unwrap(), ": ping\n\n");
            }
        });
    }
}
