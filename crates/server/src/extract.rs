//! What handlers read of an address.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use crate::protocol::error::{ApiError, ErrorKind};
use crate::reply::{error_response, not_found};

/// What stands for `{id}` in the path. Nothing is found at a path whose bytes are not text.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(not_found()),
        }
    }
}

/// The query, which must be readable.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(error_response(&unreadable(&error))),
        }
    }
}

/// The error for a query that cannot be read.
pub fn unreadable(query: &QueryRejection) -> ApiError {
    let message = format!("the query cannot be read: {query}");
    ApiError::new(ErrorKind::InvalidRequest, message)
}
