//! The most likely canvas of a language: the path of the best score through its trellis.

use super::groups::GroupTables;
use super::tables::ClassTables;
use super::trellis::{Step, Trellis};

/// Scores of best paths; a buffer that is kept between steps.
#[derive(Debug, Default)]
pub(super) struct BestPass {
    /// `[(positions + 1) × width]`: the logarithm of the probability of the best path to a state.
    scores: Vec<f64>,
}

impl BestPass {
    /// The classes of the best path; `None` if there is no path.
    pub(super) fn path(
        &mut self,
        trellis: &Trellis,
        tables: &ClassTables,
        groups: &GroupTables,
    ) -> Option<Vec<Option<u16>>> {
        self.score(trellis, tables, groups);
        let width = trellis.width();
        let row = |position: usize| &self.scores[position * width..(position + 1) * width];
        let mut state = first_maximum(row(trellis.positions()).iter().copied())?;
        let mut path = vec![None; trellis.positions()];
        for position in (0..trellis.positions()).rev() {
            let (before, maxima) = (row(position), groups.maxima(position));
            let score = |step: &Step| {
                let weight = match step.group {
                    Some(group) => maxima[group as usize],
                    None => tables.log_row_max[position].into(),
                };
                before[step.from] + weight
            };
            let steps = trellis.steps_into(state);
            let step = steps[first_maximum(steps.iter().map(score))?];
            state = step.from;
            if let Some(group) = step.group {
                let classes = &trellis.automaton.groups[group as usize];
                let row = &tables.log_max[position * tables.classes..];
                let maxima = classes.iter().map(|&k| row[usize::from(k)].into());
                path[position] = Some(classes[first_maximum(maxima)?]);
            }
        }
        Some(path)
    }

    fn score(&mut self, trellis: &Trellis, tables: &ClassTables, groups: &GroupTables) {
        let (automaton, width, tail) = (trellis.automaton, trellis.width(), trellis.tail);
        self.scores.clear();
        let size = (trellis.positions() + 1) * width;
        self.scores.resize(size, f64::NEG_INFINITY);
        self.scores[trellis.start()] = 0.0;
        for position in 0..trellis.positions() {
            let maxima = groups.maxima(position);
            let (before, after) = self.scores.split_at_mut((position + 1) * width);
            let before = &before[position * width..];
            for state in trellis.open(position + 1) {
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

#[cfg(test)]
mod tests {
    use super::first_maximum;

    #[test]
    fn of_equal_numbers_the_first_counts_and_of_none_none() {
        const NONE: f64 = f64::NEG_INFINITY;
        for (numbers, expected) in [
            (&[NONE, 1.0, 3.0, 3.0][..], Some(2)),
            (&[3.0, 3.0], Some(0)),
            (&[NONE, NONE], None),
            (&[], None),
        ] {
            assert_eq!(first_maximum(numbers.iter().copied()), expected);
        }
    }
}
