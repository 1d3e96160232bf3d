//! Whether a canvas is done: its argmax no longer changes, and its mean entropy is low.

use super::Token;

/// Mean of the entropies, in nats; 0 if there are none. The sum runs in F64, so that its order does not
/// matter.
pub fn mean_entropy(entropy: &[f32]) -> f32 {
    if entropy.is_empty() {
        return 0.0;
    }
    let sum: f64 = entropy.iter().copied().map(f64::from).sum();
    (sum / entropy.len() as f64) as f32
}

/// Finds out when the argmax canvas has stopped changing.
///
/// A canvas is stable when it equals the argmax canvases of the last `threshold` steps. That is
/// the same as the length of the current run of equal canvases, so one canvas is remembered and
/// not `threshold` of them.
#[derive(Debug, Clone)]
pub struct StabilityTracker {
    threshold: u32,
    previous: Vec<Token>,
    /// How many steps before the latest one had the same canvas.
    equal_before: u32,
}

impl StabilityTracker {
    /// A tracker for a new canvas; with `threshold` 0 every canvas is stable.
    pub fn new(threshold: u32) -> Self {
        Self {
            threshold,
            previous: Vec::new(),
            equal_before: 0,
        }
    }

    /// Takes one step's argmax canvas; true if it is stable.
    pub fn observe(&mut self, argmax: &[Token]) -> bool {
        if self.previous == argmax {
            self.equal_before = self.equal_before.saturating_add(1);
        } else {
            self.previous.clear();
            self.previous.extend_from_slice(argmax);
            self.equal_before = 0;
        }
        self.equal_before >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_mean_does_not_lose_small_entropies() {
        let mut entropy = vec![1e-4_f32; 100_000];
        entropy[0] = 1e4;
        // Adding 1e-4 to 1e4 changes nothing in F32, and the mean would be 0.1.
        assert!((mean_entropy(&entropy) - 0.1001).abs() < 1e-7);
    }

    fn stable_steps(threshold: u32, canvases: &[[Token; 2]]) -> Vec<bool> {
        let mut tracker = StabilityTracker::new(threshold);
        canvases.iter().map(|c| tracker.observe(c)).collect()
    }

    #[test]
    fn stability_needs_as_many_equal_predecessors_as_the_threshold() {
        let canvases = [[1, 2], [1, 2], [1, 2], [1, 3], [1, 2], [1, 2]];
        assert_eq!(stable_steps(0, &canvases), [true; 6]);
        assert_eq!(
            stable_steps(1, &canvases),
            [false, true, true, false, false, true]
        );
        assert_eq!(
            stable_steps(2, &canvases),
            [false, false, true, false, false, false]
        );
        assert_eq!(stable_steps(3, &canvases), [false; 6]);
    }

    /// The reference's own formulation: a history of `threshold` canvases that starts impossible.
    fn stable_by_history(threshold: usize, canvases: &[Vec<Token>]) -> Vec<bool> {
        let mut history = vec![vec![-1; 2]; threshold];
        let mut stable = Vec::new();
        for canvas in canvases {
            stable.push(history.iter().all(|old| old == canvas));
            history.push(canvas.clone());
            history.remove(0);
        }
        stable
    }

    proptest! {
        #[test]
        fn stability_equals_the_history_of_the_reference(
            threshold in 0_usize..5,
            canvases in prop::collection::vec(prop::collection::vec(0..2, 2), 0..30),
        ) {
            let mut tracker = StabilityTracker::new(threshold as u32);
            let ours: Vec<bool> = canvases.iter().map(|c| tracker.observe(c)).collect();
            prop_assert_eq!(ours, stable_by_history(threshold, &canvases));
        }
    }
}
