//! What the server is and does: properties, slots, tokens.

use std::sync::Arc;

use axum::body::Body;
use llama_diffusion::Token;
use serde_json::{Map, Value, json};

use crate::access::Owner;
use crate::blocking::blocking;
use crate::body::read_body;
use crate::engine::board::SlotView;
use crate::generate::FINGERPRINT;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::request::{Capabilities, Family, Input, Request};
use crate::protocol::tokens::{self, Tokenize};
use crate::protocol::{anthropic, chat, responses, value};
use crate::refusals::refused;
use crate::routes::{GENERATING, OF_CANVASES};
use crate::served::{Defaults, Served};
use crate::state::State;

/// `/health`.
///
/// # Errors
/// 503 while nothing is answered.
pub fn health(state: &State) -> Result<Value, ApiError> {
    state.ready()?;
    Ok(json!({"status": "ok"}))
}

/// `/props`.
///
/// # Errors
/// 503 while nothing is answered.
pub fn props(state: &State) -> Result<Value, ApiError> {
    let served = &state.ready()?.served;
    let template = served.template.as_ref();
    let reads = |name: &str| template.is_some_and(|template| template.template.reads(name));
    let vocab = served.model.vocab();
    Ok(json!({
        "default_generation_settings": {
            "n_ctx": served.limits.context,
            "params": {"seed": served.seed.map_or(json!(-1), Value::from), "n_predict": max_tokens(served)},
        },
        "total_slots": served.slots,
        "model_alias": served.names.first(),
        "model_path": model_path(served),
        "modalities": {"vision": false, "audio": false, "video": false},
        "endpoint_slots": state.config.slots,
        "endpoint_props": false,
        "endpoint_metrics": state.config.metrics,
        "chat_template": template.map(|template| template.source.as_str()).unwrap_or_default(),
        "chat_template_caps": {
            "supports_tools": reads("tools"),
            "supports_thinking": reads("enable_thinking"),
        },
        "bos_token": text_of(served, vocab.bos()),
        "eos_token": text_of(served, vocab.eos()),
        "build_info": FINGERPRINT,
        "is_sleeping": false,
        "diffusion": diffusion(served),
    }))
}

/// The text of a token; none has no text.
fn text_of(served: &Served, token: Option<Token>) -> String {
    let text = token.map(|token| served.model.vocab().detokenize(&[token], true));
    text.and_then(Result::ok).unwrap_or_default()
}

fn max_tokens(served: &Served) -> Value {
    let max = match &served.defaults {
        Defaults::Canvas(params) => params.max_tokens,
        Defaults::Masked(params) => Some(params.length.given()),
    };
    max.map_or(json!(-1), Value::from)
}

/// What is special about the model, and which endpoints work on it.
fn diffusion(served: &Served) -> Value {
    let mut properties = match &served.defaults {
        Defaults::Canvas(params) => json!({
            "family": "canvas",
            "canvas_length": served.model.model().canvas_length(),
            "max_steps": params.max_steps,
            "t_min": params.t_min,
            "t_max": params.t_max,
            "entropy_bound": params.entropy_bound,
            "stability_threshold": params.stability_threshold,
            "confidence_threshold": params.confidence_threshold,
        }),
        Defaults::Masked(params) => json!({
            "family": "masked",
            "temperature": params.temperature,
            "top_k": params.filter.top_k,
            "top_p": params.filter.top_p,
        }),
    };
    let works = |path: &&str| served.family() == Family::Canvas || !OF_CANVASES.contains(path);
    let routes = GENERATING.map(|(path, _)| path).into_iter();
    properties["routes"] = routes.filter(works).collect();
    properties
}

fn model_path(served: &Served) -> String {
    let path = served.path.as_ref();
    path.map_or_else(|| "demo.gguf".into(), |path| path.display().to_string())
}

/// `/slots`. `needs_free` asks for an error if no slot is free.
///
/// # Errors
/// 501: it is turned off. 503: nothing is answered, or no slot is free.
pub fn slots(state: &State, needs_free: bool) -> Result<Value, ApiError> {
    if !state.config.slots {
        return Err(turned_off("the server was started with --no-slots"));
    }
    let served = &state.ready()?.served;
    let shown = state.board.read();
    if needs_free && shown.slots.iter().all(|slot| slot.is_busy) {
        return Err(ApiError::new(ErrorKind::Unavailable, "no slot is free").retry_after(1));
    }
    let slots = shown.slots.iter().enumerate();
    Ok(slots.map(|(id, view)| slot(id, view, served)).collect())
}

fn slot(id: usize, view: &SlotView, served: &Served) -> Value {
    let remaining = view.limit.map(|limit| limit.saturating_sub(view.written));
    let is_denoising = view.is_busy && view.encoded >= view.prompt;
    json!({
        "id": id,
        "id_task": view.job.map_or(json!(-1), Value::from),
        "n_ctx": served.limits.context,
        "speculative": false,
        "is_processing": view.is_busy,
        "n_prompt_tokens": view.prompt,
        "n_prompt_tokens_processed": view.encoded,
        "next_token": {
            "has_next_token": view.is_busy,
            "n_remain": remaining.map_or(json!(-1), Value::from),
            "n_decoded": view.written,
        },
        "diffusion": is_denoising.then(|| json!({
            "block": view.block,
            "step": view.step,
            "max_steps": view.max_steps,
            "mean_entropy": view.mean_entropy,
        })),
    })
}

/// `/metrics`.
///
/// # Errors
/// 501: it is turned off. 503: nothing is answered.
pub fn metrics(state: &State) -> Result<String, ApiError> {
    if !state.config.metrics {
        return Err(turned_off("start the server with --metrics"));
    }
    let served = &state.ready()?.served;
    let shown = state.board.read();
    let text = state
        .metrics
        .text(&shown, served.kv_bytes, state.responses.size());
    text.map_err(|error| ApiError::new(ErrorKind::Server, error.to_string()))
}

/// 501, and how to turn an endpoint on.
pub fn turned_off(how: &str) -> ApiError {
    let message = format!("this endpoint is turned off: {how}");
    ApiError::new(ErrorKind::NotSupported, message)
}

/// What is computed from a body.
pub type Compute = fn(&Served, &Map<String, Value>, &Capabilities) -> Result<Value, ApiError>;

/// Reads a body and computes its answer on a thread for such work.
///
/// # Errors
/// Those of the body and of `compute`.
pub async fn compute(
    state: &Arc<State>,
    owner: Owner,
    body: Body,
    compute: Compute,
) -> Result<Value, ApiError> {
    let served = Arc::clone(&state.ready()?.served);
    let body = read_body(body, state.config.max_body).await?;
    let responses = state.responses.of(owner);
    let work = move || {
        let map = value::body(&body)?;
        compute(&served, &map, &served.capabilities(responses))
    };
    blocking(work).await
}

/// `/tokenize`.
pub fn tokenize(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let request = Tokenize::read(body, capabilities)?;
    let tokens = served.tokens(&request.content, request.add_special, request.parse_special)?;
    let piece = |token: Token| {
        let bytes = served.model.vocab().piece(token, true);
        Ok((token, bytes.map_err(|error| refused(&error))?))
    };
    let tokens: Result<Vec<_>, ApiError> = tokens.into_iter().map(piece).collect();
    Ok(request.answer(&tokens?))
}

/// `/detokenize`.
pub fn detokenize(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let tokens = tokens::detokenize(body, capabilities)?;
    let text = served.model.vocab().detokenize(&tokens, true);
    Ok(json!({"content": text.map_err(|error| refused(&error))?}))
}

/// `/apply-template`. The prompt is without the token that `/completion` puts before it, as llama-server's is.
pub fn apply_template(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let (chat, thoughts, opens) = tokens::apply_template(body, capabilities)?;
    let text = served.rendered(&chat, thoughts, opens)?.text;
    let vocab = served.model.vocab();
    let bos = text_of(served, vocab.bos().filter(|_| vocab.adds_bos()));
    let text = text.strip_prefix(&bos).unwrap_or(&text);
    Ok(json!({"prompt": text.to_owned() + &chat.prefix}))
}

/// The number of tokens of a conversation.
pub fn count_chat(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let request = chat::read(body, capabilities)?.request;
    Ok(tokens::input_tokens(count(served, &request)?))
}

/// The number of tokens of a request to `/v1/responses`.
pub fn count_responses(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let request = responses::read(body, capabilities)?.request;
    Ok(tokens::input_tokens(count(served, &request)?))
}

fn count(served: &Served, request: &Request) -> Result<usize, ApiError> {
    let count = request.inputs.iter().map(|input| match input {
        Input::Chat(chat) => Ok(served.chat(chat, request.thoughts)?.len()),
        other => Ok(served.prompt(other, request)?.tokens.len()),
    });
    count.sum()
}

/// The number of tokens of a request to `/v1/messages`.
pub fn count_messages(
    served: &Served,
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Value, ApiError> {
    let request = anthropic::read_count(body, capabilities)?;
    Ok(anthropic::counted(count(served, &request)?))
}
