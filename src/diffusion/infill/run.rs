//! A canvas with a gap: its lengths are compared, then it is denoised with the best one, or, if the gap is
//! longer, without an end.

use std::ops::RangeInclusive;
use std::time::Instant;

use super::lengths::{LONGER, Lengths};
use super::{GapReport, Infill, LengthScore};
use crate::diffusion::Token;
use crate::diffusion::canvas::CanvasRun;
use crate::diffusion::continued::Continued;
use crate::diffusion::event::{CanvasStatus, Draft, FinishedCanvas, NewCanvas};
use crate::diffusion::random::NoiseSource;
use crate::diffusion::run::{Blank, EndTokens, Run};
use crate::diffusion::step::{Allowed, DrawRule, Draws, Filter, StepInput};
use crate::diffusion::template::Template;
use crate::error::{Error, Result};

/// Lengths are compared on the noise of the canvases from this on, so that none repeats the draws of the
/// canvas itself, or of a repair.
const NOISE_APART: u32 = 8 << 24;

/// What the next step is for.
enum Phase {
    /// How likely what comes after the gap is at each position, on a canvas of noise.
    Search,
    /// How likely what comes after the gap is after gaps of one or more lengths, each on a canvas of its own.
    Compare,
    /// The canvas.
    Write(Writing),
}

struct Writing {
    run: Box<CanvasRun>,
    /// Tokens of the canvas that are the answer.
    answer: usize,
    /// Whether the gap goes on after it.
    goes_on: bool,
}

/// A canvas with a gap.
pub(super) struct GapRun {
    infill: Infill,
    deadline: Option<Instant>,
    block: u32,
    len: usize,
    language: Continued,
    /// What is fixed after the gap, as much as a canvas can hold, and how many of these tokens are scored.
    after: Vec<Token>,
    scored: usize,
    /// Tokens that the language may still take, if there is a limit.
    left: Option<usize>,
    /// Tokens that are left for the answer, here and on further canvases.
    budget: usize,
    lengths: Lengths,
    /// Maximum number of canvases that a comparison reads at once.
    most_rows: usize,
    phase: Phase,
    /// Input and output of a comparison: the canvases that it reads at once, one after the other.
    canvas: Vec<Token>,
    free: Vec<bool>,
    uniforms: Vec<f32>,
    targets: Vec<(usize, Token)>,
    draws: Draws,
    accepted: Vec<bool>,
    /// Steps so far.
    steps: u32,
    /// Steps of comparisons.
    compared: u32,
}

impl GapRun {
    pub(super) fn new(
        infill: &Infill,
        block: u32,
        blank: &Blank<'_>,
        noise: &dyn NoiseSource,
    ) -> Result<Self> {
        let len = blank.len;
        let limit = infill.length.or(infill.params.max_tokens);
        let total = limit.map(|limit| limit.saturating_add(infill.gap.around));
        let language = Continued::new(&infill.gap.language, blank)?;
        let room = len.saturating_sub(language.min_tokens());
        let mut run = Self {
            deadline: infill.deadline(),
            infill: infill.clone(),
            block,
            len,
            language,
            after: infill.gap.fixed(len, blank.end),
            scored: infill.gap.scored().min(room),
            left: total.map(|total| total.saturating_sub(blank.answer.len())),
            budget: blank.budget,
            lengths: Lengths::default(),
            most_rows: (blank.limits.canvas.unwrap_or(len).min(blank.room) / len).max(1),
            phase: Phase::Compare,
            canvas: vec![0; len],
            free: vec![true; len],
            uniforms: vec![0.0; len],
            targets: Vec::new(),
            draws: Draws::new(len, 0),
            accepted: vec![false; len],
            steps: 0,
            compared: 0,
        };
        run.infill.progress().report = GapReport::default();
        match (infill.length, Lengths::of_range(run.range())) {
            (Some(_), _) => run.write_given(noise)?,
            (None, _) if run.scored == 0 => run.write_best(noise)?,
            (None, Some(few)) => {
                run.lengths = few;
                run.compare(noise)?;
            }
            (None, None) => run.search(noise)?,
        }
        Ok(run)
    }

    /// The lengths that the language may have on this canvas.
    fn range(&self) -> RangeInclusive<usize> {
        let least = self.language.min_tokens();
        let room = self.len - self.scored;
        let longest = self.left.map_or(room, |left| left.min(room));
        least..=longest.max(least)
    }

    /// Whether the gap may go on after this canvas.
    fn may_be_longer(&self) -> bool {
        let further = self.left.is_none_or(|left| left > self.len);
        further && self.budget >= self.len + self.language.min_tokens().max(self.len)
    }

    /// Prepares a step on a canvas of noise.
    fn search(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        noise.initial_canvas(NOISE_APART + self.block, &mut self.canvas)?;
        let scored = &self.after[..self.scored];
        let of_length = |length: usize| {
            scored
                .iter()
                .enumerate()
                .map(move |(i, t)| (length + i, *t))
        };
        self.targets = self.range().flat_map(of_length).collect();
        self.phase = Phase::Search;
        Ok(())
    }

    /// Prepares the next comparison; after the last one, or when the time is up, the canvas itself.
    fn compare(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let next = match self.is_over() {
            true => Vec::new(),
            false => self.lengths.next(self.most_rows),
        };
        if next.is_empty() {
            return self.write_best(noise);
        }
        self.read_rows(next.len());
        self.targets.clear();
        for (row, (length, draw)) in next.into_iter().enumerate() {
            self.compare_on(row * self.len, length, draw, noise)?;
        }
        self.phase = Phase::Compare;
        Ok(())
    }

    /// Makes room for the canvases of the next comparison.
    fn read_rows(&mut self, rows: usize) {
        let positions = rows * self.len;
        self.canvas.resize(positions, 0);
        self.free.resize(positions, true);
        self.uniforms.resize(positions, 0.0);
        self.draws.resize(positions, 0);
    }

    /// Prepares the canvas from position `start` on for the comparison of a length.
    fn compare_on(
        &mut self,
        start: usize,
        length: usize,
        draw: u32,
        noise: &dyn NoiseSource,
    ) -> Result<()> {
        let canvas = &mut self.canvas[start..start + self.len];
        noise.initial_canvas(NOISE_APART * (2 + draw) + self.block, canvas)?;
        // What is scored is held out.
        let known = length + self.scored;
        let after = self.after[self.scored..].iter().zip(known..self.len);
        after.for_each(|(token, position)| canvas[position] = *token);
        let shown = self.after.len().min(self.len - length);
        let fixed = known..length + shown;
        for position in 0..self.len {
            self.free[start + position] = !fixed.contains(&position);
        }
        for position in fixed {
            self.draws
                .fix(start + position, self.canvas[start + position]);
        }
        let scored = self.after[..self.scored].iter().enumerate();
        let targets = scored.map(|(i, token)| (start + length + i, *token));
        self.targets.extend(targets);
        Ok(())
    }

    /// Takes the log-probabilities of the targets.
    fn scored(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let logprobs = &self.draws.target_logprobs;
        if let Some(target) = logprobs.iter().position(|logprob| !logprob.is_finite()) {
            return Err(Error::NotFinite {
                block: self.block,
                step: self.steps,
                position: self.targets[target].0 % self.len,
            });
        }
        let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len() as f32;
        let means: Vec<f32> = logprobs.chunks(self.scored).map(mean).collect();
        match self.phase {
            Phase::Search => self.lengths = Lengths::most_likely(self.range(), &means),
            Phase::Compare => means.into_iter().for_each(|mean| self.lengths.score(mean)),
            Phase::Write(_) => {}
        }
        self.steps += 1;
        self.compared += 1;
        self.compare(noise)
    }

    /// Begins the canvas with the best of the lengths compared.
    fn write_best(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let ranked = self.lengths.ranked();
        let around = self.infill.gap.around;
        let best = ranked.first().copied();
        let is_longer = best.is_none_or(|best| best.mean() < LONGER);
        let report = GapReport {
            lengths: ranked
                .iter()
                .filter(|length| length.mean().is_finite())
                .map(|length| LengthScore {
                    tokens: length.tokens.saturating_sub(around),
                    logprob: length.mean(),
                })
                .collect(),
            timed_out: false,
            doubtful: is_longer,
        };
        self.infill.progress().report = report;
        let shortest = self.language.min_tokens();
        let best = best.map_or(shortest, |best| best.tokens);
        match is_longer && self.may_be_longer() && !self.is_over() || shortest > self.len {
            true => self.write_on(noise),
            false => self.write(best, noise),
        }
    }

    /// Begins the canvas with a gap of the length that was given, as far as the canvas holds it.
    fn write_given(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let left = self.left.unwrap_or(0).max(self.language.min_tokens());
        match left <= self.len {
            true => self.write(left, noise),
            false => self.write_on(noise),
        }
    }

    /// Begins the canvas with this number of tokens before what is fixed.
    fn write(&mut self, length: usize, noise: &dyn NoiseSource) -> Result<()> {
        let mut template = Template::new();
        (0..length).for_each(|_| {
            template.free();
        });
        let room = self.len - length;
        template.fixed(&self.after[..self.after.len().min(room)]);
        let language = self.language.clone().within(length, length);
        self.begin(template, language, (length, false), noise)
    }

    /// Begins the canvas as a part of a gap that is longer.
    fn write_on(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let budget = self.left.unwrap_or(usize::MAX).min(self.budget);
        let language = self.language.clone().within(self.len, budget);
        self.begin(Template::new(), language, (self.len, true), noise)
    }

    fn begin(
        &mut self,
        template: Template,
        language: Continued,
        (answer, goes_on): (usize, bool),
        noise: &dyn NoiseSource,
    ) -> Result<()> {
        let params = &self.infill.params;
        let run = CanvasRun::with_template(params, template, self.block, self.len, noise)?;
        self.phase = Phase::Write(Writing {
            run: Box::new(run.following(Some(language))),
            answer,
            goes_on,
        });
        Ok(())
    }

    /// Whether the time is up.
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether the time was up after the latest step, which did not finish the gap.
    fn timed_out(&self) -> bool {
        self.infill.progress().report.timed_out
    }

    /// Maximum number of steps before those of the canvas.
    fn max_compared(&self) -> u32 {
        match self.phase {
            Phase::Write(_) => self.compared,
            // A context has fewer positions than the numbers of steps.
            Phase::Search | Phase::Compare => {
                1 + Lengths::max_scores().div_ceil(self.most_rows as u32)
            }
        }
    }
}

impl Run for GapRun {
    fn begin_step<'a>(
        &'a mut self,
        noise: &'a dyn NoiseSource,
    ) -> Result<(StepInput<'a>, &'a mut Draws)> {
        match &mut self.phase {
            Phase::Write(writing) => writing.run.begin_step(noise),
            Phase::Search | Phase::Compare => {
                let input = StepInput {
                    canvas: &self.canvas,
                    free: &self.free,
                    allowed: Allowed::All,
                    filter: Filter::NONE,
                    rule: DrawRule::Inverse {
                        temperature: self.infill.params.t_max,
                        uniforms: &self.uniforms,
                    },
                    guidance: 0.0,
                    average: 0.0,
                    language: None,
                    targets: &self.targets,
                };
                Ok((input, &mut self.draws))
            }
        }
    }

    fn end_step(&mut self, noise: &dyn NoiseSource) -> Result<()> {
        let Phase::Write(Writing { run, goes_on, .. }) = &mut self.phase else {
            return self.scored(noise);
        };
        run.end_step(noise)?;
        let is_complete = run.status() != CanvasStatus::Running && !*goes_on;
        self.steps += 1;
        self.infill.progress().report.timed_out = !is_complete && self.is_over();
        Ok(())
    }

    fn status(&self) -> CanvasStatus {
        match &self.phase {
            Phase::Search | Phase::Compare => CanvasStatus::Running,
            Phase::Write(writing) => match writing.run.status() {
                // There is always one step of the canvas itself.
                CanvasStatus::Running if self.steps > self.compared && self.timed_out() => {
                    CanvasStatus::OutOfSteps
                }
                status => status,
            },
        }
    }

    fn begins_again(&self) -> bool {
        self.steps == self.compared
    }

    fn rows(&self) -> usize {
        match self.phase {
            Phase::Search | Phase::Compare => self.canvas.len() / self.len,
            Phase::Write(_) => 1,
        }
    }

    fn draft(&self) -> Draft<'_> {
        let params = &self.infill.params;
        let max_steps = self.max_compared() + params.max_steps;
        match &self.phase {
            // The first of the canvases that are read at once.
            Phase::Search | Phase::Compare => Draft {
                block: self.block,
                step: self.steps.saturating_sub(1),
                max_steps,
                temperature: params.t_max,
                argmax: &self.draws.argmax[..self.len],
                sampled: &self.draws.sampled[..self.len],
                entropy: &self.draws.entropy[..self.len],
                probability: &self.draws.probability[..self.len],
                accepted: &self.accepted,
                canvas: &self.canvas[..self.len],
                mean_entropy: 0.0,
                stable: false,
                status: CanvasStatus::Running,
            },
            Phase::Write(writing) => {
                let draft = writing.run.draft();
                Draft {
                    step: self.steps.saturating_sub(1),
                    max_steps,
                    status: self.status(),
                    ..draft
                }
            }
        }
    }

    fn new_canvas(&self) -> NewCanvas<'_> {
        let draft = self.draft();
        NewCanvas {
            block: self.block,
            max_steps: draft.max_steps,
            tokens: draft.canvas,
        }
    }

    fn finish(&mut self, _: &EndTokens) -> FinishedCanvas {
        let draft = self.draft();
        let (tokens, converged) = (
            draft.argmax.to_vec(),
            draft.status == CanvasStatus::Converged,
        );
        let (answer, goes_on) = match &self.phase {
            Phase::Write(writing) => (writing.answer, writing.goes_on),
            Phase::Search | Phase::Compare => (0, false),
        };
        FinishedCanvas {
            block: self.block,
            steps: self.steps,
            converged,
            answer: tokens[..answer].to_vec(),
            generated: answer,
            ended: !goes_on || self.timed_out(),
            tokens,
        }
    }
}
