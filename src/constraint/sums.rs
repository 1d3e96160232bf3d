//! Sums over all canvases of a language: its probability, canvases drawn from it, and the posterior of each
//! position.

use super::number::Number;
use super::tables::{ClassTables, Projection};
use super::trellis::{Step, Trellis};

/// Sums over paths; buffers that are kept between steps.
#[derive(Debug)]
pub(super) struct SumPass<N: Number> {
    /// `[(positions + 1) × width]`: the probability of the tokens up to a state, over all paths.
    forward: Vec<N>,
    /// `[width]`: the probability of the tokens after a state, from the current position and the next one on.
    backward: [Vec<N>; 2],
    /// What flows through each group and each class at the positions of a block.
    group_flows: Vec<[N::Sum; BLOCK]>,
    class_flows: Vec<[N::Sum; BLOCK]>,
}

/// Positions whose flows are summed together, in the lanes of vector registers.
const BLOCK: usize = 8;

impl<N: Number> Default for SumPass<N> {
    fn default() -> Self {
        Self {
            forward: Vec::new(),
            backward: [Vec::new(), Vec::new()],
            group_flows: Vec::new(),
            class_flows: Vec::new(),
        }
    }
}

impl<N: Number> SumPass<N> {
    /// The probability of the language. All other methods need it first.
    pub(super) fn forward(&mut self, trellis: &Trellis, weights: &[N]) -> N {
        let (automaton, width, tail) = (trellis.automaton, trellis.width(), trellis.tail);
        self.forward.clear();
        self.forward
            .resize((trellis.positions() + 1) * width, N::ZERO);
        self.forward[trellis.start()] = N::ONE;
        for (position, weights) in rows(weights, trellis).enumerate() {
            let (before, after) = self.forward.split_at_mut((position + 1) * width);
            let before = &before[position * width..];
            for state in trellis.open(position + 1) {
                let mut sum = N::EMPTY;
                for edge in automaton.incoming.of(state as u32) {
                    let weight = weights[edge.group as usize];
                    N::add_product(&mut sum, before[edge.state as usize], weight);
                }
                after[state] = N::total(sum);
            }
            let mut sum = N::EMPTY;
            N::add(&mut sum, before[tail]);
            for &state in &automaton.accepting {
                N::add_product(
                    &mut sum,
                    before[state as usize],
                    weights[automaton.end as usize],
                );
            }
            after[tail] = N::total(sum);
        }
        total(self.row(trellis, trellis.positions()).iter().copied())
    }

    fn row(&self, trellis: &Trellis, position: usize) -> &[N] {
        &self.forward[position * trellis.width()..(position + 1) * trellis.width()]
    }

    /// Draws a path backward, by a uniform number for each position. Returns its classes and what is left
    /// of the uniform numbers.
    pub(super) fn sample(
        &self,
        trellis: &Trellis,
        tables: &ClassTables,
        weights: &[N],
        uniforms: &[f32],
    ) -> (Vec<Option<u16>>, Vec<f32>) {
        let mut path = vec![None; trellis.positions()];
        let mut remainders = vec![0.0; trellis.positions()];
        // The last position's number chooses the state at the end of the canvas too.
        let mut after = None;
        for (position, weights) in rows(weights, trellis).enumerate().rev() {
            let mut uniform = f64::from(uniforms[position]);
            let state = after.unwrap_or_else(|| {
                let ends = self.row(trellis, position + 1).iter().copied();
                let (state, rest) = draw(ends, uniform);
                uniform = rest;
                state
            });
            let before = self.row(trellis, position);
            let steps = trellis.steps_into(state);
            let weight = |step: &Step| match step.group {
                Some(group) => before[step.from].times(weights[group as usize]),
                None => before[step.from],
            };
            let (step, mut rest) = draw(steps.iter().map(weight), uniform);
            let step = steps[step];
            if let Some(group) = step.group {
                let classes = &trellis.automaton.groups[group as usize];
                let row = &tables.log_sum[position * tables.classes..];
                let weights = classes.iter().map(|&k| N::exp(row[usize::from(k)]));
                let (class, left) = draw(weights, rest);
                (path[position], rest) = (Some(classes[class]), left);
            }
            after = Some(step.from);
            // The largest f32 below 1.
            remainders[position] = (rest as f32).min(1.0 - f32::EPSILON / 2.0);
        }
        (path, remainders)
    }

    /// The posterior: the logarithms of what multiplies each class's probabilities, and the probabilities of
    /// the tail. `z` is the probability of the language.
    pub(super) fn posterior(
        &mut self,
        trellis: &Trellis,
        weights: &[N],
        z: N,
        projection: &mut Projection,
    ) {
        let (positions, tail) = (trellis.positions(), trellis.tail);
        for row in &mut self.backward {
            row.clear();
            row.resize(trellis.width(), N::ONE);
        }
        for state in (0..tail).filter(|s| !trellis.language.affords(*s as u32, positions)) {
            self.backward[0][state] = N::ZERO;
        }
        let groups = trellis.automaton.groups.len();
        self.group_flows.resize(groups, [N::EMPTY; BLOCK]);
        let classes = trellis.automaton.class_count();
        self.class_flows.resize(classes, [N::EMPTY; BLOCK]);
        for first in (0..positions).step_by(BLOCK).rev() {
            let count = BLOCK.min(positions - first);
            self.group_flows.fill([N::EMPTY; BLOCK]);
            for lane in (0..count).rev() {
                let position = first + lane;
                self.backward_step(trellis, (position, lane), &weights[position * groups..]);
                let in_tail = self.row(trellis, position)[tail];
                projection.tail[position] = in_tail.over(z).to_f64() as f32;
            }
            self.sum_classes(&trellis.automaton.groups);
            for (lane, row) in (0..count).zip(first..) {
                let row = &mut projection.log_multipliers[row * classes..][..classes];
                for (multiplier, flows) in row.iter_mut().zip(&self.class_flows) {
                    *multiplier = N::total(flows[lane]).over(z).ln() as f32;
                }
            }
        }
    }

    /// Sums what flows through the groups by class.
    fn sum_classes(&mut self, groups: &[Vec<u16>]) {
        self.class_flows.fill([N::EMPTY; BLOCK]);
        for (flows, classes) in self.group_flows.iter().zip(groups) {
            let flows = flows.map(N::total);
            if flows.iter().all(|flow| flow.is_zero()) {
                continue;
            }
            for &class in classes {
                let sums = self.class_flows[usize::from(class)].iter_mut();
                sums.zip(flows).for_each(|(sum, flow)| N::add(sum, flow));
            }
        }
    }

    /// Replaces `backward[0]`, which belongs to position + 1, by the sums of `position`, and sums what flows
    /// through the groups there, without their weights, in a lane of the block.
    fn backward_step(
        &mut self,
        trellis: &Trellis,
        (position, lane): (usize, usize),
        weights: &[N],
    ) {
        let (automaton, width, tail) = (trellis.automaton, trellis.width(), trellis.tail);
        let before = &self.forward[position * width..(position + 1) * width];
        let [next, current] = &mut self.backward;
        let flows = &mut self.group_flows;
        for state in 0..tail {
            let mut sum = N::EMPTY;
            // What no path reaches counts for nothing.
            if !before[state].is_zero() {
                for edge in automaton.outgoing.of(state as u32) {
                    let (rest, group) = (next[edge.state as usize], edge.group as usize);
                    N::add_product(&mut sum, rest, weights[group]);
                    N::add_product(&mut flows[group][lane], before[state], rest);
                }
            }
            current[state] = N::total(sum);
        }
        let end = automaton.end as usize;
        let accepting = automaton.accepting.iter();
        // Of states that are not affordable nothing may flow back.
        for &state in accepting.filter(|s| trellis.language.affords(**s, position)) {
            let state = state as usize;
            let mut sum = N::EMPTY;
            N::add(&mut sum, current[state]);
            // Anything may come after an end: the sum of the tail is 1.
            N::add(&mut sum, weights[end]);
            current[state] = N::total(sum);
            N::add(&mut flows[end][lane], before[state]);
        }
        self.backward.swap(0, 1);
    }
}

/// The groups' weights of each position.
fn rows<'w, N>(
    weights: &'w [N],
    trellis: &Trellis,
) -> impl ExactSizeIterator<Item = &'w [N]> + DoubleEndedIterator {
    weights.chunks_exact(trellis.automaton.groups.len())
}

fn total<N: Number>(terms: impl Iterator<Item = N>) -> N {
    let mut sum = N::EMPTY;
    terms.for_each(|term| N::add(&mut sum, term));
    N::total(sum)
}

/// Chooses an index in proportion to the weights, some of which are not 0, by a uniform number. Returns it
/// with what is left of the number: uniform again.
fn draw<N: Number>(weights: impl Iterator<Item = N> + Clone, uniform: f64) -> (usize, f64) {
    let total = total(weights.clone());
    let mut left = uniform;
    let mut last = (0, 0.0);
    for (index, weight) in weights.enumerate().filter(|(_, weight)| !weight.is_zero()) {
        let share = weight.over(total).to_f64();
        if left < share {
            return (index, left / share);
        }
        left -= share;
        last = (index, 1.0);
    }
    last // the shares' sum was rounded
}
