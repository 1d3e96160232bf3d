//! Answers to HTTP requests.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::turns::Turn;

/// A JSON body.
pub fn json(value: &Value) -> Response {
    json_text(value.to_string())
}

/// A JSON body that is written already.
pub fn json_text(body: impl Into<Body>) -> Response {
    text("application/json; charset=utf-8", body)
}

/// A stored response, which is not copied.
pub fn json_stored(turn: Arc<Turn>) -> Response {
    struct Text(Arc<Turn>);
    impl AsRef<[u8]> for Text {
        fn as_ref(&self) -> &[u8] {
            self.0.response.as_bytes()
        }
    }
    json_text(Bytes::from_owner(Text(turn)))
}

/// A text of some kind.
pub fn text(kind: &'static str, text: impl Into<Body>) -> Response {
    (
        [(CONTENT_TYPE, HeaderValue::from_static(kind))],
        text.into(),
    )
        .into_response()
}

/// An error, in the form of OpenAI's endpoints.
pub fn error_response(error: &ApiError) -> Response {
    error_with(error, &error.openai())
}

/// An error of a request that reaches no handler, in the form of the protocol that has its path.
pub fn error_at(path: &str, error: &ApiError) -> Response {
    match path.starts_with("/v1/messages") {
        true => error_with(error, &error.anthropic()),
        false => error_response(error),
    }
}

/// What there is at a path without anything.
pub fn not_found() -> Response {
    error_response(&ApiError::new(ErrorKind::NotFound, "File Not Found"))
}

/// An error with its body.
pub fn error_with(error: &ApiError, body: &Value) -> Response {
    let status = StatusCode::from_u16(error.status());
    let mut response = json(body);
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = error.retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
