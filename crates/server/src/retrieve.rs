//! What clients ask of stored responses.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use crate::access::Owner;
use crate::info::turned_off;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::ranges::{COUNT_FROM_0, ITEMS};
use crate::protocol::responses_events::replay;
use crate::protocol::turns::{self, Page, Turns};
use crate::query::Query;
use crate::reply::json_stored;
use crate::sse;
use crate::state::State;

/// Items of a page whose query gives no number.
const LIMIT: u32 = 20;

/// A response, as it was answered: whole, or as a stream of its events after the one of a number.
///
/// # Errors
/// 400: the query is wrong. 404: it is not stored. 501: the store is off.
pub async fn one(
    state: &State,
    owner: Owner,
    id: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    let is = [("true", true), ("1", true), ("false", false), ("0", false)];
    let streams = query.choice("stream", &is)?;
    let after = query.count("starting_after", &COUNT_FROM_0)?;
    let turns = find(state, owner, id)?;
    let response = turns.last().map(Arc::clone).ok_or_else(|| not_stored(id))?;
    if streams != Some(true) {
        return Ok(json_stored(response));
    }
    let events = read(move || Ok(replay(&response.response()?))).await?;
    let first = after.map_or(0, |after| after as usize + 1);
    let frames: String = events.iter().skip(first).map(sse::frame).collect();
    Ok(sse::response(frames.into()))
}

/// Reads what is stored, on a thread for such work: it may be long.
async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| ApiError::new(ErrorKind::Server, "the response could not be read");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Forgets a response.
///
/// # Errors
/// 404: it is not stored. 501: the store is off.
pub fn delete(state: &State, owner: Owner, id: &str) -> Result<Value, ApiError> {
    check_on(state)?;
    match state.responses.remove(owner, id) {
        true => Ok(json!({"id": id, "object": "response", "deleted": true})),
        false => Err(not_stored(id)),
    }
}

/// The items that a response answers, page by page.
///
/// # Errors
/// 400: a wrong page. 404: it is not stored. 501: the store is off.
pub async fn items(
    state: &State,
    owner: Owner,
    id: &str,
    query: &Query,
) -> Result<Value, ApiError> {
    let limit = query.count("limit", &ITEMS)?.unwrap_or(LIMIT);
    let ascends = query.choice("order", &[("asc", true), ("desc", false)])?;
    let turns = find(state, owner, id)?;
    let page = Page {
        after: query.values("after").last().map(str::to_owned),
        limit: limit as usize,
        ascends: ascends.unwrap_or(false),
    };
    read(move || turns::page(&turns, &page)).await
}

/// Rejects the cancellation of a response: it has ended.
///
/// # Errors
/// Always. 404: it is not stored. 501: the store is off.
pub fn cancel(state: &State, owner: Owner, id: &str) -> Result<Value, ApiError> {
    find(state, owner, id)?;
    let message = "only a response in the background can be cancelled, and this server has none: close \
                   the connection of a stream to cancel its response";
    Err(ApiError::new(ErrorKind::InvalidRequest, message))
}

fn find(state: &State, owner: Owner, id: &str) -> Result<Turns, ApiError> {
    check_on(state)?;
    state.responses.get(owner, id).ok_or_else(|| not_stored(id))
}

fn check_on(state: &State) -> Result<(), ApiError> {
    state.ready_or_draining()?;
    match state.responses.is_on() {
        true => Ok(()),
        false => Err(turned_off(
            "start the server with more than 0 for --responses-kept and --responses-ram",
        )),
    }
}

fn not_stored(id: &str) -> ApiError {
    let message = format!(
        "there is no response with the id '{id}': it was not stored, has not ended, was deleted or had to \
         make room"
    );
    ApiError::new(ErrorKind::NotFound, message)
}
