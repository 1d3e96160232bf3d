//! Per position, the probability and the most likely token of each set of classes that leads from one
//! state to another.

use super::scaled::{Scaled, Sum};
use super::tables::ClassTables;

/// The weights of groups at every position of a canvas.
#[derive(Debug, Default)]
pub(super) struct GroupTables {
    groups: usize,
    /// `[positions × groups]`.
    sums: Vec<Scaled>,
    maxima: Vec<f64>,
    /// `[classes × BLOCK]`: the classes' weights at the positions of a block.
    class_sums: Vec<f64>,
    class_maxima: Vec<f32>,
}

/// Positions that are summed together, in the lanes of vector registers.
const BLOCK: usize = 8;
/// Below this logarithm a weight needs a scale of its own.
const SCALED_BELOW: f32 = -346.0;

impl GroupTables {
    /// Sums and maxima of `groups` at all positions.
    pub(super) fn fill(&mut self, tables: &ClassTables, groups: &[Vec<u16>], positions: usize) {
        self.groups = groups.len();
        self.sums.resize(positions * groups.len(), Scaled::ZERO);
        self.maxima.resize(positions * groups.len(), 0.0);
        for first in (0..positions).step_by(BLOCK) {
            let count = BLOCK.min(positions - first);
            let scaled = self.load_block(tables, first, count);
            self.sum_block(groups, first, count);
            for (offset, _) in scaled.iter().enumerate().filter(|(_, scaled)| **scaled) {
                self.sum_scaled(tables, groups, first + offset);
            }
        }
    }

    /// Loads the classes' weights of the positions from `first` on. Returns which of them have weights that
    /// need scales.
    fn load_block(&mut self, tables: &ClassTables, first: usize, count: usize) -> [bool; BLOCK] {
        let classes = tables.classes;
        self.class_sums.resize(classes * BLOCK, 0.0);
        self.class_maxima.resize(classes * BLOCK, 0.0);
        let mut scaled = [false; BLOCK];
        for (offset, scaled) in scaled.iter_mut().enumerate().take(count) {
            let row = (first + offset) * classes..(first + offset + 1) * classes;
            let logs = tables.log_sum[row.clone()].iter();
            for (class, (&log, &max)) in logs.zip(&tables.log_max[row]).enumerate() {
                *scaled |= log < SCALED_BELOW && log > f32::NEG_INFINITY;
                self.class_sums[class * BLOCK + offset] = f64::from(log).exp();
                self.class_maxima[class * BLOCK + offset] = max;
            }
        }
        scaled
    }

    fn sum_block(&mut self, groups: &[Vec<u16>], first: usize, count: usize) {
        for (group, classes) in groups.iter().enumerate() {
            let mut sums = [0.0; BLOCK];
            let mut maxima = [f32::NEG_INFINITY; BLOCK];
            for &class in classes {
                let row = usize::from(class) * BLOCK..(usize::from(class) + 1) * BLOCK;
                let weights = &self.class_sums[row.clone()];
                sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w);
                let row = &self.class_maxima[row];
                let pairs = maxima.iter_mut().zip(row);
                pairs.for_each(|(max, &w)| *max = if w > *max { w } else { *max });
            }
            for offset in 0..count {
                let at = (first + offset) * self.groups + group;
                self.sums[at] = match sums[offset] {
                    0.0 => Scaled::ZERO,
                    value => Scaled { value, scale: 0 },
                };
                self.maxima[at] = f64::from(maxima[offset]);
            }
        }
    }

    fn sum_scaled(&mut self, tables: &ClassTables, groups: &[Vec<u16>], position: usize) {
        let logs = &tables.log_sum[position * tables.classes..(position + 1) * tables.classes];
        let weights: Vec<Scaled> = logs.iter().map(|&log| Scaled::exp(log.into())).collect();
        for (group, classes) in groups.iter().enumerate() {
            let mut sum = Sum::ZERO;
            classes
                .iter()
                .for_each(|&k| sum.add(weights[usize::from(k)]));
            self.sums[position * self.groups + group] = sum.total();
        }
    }

    /// The groups' probabilities at a position.
    pub(super) fn sums(&self, position: usize) -> &[Scaled] {
        &self.sums[position * self.groups..(position + 1) * self.groups]
    }

    /// The logarithm of the groups' most likely token's probability at a position.
    pub(super) fn maxima(&self, position: usize) -> &[f64] {
        &self.maxima[position * self.groups..(position + 1) * self.groups]
    }
}
