//! How a masked canvas is denoised.

use super::run::MaskedRun;
use crate::constraint::Constraint;
use crate::diffusion::continued::check_constraint;
use crate::diffusion::random::NoiseSource;
use crate::diffusion::run::{Blank, Budget, Recipe, Run};
use crate::diffusion::step::{DrawFeatures, Filter, Limits, Lookahead};
use crate::diffusion::template::Template;
use crate::diffusion::transfer::{Algorithm, TransferSchedule};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// How many positions are denoised after a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLength {
    /// A number of tokens.
    Tokens(usize),
    /// What remains of a text of this number of tokens after the prompt, as in llama.cpp.
    Text(usize),
}

impl AnswerLength {
    /// The number that the user gave; the blocks of a schedule must divide it.
    pub fn given(self) -> usize {
        match self {
            Self::Tokens(count) | Self::Text(count) => count,
        }
    }

    /// Positions to denoise after a prompt of `prompt` tokens.
    fn after(self, prompt: usize) -> Result<usize> {
        match self {
            Self::Tokens(0) => Err(Error::parameter(
                Parameter::AnswerTokens,
                "is 0, but must be at least 1",
            )),
            Self::Tokens(count) => Ok(count),
            Self::Text(text) if text > prompt => Ok(text - prompt),
            Self::Text(text) => Err(Error::parameter(
                Parameter::TextTokens,
                format!(
                    "the prompt has {prompt} tokens, but prompt and answer have {text} together: \
                     raise `AnswerLength::Text`, give the answer's length with `AnswerLength::Tokens`, or \
                     shorten the prompt"
                ),
            )),
        }
    }
}

/// Which positions a step unmasks in addition to those of the schedule, by the probabilities of
/// their drawn tokens (Wu et al. 2025, arXiv:2505.22618).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parallel {
    /// Those whose token is more likely than this, which is above 0 and at most 1.
    Threshold(f32),
    /// The n most likely ones, for the largest n with (n + 1)(1 − p) below this, where p is the
    /// probability of the n-th; above 0.
    Factor(f32),
}

/// Parameters of one generation by masked diffusion.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedParams {
    /// How many positions are denoised.
    pub length: AnswerLength,
    /// How many positions each step unmasks.
    pub schedule: TransferSchedule,
    /// Which positions are unmasked first.
    pub algorithm: Algorithm,
    /// Temperature of that choice; 0 takes the most confident ones.
    pub algorithm_temperature: f32,
    /// The bound of [`Algorithm::EntropyBound`], in nats; above 0.
    pub entropy_bound: f32,
    /// Which positions a step unmasks in addition. An approximation: what is unmasked together does
    /// not see each other. The answer takes at most as many steps as without.
    pub parallel: Option<Parallel>,
    /// Ends the answer once it has settled: after a step in which each token that was drawn for a
    /// masked position, up to the first end token, had at least this probability, in (0, 1]. These
    /// tokens are unmasked together, which is an approximation.
    pub early_stop: Option<f32>,
    /// How many canvases a pass reads, which does not change the answer. With guidance, one.
    pub lookahead: Lookahead,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Which tokens may be drawn.
    pub filter: Filter,
    /// Weight of classifier-free guidance, see
    /// [`StepInput::guidance`](crate::diffusion::StepInput::guidance); 0 is none.
    pub guidance: f32,
    /// Draws by Gumbel noise, see
    /// [`DrawRule::Gumbel`](crate::diffusion::DrawRule::Gumbel).
    pub gumbel_noise: bool,
    /// Key of the randomness, see [`CounterNoise`](crate::diffusion::CounterNoise).
    pub seed: u64,
    /// What is known about the canvas. Tokens that it begins with count as unmasked.
    pub template: Template,
    /// The language that the answer follows, by construction.
    pub constraint: Option<Constraint>,
}

impl Default for MaskedParams {
    /// The defaults of llama.cpp; where it has none, Dream's schedule and an answer of 256 tokens.
    fn default() -> Self {
        Self {
            length: AnswerLength::Tokens(256),
            schedule: TransferSchedule::Timestep {
                eps: 0.001,
                steps: 128,
            },
            algorithm: Algorithm::Confidence,
            algorithm_temperature: 0.0,
            entropy_bound: 0.1,
            parallel: None,
            early_stop: None,
            lookahead: Lookahead::Auto,
            temperature: 0.8,
            filter: Filter {
                top_k: 40,
                top_p: 0.95,
            },
            guidance: 0.0,
            gumbel_noise: false,
            seed: 0,
            template: Template::new(),
            constraint: None,
        }
    }
}

impl MaskedParams {
    /// Checks every parameter.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter out of range.
    pub fn validate(&self) -> Result<()> {
        self.schedule.validate()?;
        for (parameter, value) in [
            (Parameter::Temperature, self.temperature),
            (Parameter::AlgorithmTemperature, self.algorithm_temperature),
            (Parameter::Guidance, self.guidance),
        ] {
            if !(0.0..f32::INFINITY).contains(&value) {
                return Err(Error::parameter(
                    parameter,
                    format!("is {value}, but must be 0 or more"),
                ));
            }
        }
        self.check_lookahead()?;
        let bound = match self.algorithm {
            Algorithm::EntropyBound => self.entropy_bound,
            _ => 1.0,
        };
        for (parameter, value, most) in [
            (Parameter::TopP, self.filter.top_p, 1.0),
            (Parameter::EntropyBound, bound, f32::MAX),
            (Parameter::EarlyStop, self.early_stop.unwrap_or(1.0), 1.0),
            match self.parallel {
                Some(Parallel::Factor(factor)) => (Parameter::Factor, factor, f32::MAX),
                Some(Parallel::Threshold(least)) => (Parameter::Threshold, least, 1.0),
                None => (Parameter::Threshold, 1.0, 1.0),
            },
        ] {
            if !(value > 0.0 && value <= most) {
                let range = match most == f32::MAX {
                    true => "above 0",
                    false => "above 0 and at most 1",
                };
                let problem = format!("is {value}, but must be {range}");
                return Err(Error::parameter(parameter, problem));
            }
        }
        Ok(())
    }

    fn check_lookahead(&self) -> Result<()> {
        let problem = match self.lookahead {
            Lookahead::Canvases(2..) if self.guidance > 0.0 => {
                "guidance reads each canvas twice: set it to 1, or `guidance` to 0".into()
            }
            Lookahead::Canvases(count) if !(1..=Lookahead::MAX).contains(&count) => {
                format!("is {count}, but must be 1 to {}", Lookahead::MAX)
            }
            Lookahead::Auto | Lookahead::Canvases(_) => return Ok(()),
        };
        Err(Error::parameter(Parameter::Lookahead, problem))
    }
}

impl Recipe for MaskedParams {
    fn validate(&self, limits: &Limits) -> Result<()> {
        self.validate()?;
        if limits.mask.is_none() {
            return Err(Error::parameter(
                Parameter::Recipe,
                "this model starts from random tokens: use the parameters of a canvas model",
            ));
        }
        limits.draws.check(&DrawFeatures {
            fixed_positions: true,
            allowed_sets: true,
            filters: self.filter != Filter::NONE,
            greedy: self.temperature <= 0.0,
            gumbel: self.gumbel_noise,
            guidance: self.guidance > 0.0,
            averages: false,
            languages: self.constraint.is_some(),
            scores: false,
        })?;
        if self.gumbel_noise && self.constraint.is_some() {
            return Err(Error::parameter(
                Parameter::Constraint,
                "Gumbel noise draws each token by itself: turn it off",
            ));
        }
        self.template.check(None, limits.vocab)?;
        match limits.mask.is_some_and(|mask| self.template.asks_for(mask)) {
            true => Err(Error::parameter(
                Parameter::Template,
                "a position holds nothing but the mask token: leave it free",
            )),
            false => Ok(()),
        }
    }

    fn canvas_len(&self, prompt: usize, limits: &Limits) -> Result<usize> {
        let answer = self.length.after(prompt)?;
        self.template.check(Some(answer), limits.vocab)?;
        match prompt.saturating_add(answer) > limits.context {
            true => Err(Error::AnswerTooLong {
                prompt,
                answer,
                context: limits.context,
            }),
            false => Ok(answer),
        }
    }

    fn check_budget(&self, budget: Budget) -> Result<()> {
        // The answer is one canvas.
        check_constraint(self.constraint.as_ref(), budget, "raise `length`")
    }

    fn max_tokens(&self) -> Option<usize> {
        None
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn boxed(&self) -> Box<dyn Recipe> {
        Box::new(self.clone())
    }

    fn canvas_limit(&self, _: usize) -> Option<usize> {
        Some(1)
    }

    fn begin(&self, block: u32, canvas: &Blank<'_>, _: &dyn NoiseSource) -> Result<Box<dyn Run>> {
        // Checked by `validate`: there is one.
        let mask = canvas.limits.mask.unwrap_or_default();
        Ok(Box::new(MaskedRun::new(self, mask, block, canvas)?))
    }
}
