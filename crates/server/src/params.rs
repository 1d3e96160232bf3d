//! Parameters of an answer: those of its request over those of the server.

use llama_diffusion::diffusion::{Filter, Scoring, TransferSchedule};
use llama_diffusion::{AnswerLength, DiffusionParams, MaskedParams, Result, SamplerOverrides};

use crate::protocol::request::{MaskedOverrides, Request, Sampler, TokenLimit};

/// Those of a canvas model.
///
/// # Errors
/// `t_min` is higher than a `t_max` that the request does not set.
pub fn canvas_params(defaults: &DiffusionParams, request: &Request) -> Result<DiffusionParams> {
    let Sampler {
        canvas,
        max_canvases,
        canvas_length,
        acceptance,
        constrain_at,
        min_logprob,
        masked: _,
    } = &request.sampler;
    canvas.check_t_min(defaults.t_max)?;
    let SamplerOverrides {
        max_steps,
        t_min,
        t_max,
        entropy_bound,
        stability_threshold,
        confidence_threshold,
    } = *canvas;
    let is_scored = request.logprobs.is_some() || min_logprob.is_some();
    Ok(DiffusionParams {
        max_steps: max_steps.unwrap_or(defaults.max_steps),
        t_min: t_min.unwrap_or(defaults.t_min),
        t_max: t_max.unwrap_or(defaults.t_max),
        entropy_bound: entropy_bound.unwrap_or(defaults.entropy_bound),
        stability_threshold: stability_threshold.unwrap_or(defaults.stability_threshold),
        confidence_threshold: confidence_threshold.unwrap_or(defaults.confidence_threshold),
        max_tokens: match request.tokens {
            TokenLimit::Default => defaults.max_tokens,
            TokenLimit::Unlimited => None,
            TokenLimit::Tokens(count) => Some(count.max(1)),
        },
        max_canvases: max_canvases.or(defaults.max_canvases),
        canvas: canvas_length.or(defaults.canvas),
        acceptance: acceptance.unwrap_or(defaults.acceptance),
        constrain_at: constrain_at.unwrap_or(defaults.constrain_at),
        scoring: is_scored.then(|| Scoring {
            min_logprob: *min_logprob,
            top: request.logprobs.unwrap_or(0),
            ..Scoring::default()
        }),
        ..defaults.clone()
    })
}

/// Those of a masked model.
///
/// # Errors
/// The parameter that cannot work.
pub fn masked_params(defaults: &MaskedParams, request: &Request) -> Result<MaskedParams> {
    let MaskedOverrides {
        steps,
        eps,
        block_length,
        algorithm,
        algorithm_temperature,
        temperature,
        top_k,
        top_p,
        guidance,
        gumbel_noise,
    } = request.sampler.masked;
    let length = match request.tokens {
        TokenLimit::Tokens(count) => AnswerLength::Tokens(count.max(1)),
        TokenLimit::Default | TokenLimit::Unlimited => defaults.length,
    };
    let (own_eps, own_block, own_steps) = match defaults.schedule {
        TransferSchedule::Timestep { eps, steps } => (eps, 0, steps),
        TransferSchedule::Blocks {
            length: block,
            steps_per_block,
        } => {
            let blocks = defaults.length.given() / block.max(1);
            (
                0.0,
                block,
                steps_per_block.saturating_mul(blocks.max(1) as u32),
            )
        }
    };
    // Either schedule replaces the other one.
    let (eps, block) = match (eps, block_length) {
        (None, None) => (own_eps, own_block),
        (eps, block) => (eps.unwrap_or(0.0), block.unwrap_or(0)),
    };
    let schedule = TransferSchedule::new(eps, block, steps.unwrap_or(own_steps), length.given())?;
    let params = MaskedParams {
        length,
        schedule,
        algorithm: algorithm.unwrap_or(defaults.algorithm),
        algorithm_temperature: algorithm_temperature.unwrap_or(defaults.algorithm_temperature),
        temperature: temperature.unwrap_or(defaults.temperature),
        filter: Filter {
            top_k: top_k.unwrap_or(defaults.filter.top_k),
            top_p: top_p.unwrap_or(defaults.filter.top_p),
        },
        guidance: guidance.unwrap_or(defaults.guidance),
        gumbel_noise: gumbel_noise.unwrap_or(defaults.gumbel_noise),
        ..defaults.clone()
    };
    params.validate()?;
    Ok(params)
}
