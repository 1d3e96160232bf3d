//! Which masked positions a step unmasks.

use super::params::Parallel;
use crate::diffusion::acceptance::accept_by_entropy;
use crate::diffusion::step::Draws;
use crate::diffusion::transfer::{Algorithm, Quota, most_confident};

/// Those of the `open` positions that the schedule asks for. `uniforms` has an entry for each position
/// of the canvas if the algorithm or its temperature draws.
pub(super) fn by_schedule(
    algorithm: Algorithm,
    temperature: f32,
    quota: Quota,
    open: &[usize],
    draws: &Draws,
    uniforms: &[f64],
) -> Vec<usize> {
    let open = open.iter().copied();
    let confidence: &dyn Fn(usize) -> f64 = match algorithm {
        Algorithm::Origin => return open.filter(|&p| uniforms[p] < quota.probability).collect(),
        // All orders are already equally likely: a temperature changes nothing.
        Algorithm::Random => {
            let confidence = open.map(|p| (p, uniforms[p])).collect();
            return most_confident(confidence, quota.count, 0.0, &[]);
        }
        Algorithm::Entropy | Algorithm::EntropyBound => &|p| -f64::from(draws.entropy[p]),
        Algorithm::Margin => &|p| draws.margin[p].into(),
        Algorithm::Confidence => &|p| draws.probability[p].into(),
    };
    let confidence = open.map(|p| (p, confidence(p))).collect();
    most_confident(confidence, quota.count, temperature, uniforms)
}

/// Those of the `open` positions that an entropy bound accepts.
pub(super) fn bounded(bound: f32, open: &[usize], draws: &Draws) -> Vec<usize> {
    let entropy: Vec<f32> = open.iter().map(|&p| draws.entropy[p]).collect();
    let mut accepted = vec![false; open.len()];
    accept_by_entropy(&entropy, bound, &mut accepted);
    let pairs = open.iter().zip(accepted);
    pairs
        .filter_map(|(&p, accepted)| accepted.then_some(p))
        .collect()
}

/// Those of the `open` positions whose tokens are likely enough.
pub(super) fn likely(rule: Parallel, open: &[usize], draws: &Draws) -> Vec<usize> {
    let probability = |p: usize| f64::from(draws.probability[p]);
    match rule {
        Parallel::Threshold(least) => {
            let is_likely = |p: &usize| draws.probability[*p] > least;
            open.iter().copied().filter(is_likely).collect()
        }
        Parallel::Factor(factor) => {
            let order = open.iter().map(|&p| (p, probability(p))).collect();
            let mut order = most_confident(order, open.len(), 0.0, &[]);
            // Not a prefix of those that fulfil it: the largest number.
            let fits =
                |n: &usize| (*n + 1) as f64 * (1.0 - probability(order[n - 1])) < factor.into();
            let count = (1..=order.len()).rev().find(fits).unwrap_or(0);
            order.truncate(count);
            order
        }
    }
}
