//! Dynamic programming over (position, state): forward sums and best scores, paths backward, and the
//! posterior.

use super::automaton::TokenAutomaton;
use super::edges::distances;
use super::groups::GroupTables;
use super::language::CanvasLanguage;
use super::scaled::{Scaled, Sum};
use super::tables::{ClassTables, Projection};

/// Buffers of the passes, kept between steps. The last column of each row is the tail: the state after the
/// end token.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// Columns of a row: states and the tail.
    width: usize,
    /// Fewest tokens from the start to each state.
    reached: Vec<usize>,
    /// `[(positions + 1) × width]`: the probability of the tokens up to a state, over all paths; the
    /// logarithm of that of the best path.
    forward: Vec<Scaled>,
    best: Vec<f64>,
    /// The probability of the tokens from a state on: a row for the current position and one for the next.
    backward: [Vec<Scaled>; 2],
    /// The logarithm by which rows of `forward` were divided, all together.
    log_scale: f64,
}

impl Passes {
    fn restart(&mut self, language: &CanvasLanguage) {
        let automaton = language.automaton();
        self.width = automaton.state_count() + 1;
        let reached = distances(&automaton.outgoing, [language.start().0]);
        let reached = reached.into_iter().map(|d| d.unwrap_or(usize::MAX));
        self.reached.clear();
        self.reached.extend(reached);
    }

    /// Best scores of all states at all positions.
    pub(super) fn score(
        &mut self,
        language: &CanvasLanguage,
        tables: &ClassTables,
        groups: &GroupTables,
    ) {
        self.restart(language);
        let (automaton, width) = (language.automaton(), self.width);
        let tail = width - 1;
        self.best.clear();
        self.best
            .resize((language.len() + 1) * width, f64::NEG_INFINITY);
        self.best[language.start().0 as usize] = 0.0;
        let open = open_states(&self.reached, language);
        for position in 0..language.len() {
            let maxima = groups.maxima(position);
            let (before, after) = self.best.split_at_mut((position + 1) * width);
            let before = &before[position * width..];
            for state in (0..tail).filter(|&state| open(state, position + 1)) {
                let mut best = f64::NEG_INFINITY;
                for edge in automaton.incoming.of(state as u32) {
                    let score = before[edge.state as usize] + maxima[edge.group as usize];
                    best = if score > best { score } else { best };
                }
                after[state] = best;
            }
            let mut best = before[tail] + f64::from(tables.log_row_max[position]);
            for &state in &automaton.accepting {
                best = best.max(before[state as usize] + maxima[automaton.end as usize]);
            }
            after[tail] = best;
        }
    }

    /// The classes of the best path; `None` if there is no path.
    pub(super) fn best_path(
        &self,
        language: &CanvasLanguage,
        tables: &ClassTables,
        groups: &GroupTables,
    ) -> Option<Vec<Option<u16>>> {
        let (automaton, width) = (language.automaton(), self.width);
        let row = |position: usize| &self.best[position * width..(position + 1) * width];
        let mut state = first_maximum(row(language.len()).iter().copied())?;
        let mut path = vec![None; language.len()];
        for position in (0..language.len()).rev() {
            let (before, maxima) = (row(position), groups.maxima(position));
            let steps = Steps::into(automaton, state, width - 1);
            let score = |step: &Step| {
                let weight = match step.group {
                    Some(group) => maxima[group as usize],
                    None => tables.log_row_max[position].into(),
                };
                before[step.from] + weight
            };
            let steps: Vec<Step> = steps.collect();
            let step = steps[first_maximum(steps.iter().map(score))?];
            state = step.from;
            path[position] = match step.group {
                None => None,
                Some(group) => {
                    let classes = &automaton.groups[group as usize];
                    let row = &tables.log_max[position * tables.classes..];
                    let maxima = classes.iter().map(|&k| row[usize::from(k)].into());
                    Some(classes[first_maximum(maxima)?])
                }
            };
        }
        Some(path)
    }

    /// Probabilities of all states at all positions, over all paths to them. Returns the logarithm of the
    /// language's probability; `None` if there is no path.
    pub(super) fn sum_forward(
        &mut self,
        language: &CanvasLanguage,
        groups: &GroupTables,
    ) -> Option<f64> {
        let (automaton, width) = (language.automaton(), self.width);
        let tail = width - 1;
        self.forward.clear();
        self.forward
            .resize((language.len() + 1) * width, Scaled::ZERO);
        self.forward[language.start().0 as usize] = Scaled::ONE;
        self.log_scale = 0.0;
        let open = open_states(&self.reached, language);
        for position in 0..language.len() {
            let sums = groups.sums(position);
            let (before, after) = self.forward.split_at_mut((position + 1) * width);
            let before = &before[position * width..];
            let after = &mut after[..width];
            for state in (0..tail).filter(|&state| open(state, position + 1)) {
                let mut sum = Sum::ZERO;
                for edge in automaton.incoming.of(state as u32) {
                    sum.add_product(before[edge.state as usize], sums[edge.group as usize]);
                }
                after[state] = sum.total();
            }
            let mut sum = Sum::ZERO;
            sum.add(before[tail]);
            for &state in &automaton.accepting {
                sum.add_product(before[state as usize], sums[automaton.end as usize]);
            }
            after[tail] = sum.total();
            self.log_scale += divide_by_largest(after)?;
        }
        let mut sum = Sum::ZERO;
        let last = &self.forward[language.len() * width..];
        last.iter().for_each(|&weight| sum.add(weight));
        Some(sum.total().ln() + self.log_scale)
    }

    /// Draws a path backward, by a uniform number for each position. Returns its classes and what is left
    /// of the uniform numbers.
    pub(super) fn sample(
        &self,
        language: &CanvasLanguage,
        tables: &ClassTables,
        groups: &GroupTables,
        uniforms: &[f32],
    ) -> (Vec<Option<u16>>, Vec<f32>) {
        let (automaton, width) = (language.automaton(), self.width);
        let row = |position: usize| &self.forward[position * width..(position + 1) * width];
        let mut path = vec![None; language.len()];
        let mut remainders = vec![0.0; language.len()];
        // The last position's number chooses the state at the end of the canvas too.
        let mut state = None;
        for position in (0..language.len()).rev() {
            let mut uniform = f64::from(uniforms[position]);
            let after = state.unwrap_or_else(|| {
                let (state, rest) = draw(row(language.len()).iter().copied(), uniform);
                uniform = rest;
                state
            });
            let (before, sums) = (row(position), groups.sums(position));
            let steps: Vec<Step> = Steps::into(automaton, after, width - 1).collect();
            let weight = |step: &Step| match step.group {
                Some(group) => before[step.from].times(sums[group as usize]),
                None => before[step.from],
            };
            let (step, mut rest) = draw(steps.iter().map(weight), uniform);
            let step = steps[step];
            if let Some(group) = step.group {
                let classes = &automaton.groups[group as usize];
                let row = &tables.log_sum[position * tables.classes..];
                let weights = classes.iter();
                let weights = weights.map(|&k| Scaled::exp(row[usize::from(k)].into()));
                let (class, left) = draw(weights, rest);
                (path[position], rest) = (Some(classes[class]), left);
            }
            state = Some(step.from);
            // The largest f32 below 1.
            remainders[position] = (rest as f32).min(1.0 - f32::EPSILON / 2.0);
        }
        (path, remainders)
    }

    /// The posterior: the logarithms of what multiplies each class's probabilities, and the probabilities of
    /// the tail.
    pub(super) fn posterior(
        &mut self,
        language: &CanvasLanguage,
        groups: &GroupTables,
        projection: &mut Projection,
    ) {
        let (automaton, width) = (language.automaton(), self.width);
        let (classes, tail) = (automaton.class_count(), width - 1);
        let mut next = std::mem::take(&mut self.backward[0]);
        let mut current = std::mem::take(&mut self.backward[1]);
        next.clear();
        next.resize(width, Scaled::ONE);
        current.clear();
        current.resize(width, Scaled::ZERO);
        let mut group_flows = vec![Sum::ZERO; automaton.groups.len()];
        let mut class_flows = vec![Sum::ZERO; classes];
        for position in (0..language.len()).rev() {
            let sums = groups.sums(position);
            let before = &self.forward[position * width..(position + 1) * width];
            group_flows.fill(Sum::ZERO);
            current.fill(Scaled::ZERO);
            for state in 0..tail {
                let weight = before[state];
                if weight.is_zero() {
                    continue;
                }
                let mut sum = Sum::ZERO;
                for edge in automaton.outgoing.of(state as u32) {
                    if language.affords(edge.state, position + 1) {
                        let rest = next[edge.state as usize];
                        sum.add_product(rest, sums[edge.group as usize]);
                        group_flows[edge.group as usize].add_product(weight, rest);
                    }
                }
                current[state] = sum.total();
            }
            let rest = next[tail];
            for &state in &automaton.accepting {
                let mut sum = Sum::ZERO;
                sum.add(current[state as usize]);
                sum.add_product(rest, sums[automaton.end as usize]);
                current[state as usize] = sum.total();
                group_flows[automaton.end as usize].add_product(before[state as usize], rest);
            }
            current[tail] = rest;

            // All that flows through this position is 1.
            let through_tail = before[tail].times(rest);
            let mut total = Sum::ZERO;
            total.add(through_tail);
            class_flows.fill(Sum::ZERO);
            for (group, flow) in group_flows.iter().enumerate() {
                let flow = flow.total();
                if flow.is_zero() {
                    continue;
                }
                total.add_product(flow, sums[group]);
                for &class in &automaton.groups[group] {
                    class_flows[usize::from(class)].add(flow);
                }
            }
            let total = total.total();
            projection.tail[position] = through_tail.ratio(total) as f32;
            let row = &mut projection.log_multipliers[position * classes..(position + 1) * classes];
            for (multiplier, flow) in row.iter_mut().zip(&class_flows) {
                *multiplier = flow.total().over(total).ln() as f32;
            }
            divide_by_largest(&mut current);
            std::mem::swap(&mut next, &mut current);
        }
        self.backward = [next, current];
    }
}

/// Whether a path can be in a state after a number of tokens.
fn open_states(reached: &[usize], language: &CanvasLanguage) -> impl Fn(usize, usize) -> bool {
    |state, tokens| reached[state] <= tokens && language.affords(state as u32, tokens)
}

/// A way into a state: from a state, by a group of classes, or by any token within the tail.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: usize,
    group: Option<u32>,
}

struct Steps;

impl Steps {
    /// All ways into `state`.
    fn into(automaton: &TokenAutomaton, state: usize, tail: usize) -> impl Iterator<Item = Step> {
        let in_tail = state == tail;
        let edges = if in_tail {
            &[]
        } else {
            automaton.incoming.of(state as u32)
        };
        let edges = edges.iter().map(|edge| Step {
            from: edge.state as usize,
            group: Some(edge.group),
        });
        let ends = if in_tail {
            automaton.accepting.as_slice()
        } else {
            &[]
        };
        let ends = ends.iter().map(|&from| Step {
            from: from as usize,
            group: Some(automaton.end),
        });
        let stay = in_tail.then_some(Step {
            from: tail,
            group: None,
        });
        edges.chain(ends).chain(stay)
    }
}

/// The index of the first of the largest numbers; `None` if all are -∞.
fn first_maximum(numbers: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best = (None, f64::NEG_INFINITY);
    for (index, number) in numbers.enumerate() {
        if number > best.1 {
            best = (Some(index), number);
        }
    }
    best.0
}

/// Chooses an index in proportion to the weights, some of which are not 0, by a uniform number. Returns it
/// with what is left of the number: uniform again.
fn draw(weights: impl Iterator<Item = Scaled> + Clone, uniform: f64) -> (usize, f64) {
    let mut total = Sum::ZERO;
    weights.clone().for_each(|weight| total.add(weight));
    let total = total.total();
    let mut left = uniform;
    let mut last = (0, 0.0);
    for (index, weight) in weights.enumerate() {
        if weight.is_zero() {
            continue;
        }
        let share = weight.ratio(total);
        if left < share {
            return (index, left / share);
        }
        left -= share;
        last = (index, 1.0);
    }
    last // the shares' sum was rounded
}

/// Divides a row by its largest number, so that most numbers keep the same scale. Returns the logarithm of
/// the divisor; `None` if all are 0.
fn divide_by_largest(row: &mut [Scaled]) -> Option<f64> {
    let larger = |a: &Scaled, b: &Scaled| (a.scale, a.value) < (b.scale, b.value);
    let largest = row
        .iter()
        .fold(Scaled::ZERO, |a, b| if larger(&a, b) { *b } else { a });
    if largest.is_zero() {
        return None;
    }
    for weight in row.iter_mut().filter(|weight| !weight.is_zero()) {
        *weight = weight.over(largest);
    }
    Some(largest.ln())
}
