//! Restricts the distributions of a step to what its input allows, on the host, after the device
//! has drawn from all of the vocabulary: fixed positions, sets of tokens, averages over steps, and the
//! language that the canvas belongs to.

mod language;

use std::cell::Cell;

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
    pub(super) state: &'a CanvasState,
    pub(super) hparams: &'a Hparams,
    pub(super) threads: usize,
}

/// The planes of one position.
type Planes = [f32; DRAW_PLANES];

/// Positions with their planes.
type Positions = Vec<(usize, Planes)>;

impl Restriction {
    /// Forgets the steps of the canvas before.
    pub(super) fn begin_canvas(&mut self) {
        self.sums.clear();
    }

    /// Replaces the draws of a step, `planes [positions]` each, where its input restricts them, and
    /// with them the distributions that condition the next step.
    pub(super) fn apply(&mut self, step: &ComputedStep<'_>, planes: &mut [f32]) -> Result<()> {
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
        let rows = self
            .sums
            .iter_mut()
            .enumerate()
            .filter(|(p, _)| takes_part(*p));
        let rows: Vec<_> = rows.map(|(p, sum)| (p, sum, at(p))).collect();
        let rows = parallel::map(rows, step.threads, |(p, sum, planes)| match changes(p) {
            true => Ok((p, step.row(p, sum, planes)?)),
            false => Ok((p, planes)),
        });
        let mut positions: Positions = rows.into_iter().collect::<Result<_>>()?;
        if let Some(steering) = &input.language {
            step.follow(steering, &mut positions[..steered], &mut self.work)?;
        }
        for (p, row) in positions {
            for (plane, value) in row.into_iter().enumerate() {
                planes[plane * n + p] = value;
            }
        }
        let scale = DrawPlane::Scale as usize * n;
        let at = step.state.plane(DrawPlane::Scale);
        step.state.draws.write(at, &planes[scale..scale + n])
    }
}

impl ComputedStep<'_> {
    /// The planes of a restricted position.
    fn row(&self, position: usize, sum: &mut Vec<f32>, mut planes: Planes) -> Result<Planes> {
        if !self.input.free[position] {
            let (token, bytes) = (self.input.canvas[position], self.row_bytes());
            self.state.draws.zero_range(bytes * position, bytes)?;
            let at = bytes * position + 4 * token as usize;
            self.state.draws.write(at, &[WEIGHT_SCALE])?;
            return Ok(certain(token));
        }
        with_buffer(|weights| {
            match self.input.allowed.is_all(position) {
                true => self.read_weights(position, weights)?,
                false => self.draw_allowed(position, weights, &mut planes)?,
            }
            if self.input.average > 0.0 {
                let argmax = average(self.input.average, weights, sum);
                planes[DrawPlane::Argmax as usize] = argmax as f32;
            }
            let spread = Spread::of(weights, WEIGHT_SCALE, self.least());
            self.write_weights(position, weights, &spread, &mut planes)?;
            Ok(planes)
        })
    }

    /// The weight above which a sparse mixture keeps a token.
    fn least(&self) -> f32 {
        keep_above(self.hparams.vocab_size) * WEIGHT_SCALE
    }

    fn row_bytes(&self) -> usize {
        4 * self.hparams.vocab_size
    }

    /// Reads the weights of a position.
    fn read_weights(&self, position: usize, weights: &mut Vec<f32>) -> Result<()> {
        weights.resize(self.hparams.vocab_size, 0.0);
        let at = self.row_bytes() * position;
        self.state.draws.read(at, weights)
    }

    /// Writes the weights of a position, and sets the planes that describe them.
    fn write_weights(
        &self,
        position: usize,
        weights: &[f32],
        spread: &Spread,
        planes: &mut Planes,
    ) -> Result<()> {
        planes[DrawPlane::Scale as usize] = (1.0 / spread.total) as f32;
        planes[DrawPlane::Kept as usize] = spread.kept as f32;
        planes[DrawPlane::Dropped as usize] = (spread.dropped / spread.total) as f32;
        self.state.draws.write(self.row_bytes() * position, weights)
    }

    /// The soft-capped logits of a position.
    fn read_logits(&self, position: usize, row: &mut Vec<f32>) -> Result<()> {
        row.resize(self.hparams.vocab_size, 0.0);
        let at = self.row_bytes() * (self.first + position);
        self.logits.read(at, row)?;
        let cap = self.hparams.logit_softcap;
        row.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
        Ok(())
    }

    /// The logits of a position, divided by the temperature.
    fn read_scores(&self, position: usize) -> Result<Vec<f32>> {
        let temperature = self.temperature();
        let mut row = Vec::new();
        self.read_logits(position, &mut row)?;
        row.iter_mut().for_each(|x| *x /= temperature);
        Ok(row)
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
    fn draw_allowed(&self, position: usize, row: &mut Vec<f32>, planes: &mut Planes) -> Result<()> {
        self.read_logits(position, row)?;
        let choice = DrawSampler::default().draw(row, position, self.input)?;
        let (greatest, temperature) = (row[choice.argmax as usize], self.temperature());
        row.iter_mut()
            .for_each(|x| *x = ((*x - greatest) / temperature).exp() * WEIGHT_SCALE);
        put(&choice, planes);
        Ok(())
    }
}

/// Lends memory for a row of the vocabulary. Each thread keeps its own: to allocate a megabyte for
/// each row costs more than to compute with it.
fn with_buffer<T>(work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
    thread_local! {
        static ROW: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let mut row = ROW.take();
    let result = work(&mut row);
    ROW.set(row);
    result
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
