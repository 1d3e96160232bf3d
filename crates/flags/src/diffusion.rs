//! Flags of the sampler.

use llama_diffusion::diffusion::{check_canvas_length, shortest_canvas};
use llama_diffusion::{DiffusionParams, Result, SamplerOverrides};

use crate::numbers::{real, whole};
use crate::values::{ABOVE_0, CanvasLength, Limit, parse_canvas_length};

/// Flags of the sampler: each overrides what the model file recommends.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Diffusion")]
pub struct DiffusionArgs {
    /// Maximum number of canvases
    #[arg(long = "diffusion-blocks", value_name = "N", value_parser = whole(1..=usize::MAX))]
    blocks: Option<usize>,

    /// Tokens of a canvas: a multiple of 16 below the length that the model was trained with, or
    /// that length, which is the default; auto is the shortest that holds the -n tokens. With
    /// shorter canvases steps are faster, and answers less often right
    #[arg(long = "canvas", value_name = "N|auto", value_parser = parse_canvas_length)]
    canvas: Option<CanvasLength>,

    /// Maximum number of denoising steps per canvas; --diffusion-eb-max-steps takes precedence. For a
    /// masked model, the steps of the whole answer (default 128)
    #[arg(long = "diffusion-steps", value_name = "N", value_parser = whole(1..=u32::MAX))]
    pub steps: Option<u32>,

    /// Maximum number of denoising steps per canvas [model, else 48]
    #[arg(long = "diffusion-eb-max-steps", value_name = "N", value_parser = whole(1..=u32::MAX))]
    max_steps: Option<u32>,

    /// Temperature that the last step approaches [model, else 0.4]
    #[arg(long = "diffusion-eb-t-min", value_name = "T", value_parser = real(0.0..))]
    t_min: Option<f32>,

    /// Temperature of the first step [model, else 0.8]
    #[arg(long = "diffusion-eb-t-max", value_name = "T", value_parser = real(DiffusionParams::MIN_T_MAX..))]
    t_max: Option<f32>,

    /// A step accepts tokens in ascending order of entropy, while the entropies before them sum to
    /// at most this, in nats [model, else 0.1]. A masked model reads it with --diffusion-algorithm
    /// entropy-bound
    #[arg(long = "diffusion-eb-entropy-bound", value_name = "NATS", value_parser = real(ABOVE_0))]
    pub entropy_bound: Option<f32>,

    /// Steps for which a canvas must not change before it may be finished [model, else 1]
    #[arg(long = "diffusion-eb-stability", value_name = "N", value_parser = whole(0..=u32::MAX))]
    stability: Option<u32>,

    /// Mean entropy in nats below which a canvas may be finished [model, else 0.005]
    #[arg(long = "diffusion-eb-confidence", value_name = "NATS", value_parser = real(0.0..))]
    confidence: Option<f32>,
}

impl DiffusionArgs {
    /// How an answer of at most `predict` tokens, if the user chose a limit, is generated, where
    /// `model` is what its file recommends, and `trained` the length of its canvases.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn params(
        &self,
        (model, trained): (&SamplerOverrides, usize),
        predict: Option<Limit>,
        seed: u64,
    ) -> Result<DiffusionParams> {
        let chosen = SamplerOverrides {
            max_steps: self.max_steps.or(self.steps),
            t_min: self.t_min,
            t_max: self.t_max,
            entropy_bound: self.entropy_bound,
            stability_threshold: self.stability,
            confidence_threshold: self.confidence,
        };
        let resolved = DiffusionParams::resolve(&chosen, model)?;
        let max_tokens = match (predict, self.blocks) {
            (Some(Limit(tokens)), _) => tokens,
            (None, Some(_)) => None,
            (None, None) => resolved.max_tokens,
        };
        let params = DiffusionParams {
            max_tokens,
            max_canvases: self.blocks,
            canvas: match self.canvas {
                Some(CanvasLength::Tokens(len)) => Some(len),
                Some(CanvasLength::Auto) => max_tokens.map(|n| shortest_canvas(n, trained)),
                None => None,
            },
            seed,
            ..resolved
        };
        params.validate()?;
        check_canvas_length(params.canvas.unwrap_or(trained), trained)?;
        Ok(params)
    }
}
