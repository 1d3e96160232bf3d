//! Restricts the distributions of a step to what its input allows, on the host, after the device
//! has drawn from all of the vocabulary: fixed positions, sets of tokens, averages over steps.

use super::graph::{CanvasState, DrawPlane};
use super::hparams::Hparams;
use crate::diffusion::draw::DrawSampler;
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
        if !(0..n).any(changes) {
            return Ok(());
        }
        self.sums.resize(n, Vec::new());
        let at = |p: usize| -> Planes { std::array::from_fn(|plane| planes[plane * n + p]) };
        let positions = self.sums.iter_mut().enumerate();
        let positions: Vec<_> = positions
            .filter(|(p, _)| changes(*p))
            .map(|(p, sum)| (p, sum, at(p)))
            .collect();
        let rows = parallel::map(positions, step.threads, |(p, sum, planes)| {
            Ok((p, step.row(p, sum, planes)?))
        });
        for row in rows {
            let (p, row): (usize, Planes) = row?;
            for (plane, value) in row.into_iter().enumerate() {
                planes[plane * n + p] = value;
            }
        }
        let scale = DrawPlane::Scale as usize * n;
        let at = CanvasState::plane(step.hparams, DrawPlane::Scale);
        step.state.draws.write(at, &planes[scale..scale + n])
    }
}

impl ComputedStep<'_> {
    /// The planes of a restricted position.
    fn row(&self, position: usize, sum: &mut Vec<f32>, planes: Planes) -> Result<Planes> {
        let vocab = self.hparams.vocab_size;
        let at = 4 * vocab * position;
        let weights = &self.state.draws;
        if !self.input.free[position] {
            let token = self.input.canvas[position];
            weights.zero_range(at, 4 * vocab)?;
            weights.write(at + 4 * token as usize, &[WEIGHT_SCALE])?;
            return Ok(certain(token));
        }
        let (mut row, mut planes) = match self.input.allowed.is_all(position) {
            true => {
                let mut row = vec![0.0; vocab];
                weights.read(at, &mut row)?;
                (row, planes)
            }
            false => self.draw_allowed(position)?,
        };
        if self.input.average > 0.0 {
            let argmax = average(self.input.average, &mut row, sum);
            planes[DrawPlane::Argmax as usize] = argmax as f32;
        }
        let spread = Spread::of(&row);
        planes[DrawPlane::Scale as usize] = (1.0 / spread.total) as f32;
        planes[DrawPlane::Kept as usize] = spread.kept as f32;
        planes[DrawPlane::Dropped as usize] = (spread.dropped / spread.total) as f32;
        weights.write(at, &row)?;
        Ok(planes)
    }

    /// Draws from the tokens that are allowed at a position: the weights of its row, and its planes
    /// but for those that describe the weights.
    fn draw_allowed(&self, position: usize) -> Result<(Vec<f32>, Planes)> {
        let vocab = self.hparams.vocab_size;
        let mut row = vec![0.0; vocab];
        self.logits
            .read(4 * vocab * (self.first + position), &mut row)?;
        let cap = self.hparams.logit_softcap;
        row.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
        let choice = DrawSampler::default().draw(&mut row, position, self.input)?;
        let temperature = match self.input.rule {
            DrawRule::Inverse { temperature, .. } | DrawRule::Gumbel { temperature, .. } => {
                temperature
            }
            DrawRule::Greedy => 1.0,
        };
        let greatest = row[choice.argmax as usize];
        row.iter_mut()
            .for_each(|x| *x = ((*x - greatest) / temperature).exp() * WEIGHT_SCALE);
        let mut planes = Planes::default();
        for (plane, value) in [
            (DrawPlane::Argmax, choice.argmax as f32),
            (DrawPlane::Sampled, choice.sampled as f32),
            (DrawPlane::Entropy, choice.entropy),
            (DrawPlane::Probability, choice.probability),
            (DrawPlane::Margin, choice.margin),
        ] {
            planes[plane as usize] = value;
        }
        Ok((row, planes))
    }
}

/// The planes of a position whose token is certain.
fn certain(token: Token) -> Planes {
    let mut planes = Planes::default();
    for (plane, value) in [
        (DrawPlane::Argmax, token as f32),
        (DrawPlane::Sampled, token as f32),
        (DrawPlane::Scale, 1.0 / WEIGHT_SCALE),
        (DrawPlane::Kept, 1.0),
        (DrawPlane::Probability, 1.0),
        (DrawPlane::Margin, 1.0),
    ] {
        planes[plane as usize] = value;
    }
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

/// Sums over the weights of a row, whose greatest is [`WEIGHT_SCALE`].
struct Spread {
    total: f64,
    /// Tokens that a sparse mixture keeps.
    kept: usize,
    /// Sum of the weights of the others.
    dropped: f64,
}

impl Spread {
    fn of(row: &[f32]) -> Self {
        let least = keep_above(row.len()) * WEIGHT_SCALE;
        let mut spread = Self {
            total: 0.0,
            kept: 0,
            dropped: 0.0,
        };
        for &weight in row {
            spread.total += f64::from(weight);
            match weight > least {
                true => spread.kept += 1,
                false => spread.dropped += f64::from(weight),
            }
        }
        spread
    }
}
