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

/// The error of a request that panicked.
pub fn failed() -> ApiError {
    ApiError::new(ErrorKind::Server, "the request failed")
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_request() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let errors = [
            at_once::<()>(|| panic!("in place")).unwrap_err(),
            runtime
                .block_on(blocking::<()>(|| panic!("elsewhere")))
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, ErrorKind::Server);
            assert_eq!(error.message, "the request failed");
        }
        // The thread that panicked, or another one, works on.
        assert_eq!(runtime.block_on(blocking(|| Ok(1))).unwrap(), 1);
    }
}
