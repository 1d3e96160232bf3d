//! Bodies that no handler reads to the end.
//!
//! A connection that is closed while its client still writes is reset, and the client may lose the
//! answer with it. So the rest of such a body is read and discarded while the answer is written.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http_body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

/// What is read of the rest of a body.
#[derive(Clone, Copy)]
struct Limits {
    /// How long it may take.
    time: Duration,
    /// How long a client may send nothing of it.
    idle: Duration,
    bytes: usize,
}

const LIMITS: Limits = Limits {
    time: Duration::from_secs(30),
    idle: Duration::from_secs(5),
    bytes: 256 << 20,
};

/// Discards what is left of the body of a request when it is dropped.
pub fn linger(request: Request) -> Request {
    if request.body().is_end_stream() {
        return request;
    }
    request.map(|body| Body::new(Lingering(body)))
}

/// A body whose rest is discarded when it is dropped.
struct Lingering(Body);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        // Without a runtime there is no connection either.
        if let Ok(runtime) = Handle::try_current() {
            let rest = std::mem::take(&mut self.0);
            runtime.spawn(discard(rest, LIMITS));
        }
    }
}

/// Reads a body until it ends, stops or exceeds a limit.
async fn discard(body: Body, limits: Limits) {
    let mut parts = body.into_data_stream();
    let read = async {
        let mut bytes = 0;
        while let Ok(Some(Ok(part))) = timeout(limits.idle, parts.next()).await {
            bytes += part.len();
            if bytes > limits.bytes {
                return;
            }
        }
    };
    // Whether it was in time makes no difference: the body is dropped.
    let _ = timeout(limits.time, read).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio_stream::{iter, pending};

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    fn endless() -> impl tokio_stream::Stream<Item = Result<Bytes, axum::Error>> {
        iter(std::iter::repeat_with(|| Ok(Bytes::from_static(b"part"))))
    }

    /// Without a limit it does not end.
    #[tokio::test]
    async fn the_rest_of_a_body_has_limits() {
        let limits = Limits {
            time: NEVER,
            idle: NEVER,
            bytes: usize::MAX,
        };
        let read = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&read);
        let counted = endless().map(move |part| {
            counter.fetch_add(4, Relaxed);
            part
        });
        let bytes = 1 << 10;
        discard(Body::from_stream(counted), Limits { bytes, ..limits }).await;
        assert_eq!(read.load(Relaxed), bytes + 4);
        let slow = endless().throttle(SOON / 20);
        discard(
            Body::from_stream(slow),
            Limits {
                time: SOON,
                ..limits
            },
        )
        .await;
        let silent = pending::<Result<Bytes, axum::Error>>();
        discard(
            Body::from_stream(silent),
            Limits {
                idle: SOON,
                ..limits
            },
        )
        .await;
    }
}
