//! The parameters of a generation, with the reference's defaults.

use super::score::Scoring;
use super::step::ConstrainAt;
use super::template::Template;
use crate::constraint::Constraint;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// Which of the tokens drawn in a step are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AcceptanceRule {
    /// [`Bounded`](Self::Bounded) on canvases with fixed positions,
    /// [`Reference`](Self::Reference) on all others.
    #[default]
    Auto,
    /// The reference's: at least one position in every step, see
    /// [`accept_by_entropy`](super::acceptance::accept_by_entropy).
    Reference,
    /// For canvases of which much is known: no acceptance is forced, see
    /// [`accept_within_bound`](super::acceptance::accept_within_bound), and the most likely tokens
    /// and the self-conditioning are those of the average of all steps so far.
    Bounded,
}

/// Parameters of one generation.
///
/// The defaults are those of the reference implementation (Hugging Face transformers,
/// `DiffusionGemmaGenerationConfig`).
#[derive(Debug, Clone, PartialEq)]
pub struct DiffusionParams {
    /// Maximum number of denoising steps per canvas; more than 0. Default 48.
    pub max_steps: u32,
    /// Temperature that the schedule approaches after the last step; at least 0. Default 0.4.
    pub t_min: f32,
    /// Temperature of the first step; at least [`t_min`](Self::t_min), and at least 1e-20. If both
    /// are equal, all steps have this temperature. Default 0.8.
    pub t_max: f32,
    /// Maximum sum of the entropies, in nats, of the accepted positions of a step, without the most
    /// uncertain one; above 0. Default 0.1.
    pub entropy_bound: f32,
    /// How many previous steps must have had the same argmax canvas before a canvas counts as
    /// stable; 0 takes every canvas as stable. Default 1.
    pub stability_threshold: u32,
    /// A stable canvas is finished once its mean entropy in nats is below this; at least 0. With 0
    /// every canvas takes all its steps. Default 0.005.
    pub confidence_threshold: f32,
    /// Maximum number of tokens in the answer. Whole canvases are denoised, and the last one is
    /// cut. `None` is unlimited. Default 256.
    pub max_tokens: Option<usize>,
    /// Maximum number of canvases. `None` is as many as [`max_tokens`](Self::max_tokens) needs.
    /// Default `None`.
    pub max_canvases: Option<usize>,
    /// Tokens of a canvas: the length that the model was trained with, or a multiple of
    /// [`CANVAS_UNIT`](super::CANVAS_UNIT) below it. Shorter canvases take less time, and are less
    /// often right where the model was not trained with them. `None` is the trained length. Default
    /// `None`.
    pub canvas: Option<usize>,
    /// Key of the randomness, see [`CounterNoise`](super::CounterNoise). Default 0.
    pub seed: u64,
    /// What is known about the canvases, from the first one on. Later ones are free. Default none.
    pub templates: Vec<Template>,
    /// Which drawn tokens are kept. Default [`AcceptanceRule::Auto`].
    pub acceptance: AcceptanceRule,
    /// The language that the answer follows, by construction. Default none.
    pub constraint: Option<Constraint>,
    /// What the constraint changes before the end of a canvas. Default [`ConstrainAt::Step`].
    pub constrain_at: ConstrainAt,
    /// How finished canvases are scored, and repaired where the model doubts them. Default `None`:
    /// not at all.
    pub scoring: Option<Scoring>,
}

impl Default for DiffusionParams {
    fn default() -> Self {
        Self {
            max_steps: 48,
            t_min: 0.4,
            t_max: 0.8,
            entropy_bound: 0.1,
            stability_threshold: 1,
            confidence_threshold: 0.005,
            max_tokens: Some(256),
            max_canvases: None,
            canvas: None,
            seed: 0,
            templates: Vec::new(),
            acceptance: AcceptanceRule::Auto,
            constraint: None,
            constrain_at: ConstrainAt::Step,
            scoring: None,
        }
    }
}

/// Sampler parameters that one source (the caller, a GGUF file) sets or leaves open.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplerOverrides {
    /// Sets [`DiffusionParams::max_steps`]; the key in a file is `diffusion.eb_max_steps`.
    pub max_steps: Option<u32>,
    /// Sets [`DiffusionParams::t_min`]; the key in a file is `diffusion.eb_t_min`.
    pub t_min: Option<f32>,
    /// Sets [`DiffusionParams::t_max`]; the key in a file is `diffusion.eb_t_max`.
    pub t_max: Option<f32>,
    /// Sets [`DiffusionParams::entropy_bound`]; the key in a file is `diffusion.eb_entropy_bound`.
    pub entropy_bound: Option<f32>,
    /// Sets [`DiffusionParams::stability_threshold`]; the key in a file is
    /// `diffusion.eb_stability_threshold`.
    pub stability_threshold: Option<u32>,
    /// Sets [`DiffusionParams::confidence_threshold`]; the key in a file is
    /// `diffusion.eb_confidence_threshold`.
    pub confidence_threshold: Option<f32>,
}

impl SamplerOverrides {
    /// Fills what `self` leaves open from `fallback`.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            max_steps: self.max_steps.or(fallback.max_steps),
            t_min: self.t_min.or(fallback.t_min),
            t_max: self.t_max.or(fallback.t_max),
            entropy_bound: self.entropy_bound.or(fallback.entropy_bound),
            stability_threshold: self.stability_threshold.or(fallback.stability_threshold),
            confidence_threshold: self.confidence_threshold.or(fallback.confidence_threshold),
        }
    }

    /// Checks a [`t_min`](Self::t_min) that is set here against the `t_max` that applies, if that is not:
    /// [`DiffusionParams::validate`] would name `t_max`, which the caller did not choose.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names `t_min`.
    pub fn check_t_min(&self, t_max: f32) -> Result<()> {
        match (self.t_min, self.t_max) {
            (Some(t_min), None) if t_min.is_finite() && t_min > t_max => Err(out_of_range(
                Parameter::TMin,
                t_min,
                &format!(
                    "must be at most the temperature of the first step, which is {t_max}: lower it, or \
                     raise `t_max`"
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl DiffusionParams {
    /// The lowest [`t_max`](Self::t_max). Logits are divided by temperatures down to 2⁻³² of it,
    /// and the quotients must stay finite.
    pub const MIN_T_MAX: f32 = 1e-20;

    /// Parameters from the caller, then from the file, then from the reference's defaults; the first
    /// source that sets one counts.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn resolve(caller: &SamplerOverrides, file: &SamplerOverrides) -> Result<Self> {
        let chosen = caller.or(*file);
        let default = Self::default();
        let params = Self {
            max_steps: chosen.max_steps.unwrap_or(default.max_steps),
            t_min: chosen.t_min.unwrap_or(default.t_min),
            t_max: chosen.t_max.unwrap_or(default.t_max),
            entropy_bound: chosen.entropy_bound.unwrap_or(default.entropy_bound),
            stability_threshold: chosen
                .stability_threshold
                .unwrap_or(default.stability_threshold),
            confidence_threshold: chosen
                .confidence_threshold
                .unwrap_or(default.confidence_threshold),
            ..default
        };
        caller.check_t_min(params.t_max)?;
        params.validate()?;
        Ok(params)
    }

    /// Checks every parameter against the range that the reference allows.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter out of range.
    pub fn validate(&self) -> Result<()> {
        if self.max_steps == 0 {
            return Err(out_of_range(Parameter::MaxSteps, 0, "must be at least 1"));
        }
        // `contains` is false for NaN, so NaN needs no check of its own.
        if !(0.0..f32::INFINITY).contains(&self.t_min) {
            return Err(out_of_range(
                Parameter::TMin,
                self.t_min,
                "must be finite, and 0 or more",
            ));
        }
        if !(Self::MIN_T_MAX..f32::INFINITY).contains(&self.t_max) {
            let wanted = format!("must be finite, and {:e} or more", Self::MIN_T_MAX);
            // Not with all the zeros of a tiny number.
            let value = format_args!("{:?}", self.t_max);
            return Err(out_of_range(Parameter::TMax, value, &wanted));
        }
        if self.t_max < self.t_min {
            let wanted = format!("must be at least `t_min`, which is {}", self.t_min);
            return Err(out_of_range(Parameter::TMax, self.t_max, &wanted));
        }
        if !(self.entropy_bound > 0.0 && self.entropy_bound.is_finite()) {
            let wanted = "must be finite, and above 0";
            return Err(out_of_range(
                Parameter::EntropyBound,
                self.entropy_bound,
                wanted,
            ));
        }
        if !(0.0..f32::INFINITY).contains(&self.confidence_threshold) {
            let wanted = "must be finite, and 0 or more";
            return Err(out_of_range(
                Parameter::ConfidenceThreshold,
                self.confidence_threshold,
                wanted,
            ));
        }
        for (name, value) in [
            (Parameter::MaxTokens, self.max_tokens),
            (Parameter::MaxCanvases, self.max_canvases),
        ] {
            if value == Some(0) {
                return Err(out_of_range(name, 0, "must be at least 1"));
            }
        }
        self.scoring.unwrap_or_default().validate()
    }

    /// [`validate`](Self::validate), and what depends on a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// As there, and [`Error::InvalidParameter`] for more likely tokens than the vocabulary has.
    pub(crate) fn validate_for(&self, vocab: usize) -> Result<()> {
        self.validate()?;
        self.scoring.unwrap_or_default().check_vocab(vocab)
    }

    /// Maximum number of canvases of `canvas_len` tokens in this generation: what
    /// [`max_tokens`](Self::max_tokens) needs, rounded up, but not more than
    /// [`max_canvases`](Self::max_canvases). `None` is unlimited.
    pub fn canvas_limit(&self, canvas_len: usize) -> Option<usize> {
        let for_tokens = self.max_tokens.map(|n| n.div_ceil(canvas_len.max(1)));
        match (for_tokens, self.max_canvases) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

fn out_of_range(parameter: Parameter, value: impl std::fmt::Display, wanted: &str) -> Error {
    Error::parameter(parameter, format!("is {value}, but {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        DiffusionParams::default().validate().unwrap();
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        let cli = SamplerOverrides {
            t_max: Some(0.9),
            max_steps: Some(7),
            ..SamplerOverrides::default()
        };
        let file = SamplerOverrides {
            t_max: Some(0.7),
            entropy_bound: Some(2.0),
            ..SamplerOverrides::default()
        };
        let params = DiffusionParams::resolve(&cli, &file).unwrap();
        let expected = DiffusionParams {
            t_max: 0.9,
            max_steps: 7,
            entropy_bound: 2.0,
            ..DiffusionParams::default()
        };
        assert_eq!(params, expected);
    }

    #[test]
    fn the_temperature_that_the_caller_chose_is_to_blame() {
        let file = SamplerOverrides {
            t_max: Some(0.7),
            ..SamplerOverrides::default()
        };
        let named = |t_min, t_max| {
            let caller = SamplerOverrides {
                t_min,
                t_max,
                ..SamplerOverrides::default()
            };
            match DiffusionParams::resolve(&caller, &file) {
                Err(Error::InvalidParameter { parameter, .. }) => Some(parameter),
                other => {
                    other.unwrap();
                    None
                }
            }
        };
        assert_eq!(named(Some(0.75), None), Some(Parameter::TMin));
        assert_eq!(named(Some(0.75), Some(0.72)), Some(Parameter::TMax));
        assert_eq!(named(None, Some(0.1)), Some(Parameter::TMax));
        assert_eq!(named(Some(f32::INFINITY), None), Some(Parameter::TMin));
        assert_eq!(named(Some(0.7), None), None);
    }

    #[test]
    fn a_file_with_impossible_values_is_refused() {
        let file = SamplerOverrides {
            t_min: Some(0.9),
            ..SamplerOverrides::default()
        };
        let error = DiffusionParams::resolve(&SamplerOverrides::default(), &file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "t_max: is 0.8, but must be at least `t_min`, which is 0.9"
        );
    }

    #[test]
    fn every_bad_value_names_its_parameter() {
        type Change = fn(&mut DiffusionParams);
        let cases: [(Change, Parameter); 15] = [
            (|p| p.max_steps = 0, Parameter::MaxSteps),
            (|p| p.t_min = -0.1, Parameter::TMin),
            (|p| p.t_min = f32::NAN, Parameter::TMin),
            (|p| p.t_min = f32::INFINITY, Parameter::TMin),
            (|p| p.t_max = p.t_min / 2.0, Parameter::TMax),
            (|p| p.t_max = f32::NAN, Parameter::TMax),
            (|p| (p.t_min, p.t_max) = (0.0, 1e-45), Parameter::TMax),
            (|p| p.t_max = f32::INFINITY, Parameter::TMax),
            (|p| p.entropy_bound = 0.0, Parameter::EntropyBound),
            (|p| p.entropy_bound = f32::NAN, Parameter::EntropyBound),
            (|p| p.entropy_bound = f32::INFINITY, Parameter::EntropyBound),
            (
                |p| p.confidence_threshold = -1.0,
                Parameter::ConfidenceThreshold,
            ),
            (
                |p| p.confidence_threshold = f32::NAN,
                Parameter::ConfidenceThreshold,
            ),
            (|p| p.max_tokens = Some(0), Parameter::MaxTokens),
            (|p| p.max_canvases = Some(0), Parameter::MaxCanvases),
        ];
        for (change, name) in cases {
            let mut params = DiffusionParams::default();
            change(&mut params);
            match params.validate() {
                Err(Error::InvalidParameter { parameter, .. }) => assert_eq!(parameter, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_infinite_temperature_is_reported_as_infinite() {
        let params = DiffusionParams {
            t_max: f32::INFINITY,
            ..DiffusionParams::default()
        };
        assert_eq!(
            params.validate().unwrap_err().to_string(),
            "t_max: is inf, but must be finite, and 1e-20 or more"
        );
    }

    #[test]
    fn edge_values_of_the_reference_are_allowed() {
        let params = DiffusionParams {
            t_min: 0.0,
            stability_threshold: 0,
            max_steps: 1,
            max_tokens: None,
            ..DiffusionParams::default()
        };
        params.validate().unwrap();
    }

    #[test]
    fn fixed_work_is_allowed() {
        let params = DiffusionParams {
            t_min: 0.8,
            t_max: 0.8,
            confidence_threshold: 0.0,
            ..DiffusionParams::default()
        };
        params.validate().unwrap();
    }

    #[test]
    fn the_canvas_limit_is_the_smaller_of_both() {
        let limit = |max_tokens, max_canvases| {
            DiffusionParams {
                max_tokens,
                max_canvases,
                ..DiffusionParams::default()
            }
            .canvas_limit(16)
        };
        assert_eq!(limit(Some(1), None), Some(1));
        assert_eq!(limit(Some(16), None), Some(1));
        assert_eq!(limit(Some(17), None), Some(2));
        assert_eq!(limit(Some(160), Some(3)), Some(3));
        assert_eq!(limit(Some(16), Some(3)), Some(1));
        assert_eq!(limit(None, Some(3)), Some(3));
        assert_eq!(limit(None, None), None);
    }
}
