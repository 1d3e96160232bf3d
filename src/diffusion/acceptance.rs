//! Entropy-bound acceptance: which of the tokens drawn in a step are kept.

/// Acceptance without force, for canvases of which much is known: marks the most certain positions
/// whose entropies have a sum of at most `bound`, which may be none.
///
/// `entropy` is in nats and holds finite values; equal ones keep the order of their positions.
///
/// # Panics
/// If the slices differ in length.
pub fn accept_within_bound(entropy: &[f32], bound: f32, accepted: &mut [bool]) {
    accept_forcing(entropy, bound, |_| false, accepted);
}

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
    accept_forcing(entropy, bound, |_| true, accepted);
}

/// The same for canvases of which a part is known: [`accept_by_entropy`] at the positions that `forces`
/// accepts, [`accept_within_bound`] at the others. The sums are those of all positions.
///
/// # Panics
/// If the slices differ in length.
pub(super) fn accept_forcing(
    entropy: &[f32],
    bound: f32,
    forces: impl Fn(usize) -> bool,
    accepted: &mut [bool],
) {
    assert_eq!(entropy.len(), accepted.len());
    let mut order: Vec<usize> = (0..entropy.len()).collect();
    order.sort_by(|&a, &b| entropy[a].total_cmp(&entropy[b]));
    let mut sum = 0.0_f64;
    for position in order {
        let own = entropy[position];
        sum += f64::from(own);
        // Rounded as torch does on the CPU: cumsum accumulates in F64 and stores F32. The sum before
        // adding `own` would differ, because the reference subtracts.
        let counted = if forces(position) { own } else { 0.0 };
        accepted[position] = sum as f32 - counted <= bound;
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
    fn without_force_the_sum_with_ones_own_entropy_counts() {
        let within = |entropy: &[f32], bound| {
            let mut accepted = vec![true; entropy.len()];
            accept_within_bound(entropy, bound, &mut accepted);
            accepted
        };
        let entropy = [1.0, 0.25, 2.0, 0.5];
        assert_eq!(within(&entropy, 0.1), [false; 4]);
        assert_eq!(within(&entropy, 0.25), [false, true, false, false]); // ≤, not <
        assert_eq!(within(&entropy, 0.75), [false, true, false, true]);
        assert_eq!(within(&entropy, 3.75), [true; 4]);
        assert_eq!(within(&[], 0.1), [] as [bool; 0]);
    }

    #[test]
    fn what_is_known_is_accepted_within_the_bound_alone() {
        // Sorted 0.25, 0.5, 1, 2; the sums up to each are 0.25, 0.75, 1.75, 3.75.
        let entropy = [1.0, 0.25, 2.0, 0.5];
        let forcing = |forced: &[usize], bound| {
            let mut accepted = vec![true; entropy.len()];
            accept_forcing(&entropy, bound, |p| forced.contains(&p), &mut accepted);
            accepted
        };
        assert_eq!(forcing(&[0], 0.75), [true, true, false, true]); // the sum before it
        assert_eq!(forcing(&[1, 2, 3], 0.75), [false, true, false, true]);
        assert_eq!(forcing(&[1], 0.1), [false, true, false, false]);
        assert_eq!(forcing(&[0], 0.1), [false; 4]);
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
    }
}
