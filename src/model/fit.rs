//! Which layers and experts go to which GPU, so that no GPU has to hold more than it can. Pure
//! arithmetic, without ggml.
//!
//! What a GPU holds is the sum of its layers' needs and of what they share: graph buffers, which
//! depend on the placement as a whole. The first is known, the second is measured for each
//! candidate plan.

use crate::error::Result;

/// What a layer, or the output head, needs in the memory of the device that computes it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// What must be on the device that computes the unit: weights, KV cache.
    pub(super) fixed: usize,
    /// Weights of experts that may stay in host memory instead.
    pub(super) experts: usize,
}

/// Where units are placed. Layers come first, the output head is the last one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UnitPlan {
    /// For each unit the GPU that has it; `None` is the host.
    pub(super) owner: Vec<Option<usize>>,
    /// For each unit whether its experts stay in host memory.
    pub(super) host_experts: Vec<bool>,
}

impl UnitPlan {
    /// The sum of what the units on each of `gpus` GPUs need.
    pub(super) fn sums(&self, units: &[Unit], gpus: usize) -> Vec<usize> {
        let mut sums = vec![0_usize; gpus];
        for ((unit, owner), host) in units.iter().zip(&self.owner).zip(&self.host_experts) {
            if let Some(gpu) = owner {
                sums[*gpu] += unit.fixed + if *host { 0 } else { unit.experts };
            }
        }
        sums
    }
}

/// The last `on_gpu` units, filling one GPU after the other; experts of the first `host_experts`
/// units stay on the host. `None` if they do not fit.
fn fill(units: &[Unit], budgets: &[usize], on_gpu: usize, host_experts: usize) -> Option<UnitPlan> {
    let mut owner = vec![None; units.len()];
    let (mut gpu, mut used) = (0, 0_usize);
    for (i, unit) in units.iter().enumerate().skip(units.len() - on_gpu) {
        let bytes = unit.fixed + if i < host_experts { 0 } else { unit.experts };
        while used + bytes > *budgets.get(gpu)? {
            (gpu, used) = (gpu + 1, 0);
        }
        used += bytes;
        owner[i] = Some(gpu);
    }
    Some(UnitPlan {
        owner,
        host_experts: (0..units.len()).map(|i| i < host_experts).collect(),
    })
}

/// The plans in the order of how much they place on GPUs: level 0 places nothing there, each of the
/// next levels one unit more without its experts, and each further level the experts of one unit
/// more. So experts go to the host first, from the first layer on, because they are large and each
/// token reads few of them; whole layers follow if that is not enough. `None` if GPUs of these
/// budgets cannot hold the level.
fn at_level(units: &[Unit], budgets: &[usize], level: usize) -> Option<UnitPlan> {
    let count = units.len();
    fill(
        units,
        budgets,
        level.min(count),
        (2 * count - level).min(count),
    )
}

/// Moves experts of units on GPUs into the gaps that are left there.
fn fill_gaps(units: &[Unit], mut left: Vec<usize>, mut plan: UnitPlan) -> UnitPlan {
    for (i, unit) in units.iter().enumerate().rev() {
        if let Some(gpu) = plan.owner[i]
            && plan.host_experts[i]
            && unit.experts <= left[gpu]
        {
            left[gpu] -= unit.experts;
            plan.host_experts[i] = false;
        }
    }
    plan
}

fn differences(from: &[usize], minus: &[usize]) -> Vec<usize> {
    let pairs = from.iter().zip(minus);
    pairs
        .map(|(from, minus)| from.saturating_sub(*minus))
        .collect()
}

/// Searches for a plan whose total bytes per GPU, as returned by `measure`, fit the budgets.
struct Search<'a, M> {
    units: &'a [Unit],
    budgets: &'a [usize],
    measure: M,
}

/// A plan that fits, and what it leaves of each budget.
struct Fitting {
    plan: UnitPlan,
    left: Vec<usize>,
}

impl<M: FnMut(&UnitPlan) -> Result<Vec<usize>>> Search<'_, M> {
    /// The remainder of each budget under the plan, or what the plan needs if that exceeds a
    /// budget.
    fn try_plan(&mut self, plan: &UnitPlan) -> Result<std::result::Result<Vec<usize>, Vec<usize>>> {
        let taken = (self.measure)(plan)?;
        let fits = taken
            .iter()
            .zip(self.budgets)
            .all(|(taken, budget)| taken <= budget);
        Ok(if fits {
            Ok(differences(self.budgets, &taken))
        } else {
            Err(taken)
        })
    }

    /// A plan of this level that fits. What units on a GPU share is unknown until it is measured:
    /// each failure reserves the room that it showed, which moves units to the next GPU.
    fn at_level(&mut self, level: usize) -> Result<Option<Fitting>> {
        let mut shared = vec![0; self.budgets.len()];
        while let Some(plan) = at_level(self.units, &differences(self.budgets, &shared), level) {
            match self.try_plan(&plan)? {
                Ok(left) => return Ok(Some(Fitting { plan, left })),
                Err(taken) => {
                    let rest = differences(&taken, &plan.sums(self.units, self.budgets.len()));
                    if rest
                        .iter()
                        .zip(&shared)
                        .all(|(rest, shared)| rest <= shared)
                    {
                        return Ok(None);
                    }
                    for (shared, rest) in shared.iter_mut().zip(rest) {
                        *shared = rest.max(*shared);
                    }
                }
            }
        }
        Ok(None)
    }

    fn best(&mut self) -> Result<Option<UnitPlan>> {
        // The highest level that fits: all lower levels fit, too.
        let (mut fitting, mut low, mut high) = (None, 0, 2 * self.units.len() + 1);
        while high - low > 1 {
            let level = low.midpoint(high);
            match self.at_level(level)? {
                Some(found) => (fitting, low) = (Some(found), level),
                None => high = level,
            }
        }
        let Some(Fitting { plan, left }) = fitting else {
            return Ok(None);
        };
        let filled = fill_gaps(self.units, left, plan.clone());
        let is_better = filled != plan && self.try_plan(&filled)?.is_ok();
        Ok(Some(if is_better { filled } else { plan }))
    }
}

/// The best plan whose bytes fit `budgets`, which has one entry for each GPU. `measure` returns
/// what each GPU would hold in total under a plan; `wanted` is kept if it fits.
///
/// # Errors
/// The errors of `measure`.
pub(super) fn search(
    units: &[Unit],
    budgets: &[usize],
    wanted: &UnitPlan,
    measure: impl FnMut(&UnitPlan) -> Result<Vec<usize>>,
) -> Result<UnitPlan> {
    let mut search = Search {
        units,
        budgets,
        measure,
    };
    if search.try_plan(wanted)?.is_ok() {
        return Ok(wanted.clone());
    }
    Ok(search.best()?.unwrap_or_else(|| UnitPlan {
        owner: vec![None; units.len()],
        host_experts: vec![true; units.len()],
    }))
}

#[cfg(test)]
mod tests;
