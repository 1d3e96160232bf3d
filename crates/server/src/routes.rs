//! Which path does what.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use axum::middleware::{from_fn_with_state, map_request};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json as object};
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::access::{self, Owner};
use crate::blocking::failed;
use crate::engine::job::Class;
use crate::extract::{Asked, Id, unreadable};
use crate::follow;
use crate::generate::{Endpoint, respond};
use crate::info::{self, Compute};
use crate::linger::linger;
use crate::models;
use crate::page;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::openapi::OPENAPI;
use crate::protocol::{anthropic, chat, edit, form, native, responses, text};
use crate::query;
use crate::reply::{error_at, error_response, error_with, json, not_found, text as plain};
use crate::retrieve;
use crate::slot_files;
use crate::state::State;

type Result<T> = std::result::Result<T, ApiError>;

/// The query of a path, if it can be read.
type QueryOf<T> = std::result::Result<Query<T>, QueryRejection>;

/// Writes an error in the form of a protocol.
type WriteError = fn(&ApiError) -> Value;

const fn endpoint(
    name: &'static str,
    read: fn(
        &serde_json::Map<String, Value>,
        &crate::protocol::request::Capabilities,
    ) -> Result<crate::protocol::reply::Work>,
    class: Class,
) -> Endpoint {
    Endpoint {
        name,
        read,
        error: ApiError::openai,
        class,
        is_light: false,
    }
}

/// One whose body is all there is to read: no stored conversation, and no form.
const fn light(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        is_light: true,
        ..endpoint
    }
}

const CHAT: Endpoint = light(endpoint("chat", chat::read, Class::Other));
const TEXT: Endpoint = light(endpoint("completions", text::read, Class::Other));
const NATIVE: Endpoint = light(endpoint("completion", native::read, Class::Other));
const INFILL: Endpoint = endpoint("infill", native::read_infill, Class::Editor);
const RESPONSES: Endpoint = endpoint("responses", responses::read, Class::Other);
const MESSAGES: Endpoint = Endpoint {
    error: ApiError::anthropic,
    ..light(endpoint("messages", anthropic::read, Class::Other))
};
const FIM: Endpoint = endpoint("fim", text::read_fim, Class::Editor);
const EDIT: Endpoint = endpoint("edit", edit::read, Class::Other);
const FILL: Endpoint = endpoint("fill", form::read, Class::Other);

/// The paths that generate.
pub const GENERATING: [(&str, Endpoint); 12] = [
    ("/v1/chat/completions", CHAT),
    ("/chat/completions", CHAT),
    ("/v1/completions", TEXT),
    ("/v1/responses", RESPONSES),
    ("/responses", RESPONSES),
    ("/v1/messages", MESSAGES),
    ("/completion", NATIVE),
    ("/completions", NATIVE),
    ("/infill", INFILL),
    ("/v1/fim/completions", FIM),
    ("/diffusion/edit", EDIT),
    ("/diffusion/fill", FILL),
];

/// Those of them that a masked model does not have.
pub const OF_CANVASES: [&str; 4] = [
    "/infill",
    "/v1/fim/completions",
    "/diffusion/edit",
    "/diffusion/fill",
];

/// The paths that compute something of a body on the spot.
const COMPUTING: [(&str, Compute, WriteError); 8] = [
    ("/tokenize", info::tokenize, ApiError::openai),
    ("/detokenize", info::detokenize, ApiError::openai),
    ("/apply-template", info::apply_template, ApiError::openai),
    (
        "/chat/completions/input_tokens",
        info::count_chat,
        ApiError::openai,
    ),
    (
        "/v1/chat/completions/input_tokens",
        info::count_chat,
        ApiError::openai,
    ),
    (
        "/responses/input_tokens",
        info::count_responses,
        ApiError::openai,
    ),
    (
        "/v1/responses/input_tokens",
        info::count_responses,
        ApiError::openai,
    ),
    (
        "/v1/messages/count_tokens",
        info::count_messages,
        ApiError::anthropic,
    ),
];

/// Paths of llama-server that make no sense for a diffusion model.
const ABSENT: [&str; 9] = [
    "/embedding",
    "/embeddings",
    "/v1/embeddings",
    "/rerank",
    "/reranking",
    "/v1/rerank",
    "/v1/reranking",
    "/chat/completions/control",
    "/v1/chat/completions/control",
];

/// All routes.
pub fn router(state: &Arc<State>) -> Router {
    let mut router = Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/slots/{id}", post(slot_action))
        .route("/metrics", get(metrics))
        .route("/lora-adapters", get(adapters).post(absent))
        .route("/models", get(list_models))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{id}", get(model))
        .route("/openapi.json", get(openapi))
        .route("/responses/{id}", get(response).delete(delete_response))
        .route("/v1/responses/{id}", get(response).delete(delete_response))
        .route("/responses/{id}/input_items", get(response_items))
        .route("/v1/responses/{id}/input_items", get(response_items))
        .route("/responses/{id}/cancel", post(cancel_response))
        .route("/v1/responses/{id}/cancel", post(cancel_response))
        .route("/diffusion/drafts/{id}", get(drafts));
    for (path, compute, write) in COMPUTING {
        let handler = move |Shared(state): Shared<Arc<State>>,
                            Extension(owner): Extension<Owner>,
                            body: Body| async move {
            answer_as(info::compute(&state, owner, body, compute).await, write)
        };
        router = router.route(path, post(handler).layer(catching(write)));
    }
    for path in ABSENT {
        router = router.route(path, get(absent).post(absent));
    }
    for (path, endpoint) in GENERATING {
        let handler = move |Shared(state): Shared<Arc<State>>,
                            Extension(owner): Extension<Owner>,
                            body: Body| respond(state, endpoint, owner, body);
        router = router.route(path, post(handler).layer(catching(endpoint.error)));
    }
    let router = router
        .fallback(other)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(state), access::check))
        .with_state(Arc::clone(state));
    let router = match state.config.prefix.as_str() {
        "" => router,
        prefix => Router::new()
            .nest(prefix, router)
            .fallback(async || not_found()),
    };
    router
        .layer(cors(state))
        .layer(catching(ApiError::openai))
        .layer(SetResponseHeaderLayer::if_not_present(
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        ))
        .layer(map_request(async |request: Request<Body>| linger(request)))
}

/// Answers a request whose handler panics, in the form of a protocol.
fn catching(write: WriteError) -> CatchPanicLayer<impl ResponseForPanic<ResponseBody = Body>> {
    CatchPanicLayer::custom(move |_| {
        let error = failed();
        error_with(&error, &write(&error))
    })
}

fn cors(state: &Arc<State>) -> CorsLayer {
    let allowed = Arc::clone(state);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            allowed.access.allows(origin)
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .allow_credentials(true)
}

fn answer(result: Result<Value>) -> Response {
    answer_as(result, ApiError::openai)
}

/// An answer whose errors have the form of a protocol.
fn answer_as(result: Result<Value>, write: WriteError) -> Response {
    match result {
        Ok(value) => json(&value),
        Err(error) => error_with(&error, &write(&error)),
    }
}

async fn health(Shared(state): Shared<Arc<State>>) -> Response {
    answer(info::health(&state))
}

async fn props(Shared(state): Shared<Arc<State>>) -> Response {
    answer(info::props(&state))
}

#[derive(Deserialize)]
struct SlotsQuery {
    fail_on_no_slot: Option<String>,
}

async fn slots(Shared(state): Shared<Arc<State>>, query: QueryOf<SlotsQuery>) -> Response {
    let needs_free = query.is_ok_and(|Query(query)| {
        query
            .fail_on_no_slot
            .is_some_and(|value| value != "0" && value != "false")
    });
    answer(info::slots(&state, needs_free))
}

#[derive(Deserialize)]
struct Action {
    #[serde(default)]
    action: String,
}

async fn slot_action(
    Shared(state): Shared<Arc<State>>,
    Id(id): Id,
    query: QueryOf<Action>,
    body: Body,
) -> Response {
    let action = query.map(|Query(query)| query.action).unwrap_or_default();
    answer(act(&state, &id, &action, body).await)
}

async fn act(state: &State, id: &str, action: &str, body: Body) -> Result<Value> {
    let slots = state.ready()?.served.slots;
    let wrong = |message: String| ApiError::new(ErrorKind::InvalidRequest, message);
    let slot = id.parse().ok().filter(|slot: &usize| *slot < slots);
    let slot = slot.ok_or_else(|| wrong(format!("slot '{id}': give 0 to {}", slots - 1)))?;
    match action {
        "erase" => match state.engine.erase(slot).await {
            Ok(erased) => Ok(object!({"id_slot": slot, "n_erased": erased})),
            Err(refusal) => Err(slot_files::refused(slot, refusal)),
        },
        "save" | "restore" => slot_files::act(state, slot, action == "save", body).await,
        other => Err(wrong(format!(
            "action '{other}': give save, restore or erase"
        ))),
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    match info::metrics(&state) {
        Ok(text) => {
            let mut response = plain("text/plain; version=0.0.4", text);
            let started = HeaderValue::from(state.started);
            let name = HeaderName::from_static("process-start-time-unix");
            response.headers_mut().insert(name, started);
            response
        }
        Err(error) => error_response(&error),
    }
}

async fn list_models(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    query: QueryOf<query::Query>,
) -> Response {
    match models::is_anthropic(&headers) {
        true => {
            let query = query.map_err(|error| unreadable(&error));
            let list = query.and_then(|Query(query)| models::anthropic_list(&state, &query));
            answer_as(list, ApiError::anthropic)
        }
        false => answer(models::list(&state)),
    }
}

async fn model(Shared(state): Shared<Arc<State>>, headers: HeaderMap, Id(id): Id) -> Response {
    match models::is_anthropic(&headers) {
        true => answer_as(models::anthropic_one(&state, &id), ApiError::anthropic),
        false => answer(models::one(&state, &id)),
    }
}

async fn response(
    Shared(state): Shared<Arc<State>>,
    Extension(owner): Extension<Owner>,
    Id(id): Id,
    Asked(query): Asked<query::Query>,
) -> Response {
    let found = retrieve::one(&state, owner, &id, &query).await;
    found.unwrap_or_else(|error| error_response(&error))
}

async fn response_items(
    Shared(state): Shared<Arc<State>>,
    Extension(owner): Extension<Owner>,
    Id(id): Id,
    Asked(query): Asked<query::Query>,
) -> Response {
    let found = retrieve::items(&state, owner, &id, &query).await;
    found.unwrap_or_else(|error| error_response(&error))
}

async fn delete_response(
    Shared(state): Shared<Arc<State>>,
    Extension(owner): Extension<Owner>,
    Id(id): Id,
) -> Response {
    answer(retrieve::delete(&state, owner, &id))
}

async fn cancel_response(
    Shared(state): Shared<Arc<State>>,
    Extension(owner): Extension<Owner>,
    Id(id): Id,
) -> Response {
    answer(retrieve::cancel(&state, owner, &id))
}

async fn drafts(
    Shared(state): Shared<Arc<State>>,
    Id(id): Id,
    Asked(query): Asked<HashMap<String, String>>,
) -> Response {
    follow::respond(&state, &id, &query)
}

/// None: they are not supported.
async fn adapters() -> Response {
    json(&object!([]))
}

async fn openapi() -> Response {
    plain("application/json", OPENAPI.as_str())
}

async fn absent() -> Response {
    let message = "a text diffusion model has no such endpoint";
    error_response(&ApiError::new(ErrorKind::NotSupported, message))
}

/// A file of the page or of the folder in its place, or nothing.
async fn other(Shared(state): Shared<Arc<State>>, request: Request<Body>) -> Response {
    let config = &state.config;
    let path = request.uri().path();
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let file = is_read && config.page;
    if let Some(file) = file.then(|| page::file(path)).flatten() {
        return page::respond(path, file, request.headers());
    }
    let file = match config.folder.as_ref().filter(|_| is_read) {
        Some(folder) => folder.respond(&config.prefix, request).await,
        None => None,
    };
    match file {
        Some(file) => file,
        None => not_found(),
    }
}

async fn wrong_method(request: Request<Body>) -> Response {
    let method = request.method();
    let message = format!("this path has other methods than {method}, see the header Allow");
    let error = ApiError::new(ErrorKind::MethodNotAllowed, message);
    error_at(request.uri().path(), &error)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::runtime::Builder;
    use tower::ServiceExt as _;

    use super::*;

    /// The error of a request whose handler panics.
    fn panicked(write: WriteError) -> (u16, Value) {
        async fn handler() {
            panic!("in a handler");
        }
        let path = "/";
        let router = Router::new().route(path, get(handler).layer(catching(write)));
        let answered = async {
            let request = Request::new(Body::empty());
            let response = router.layer(catching(ApiError::openai)).oneshot(request);
            let (head, body) = response.await.unwrap().into_parts();
            (head.status, to_bytes(body, 1 << 20).await.unwrap())
        };
        let runtime = Builder::new_current_thread().build().unwrap();
        let (status, body) = runtime.block_on(answered);
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_panic_of_a_handler_is_an_error_in_the_form_of_its_protocol() {
        let (status, error) = panicked(ApiError::openai);
        assert_eq!(
            (status, &error["error"]["type"]),
            (500, &object!("server_error"))
        );
        let (status, error) = panicked(ApiError::anthropic);
        assert_eq!((status, &error["type"]), (500, &object!("error")));
        assert_eq!(error["error"]["type"], "api_error");
    }

    #[test]
    fn every_path_is_described() {
        let document: Value = serde_json::from_str(&OPENAPI).unwrap();
        let described = document["paths"].as_object().unwrap();
        let generating = GENERATING.iter().map(|(path, _)| *path);
        let computing = COMPUTING.iter().map(|(path, ..)| *path);
        let source = include_str!("routes.rs");
        let own = source.split(".route(\"").skip(1);
        let own = own.map(|rest| rest.split('"').next().unwrap());
        let mut count = 0;
        for path in generating.chain(computing).chain(own) {
            let is_itself = path == "/openapi.json";
            assert!(described.contains_key(path) || is_itself, "{path}");
            count += 1;
        }
        assert!(count > 30, "{count}");
    }
}
