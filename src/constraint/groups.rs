//! Per position, the probability and the most likely token of each set of classes that leads from one
//! state to another.

use super::number::Number;
use super::scaled::Scaled;
use super::tables::ClassTables;

/// The weights of groups at every position of a canvas.
#[derive(Debug, Default)]
pub(super) struct GroupTables {
    groups: usize,
    /// `[positions × groups]`: their probabilities, the same with a larger range where it is asked for, and the
    /// logarithms of the most likely token's probabilities.
    sums: Vec<f64>,
    scaled: Vec<Scaled>,
    maxima: Vec<f64>,
    /// `[classes × BLOCK]`: the classes' weights at the positions of a block.
    class_sums: Vec<f64>,
    class_maxima: Vec<f32>,
    log_excess: f64,
}

/// Positions that are summed together, in the lanes of vector registers.
const BLOCK: usize = 8;

impl GroupTables {
    /// Sums and maxima of `groups` at all positions.
    pub(super) fn fill(&mut self, tables: &ClassTables, groups: &[Vec<u16>], positions: usize) {
        self.groups = groups.len();
        self.sums.resize(positions * groups.len(), 0.0);
        self.maxima.resize(positions * groups.len(), 0.0);
        self.class_sums.resize(tables.classes * BLOCK, 0.0);
        self.class_maxima.resize(tables.classes * BLOCK, 0.0);
        self.log_excess = 0.0;
        for first in (0..positions).step_by(BLOCK) {
            let count = BLOCK.min(positions - first);
            self.load_block(tables, first, count);
            self.sum_block(groups, first, count);
        }
    }

    /// Loads the classes' weights of the positions from `first` on.
    fn load_block(&mut self, tables: &ClassTables, first: usize, count: usize) {
        let classes = tables.classes;
        for offset in 0..count {
            let row = (first + offset) * classes..(first + offset + 1) * classes;
            let logs = tables.log_sum[row.clone()].iter();
            let mut total = 0.0;
            for (class, (&log, &max)) in logs.zip(&tables.log_max[row]).enumerate() {
                let weight = Number::exp(log);
                total += weight;
                self.class_sums[class * BLOCK + offset] = weight;
                self.class_maxima[class * BLOCK + offset] = max;
            }
            self.log_excess += total.ln().max(0.0);
        }
    }

    fn sum_block(&mut self, groups: &[Vec<u16>], first: usize, count: usize) {
        for (group, classes) in groups.iter().enumerate() {
            let mut sums = [0.0; BLOCK];
            let mut maxima = [f32::NEG_INFINITY; BLOCK];
            for &class in classes {
                let row = usize::from(class) * BLOCK..(usize::from(class) + 1) * BLOCK;
                let weights = &self.class_sums[row.clone()];
                sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w);
                let pairs = maxima.iter_mut().zip(&self.class_maxima[row]);
                pairs.for_each(|(max, &w)| *max = if w > *max { w } else { *max });
            }
            for offset in 0..count {
                let at = (first + offset) * self.groups + group;
                self.sums[at] = sums[offset];
                self.maxima[at] = f64::from(maxima[offset]);
            }
        }
    }

    /// The logarithm by which the probabilities of all classes exceed 1, over all positions.
    pub(super) fn log_excess(&self) -> f64 {
        self.log_excess
    }

    /// `[positions × groups]`: the groups' probabilities.
    pub(super) fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// The same with a larger range.
    pub(super) fn scaled(&mut self, tables: &ClassTables, groups: &[Vec<u16>]) -> &[Scaled] {
        self.scaled.clear();
        for row in tables.log_sum.chunks_exact(tables.classes) {
            let weights: Vec<Scaled> = row.iter().map(|&log| Scaled::exp(log)).collect();
            self.scaled.extend(groups.iter().map(|classes| {
                let mut sum = Scaled::EMPTY;
                let weights = classes.iter().map(|&k| weights[usize::from(k)]);
                weights.for_each(|weight| Scaled::add(&mut sum, weight));
                Scaled::total(sum)
            }));
        }
        &self.scaled
    }

    /// The logarithm of the groups' most likely token's probability at a position.
    pub(super) fn maxima(&self, position: usize) -> &[f64] {
        &self.maxima[position * self.groups..(position + 1) * self.groups]
    }
}
