//! Streams of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::answers::{Answers, Happening};
use crate::generate::finish_name;
use crate::protocol::format::{Stream, StreamEvent};
use crate::state::State;

/// Events that may wait for a reader, before the answer waits for it.
const AHEAD: usize = 8;

/// A body that shows answers while they are computed. `ping` is the silence after which a comment is
/// sent. When the body is dropped, the answers are cancelled.
pub fn body(
    answers: Answers,
    stream: Box<dyn Stream>,
    ping: Option<Duration>,
    state: Arc<State>,
    endpoint: &'static str,
) -> Body {
    let (sender, receiver) = channel(AHEAD);
    let timeout = state.config.timeout;
    let writer = Writer {
        sender,
        timeout,
        ping,
    };
    tokio::spawn(async move { write(answers, stream, writer, &state, endpoint).await });
    Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>))
}

/// The reader is gone, or has read nothing for too long.
struct Gone;

struct Writer {
    sender: Sender<Bytes>,
    timeout: Duration,
    ping: Option<Duration>,
}

impl Writer {
    async fn send(&self, frame: String) -> Result<(), Gone> {
        let sent = self.sender.send_timeout(frame.into(), self.timeout).await;
        sent.map_err(|_| Gone)
    }

    async fn send_all(&self, events: Vec<StreamEvent>) -> Result<(), Gone> {
        for event in events {
            self.send(frame(&event)).await?;
        }
        Ok(())
    }
}

fn frame(event: &StreamEvent) -> String {
    match event.name {
        Some(name) => format!("event: {name}\ndata: {}\n\n", event.data),
        None => format!("data: {}\n\n", event.data),
    }
}

async fn write(
    mut answers: Answers,
    mut stream: Box<dyn Stream>,
    writer: Writer,
    state: &State,
    endpoint: &'static str,
) {
    let written = write_all(&mut answers, stream.as_mut(), &writer, state, endpoint).await;
    if written.is_err() {
        state.metrics.answered(endpoint, "cancelled");
    }
}

async fn write_all(
    answers: &mut Answers,
    stream: &mut dyn Stream,
    writer: &Writer,
    state: &State,
    endpoint: &'static str,
) -> Result<(), Gone> {
    writer.send_all(stream.begin()).await?;
    loop {
        let next = tokio::select! {
            biased;
            () = writer.sender.closed() => return Err(Gone),
            next = answers.next() => next,
            () = silence(writer.ping) => {
                writer.send(": ping\n\n".into()).await?;
                continue;
            }
        };
        let events = match next {
            Ok(Some((index, happening))) => match happening {
                Happening::Progress(progress) => stream.progress(index, &progress),
                Happening::Payload(payload) => stream.draft(index, &payload),
                Happening::Deltas(deltas) => stream.deltas(index, deltas),
                Happening::Finished(finished) => {
                    state.metrics.answered(endpoint, finish_name(&finished));
                    stream.finish(index, &finished)
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
                return writer.send_all(stream.error(&error)).await;
            }
        };
        writer.send_all(events).await?;
    }
}

/// Waits for this time; for ever without one.
async fn silence(ping: Option<Duration>) {
    match ping {
        Some(ping) => tokio::time::sleep(ping).await,
        None => std::future::pending().await,
    }
}
