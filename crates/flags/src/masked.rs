//! The flags of masked models.

use std::ops::Bound;

use clap::builder::PossibleValuesParser;
use llama_diffusion::diffusion::{Algorithm, Filter, Lookahead, Parallel, TransferSchedule};
use llama_diffusion::{AnswerLength, MaskedParams, Result};

use crate::diffusion::DiffusionArgs;
use crate::numbers::{real, whole};
use crate::values::{ABOVE_0, Limit, parse_lookahead};

/// Denoising steps unless the user says more.
const DEFAULT_STEPS: u32 = 128;
/// Tokens of prompt and answer unless the user says more: llama.cpp's default of -ub.
const DEFAULT_TEXT: usize = 512;

/// How a masked model is sampled.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Masked models (Dream, LLaDA, LLaDA-MoE, RND1)")]
pub struct MaskedArgs {
    /// Timestep schedule over the whole answer, with this epsilon, such as 0.001. Give either this
    /// or --diffusion-block-length
    #[arg(
        long = "diffusion-eps",
        value_name = "F",
        default_value = "0",
        hide_default_value = true, value_parser = real(0.0..1.0))]
    eps: f32,

    /// Block schedule, with blocks of N tokens. N must divide -n (or -ub without -n), and the
    /// number of blocks must divide --diffusion-steps
    #[arg(
        long = "diffusion-block-length",
        value_name = "N",
        default_value = "0",
        hide_default_value = true, value_parser = whole(0..=usize::MAX))]
    block_length: usize,

    /// Which tokens are unmasked first: 0 each with the schedule's probability, 1 lowest entropy, 2
    /// largest margin to the next best, 3 random, 4 most likely; entropy-bound: lowest entropy, and
    /// more tokens than the schedule's while --diffusion-eb-entropy-bound allows
    #[arg(
        long = "diffusion-algorithm",
        value_name = "N|NAME",
        default_value = "4",
        value_parser = PossibleValuesParser::new(["0", "1", "2", "3", "4", "entropy-bound"])
    )]
    algorithm: String,

    /// Faster, approximate: each step also unmasks the tokens that are more likely than this, such as 0.9
    #[arg(
        long = "diffusion-threshold",
        value_name = "P",
        conflicts_with = "factor",
        value_parser = real((Bound::Excluded(0.0), Bound::Included(1.0)))
    )]
    threshold: Option<f32>,

    /// Faster, approximate: each step also unmasks the N most likely tokens, with the largest N for
    /// which (N + 1)(1 - P) is below this; P is the probability of the last of them
    #[arg(long = "diffusion-factor", value_name = "F", value_parser = real(ABOVE_0))]
    factor: Option<f32>,

    /// Faster, approximate: ends the answer once each token up to its end is at least this likely, such as
    /// 0.95
    #[arg(
        long = "diffusion-early-stop",
        value_name = "P",
        value_parser = real((Bound::Excluded(0.0), Bound::Included(1.0)))
    )]
    early_stop: Option<f32>,

    /// Temperature of the choice by --diffusion-algorithm; 0 takes the best
    #[arg(long = "diffusion-alg-temp", value_name = "T", default_value = "0", value_parser = real(0.0..))]
    alg_temp: f32,

    /// Number of canvases that a pass reads: that of the next step, and guesses at later ones. A
    /// right guess saves a pass; the answer is the same. auto reads more than one where that is
    /// faster
    #[arg(
        long = "diffusion-lookahead",
        value_name = "N|auto",
        default_value = "auto",
        value_parser = parse_lookahead
    )]
    lookahead: Lookahead,

    /// Classifier-free guidance; above 0, each step is two passes
    #[arg(long = "diffusion-cfg-scale", value_name = "F", default_value = "0", value_parser = real(0.0..))]
    cfg_scale: f32,

    /// 1 draws by Gumbel noise, as LLaDA does; 0 by the inverse CDF
    #[arg(
        long = "diffusion-add-gumbel-noise",
        value_name = "0|1",
        default_value = "0",
        value_parser = real(..)
    )]
    gumbel_noise: f32,

    /// Temperature of the tokens; 0 takes the most likely
    #[arg(
        long,
        value_name = "T",
        default_value = "0.8", value_parser = real(..)
    )]
    temp: f32,

    /// Draw only from the N most likely tokens; 0: from all
    #[arg(long, value_name = "N", default_value = "40", value_parser = whole(i64::MIN..=i64::MAX))]
    top_k: i64,

    /// Draw only from the most likely tokens whose probabilities sum to this; 1: from all
    #[arg(
        long,
        value_name = "P",
        default_value = "0.95", value_parser = real(ABOVE_0)
    )]
    top_p: f32,
}

impl MaskedArgs {
    /// How an answer is generated, given -n, -ub and the flags of all models.
    ///
    /// # Errors
    /// Parameters that cannot work.
    pub fn params(
        &self,
        predict: Option<Limit>,
        ubatch: Option<usize>,
        all: &DiffusionArgs,
        seed: u64,
    ) -> Result<MaskedParams> {
        let length = match predict {
            Some(Limit(Some(count))) => AnswerLength::Tokens(count),
            _ => AnswerLength::Text(ubatch.unwrap_or(DEFAULT_TEXT)),
        };
        let steps = all.steps.unwrap_or(DEFAULT_STEPS);
        let defaults = MaskedParams::default();
        let params = MaskedParams {
            length,
            schedule: TransferSchedule::new(self.eps, self.block_length, steps, length.given())?,
            algorithm: self.chosen_algorithm(),
            algorithm_temperature: self.alg_temp,
            entropy_bound: all.entropy_bound.unwrap_or(defaults.entropy_bound),
            parallel: self
                .threshold
                .map(Parallel::Threshold)
                .or(self.factor.map(Parallel::Factor)),
            early_stop: self.early_stop,
            lookahead: self.lookahead,
            // As for llama.cpp: 0 or less is greedy, and so on.
            temperature: if self.temp < 0.0 { 0.0 } else { self.temp },
            filter: Filter {
                top_k: usize::try_from(self.top_k).unwrap_or(0),
                top_p: if self.top_p > 1.0 { 1.0 } else { self.top_p },
            },
            guidance: self.cfg_scale,
            gumbel_noise: self.gumbel_noise != 0.0,
            seed,
            ..defaults
        };
        params.validate()?;
        Ok(params)
    }

    /// The order of unmasking, in a word.
    pub fn algorithm(&self) -> &'static str {
        self.chosen_algorithm().name()
    }

    fn chosen_algorithm(&self) -> Algorithm {
        let algorithm = match self.algorithm.parse() {
            Ok(number) => Algorithm::numbered(number),
            Err(_) => Algorithm::named(&self.algorithm),
        };
        // One of the possible values.
        algorithm.unwrap_or(Algorithm::Confidence)
    }
}
