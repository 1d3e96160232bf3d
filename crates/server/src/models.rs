//! The model that is served, as OpenAI and as Anthropic describe models.

use axum::http::HeaderMap;
use llama_diffusion::AnyModel;
use serde_json::{Value, json};

use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::ranges::PAGE;
use crate::protocol::request::Family;
use crate::query::Query;
use crate::served::Served;
use crate::state::State;

/// The header that all clients of Anthropic send.
const VERSION: &str = "anthropic-version";

/// Whether a client speaks Anthropic's protocol: both protocols have the same path.
pub fn is_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key(VERSION)
}

/// `/v1/models`.
///
/// # Errors
/// 503 while nothing is answered.
pub fn list(state: &State) -> Result<Value, ApiError> {
    let served = &state.ready()?.served;
    let entry = entry(state, served);
    Ok(json!({
        "object": "list",
        "data": [entry],
        "models": [{
            "name": served.names.first(),
            "model": served.names.first(),
            "type": "model",
            "capabilities": ["completion"],
            "details": {"format": "gguf", "family": family(served)},
        }],
    }))
}

/// `/v1/models` of Anthropic: a page of the list.
///
/// # Errors
/// 400: `limit` is not a number of models. 503 while nothing is answered.
pub fn anthropic_list(state: &State, query: &Query) -> Result<Value, ApiError> {
    let served = &state.ready()?.served;
    let data = match shows_model(query)? {
        true => vec![anthropic_entry(served)],
        false => Vec::new(),
    };
    let id = data.first().map(|entry| entry["id"].clone());
    Ok(json!({"data": data, "has_more": false, "first_id": id, "last_id": id}))
}

/// `/v1/models/{id}`.
///
/// # Errors
/// 404: there is no such model. 503: nothing is answered.
pub fn one(state: &State, id: &str) -> Result<Value, ApiError> {
    Ok(entry(state, named(state, id)?))
}

/// `/v1/models/{id}` of Anthropic.
///
/// # Errors
/// As [`one`].
pub fn anthropic_one(state: &State, id: &str) -> Result<Value, ApiError> {
    Ok(anthropic_entry(named(state, id)?))
}

/// What has this name.
fn named<'a>(state: &'a State, id: &str) -> Result<&'a Served, ApiError> {
    let served = &state.ready()?.served;
    match served.names.iter().any(|name| name == id) {
        true => Ok(served),
        false => {
            let message =
                format!("there is no model '{id}': /v1/models lists the one that is served");
            Err(ApiError::new(ErrorKind::NotFound, message))
        }
    }
}

/// Whether the model is on the page that a query asks for. It is the only one, so no other model stands
/// before or after it.
fn shows_model(query: &Query) -> Result<bool, ApiError> {
    query.count("limit", &PAGE)?;
    let stages = query.values("lifecycle[]");
    let stages: Vec<_> = stages.chain(query.values("lifecycle")).collect();
    let mut others = query.values("after_id").chain(query.values("before_id"));
    let is_first = others.next().is_none();
    Ok(is_first && (stages.is_empty() || stages.contains(&"active")))
}

fn entry(state: &State, served: &Served) -> Value {
    let model = served.model.model();
    let tensors = || model.file().tensors().map(|(_, tensor)| tensor);
    let parameters: usize = tensors()
        .map(|t| t.info.shape.iter().product::<usize>())
        .sum();
    let size: usize = tensors().map(|tensor| tensor.data.len()).sum();
    let width = match model {
        AnyModel::Canvas(model) => Some(model.hparams().d),
        AnyModel::Masked(_) => None,
    };
    json!({
        "id": served.names.first(),
        "aliases": served.names,
        "tags": state.config.tags,
        "object": "model",
        "created": state.started,
        "owned_by": "llama-diffusion",
        "meta": {
            "vocab_type": 2,
            "n_vocab": served.model.vocab().len(),
            "n_ctx": served.limits.context,
            "n_ctx_train": model.context_length(),
            "n_embd": width,
            "n_params": parameters,
            "size": size,
        },
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    })
}

fn family(served: &Served) -> &'static str {
    match served.family() {
        Family::Canvas => "canvas",
        Family::Masked => "masked",
    }
}

fn anthropic_entry(served: &Served) -> Value {
    let name = served.names.first();
    json!({
        "type": "model",
        "id": name,
        "display_name": name,
        // What the protocol gives for an unknown date.
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": null,
        "retires_at": null,
        "line": null,
        "capabilities": null,
        "max_input_tokens": served.limits.context.saturating_sub(served.canvas_room()),
        "max_tokens": served.limits.context,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(query: &[(&str, &str)]) -> Result<bool, String> {
        shows_model(&crate::query::tests::query(query)).map_err(|error| error.message)
    }

    #[test]
    fn the_only_model_is_on_the_first_page() {
        for (query, expected) in [
            (&[][..], true),
            (&[("limit", "1"), ("other", "x")], true),
            (&[("after_id", "demo")], false),
            (&[("before_id", "demo")], false),
            (&[("lifecycle[]", "retired")], false),
            (
                &[("lifecycle[]", "retired"), ("lifecycle[]", "active")],
                true,
            ),
        ] {
            assert_eq!(shown(query), Ok(expected), "{query:?}");
        }
        for limit in ["0", "1001", "-1", "many", ""] {
            assert_eq!(
                shown(&[("limit", limit)]).unwrap_err(),
                "limit: must be a whole number from 1 to 1000"
            );
        }
    }
}
