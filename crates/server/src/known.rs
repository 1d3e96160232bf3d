//! Canvases of which something is known before their first step.

use llama_diffusion::DiffusionParams;
use llama_diffusion::diffusion::{Template, TokenSet};

use crate::engine::job::ReadTask;
use crate::protocol::error::ApiError;
use crate::protocol::request::{KnownCanvas, Request};

/// The templates of an answer's canvases, which have `canvas` tokens.
///
/// # Errors
/// 400: the request has another number of tokens.
pub fn templates(request: &Request, canvas: usize) -> Result<Vec<Template>, ApiError> {
    let known = request.known.as_ref();
    let template = known.map(|known| template(known, canvas, None));
    Ok(template.transpose()?.into_iter().collect())
}

/// What is read of the first canvas, if the request asks for that instead of an answer.
///
/// # Errors
/// As [`templates`].
pub fn read(
    request: &Request,
    params: &DiffusionParams,
    canvas: usize,
) -> Result<Option<ReadTask>, ApiError> {
    let Some(known) = &request.known else {
        return Ok(None);
    };
    let Some(wanted) = &known.read else {
        return Ok(None);
    };
    let set = || wanted.tokens.iter().copied().collect();
    let set: Option<TokenSet> = wanted.constrained.then(set);
    Ok(Some(ReadTask {
        template: template(known, canvas, set.as_ref())?,
        positions: params.max_tokens.unwrap_or(canvas).min(canvas),
        params: params.clone(),
        top: request.logprobs.unwrap_or(0),
        tokens: wanted.tokens.clone(),
        constrained: wanted.constrained,
    }))
}

/// What is known about a canvas; `within` are the tokens of the positions that are not pinned.
fn template(
    known: &KnownCanvas,
    canvas: usize,
    within: Option<&TokenSet>,
) -> Result<Template, ApiError> {
    let seed = &known.seed;
    if !seed.is_empty() && seed.len() != canvas {
        let problem = format!("has {} tokens, but a canvas has {canvas}", seed.len());
        return Err(ApiError::field("diffusion_seed_canvas", problem));
    }
    let mut template = Template::new();
    for position in 0..canvas {
        match (known.pinned.contains(&position), within) {
            (true, _) => template.fixed(&seed[position..=position]),
            (false, Some(set)) => template.within(set.clone()),
            (false, None) => template.free(),
        };
    }
    template.begin_with(seed.iter().copied().map(Some).collect());
    Ok(template)
}
