//! What one step decides: which positions are accepted, what the others become, and whether the
//! canvas is done. Pure functions over slices with one entry per canvas position.

use super::Token;

/// Entropy-bound acceptance: marks the positions whose sampled token is kept.
///
/// With the entropies sorted ascending, h₁ ≤ h₂ ≤ …, and their running sums Sₖ rounded to F32, the
/// k-th position is accepted iff Sₖ − hₖ ≤ `bound` in F32. The joint error of drawing the accepted
/// positions independently is bounded by `bound`, which is where the rule comes from. As
/// S₁ − h₁ = 0, at least one position is accepted whatever the bound.
///
/// `entropy` is in nats and holds finite values; equal ones keep the order of their positions.
///
/// # Panics
/// If the slices differ in length.
pub fn accept_by_entropy(entropy: &[f32], bound: f32, accepted: &mut [bool]) {
    assert_eq!(entropy.len(), accepted.len());
    let mut order: Vec<usize> = (0..entropy.len()).collect();
    order.sort_by(|&a, &b| entropy[a].total_cmp(&entropy[b]));
    let mut sum = 0.0_f64;
    for position in order {
        let own = entropy[position];
        sum += f64::from(own);
        // Rounded as torch does on the CPU: cumsum accumulates in F64 and stores F32. The sum
        // before adding `own` would differ, because the reference subtracts.
        accepted[position] = sum as f32 - own <= bound;
    }
}

/// The next step's canvas: the sampled token where it was accepted, fresh noise elsewhere.
///
/// Acceptance does not last: a position accepted in one step is noise again in the next one unless
/// it is accepted again.
///
/// # Panics
/// If the slices differ in length.
pub fn renoise(accepted: &[bool], sampled: &[Token], noise: &[Token], canvas: &mut [Token]) {
    assert!([accepted.len(), sampled.len(), noise.len()] == [canvas.len(); 3]);
    for (i, token) in canvas.iter_mut().enumerate() {
        *token = if accepted[i] { sampled[i] } else { noise[i] };
    }
}

/// Mean of the entropies, in nats. The sum runs in F64, so that its order does not matter.
pub fn mean_entropy(entropy: &[f32]) -> f32 {
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

    fn accept(entropy: &[f32], bound: f32) -> Vec<bool> {
        let mut accepted = vec![false; entropy.len()];
        accept_by_entropy(entropy, bound, &mut accepted);
        accepted
    }

    #[test]
    fn acceptance_by_hand() {
        // Sorted 0.25, 0.5, 1, 2; the sums before each are 0, 0.25, 0.75, 1.75.
        let entropy = [1.0, 0.25, 2.0, 0.5];
        assert_eq!(accept(&entropy, 0.1), [false, true, false, false]);
        assert_eq!(accept(&entropy, 0.25), [false, true, false, true]); // ≤, not <
        assert_eq!(accept(&entropy, 0.74), [false, true, false, true]);
        assert_eq!(accept(&entropy, 0.75), [true, true, false, true]);
        assert_eq!(accept(&entropy, 1.75), [true; 4]);
    }

    #[test]
    fn ties_go_to_the_earlier_position() {
        assert_eq!(accept(&[1.0, 1.0, 1.0], 1.0), [true, true, false]);
        assert_eq!(accept(&[2.0, 1.0, 1.0], 0.5), [false, true, false]);
    }

    #[test]
    fn certain_positions_are_all_accepted() {
        assert_eq!(accept(&[0.0; 5], 0.1), [true; 5]);
        assert_eq!(accept(&[0.0, 3.0, -0.0], 1e-9), [true, true, true]);
    }

    #[test]
    fn one_position_is_accepted_even_when_it_is_above_the_bound() {
        assert_eq!(accept(&[7.0, 5.0], 0.1), [false, true]);
        assert_eq!(accept(&[7.0], 0.1), [true]);
        assert_eq!(accept(&[], 0.1), [] as [bool; 0]);
    }

    #[test]
    fn the_sum_is_rounded_as_in_the_reference() {
        // (0.1 + 1000) − 1000 is 0.099976 in F32, less than the 0.1 before it.
        assert_eq!(accept(&[0.1, 1000.0], 0.09998), [true, true]);
        assert_eq!(accept(&[0.1, 1000.0], 0.09997), [true, false]);
        // Ten times 0.1 is 1.0000001 when every sum is F32, and 0.9 would be passed.
        assert_eq!(accept(&[0.1; 10], 0.9), [true; 10]);
    }

    #[test]
    fn renoise_keeps_accepted_samples_only() {
        let mut canvas = [0; 3];
        renoise(&[true, false, true], &[1, 2, 3], &[7, 8, 9], &mut canvas);
        assert_eq!(canvas, [1, 8, 3]);
    }

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

    fn entropies() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values make ties common.
        let tied = prop::sample::select(vec![0.0, 0.05, 0.1, 1.0]);
        prop::collection::vec(prop_oneof![tied, 0.0..12.0_f32], 1..80)
    }

    proptest! {
        #[test]
        fn at_least_one_is_accepted(entropy in entropies(), bound in 1e-6..20.0_f32) {
            prop_assert!(accept(&entropy, bound).contains(&true));
        }

        #[test]
        fn the_accepted_are_the_most_certain(entropy in entropies(), bound in 1e-6..20.0_f32) {
            let accepted = accept(&entropy, bound);
            let mut order: Vec<usize> = (0..entropy.len()).collect();
            order.sort_by(|&a, &b| entropy[a].total_cmp(&entropy[b]));
            prop_assert!(order.iter().map(|&i| accepted[i]).is_sorted_by(|a, b| a >= b));
        }

        #[test]
        fn a_larger_bound_accepts_no_less(entropy in entropies(), bound in 1e-6..10.0_f32) {
            let (small, large) = (accept(&entropy, bound), accept(&entropy, bound * 2.0));
            prop_assert!(small.iter().zip(&large).all(|(s, l)| !s || *l));
        }

        #[test]
        fn permuting_positions_permutes_the_decision(
            pairs in prop::collection::btree_set(0..1_000_000_u32, 1..60)
                .prop_map(|set| set.into_iter().map(|x| x as f32 / 1e5).collect::<Vec<_>>())
                .prop_flat_map(|sorted| (Just(sorted.clone()), Just(sorted).prop_shuffle())),
            bound in 1e-6..20.0_f32,
        ) {
            let (sorted, shuffled) = pairs;
            let by_value: Vec<(f32, bool)> =
                sorted.iter().copied().zip(accept(&sorted, bound)).collect();
            for (value, accepted) in shuffled.iter().zip(accept(&shuffled, bound)) {
                prop_assert!(by_value.contains(&(*value, accepted)));
            }
        }

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
