//! Which lengths of a gap are compared, and which of them fits best.

use std::ops::RangeInclusive;

/// Maximum number of lengths that are compared closely.
const CANDIDATES: usize = 8;

/// Draws of noise that a close comparison averages over.
pub(super) const DRAWS: u32 = 2;

/// If the tokens after the gap have a lower mean log-probability at every length, the gap is longer.
pub(super) const LONGER: f32 = -3.0;

/// A length of what comes before the fixed tokens of a canvas, with the sum of its scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) tokens: usize,
    total: f32,
    scores: u32,
}

impl Candidate {
    /// The mean of its scores; the lowest number before the first.
    pub(super) fn mean(&self) -> f32 {
        match self.scores {
            0 => f32::NEG_INFINITY,
            scores => self.total / scores as f32,
        }
    }
}

/// The lengths that are compared.
#[derive(Debug, Clone, Default)]
pub(super) struct Lengths {
    candidates: Vec<Candidate>,
    /// Scores so far.
    scored: usize,
}

impl Lengths {
    /// All of a range, if they are few enough to be compared closely.
    pub(super) fn of_range(range: RangeInclusive<usize>) -> Option<Self> {
        let count = range.clone().count();
        (count <= CANDIDATES).then(|| Self::new(range))
    }

    /// The most likely lengths of a range, by the mean log-probability of each; of equals the shorter.
    pub(super) fn most_likely(range: RangeInclusive<usize>, logprobs: &[f32]) -> Self {
        let mut order: Vec<(usize, f32)> = range.zip(logprobs.iter().copied()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self::new(order.into_iter().map(|(tokens, _)| tokens).take(CANDIDATES))
    }

    fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let candidate = |tokens| Candidate {
            tokens,
            total: 0.0,
            scores: 0,
        };
        Self {
            candidates: lengths.into_iter().map(candidate).collect(),
            scored: 0,
        }
    }

    /// Maximum number of scores that any range needs.
    pub(super) const fn max_scores() -> u32 {
        CANDIDATES as u32 * DRAWS
    }

    /// The lengths to score next, at most `most`, each with the draw of the noise that it is scored by.
    pub(super) fn next(&self, most: usize) -> Vec<(usize, u32)> {
        let count = self.candidates.len();
        let last = (self.scored + most).min(count * DRAWS as usize);
        let scoring = |index: usize| {
            let draw = (index / count) as u32;
            (self.candidates[index % count].tokens, draw)
        };
        (self.scored..last).map(scoring).collect()
    }

    /// Takes the score of the length that is next, the first of [`next`](Self::next).
    pub(super) fn score(&mut self, logprob: f32) {
        let index = self.scored % self.candidates.len();
        let candidate = &mut self.candidates[index];
        candidate.total += logprob;
        candidate.scores += 1;
        self.scored += 1;
    }

    /// The lengths with their scores, the best first; of equals the one that was named first.
    pub(super) fn ranked(&self) -> Vec<Candidate> {
        let mut ranked = self.candidates.clone();
        ranked.sort_by(|a, b| b.mean().total_cmp(&a.mean()));
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lengths_are_all_compared_and_many_by_likelihood() {
        let tokens = |lengths: &Lengths| -> Vec<usize> {
            lengths.candidates.iter().map(|c| c.tokens).collect()
        };
        assert_eq!(tokens(&Lengths::of_range(3..=5).unwrap()), [3, 4, 5]);
        assert!(Lengths::of_range(1..=9).is_none());
        let mut logprobs = [-9.0; 20];
        for (index, logprob) in [(17, -1.0), (3, -2.0), (9, -2.0)] {
            logprobs[index] = logprob;
        }
        let likely = Lengths::most_likely(10..=29, &logprobs);
        assert_eq!(tokens(&likely), [27, 13, 19, 10, 11, 12, 14, 15]);
    }

    #[test]
    fn each_length_is_scored_by_every_draw() {
        let mut lengths = Lengths::of_range(4..=5).unwrap();
        let mut order = Vec::new();
        for score in [-1.0, -2.0, -5.0, -1.0] {
            order.extend(lengths.next(1));
            lengths.score(score);
        }
        assert_eq!(order, [(4, 0), (5, 0), (4, 1), (5, 1)]);
        assert_eq!(lengths.next(1), []);
        let ranked = lengths.ranked();
        assert_eq!((ranked[0].tokens, ranked[0].mean()), (5, -1.5));
        assert_eq!((ranked[1].tokens, ranked[1].mean()), (4, -3.0));
        assert_eq!(Lengths::default().next(3), []);
    }

    #[test]
    fn several_are_scored_at_once_in_the_same_order() {
        let mut lengths = Lengths::of_range(4..=6).unwrap();
        assert_eq!(lengths.next(2), [(4, 0), (5, 0)]);
        lengths.score(-1.0);
        lengths.score(-2.0);
        assert_eq!(lengths.next(2), [(6, 0), (4, 1)]);
        assert_eq!(lengths.next(9), [(6, 0), (4, 1), (5, 1), (6, 1)]);
    }

    #[test]
    fn what_has_no_score_comes_last() {
        let mut lengths = Lengths::of_range(4..=6).unwrap();
        lengths.score(-50.0);
        assert_eq!(lengths.ranked()[0].tokens, 4);
    }
}
