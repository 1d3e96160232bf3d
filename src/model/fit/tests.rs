use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

fn unit(fixed: usize, experts: usize) -> Unit {
    Unit { fixed, experts }
}

/// All units on GPUs, in turn: a plan that a user could have asked for.
fn everything(units: &[Unit], gpus: usize) -> UnitPlan {
    UnitPlan {
        owner: (0..units.len())
            .map(|i| (gpus > 0).then(|| i * gpus / units.len()))
            .collect(),
        host_experts: vec![false; units.len()],
    }
}

/// What GPUs hold if each one in use needs `shared` in addition to its units.
fn held(units: &[Unit], shared: &[usize], plan: &UnitPlan) -> Vec<usize> {
    let sums = plan.sums(units, shared.len());
    let used = |gpu: usize| plan.owner.contains(&Some(gpu));
    (sums.iter().zip(shared).enumerate())
        .map(|(gpu, (sum, shared))| sum + if used(gpu) { *shared } else { 0 })
        .collect()
}

fn found(units: &[Unit], budgets: &[usize], shared: &[usize]) -> UnitPlan {
    let wanted = everything(units, budgets.len());
    search(units, budgets, &wanted, |plan| {
        Ok(held(units, shared, plan))
    })
    .unwrap()
}

fn fits(units: &[Unit], budgets: &[usize], shared: &[usize], plan: &UnitPlan) -> bool {
    let held = held(units, shared, plan);
    held.iter()
        .zip(budgets)
        .all(|(held, budget)| held <= budget)
}

/// Units and experts on GPUs.
fn placed(plan: &UnitPlan) -> (usize, usize) {
    let on_gpu = plan.owner.iter().filter(|owner| owner.is_some()).count();
    let both = plan.owner.iter().zip(&plan.host_experts);
    (
        on_gpu,
        both.filter(|(owner, host)| owner.is_some() && !**host)
            .count(),
    )
}

#[test]
fn experts_leave_before_layers_and_the_first_ones_first() {
    let units = [unit(10, 100), unit(10, 100), unit(10, 100), unit(50, 0)];
    let at = |budget| found(&units, &[budget], &[5]);
    assert_eq!(at(385), everything(&units, 1));
    assert_eq!(at(384).host_experts, [true, false, false, false]);
    assert_eq!(at(185).host_experts, [true, true, false, false]);
    assert_eq!(at(85).host_experts, [true, true, true, false]);
    assert_eq!(at(85).owner, [Some(0); 4]);
    assert_eq!(at(84).owner, [None, Some(0), Some(0), Some(0)]);
    assert_eq!(at(55).owner, [None, None, None, Some(0)]);
    assert_eq!(at(54).owner, [None; 4]);
    assert_eq!(at(0).owner, [None; 4]);
}

#[test]
fn a_full_gpu_passes_layers_on_to_the_next() {
    let units = [unit(10, 0), unit(10, 0), unit(10, 0), unit(30, 0)];
    // The requested plan has two units on each.
    assert_eq!(
        found(&units, &[35, 35], &[5, 5]).owner,
        [Some(0), Some(0), Some(0), Some(1)]
    );
    // A GPU that can hold nothing is skipped.
    assert_eq!(found(&units, &[4, 65], &[5, 5]).owner, [Some(1); 4]);
}

#[test]
fn a_plan_for_the_public_model_on_a_small_card() {
    // Roughly 26B-A4B in Q4_K_M on 8 GiB, of which 1 stays free.
    let mut units = vec![unit(40 * MIB, 450 * MIB); 30];
    units.push(unit(2300 * MIB, 0));
    let plan = found(&units, &[7 << 30], &[900 * MIB]);
    assert_eq!(placed(&plan), (31, 1 + 6));
}

fn units() -> impl Strategy<Value = Vec<Unit>> {
    let unit = (0..50_usize, 0..200_usize).prop_map(|(fixed, experts)| unit(fixed, experts));
    prop::collection::vec(unit, 1..12)
}

fn gpus() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    prop::collection::vec((0..1500_usize, 0..100_usize), 0..4)
        .prop_map(|gpus| gpus.into_iter().unzip())
}

proptest! {
    #[test]
    fn no_gpu_holds_more_than_it_can(units in units(), (budgets, shared) in gpus()) {
        let plan = found(&units, &budgets, &shared);
        prop_assert!(fits(&units, &budgets, &shared, &plan));
    }

    #[test]
    fn what_fits_as_it_was_wanted_is_left_so(units in units(), (budgets, shared) in gpus()) {
        let wanted = everything(&units, budgets.len());
        if fits(&units, &budgets, &shared, &wanted) {
            prop_assert_eq!(found(&units, &budgets, &shared), wanted);
        }
    }

    #[test]
    fn one_unit_or_expert_more_would_not_fit(units in units(), budget in 0..1500_usize, shared in 0..100_usize) {
        let (budgets, shared) = ([budget], [shared]);
        let plan = found(&units, &budgets, &shared);
        let mut more = plan.clone();
        if let Some(first) = plan.owner.iter().rposition(Option::is_none) {
            more.owner[first] = Some(0);
            prop_assert!(!fits(&units, &budgets, &shared, &more));
        }
        for i in 0..units.len() {
            let mut more = plan.clone();
            if more.owner[i].is_some() && std::mem::take(&mut more.host_experts[i]) {
                prop_assert!(!fits(&units, &budgets, &shared, &more));
            }
        }
    }

    #[test]
    fn more_memory_never_places_less(
        units in units(),
        (budgets, shared) in gpus(),
        more in prop::collection::vec(0..400_usize, 4),
    ) {
        let larger: Vec<usize> = budgets.iter().zip(more).map(|(budget, more)| budget + more).collect();
        let (less, more) = (found(&units, &budgets, &shared), found(&units, &larger, &shared));
        prop_assert!(placed(&less).0 <= placed(&more).0);
        if budgets.len() == 1 && placed(&less).0 == placed(&more).0 {
            prop_assert!(less.sums(&units, 1) <= more.sums(&units, 1));
        }
    }

    #[test]
    fn layers_stay_in_order_across_gpus(units in units(), (budgets, shared) in gpus()) {
        let plan = found(&units, &budgets, &shared);
        prop_assert!(plan.owner.is_sorted());
    }
}
