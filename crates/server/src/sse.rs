//! Streams of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::answers::{Answers, Happening};
use crate::generate::finish_name;
use crate::protocol::format::{Stream, StreamEvent};
use crate::state::State;
use crate::storing::{Storing, store_end};

/// Events that may wait for a reader, before the answer waits for it.
const AHEAD: usize = 8;

/// A body that shows answers while they are computed. `ping` is the silence after which a comment
/// is sent. When the body is dropped, the answers are cancelled. A response that is to be stored is
/// stored before its end is sent.
pub fn body(
    answers: Answers,
    stream: Box<dyn Stream>,
    storing: Option<Storing>,
    ping: Option<Duration>,
    state: Arc<State>,
    endpoint: &'static str,
) -> Body {
    let (writer, body) = channel(state.config.timeout, ping);
    tokio::spawn(async move { write(answers, stream, storing, writer, &state, endpoint).await });
    body
}

/// Where events are written, and the body that has them. A reader that reads nothing for as long as
/// `timeout` counts as gone.
pub fn channel(timeout: Duration, ping: Option<Duration>) -> (Writer, Body) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let writer = Writer {
        sender,
        timeout,
        ping,
    };
    let body = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    (writer, Body::from_stream(body))
}

/// A response of events.
pub fn response(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, body).into_response()
}

/// The reader is gone, or has read nothing for too long.
pub struct Gone;

/// Writes events.
pub struct Writer {
    sender: Sender<Bytes>,
    timeout: Duration,
    ping: Option<Duration>,
}

impl Writer {
    async fn send(&self, frame: String) -> Result<(), Gone> {
        let sent = self.sender.send_timeout(frame.into(), self.timeout).await;
        sent.map_err(|_| Gone)
    }

    /// Sends an event without a name.
    pub async fn send_data(&self, data: &Value) -> Result<(), Gone> {
        self.send(format!("data: {data}\n\n")).await
    }

    /// Sends a comment.
    pub async fn ping(&self) -> Result<(), Gone> {
        self.send(": ping\n\n".into()).await
    }

    /// Waits until a comment is due.
    pub async fn silence(&self) {
        match self.ping {
            Some(ping) => tokio::time::sleep(ping).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    async fn send_all(&self, events: Vec<StreamEvent>) -> Result<(), Gone> {
        for event in events {
            self.send(frame(&event)).await?;
        }
        Ok(())
    }
}

/// The text of an event.
pub fn frame(event: &StreamEvent) -> String {
    match event.name {
        Some(name) => format!("event: {name}\ndata: {}\n\n", event.data),
        None => format!("data: {}\n\n", event.data),
    }
}

/// Events of which the last one has these timings.
fn with_timings(mut events: Vec<StreamEvent>, timings: Option<Value>) -> Vec<StreamEvent> {
    if let (Some(last), Some(timings)) = (events.last_mut(), timings) {
        last.data["timings"] = timings;
    }
    events
}

async fn write(
    mut answers: Answers,
    mut stream: Box<dyn Stream>,
    mut storing: Option<Storing>,
    writer: Writer,
    state: &State,
    endpoint: &'static str,
) {
    let stream = stream.as_mut();
    let written = write_all(&mut answers, stream, &mut storing, &writer, state, endpoint).await;
    drop(answers); // what still runs is cancelled
    store_end(&mut storing, stream);
    if written.is_err() {
        state.metrics.answered(endpoint, "cancelled");
    }
}

async fn write_all(
    answers: &mut Answers,
    stream: &mut dyn Stream,
    storing: &mut Option<Storing>,
    writer: &Writer,
    state: &State,
    endpoint: &'static str,
) -> Result<(), Gone> {
    writer.send_all(stream.begin()).await?;
    loop {
        let next = tokio::select! {
            biased;
            () = writer.closed() => return Err(Gone),
            next = answers.next() => next,
            () = writer.silence() => {
                writer.ping().await?;
                continue;
            }
        };
        let events = match next {
            Ok(Some((index, happening))) => match happening {
                Happening::Progress(progress) => stream.progress(index, &progress),
                Happening::Payload(payload) => stream.draft(index, &payload),
                Happening::Deltas { deltas, timings } => {
                    with_timings(stream.deltas(index, deltas), timings)
                }
                Happening::Finished(finished) => {
                    state.metrics.answered(endpoint, finish_name(&finished));
                    let events = stream.finish(index, &finished);
                    store_end(storing, stream);
                    events
                }
            },
            Ok(None) => {
                writer.send_all(stream.close()).await?;
                return match stream.is_marked_done() {
                    true => writer.send("data: [DONE]\n\n".into()).await,
                    false => Ok(()),
                };
            }
            Err(error) => {
                state.metrics.answered(endpoint, "error");
                let events = stream.error(&error);
                store_end(storing, stream);
                return writer.send_all(events).await;
            }
        };
        writer.send_all(events).await?;
    }
}
