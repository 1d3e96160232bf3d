//! When masked positions are unmasked, and in which order.

use std::ops::Range;

use super::random::NoiseSource;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// What decides which masked positions a step unmasks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Each masked position is unmasked with the probability of the schedule, whatever its token
    /// (the reverse process of masked diffusion as it is derived).
    Origin,
    /// Lowest entropy first.
    Entropy,
    /// Largest margin between the two most likely tokens first.
    Margin,
    /// Random order.
    Random,
    /// Most likely token first.
    Confidence,
    /// Lowest entropy first, and in each step, whatever the schedule asks for, all positions in this
    /// order while the entropies before them sum to no more than a bound: the error of drawing them
    /// together is at most the bound (Ben-Hamu et al. 2025, arXiv:2505.24857).
    EntropyBound,
}

impl Algorithm {
    /// All of them; first those of llama.cpp, whose index is the number that it uses.
    pub const ALL: [Self; 6] = [
        Self::Origin,
        Self::Entropy,
        Self::Margin,
        Self::Random,
        Self::Confidence,
        Self::EntropyBound,
    ];

    /// The one of a number that llama.cpp uses.
    pub fn numbered(number: usize) -> Option<Self> {
        Self::ALL[..=Self::Confidence as usize].get(number).copied()
    }

    /// The one of a [name](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Entropy => "entropy",
            Self::Margin => "margin",
            Self::Random => "random",
            Self::Confidence => "confidence",
            Self::EntropyBound => "entropy-bound",
        }
    }
}

/// How many positions each step unmasks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TransferSchedule {
    /// All positions together. With t = 1 − n/N · (1 − ε) at step n of N, and s the same at step
    /// n + 1, a share 1 − s/t of the masked positions, rounded down; all of them in the last step.
    /// (Dream's schedule.)
    Timestep {
        /// ε, in (0, 1).
        eps: f32,
        /// N.
        steps: u32,
    },
    /// Blocks from left to right. Each step of a block unmasks the same number of positions; if
    /// they do not divide evenly, the first steps unmask one more. (LLaDA's schedule.)
    Blocks {
        /// Positions of a block.
        length: usize,
        /// Steps for each block.
        steps_per_block: u32,
    },
}

impl TransferSchedule {
    /// The schedule of llama.cpp's parameters: exactly one of `eps` and `block_length` is above 0.
    /// It has `steps` steps over `length` positions; for the block schedule that is the number of
    /// tokens that the user asked for, or the whole text.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`]: both or none are given, or lengths and steps do not divide.
    pub fn new(eps: f32, block_length: usize, steps: u32, length: usize) -> Result<Self> {
        let refuse = |parameter, problem: String| Err(Error::parameter(parameter, problem));
        match (eps != 0.0, block_length) {
            (true, 1..) => refuse(
                Parameter::Schedule,
                "`eps` and `block_length` choose different ones: give only one of them".into(),
            ),
            (false, 0) => refuse(
                Parameter::Schedule,
                "a masked model needs a schedule: give `eps`, such as 0.001 for Dream and RND1, or \
                 `block_length`, such as 32 for LLaDA"
                    .into(),
            ),
            (true, 0) => {
                let schedule = Self::Timestep { eps, steps };
                schedule.validate().map(|()| schedule)
            }
            (false, _) if !length.is_multiple_of(block_length) => refuse(
                Parameter::BlockLength,
                format!("is {block_length}, which does not divide the {length} tokens of `length`"),
            ),
            (false, _) => {
                let blocks = length / block_length;
                let per_block = u32::try_from(blocks)
                    .ok()
                    .filter(|b| steps.is_multiple_of(*b));
                let Some(blocks) = per_block.filter(|b| *b > 0) else {
                    return refuse(
                        Parameter::Steps,
                        format!(
                            "is {steps}, which the {blocks} blocks of {block_length} in the {length} \
                             tokens of `length` do not divide"
                        ),
                    );
                };
                let schedule = Self::Blocks {
                    length: block_length,
                    steps_per_block: steps / blocks,
                };
                schedule.validate().map(|()| schedule)
            }
        }
    }

    /// Checks that there are steps, and that ε is in its range.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter out of range.
    pub fn validate(&self) -> Result<()> {
        let (steps, eps, length) = match *self {
            Self::Timestep { eps, steps } => (steps, eps, 1),
            Self::Blocks {
                length,
                steps_per_block,
            } => (steps_per_block, 0.5, length),
        };
        if steps == 0 {
            return Err(Error::parameter(
                Parameter::Steps,
                "is 0, but there must be a step",
            ));
        }
        if length == 0 {
            return Err(Error::parameter(
                Parameter::BlockLength,
                "is 0, but must be at least 1",
            ));
        }
        if !(eps > 0.0 && eps < 1.0) {
            let problem = format!("is {eps}, but must be above 0 and below 1");
            return Err(Error::parameter(Parameter::Eps, problem));
        }
        Ok(())
    }

    /// Steps for a canvas of `canvas_len` positions.
    pub fn steps(&self, canvas_len: usize) -> u32 {
        match *self {
            Self::Timestep { steps, .. } => steps,
            Self::Blocks {
                length,
                steps_per_block,
            } => u32::try_from(canvas_len.div_ceil(length))
                .unwrap_or(u32::MAX)
                .saturating_mul(steps_per_block),
        }
    }

    /// The positions that a step may unmask.
    pub fn region(&self, step: u32, canvas_len: usize) -> Range<usize> {
        match *self {
            Self::Timestep { .. } => 0..canvas_len,
            Self::Blocks {
                length,
                steps_per_block,
            } => {
                let start = (step / steps_per_block) as usize * length;
                start.min(canvas_len)..(start + length).min(canvas_len)
            }
        }
    }

    /// How many of the `masked` positions of a region a step unmasks.
    pub fn quota(&self, step: u32, masked: usize, region: &Range<usize>) -> Quota {
        match *self {
            Self::Timestep { steps, .. } if step + 1 >= steps => Quota {
                count: masked,
                probability: 1.0,
            },
            Self::Timestep { eps, steps } => {
                // In F32, as in llama.cpp: the rounding down depends on it.
                let time = |step: u32| 1.0 - step as f32 / steps as f32 * (1.0 - eps);
                let share = 1.0 - time(step + 1) / time(step);
                Quota {
                    count: (masked as f32 * share) as usize,
                    probability: f64::from(share),
                }
            }
            Self::Blocks {
                steps_per_block, ..
            } => {
                let steps = steps_per_block as usize;
                let step = step as usize % steps;
                let (each, more) = (region.len() / steps, region.len() % steps);
                let count = each + usize::from(step < more);
                // What the steps from this one on should unmask.
                let left = each * (steps - step) + more.saturating_sub(step);
                Quota {
                    count,
                    probability: if left == 0 {
                        0.0
                    } else {
                        count as f64 / left as f64
                    },
                }
            }
        }
    }
}

/// Which of the masked positions of its region a step unmasks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// This number of them.
    pub count: usize,
    /// Each of them with this probability, for [`Algorithm::Origin`].
    pub probability: f64,
}

impl Quota {
    /// Whether such a step can unmask anything.
    pub fn is_empty(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Origin => self.probability <= 0.0,
            _ => self.count == 0,
        }
    }
}

/// The `count` positions with the highest `confidence`, which holds pairs of position and
/// confidence in the order of their positions; of equal ones the lower position. With a
/// `temperature` above 0 they are drawn instead, one after another without replacement, with the
/// probabilities softmax(confidence / temperature) of the remaining ones: by the largest sums with
/// Gumbel noise, which is equivalent (Kool et al. 2019, arXiv:1903.06059). `uniforms` has an entry
/// for each position of the canvas.
pub fn most_confident(
    mut confidence: Vec<(usize, f64)>,
    count: usize,
    temperature: f32,
    uniforms: &[f64],
) -> Vec<usize> {
    if temperature > 0.0 {
        for (position, value) in &mut confidence {
            *value = *value / f64::from(temperature) - (-uniforms[*position].ln()).ln();
        }
    }
    // Stable: equal ones keep their order.
    confidence.sort_by(|a, b| b.1.total_cmp(&a.1));
    confidence.truncate(count);
    confidence
        .into_iter()
        .map(|(position, _)| position)
        .collect()
}

/// The uniforms of a step, if it needs any.
///
/// # Errors
/// The errors of `noise`.
pub fn order_uniforms(
    noise: &dyn NoiseSource,
    (block, step): (u32, u32),
    needed: bool,
    canvas_len: usize,
) -> Result<Vec<f64>> {
    let mut uniforms = Vec::new();
    if needed {
        uniforms.resize(canvas_len, 0.0);
        noise.order(block, step, &mut uniforms)?;
    }
    Ok(uniforms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(schedule: TransferSchedule, canvas: usize) -> Vec<usize> {
        let mut masked = vec![true; canvas];
        (0..schedule.steps(canvas))
            .map(|step| {
                let region = schedule.region(step, canvas);
                let left = masked[region.clone()].iter().filter(|m| **m).count();
                let count = schedule.quota(step, left, &region).count;
                let still = masked[region].iter_mut().filter(|m| **m);
                still.take(count).for_each(|m| *m = false);
                count
            })
            .collect()
    }

    #[test]
    fn blocks_share_their_positions_evenly_the_first_steps_have_the_rest() {
        let schedule = TransferSchedule::new(0.0, 8, 6, 16).unwrap();
        assert_eq!(counts(schedule, 16), [3, 3, 2, 3, 3, 2]);
        // The last block is cut.
        assert_eq!(counts(schedule, 10), [3, 3, 2, 1, 1, 0]);
        assert_eq!(schedule.region(4, 10), 8..10);
        // More steps than positions.
        let schedule = TransferSchedule::new(0.0, 2, 3, 2).unwrap();
        assert_eq!(counts(schedule, 2), [1, 1, 0]);
    }

    #[test]
    fn timesteps_unmask_evenly_and_all_in_the_end() {
        let schedule = TransferSchedule::new(0.001, 0, 4, 0).unwrap();
        // 16 (1 − s/t): 3.996; then 13 · 0.333 …
        assert_eq!(counts(schedule, 16), [3, 4, 4, 5]);
        let few = TransferSchedule::new(0.001, 0, 8, 0).unwrap();
        assert_eq!(counts(few, 3), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn probabilities_unmask_all_on_the_way() {
        for schedule in [
            TransferSchedule::new(0.01, 0, 5, 0).unwrap(),
            TransferSchedule::new(0.0, 4, 6, 8).unwrap(),
        ] {
            let mut probability = Vec::new();
            for step in 0..schedule.steps(8) {
                let region = schedule.region(step, 8);
                probability.push(schedule.quota(step, region.len(), &region).probability);
            }
            assert_eq!(probability.last(), Some(&1.0), "{probability:?}");
            assert!(probability.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }

    #[test]
    fn parameters_that_do_not_go_together_are_named() {
        let problem = |eps, block, steps, length| {
            TransferSchedule::new(eps, block, steps, length)
                .unwrap_err()
                .to_string()
        };
        assert!(problem(0.1, 8, 8, 64).starts_with("schedule: "));
        assert!(problem(0.0, 0, 8, 64).starts_with("schedule: "));
        assert!(problem(0.0, 7, 8, 64).starts_with("block_length: is 7,"));
        assert!(problem(0.0, 8, 12, 64).starts_with("steps: is 12,"));
        assert!(problem(0.0, 8, 0, 64).starts_with("steps: is 0"));
        assert!(problem(1.0, 0, 8, 64).starts_with("eps: is 1,"));
        assert!(problem(f32::NAN, 0, 8, 64).starts_with("eps: is NaN,"));
        assert!(problem(0.1, 0, 0, 64).starts_with("steps: is 0"));
    }

    #[test]
    fn ties_go_to_the_lower_position() {
        let confidence = vec![(2, 0.5), (4, 0.7), (5, 0.7), (9, 0.5)];
        assert_eq!(most_confident(confidence.clone(), 3, 0.0, &[]), [4, 5, 2]);
        assert_eq!(most_confident(confidence, 9, 0.0, &[]), [4, 5, 2, 9]);
    }
}
