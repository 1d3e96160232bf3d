//! Absorbing-state (masked) diffusion: a canvas starts as mask tokens, and each step unmasks some
//! of them for good, as in LLaDA (Nie et al. 2025, arXiv:2502.09992) and Dream (Ye et al. 2025,
//! arXiv:2508.15487).

use super::Token;
use super::continued::{Continued, check_constraint};
use super::convergence::mean_entropy;
use super::event::{CanvasStatus, Draft, FinishedCanvas};
use super::random::NoiseSource;
use super::run::{Blank, EndTokens, Recipe, Run, check_finite};
use super::step::{
    Allowed, ConstrainAt, DrawFeatures, DrawRule, Draws, Filter, Limits, Steering, StepInput,
    TokenSet, VocabularyNoise,
};
use super::template::Template;
use super::transfer::{Algorithm, TransferSchedule, most_confident, order_uniforms};
use crate::constraint::Constraint;
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
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Which tokens may be drawn.
    pub filter: Filter,
    /// Weight of classifier-free guidance, see [`StepInput::guidance`]; 0 is none.
    pub guidance: f32,
    /// Draws by Gumbel noise, see [`DrawRule::Gumbel`].
    pub gumbel_noise: bool,
    /// Key of the randomness, see [`CounterNoise`](super::CounterNoise).
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
        let top_p = self.filter.top_p;
        if !(top_p > 0.0 && top_p <= 1.0) {
            let problem = format!("is {top_p}, but must be above 0 and at most 1");
            return Err(Error::parameter(Parameter::TopP, problem));
        }
        Ok(())
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

    fn check_budget(&self, budget: usize) -> Result<()> {
        check_constraint(self.constraint.as_ref(), budget)
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

/// A canvas of masked diffusion. Unmasked tokens stay, so steps that would unmask nothing are
/// skipped, and so are those after the step that completes the text up to its first end token.
#[derive(Debug, Clone)]
pub struct MaskedRun {
    params: MaskedParams,
    mask: Token,
    end: EndTokens,
    block: u32,
    /// The next step of the schedule.
    step: u32,
    /// Steps that have run.
    ran: u32,
    /// The step of the schedule that ran last.
    last: u32,
    canvas: Vec<Token>,
    /// Whether a position is already unmasked.
    accepted: Vec<bool>,
    /// The positions that the next step draws; after the step, those that it drew.
    free: Vec<bool>,
    /// The sets of the template without the mask token, then the set for all other positions; none
    /// if the template has none.
    sets: Vec<TokenSet>,
    /// For each position, the index of its set.
    set_of: Vec<Option<usize>>,
    constraint: Option<Continued>,
    uniforms: Vec<f32>,
    draws: Draws,
    mean_entropy: f32,
    status: CanvasStatus,
}

impl MaskedRun {
    /// Canvas number `block` of an answer, filled with the tokens of its template and mask tokens.
    /// The parameters must be [valid](MaskedParams::validate).
    ///
    /// # Errors
    /// The answer so far does not follow the constraint.
    pub fn new(params: &MaskedParams, mask: Token, block: u32, blank: &Blank<'_>) -> Result<Self> {
        let canvas_len = blank.len;
        let mut canvas = vec![mask; canvas_len];
        params.template.fill(&mut canvas);
        let accepted: Vec<bool> = canvas.iter().map(|token| *token != mask).collect();
        let mut draws = Draws::new(canvas_len, mask);
        for (position, token) in canvas.iter().enumerate() {
            if accepted[position] {
                draws.fix(position, *token);
            }
        }
        let (sets, set_of) = sets_without(mask, &params.template, blank);
        let constraint = params.constraint.as_ref();
        let constraint = constraint.map(|c| Continued::new(c, blank)).transpose()?;
        let mut run = Self {
            params: params.clone(),
            mask,
            end: blank.end.clone(),
            block,
            step: 0,
            ran: 0,
            last: 0,
            canvas,
            accepted,
            free: vec![false; canvas_len],
            sets,
            set_of,
            constraint,
            uniforms: vec![0.0; canvas_len],
            draws,
            mean_entropy: 0.0,
            status: CanvasStatus::Running,
        };
        run.skip_to_work();
        Ok(run)
    }

    fn steps(&self) -> u32 {
        self.params.schedule.steps(self.canvas.len())
    }

    /// The masked positions that the next step may unmask.
    fn open(&self) -> Vec<usize> {
        let region = self.params.schedule.region(self.step, self.canvas.len());
        region
            .filter(|&position| !self.accepted[position])
            .collect()
    }

    /// Advances to the next step of the schedule that unmasks something.
    fn skip_to_work(&mut self) {
        while self.step < self.steps() {
            let region = self.params.schedule.region(self.step, self.canvas.len());
            let open = self.open().len();
            let quota = self.params.schedule.quota(self.step, open, &region);
            if open > 0 && !quota.is_empty(self.params.algorithm) {
                return;
            }
            self.step += 1;
        }
        self.status = CanvasStatus::OutOfSteps;
    }

    /// Whether everything before the first end token is final.
    fn is_complete(&self) -> bool {
        let from = self.params.template.end_counts_from(&self.end);
        let ends = |position: &usize| self.end.is_end(self.canvas[*position]);
        let first_end = (from..self.canvas.len()).find(ends);
        first_end.is_some_and(|end| self.accepted[..end].iter().all(|accepted| *accepted))
    }

    /// The masked positions that a step unmasks.
    fn chosen(&self, noise: &dyn NoiseSource) -> Result<Vec<usize>> {
        let algorithm = self.params.algorithm;
        let temperature = self.params.algorithm_temperature;
        let open = self.open();
        let region = self.params.schedule.region(self.step, self.canvas.len());
        let quota = self.params.schedule.quota(self.step, open.len(), &region);
        let random = matches!(algorithm, Algorithm::Origin | Algorithm::Random);
        let uniforms = order_uniforms(
            noise,
            (self.block, self.step),
            random || temperature > 0.0,
            self.canvas.len(),
        )?;
        let confidence: &dyn Fn(usize) -> f64 = match algorithm {
            Algorithm::Origin => {
                let drawn = open
                    .into_iter()
                    .filter(|&p| uniforms[p] < quota.probability);
                return Ok(drawn.collect());
            }
            // All orders are already equally likely: a temperature changes nothing.
            Algorithm::Random => {
                let confidence = open.into_iter().map(|p| (p, uniforms[p])).collect();
                return Ok(most_confident(confidence, quota.count, 0.0, &[]));
            }
            Algorithm::Entropy => &|p| -f64::from(self.draws.entropy[p]),
            Algorithm::Margin => &|p| self.draws.margin[p].into(),
            Algorithm::Confidence => &|p| self.draws.probability[p].into(),
        };
        let confidence = open.into_iter().map(|p| (p, confidence(p))).collect();
        Ok(most_confident(
            confidence,
            quota.count,
            temperature,
            &uniforms,
        ))
    }
}

/// The sets of a template without the mask token, with a last one for all positions that have none;
/// and for each position the index of its set. Nothing, if the template has no sets.
fn sets_without(
    mask: Token,
    template: &Template,
    blank: &Blank<'_>,
) -> (Vec<TokenSet>, Vec<Option<usize>>) {
    if !template.has_sets() {
        return (Vec::new(), Vec::new());
    }
    let unmasked = |set: &TokenSet| set.iter().filter(|token| *token != mask).collect();
    let mut sets: Vec<TokenSet> = template.sets().iter().map(unmasked).collect();
    let other = sets.len();
    // A vocabulary's ids are tokens.
    let vocab = 0..blank.limits.vocab as Token;
    sets.push(vocab.filter(|token| *token != mask).collect());
    let set_of = template.set_indices(blank.len);
    let set_of = set_of.into_iter().map(|set| set.or(Some(other)));
    (sets, set_of.collect())
}

impl Run for MaskedRun {
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, &'a mut Draws)> {
        noise.uniforms(self.block, self.step, &mut self.uniforms)?;
        self.free.fill(false);
        for position in self.open() {
            self.free[position] = true;
        }
        let temperature = self.params.temperature;
        let rule = match self.params.gumbel_noise {
            _ if temperature <= 0.0 => DrawRule::Greedy,
            true => DrawRule::Gumbel {
                temperature,
                noise: VocabularyNoise {
                    source: noise,
                    block: self.block,
                    step: self.step,
                },
            },
            false => DrawRule::Inverse {
                temperature,
                uniforms: &self.uniforms,
            },
        };
        let language = match &self.constraint {
            Some(constraint) => Some(Steering {
                language: constraint.language(self.canvas.len())?,
                at: ConstrainAt::Step,
            }),
            None => None,
        };
        let input = StepInput {
            canvas: &self.canvas,
            free: &self.free,
            allowed: match self.sets.is_empty() {
                true => Allowed::Except(self.mask),
                false => Allowed::Sets {
                    sets: &self.sets,
                    of: &self.set_of,
                },
            },
            filter: self.params.filter,
            rule,
            guidance: self.params.guidance,
            average: 0.0,
            language,
            targets: &[],
        };
        Ok((input, &mut self.draws))
    }

    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let open = self.open();
        check_finite(
            &self.draws.entropy,
            open.iter().copied(),
            self.block,
            self.step,
        )?;
        let entropies: Vec<f32> = open.iter().map(|&p| self.draws.entropy[p]).collect();
        self.mean_entropy = mean_entropy(&entropies);
        for position in self.chosen(noise)? {
            self.canvas[position] = self.draws.sampled[position];
            self.accepted[position] = true;
        }
        for (position, &accepted) in self.accepted.iter().enumerate() {
            if accepted {
                self.draws.argmax[position] = self.canvas[position];
                self.draws.sampled[position] = self.canvas[position];
            }
        }
        self.last = self.step;
        self.step += 1;
        self.ran += 1;
        if self.is_complete() {
            self.status = CanvasStatus::Converged;
        } else {
            self.skip_to_work();
        }
        Ok(())
    }

    fn status(&self) -> CanvasStatus {
        self.status
    }

    fn draft(&self) -> Draft<'_> {
        Draft {
            block: self.block,
            step: self.last,
            max_steps: self.steps(),
            temperature: self.params.temperature,
            argmax: &self.draws.argmax,
            sampled: &self.draws.sampled,
            entropy: &self.draws.entropy,
            probability: &self.draws.probability,
            accepted: &self.accepted,
            canvas: &self.canvas,
            mean_entropy: self.mean_entropy,
            stable: false,
            status: self.status,
        }
    }

    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas {
        let mut tokens = std::mem::take(&mut self.canvas);
        let from = self.params.template.end_counts_from(end);
        let first_end = end.pad_after_end(&mut tokens[from..], Some);
        let first_end = first_end.map(|position| from + position);
        let answer = tokens[..first_end.unwrap_or(tokens.len())].to_vec();
        let read = |constraint: &Continued| constraint.read(&tokens);
        let written = self.constraint.as_ref().and_then(read);
        FinishedCanvas {
            block: self.block,
            steps: self.ran,
            converged: self.status == CanvasStatus::Converged,
            generated: answer.len() + usize::from(first_end.is_some()),
            answer,
            ended: first_end.is_some() || written.is_some_and(|written| written.is_complete),
            tokens,
        }
    }
}
