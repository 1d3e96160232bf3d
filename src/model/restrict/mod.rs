//! Restricts the distributions of a step to what its input allows, on the host, after the device
//! has drawn from all of the vocabulary: fixed positions, sets of tokens, averages over steps, and the
//! language that the canvas belongs to.

mod language;
mod memory;

use super::graph::{CanvasState, DrawPlane};
use super::hparams::Hparams;
use crate::constraint::Work;
use crate::constraint::rows::Spread;
use crate::diffusion::draw::{Choice, DrawSampler};
use crate::diffusion::{DrawRule, StepInput, Token};
use crate::error::Result;
use crate::ggml::kernels::{DRAW_PLANES, WEIGHT_SCALE, keep_above};
use crate::ggml::tensor::Tensor;
use crate::parallel;
use memory::RowMemory;

/// What a canvas carries from step to step.
#[derive(Default)]
pub(super) struct Restriction {
    /// For each position, the sum of its distributions so far; empty before the first.
    sums: Vec<Vec<f32>>,
    work: Work,
}

/// A step that the device has computed.
pub(super) struct ComputedStep<'a> {
    pub(super) input: &'a StepInput<'a>,
    /// Raw logits `[vocab, T]`.
    pub(super) logits: &'a Tensor,
    /// The row of `logits` that belongs to the first position of the canvas.
    pub(super) first: usize,
    pub(super) hparams: &'a Hparams,
    pub(super) threads: usize,
}

/// The planes of one position.
type Planes = [f32; DRAW_PLANES];

/// A position of the canvas.
struct Position<'a> {
    index: usize,
    planes: Planes,
    weights: RowMemory<'a>,
}

impl Restriction {
    /// Forgets the steps of the canvas before.
    pub(super) fn begin_canvas(&mut self) {
        self.sums.clear();
    }

    /// Replaces the draws of a step, `planes [positions]` each, where its input restricts them, and
    /// with them the distributions that condition the next step, in `state`.
    pub(super) fn apply(
        &mut self,
        step: &ComputedStep<'_>,
        state: &mut CanvasState,
        planes: &mut [f32],
    ) -> Result<()> {
        let input = step.input;
        let n = input.canvas.len();
        let changes = |p: usize| !input.free[p] || !input.allowed.is_all(p) || input.average > 0.0;
        let steered = input.language.map_or(0, |steering| steering.language.len());
        let takes_part = |p: usize| changes(p) || p < steered;
        if !(0..n).any(takes_part) {
            return Ok(());
        }
        self.sums.resize(n, Vec::new());
        let at = |p: usize| -> Planes { std::array::from_fn(|plane| planes[plane * n + p]) };
        let memory = RowMemory::of(&mut state.draws, step.hparams.vocab_size, n)?;
        let rows = self.sums.iter_mut().zip(memory).enumerate();
        let rows = rows.filter(|(p, _)| takes_part(*p));
        let rows: Vec<_> = rows.map(|(p, row)| (p, row, at(p))).collect();
        let rows = parallel::map(rows, step.threads, |(index, (sum, weights), planes)| {
            let mut row = Position {
                index,
                planes,
                weights,
            };
            match changes(index) {
                true => step.restrict(&mut row, sum).map(|()| row),
                false => Ok(row),
            }
        });
        let mut positions: Vec<Position<'_>> = rows.into_iter().collect::<Result<_>>()?;
        if let Some(steering) = &input.language {
            step.follow(steering, &mut positions[..steered], &mut self.work)?;
        }
        for position in positions {
            for (plane, value) in position.planes.into_iter().enumerate() {
                planes[plane * n + position.index] = value;
            }
        }
        let scale = DrawPlane::Scale as usize * n;
        let at = state.plane(DrawPlane::Scale);
        state.draws.write(at, &planes[scale..scale + n])
    }
}

impl ComputedStep<'_> {
    /// Restricts a position by itself; `sum` are its distributions so far.
    fn restrict(&self, position: &mut Position<'_>, sum: &mut Vec<f32>) -> Result<()> {
        let Position {
            index,
            planes,
            weights,
        } = position;
        if !self.input.free[*index] {
            let token = self.input.canvas[*index];
            *planes = certain(token);
            return weights.set(token);
        }
        weights.change(|weights| {
            if !self.input.allowed.is_all(*index) {
                self.draw_allowed(*index, weights, planes)?;
            }
            if self.input.average > 0.0 {
                let argmax = average(self.input.average, weights, sum);
                planes[DrawPlane::Argmax as usize] = argmax as f32;
            }
            describe(&Spread::of(weights, WEIGHT_SCALE, self.least()), planes);
            Ok(())
        })
    }

    /// The weight above which a sparse mixture keeps a token.
    fn least(&self) -> f32 {
        keep_above(self.hparams.vocab_size) * WEIGHT_SCALE
    }

    /// The raw logits of a position.
    fn read_logits(&self, position: usize, row: &mut [f32]) -> Result<()> {
        let at = 4 * self.hparams.vocab_size * (self.first + position);
        self.logits.read(at, row)
    }

    /// Soft-caps a logit.
    fn capped(&self, logit: f32) -> f32 {
        let cap = self.hparams.logit_softcap;
        (logit / cap).tanh() * cap
    }

    fn temperature(&self) -> f32 {
        match self.input.rule {
            DrawRule::Inverse { temperature, .. } | DrawRule::Gumbel { temperature, .. } => {
                temperature
            }
            DrawRule::Greedy => 1.0,
        }
    }

    /// Draws from the tokens that are allowed at a position: the weights of its row.
    fn draw_allowed(&self, position: usize, row: &mut [f32], planes: &mut Planes) -> Result<()> {
        self.read_logits(position, row)?;
        row.iter_mut().for_each(|x| *x = self.capped(*x));
        let choice = DrawSampler::default().draw(row, position, self.input)?;
        let (greatest, temperature) = (row[choice.argmax as usize], self.temperature());
        row.iter_mut()
            .for_each(|x| *x = ((*x - greatest) / temperature).exp() * WEIGHT_SCALE);
        put(&choice, planes);
        Ok(())
    }
}

/// Sets the planes that describe the weights of a position.
fn describe(spread: &Spread, planes: &mut Planes) {
    planes[DrawPlane::Scale as usize] = (1.0 / spread.total) as f32;
    planes[DrawPlane::Kept as usize] = spread.kept as f32;
    planes[DrawPlane::Dropped as usize] = (spread.dropped / spread.total) as f32;
}

/// Sets the planes of a position to what was drawn there.
fn put(choice: &Choice, planes: &mut Planes) {
    for (plane, value) in [
        (DrawPlane::Argmax, choice.argmax as f32),
        (DrawPlane::Sampled, choice.sampled as f32),
        (DrawPlane::Entropy, choice.entropy),
        (DrawPlane::Probability, choice.probability),
        (DrawPlane::Margin, choice.margin),
    ] {
        planes[plane as usize] = value;
    }
}

/// The planes of a position whose token is certain.
fn certain(token: Token) -> Planes {
    let mut planes = Planes::default();
    let choice = Choice {
        argmax: token,
        sampled: token,
        entropy: 0.0,
        probability: 1.0,
        margin: 1.0,
    };
    put(&choice, &mut planes);
    planes[DrawPlane::Scale as usize] = 1.0 / WEIGHT_SCALE;
    planes[DrawPlane::Kept as usize] = 1.0;
    planes
}

/// Adds the distribution of `row` to the `sum` of those before, whose share is `share`, and
/// replaces the row by the result. Returns the most likely token.
fn average(share: f32, row: &mut [f32], sum: &mut Vec<f32>) -> usize {
    let total: f64 = row.iter().copied().map(f64::from).sum();
    let own = (f64::from(1.0 - share) / total) as f32;
    sum.resize(row.len(), 0.0);
    let mut greatest = (0, 0.0_f32);
    for (token, (weight, sum)) in row.iter().zip(&mut *sum).enumerate() {
        *sum = share * *sum + own * weight;
        if *sum > greatest.1 {
            greatest = (token, *sum);
        }
    }
    let scale = WEIGHT_SCALE / greatest.1;
    for (weight, sum) in row.iter_mut().zip(&*sum) {
        *weight = sum * scale;
    }
    greatest.0
}
