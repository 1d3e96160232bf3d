//! Work that may be long, on a thread for such work, and work that is not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::spawn_blocking;

use crate::protocol::error::{ApiError, ErrorKind};

/// Works on such a thread, also if the client hangs up.
///
/// # Errors
/// Those of the work. 500: it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(work).await.map_err(|_| failed())?
}

/// Works in this task: what takes less time than to wake a thread.
///
/// # Errors
/// As [`blocking`].
pub fn at_once<T>(work: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| failed())?
}

fn failed() -> ApiError {
    ApiError::new(ErrorKind::Server, "the request failed")
}
