//! Answers to HTTP requests.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use crate::protocol::error::ApiError;

/// A JSON body.
pub fn json(value: &Value) -> Response {
    json_text(value.to_string())
}

/// A JSON body that is written already.
pub fn json_text(body: String) -> Response {
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    ([(CONTENT_TYPE, kind)], body).into_response()
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
