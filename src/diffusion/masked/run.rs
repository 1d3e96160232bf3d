//! One canvas of mask tokens, from its first step to a finished block.

use super::params::MaskedParams;
use super::reveal::{bounded, by_schedule, likely};
use crate::diffusion::Token;
use crate::diffusion::continued::Continued;
use crate::diffusion::convergence::mean_entropy;
use crate::diffusion::event::{CanvasStatus, Draft, FinishedCanvas};
use crate::diffusion::random::NoiseSource;
use crate::diffusion::run::{Blank, EndTokens, Run, check_finite};
use crate::diffusion::step::{
    Allowed, ConstrainAt, DrawRule, Draws, Lookahead, Steering, StepInput, TokenSet,
    VocabularyNoise,
};
use crate::diffusion::template::Template;
use crate::diffusion::transfer::{Algorithm, order_uniforms};
use crate::error::Result;

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

    /// The positions that a step draws.
    fn drawn(&self) -> Vec<usize> {
        match self.params.early_stop {
            // Whether an answer has settled depends on all of it.
            Some(_) => (0..self.canvas.len())
                .filter(|&position| !self.accepted[position])
                .collect(),
            None => self.open(),
        }
    }

    /// The masked positions that a step unmasks; some may be listed more than once.
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
        let draws = &self.draws;
        let mut chosen = by_schedule(algorithm, temperature, quota, &open, draws, &uniforms);
        if algorithm == Algorithm::EntropyBound {
            chosen.extend(bounded(self.params.entropy_bound, &open, draws));
        }
        if let Some(rule) = self.params.parallel {
            chosen.extend(likely(rule, &open, draws));
        }
        Ok(chosen)
    }

    fn unmask(&mut self, positions: &[usize]) {
        for &position in positions {
            self.canvas[position] = self.draws.sampled[position];
            self.accepted[position] = true;
        }
    }

    /// The masked positions whose tokens the answer waits for, if all of these are likely enough to
    /// stop: those before its first end token, drawn or unmasked, and that token.
    fn settled(&self) -> Option<Vec<usize>> {
        let least = self.params.early_stop?;
        let token = |position: usize| match self.accepted[position] {
            true => self.canvas[position],
            false => self.draws.sampled[position],
        };
        let from = self.params.template.end_counts_from(&self.end);
        let first_end = (from..self.canvas.len()).find(|&p| self.end.is_end(token(p)));
        let end = first_end.map_or(self.canvas.len(), |end| end + 1);
        let waits: Vec<usize> = (0..end).filter(|&p| !self.accepted[p]).collect();
        let is_likely = |p: &usize| self.draws.probability[*p] >= least;
        waits.iter().all(is_likely).then_some(waits)
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
        for position in self.drawn() {
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
        let drawn = self.drawn();
        check_finite(
            &self.draws.entropy,
            drawn.iter().copied(),
            self.block,
            self.step,
        )?;
        let entropies: Vec<f32> = drawn.iter().map(|&p| self.draws.entropy[p]).collect();
        self.mean_entropy = mean_entropy(&entropies);
        let chosen = self.chosen(noise)?;
        self.unmask(&chosen);
        let settled = self.settled();
        if let Some(rest) = &settled {
            self.unmask(rest);
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
        if settled.is_some() || self.is_complete() {
            self.status = CanvasStatus::Converged;
        } else {
            self.skip_to_work();
        }
        Ok(())
    }

    fn status(&self) -> CanvasStatus {
        self.status
    }

    fn lookahead(&self) -> Lookahead {
        match self.params.guidance > 0.0 {
            true => Lookahead::Canvases(1),
            false => self.params.lookahead,
        }
    }

    fn copied(&self) -> Option<Box<dyn Run>> {
        Some(Box::new(self.clone()))
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
