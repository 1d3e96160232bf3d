//! Bodies of requests: read whole, within limits of size and time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use crate::protocol::error::{ApiError, ErrorKind};

/// How long a client may send nothing of a body.
const IDLE: Duration = Duration::from_secs(30);

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413: it is larger. 400: it stops.
pub async fn read_body(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let message = format!(
            "the body has more than {} MiB: make it smaller, or start the server with --max-body",
            limit >> 20
        );
        ApiError::new(ErrorKind::TooLarge, message)
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large());
    }
    let mut parts = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        let stopped = |_| ApiError::new(ErrorKind::InvalidRequest, "the body stops before its end");
        match timeout(IDLE, parts.next()).await.map_err(stopped)? {
            None => return Ok(bytes),
            Some(Ok(part)) if bytes.len() + part.len() > limit => return Err(too_large()),
            Some(Ok(part)) => bytes.extend_from_slice(&part),
            Some(Err(error)) => {
                let message = format!("the body cannot be read: {error}");
                return Err(ApiError::new(ErrorKind::InvalidRequest, message));
            }
        }
    }
}
