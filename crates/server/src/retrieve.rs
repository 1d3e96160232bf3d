//! What clients ask of stored responses.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::access::Owner;
use crate::blocking::blocking;
use crate::info::turned_off;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::input_items::{self, Page};
use crate::protocol::ranges::ITEMS;
use crate::protocol::responses_events::replay;
use crate::protocol::turns::{self, Turns};
use crate::query::Query;
use crate::reply::{json_stored, json_text};
use crate::sse;
use crate::state::State;

/// Items of a page whose query gives no number.
const LIMIT: u32 = 20;

/// A response, as it was answered: whole, or as a stream of events.
///
/// # Errors
/// 400: the query is wrong, or asks for a part of the events. 404: it is not stored. 501: the store is off.
pub async fn one(
    state: &State,
    owner: Owner,
    id: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    let is = [("true", true), ("1", true), ("false", false), ("0", false)];
    let streams = query.choice("stream", &is)?;
    if query.values("starting_after").next().is_some() {
        let problem = "is not supported: the events of a stored response are written anew, with \
                       other numbers than in its stream; leave it out for all of them";
        return Err(ApiError::field("starting_after", problem));
    }
    let turns = find(state, owner, id)?;
    let response = turns.last().map(Arc::clone).ok_or_else(|| not_stored(id))?;
    if streams != Some(true) {
        return Ok(json_stored(response));
    }
    let frames = read(move || {
        let mut frames = String::new();
        replay(response.response()?, |event| {
            sse::add_frame(&mut frames, event)
        });
        Ok(frames)
    });
    Ok(sse::response(frames.await?.into()))
}

/// Reads what is stored, and writes what the client gets of it: one at a time, as a response takes
/// several times its memory while it is read, and as requests are read on the same few threads.
async fn read(
    work: impl FnOnce() -> Result<String, ApiError> + Send + 'static,
) -> Result<String, ApiError> {
    static TURN: Semaphore = Semaphore::const_new(1);
    let turn = TURN.acquire().await;
    let work = move || {
        let _turn = turn; // also if the client has hung up
        work()
    };
    blocking(work).await
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
) -> Result<Response, ApiError> {
    let limit = query.count("limit", &ITEMS)?.unwrap_or(LIMIT);
    let ascends = query.choice("order", &[("asc", true), ("desc", false)])?;
    let turns = find(state, owner, id)?;
    let page = Page {
        after: query.values("after").last().map(str::to_owned),
        limit: limit as usize,
        ascends: ascends.unwrap_or(false),
    };
    let page = read(move || Ok(input_items::page(&turns, &page)?.to_string()));
    Ok(json_text(page.await?))
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
        false => Err(turned_off(turns::TURN_ON)),
    }
}

fn not_stored(id: &str) -> ApiError {
    ApiError::new(ErrorKind::NotFound, turns::not_stored(id))
}
