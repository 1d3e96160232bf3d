//! Work that may be long, on a thread for such work.

use tokio::task::spawn_blocking;

use crate::protocol::error::{ApiError, ErrorKind};

/// Works on such a thread, also if the client hangs up.
///
/// # Errors
/// Those of the work. 500: it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| ApiError::new(ErrorKind::Server, "the request failed");
    spawn_blocking(work).await.map_err(failed)?
}
