//! Absorbing-state (masked) diffusion: a canvas of mask tokens, of which each step unmasks some for
//! good, as in LLaDA (Nie et al. 2025, arXiv:2502.09992) and Dream (Ye et al. 2025,
//! arXiv:2508.15487).

use super::Token;
use super::candidates::{Filter, VocabularyNoise};
use super::random::NoiseSource;
use super::run::{
    Draft, EndTokens, FinishedCanvas, Likelihood, Progress, Run, Sampler, Selection, StepInput,
    StepOutput,
};
use super::sampler::mean_entropy;
use super::transfer::{Algorithm, TransferSchedule, most_confident, order_uniforms};
use crate::error::{Error, Result};

/// Parameters of one generation by masked diffusion.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedParams {
    /// How many positions each step unmasks.
    pub schedule: TransferSchedule,
    /// Which ones.
    pub algorithm: Algorithm,
    /// Temperature of that choice; 0 takes the most confident ones.
    pub algorithm_temperature: f32,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Which tokens may be drawn.
    pub filter: Filter,
    /// Weight of classifier-free guidance, see [`Selection::guidance`]; 0 is none.
    pub guidance: f32,
    /// Draws by Gumbel noise, see [`Selection::gumbel`].
    pub gumbel_noise: bool,
    /// Key of the randomness, see [`CounterNoise`](super::CounterNoise).
    pub seed: u64,
}

impl MaskedParams {
    /// Checks every parameter.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter out of range, with its flag.
    pub fn validate(&self) -> Result<()> {
        self.schedule.validate()?;
        for (flag, value) in [
            ("--temp", self.temperature),
            ("--diffusion-alg-temp", self.algorithm_temperature),
            ("--diffusion-cfg-scale", self.guidance),
        ] {
            if !(0.0..f32::INFINITY).contains(&value) {
                return Err(Error::parameter(
                    flag,
                    format!("is {value}, but must be 0 or more"),
                ));
            }
        }
        let top_p = self.filter.top_p;
        if !(top_p > 0.0 && top_p <= 1.0) {
            let problem = format!("is {top_p}, but must be above 0 and at most 1");
            return Err(Error::parameter("--top-p", problem));
        }
        Ok(())
    }
}

/// Masked diffusion with a model's mask token: one canvas is the whole answer.
#[derive(Debug, Clone)]
pub struct MaskedSampler {
    /// The caller's choices.
    pub params: MaskedParams,
    /// Stands for a token that is not known yet. It is never drawn.
    pub mask: Token,
}

impl Sampler for MaskedSampler {
    fn validate(&self) -> Result<()> {
        self.params.validate()
    }

    fn max_tokens(&self) -> Option<usize> {
        None
    }

    fn canvas_limit(&self, _: usize) -> Option<usize> {
        Some(1)
    }

    fn begin(
        &self,
        block: u32,
        canvas_len: usize,
        end: &EndTokens,
        _: &dyn NoiseSource,
    ) -> Result<Box<dyn Run>> {
        Ok(Box::new(MaskedRun::new(self, block, canvas_len, end)))
    }
}

/// A canvas of masked diffusion. What is unmasked stays, so that steps which would unmask nothing
/// are left out, and so are those behind the one that completes the text up to its first end token.
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
    /// Whether a position is not masked any more.
    accepted: Vec<bool>,
    /// The positions that the next step draws, and the one before drew.
    wanted: Vec<bool>,
    uniforms: Vec<f32>,
    argmax: Vec<Token>,
    sampled: Vec<Token>,
    entropy: Vec<f32>,
    probability: Vec<f32>,
    margin: Vec<f32>,
    mean_entropy: f32,
    progress: Progress,
}

impl MaskedRun {
    /// Canvas number `block` of an answer that `end` ends, filled with mask tokens. The parameters
    /// must be [valid](MaskedParams::validate).
    pub fn new(sampler: &MaskedSampler, block: u32, canvas_len: usize, end: &EndTokens) -> Self {
        let mut run = Self {
            params: sampler.params.clone(),
            mask: sampler.mask,
            end: end.clone(),
            block,
            step: 0,
            ran: 0,
            last: 0,
            canvas: vec![sampler.mask; canvas_len],
            accepted: vec![false; canvas_len],
            wanted: vec![false; canvas_len],
            uniforms: vec![0.0; canvas_len],
            argmax: vec![sampler.mask; canvas_len],
            sampled: vec![sampler.mask; canvas_len],
            entropy: vec![0.0; canvas_len],
            probability: vec![0.0; canvas_len],
            margin: vec![0.0; canvas_len],
            mean_entropy: 0.0,
            progress: Progress::Running,
        };
        run.skip_to_work();
        run
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

    /// Goes on to the next step of the schedule that unmasks something.
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
        self.progress = Progress::OutOfSteps;
    }

    /// Whether nothing can change any more that comes before the first end token.
    fn is_complete(&self) -> bool {
        let first_end = self.canvas.iter().position(|&token| self.end.is_end(token));
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
            // Any order is as likely as another already: a temperature changes nothing.
            Algorithm::Random => {
                let confidence = open.into_iter().map(|p| (p, uniforms[p])).collect();
                return Ok(most_confident(confidence, quota.count, 0.0, &[]));
            }
            Algorithm::Entropy => &|p| -f64::from(self.entropy[p]),
            Algorithm::Margin => &|p| self.margin[p].into(),
            Algorithm::Confidence => &|p| self.probability[p].into(),
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

impl Run for MaskedRun {
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, StepOutput<'a>)> {
        noise.uniforms(self.block, self.step, &mut self.uniforms)?;
        self.wanted.fill(false);
        for position in self.open() {
            self.wanted[position] = true;
        }
        let gumbel = self.params.gumbel_noise.then_some(VocabularyNoise {
            source: noise,
            block: self.block,
            step: self.step,
        });
        let input = StepInput {
            canvas: &self.canvas,
            temperature: self.params.temperature,
            uniforms: &self.uniforms,
            selection: Some(Selection {
                wanted: &self.wanted,
                filter: self.params.filter,
                excluded: self.mask,
                guidance: self.params.guidance,
                gumbel,
            }),
        };
        let output = StepOutput {
            argmax: &mut self.argmax,
            sampled: &mut self.sampled,
            entropy: &mut self.entropy,
            likelihood: Some(Likelihood {
                sampled: &mut self.probability,
                margin: &mut self.margin,
            }),
        };
        Ok((input, output))
    }

    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let open = self.open();
        if let Some(&position) = open.iter().find(|&&p| !self.entropy[p].is_finite()) {
            return Err(Error::NotFinite {
                block: self.block,
                step: self.step,
                position,
            });
        }
        let entropies: Vec<f32> = open.iter().map(|&p| self.entropy[p]).collect();
        self.mean_entropy = mean_entropy(&entropies);
        for position in self.chosen(noise)? {
            self.canvas[position] = self.sampled[position];
            self.accepted[position] = true;
        }
        for (position, &accepted) in self.accepted.iter().enumerate() {
            if accepted {
                self.argmax[position] = self.canvas[position];
                self.sampled[position] = self.canvas[position];
            }
        }
        self.last = self.step;
        self.step += 1;
        self.ran += 1;
        if self.is_complete() {
            self.progress = Progress::Converged;
        } else {
            self.skip_to_work();
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn draft(&self) -> Draft<'_> {
        Draft {
            block: self.block,
            step: self.last,
            max_steps: self.steps(),
            temperature: self.params.temperature,
            argmax: &self.argmax,
            sampled: &self.sampled,
            entropy: &self.entropy,
            accepted: &self.accepted,
            canvas: &self.canvas,
            mean_entropy: self.mean_entropy,
            stable: false,
            progress: self.progress,
        }
    }

    fn finish(&mut self, end: &EndTokens) -> FinishedCanvas {
        let mut tokens = std::mem::take(&mut self.canvas);
        let first_end = tokens.iter().position(|&token| end.is_end(token));
        if let Some(position) = first_end {
            let fill = end.pad.unwrap_or(tokens[position]);
            tokens[position + 1..].fill(fill);
        }
        let answer = tokens[..first_end.unwrap_or(tokens.len())].to_vec();
        FinishedCanvas {
            block: self.block,
            steps: self.ran,
            converged: self.progress == Progress::Converged,
            generated: answer.len() + usize::from(first_end.is_some()),
            answer,
            ended: first_end.is_some(),
            tokens,
        }
    }
}
