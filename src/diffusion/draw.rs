//! The draw of one position on the host, from its logits, as [`step`](super::step) defines it:
//! which tokens take part, how likely they are, and the choice itself. Weights are summed in F64.

use std::cmp::Ordering;

use super::Token;
use super::step::{Allowed, DrawRule, Draws, Filter, StepInput, VocabularyNoise};
use crate::error::Result;

/// A [`DrawRule`] at one position.
#[derive(Clone, Copy)]
pub enum Draw<'a> {
    /// [`DrawRule::Greedy`].
    Greedy,
    /// [`DrawRule::Inverse`].
    Inverse {
        /// Divides the logits; above 0.
        temperature: f32,
        /// In [0, 1).
        uniform: f32,
    },
    /// [`DrawRule::Gumbel`].
    Gumbel {
        /// Divides the logits; above 0.
        temperature: f32,
        /// The canvas position whose noise is used.
        position: usize,
        /// The noise.
        noise: VocabularyNoise<'a>,
    },
}

impl<'a> DrawRule<'a> {
    /// The rule at one position.
    pub fn at(&self, position: usize) -> Draw<'a> {
        match *self {
            Self::Greedy => Draw::Greedy,
            Self::Inverse {
                temperature,
                uniforms,
            } => Draw::Inverse {
                temperature,
                uniform: uniforms[position],
            },
            Self::Gumbel { temperature, noise } => Draw::Gumbel {
                temperature,
                position,
                noise,
            },
        }
    }
}

/// What a position's distribution gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The most likely token; of equally likely ones the first.
    pub argmax: Token,
    /// The token drawn.
    pub sampled: Token,
    /// Entropy in nats; not finite if the logits are not.
    pub entropy: f32,
    /// Probability of the token drawn.
    pub probability: f32,
    /// Probability of the most likely token, less that of the second.
    pub margin: f32,
}

/// Draws tokens from logits; keeps its memory from one position to the next.
#[derive(Debug, Default)]
pub struct DrawSampler {
    candidates: Vec<Candidate>,
    noise: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    logit: f32,
    weight: f64,
}

impl Candidate {
    fn new(token: usize, logit: f32) -> Self {
        Self {
            // A vocabulary's ids are tokens.
            token: token as Token,
            logit,
            weight: 0.0,
        }
    }

    /// The more likely one first, of equally likely ones the lower id.
    fn by_likelihood(a: &Self, b: &Self) -> Ordering {
        b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
    }
}

/// Tokens that a search for the most likely ones begins with when their number is not known.
const FIRST_GUESS: usize = 64;

impl Draws {
    /// Sets the entries of one position.
    pub fn set(&mut self, position: usize, choice: &Choice) {
        self.argmax[position] = choice.argmax;
        self.sampled[position] = choice.sampled;
        self.entropy[position] = choice.entropy;
        self.probability[position] = choice.probability;
        self.margin[position] = choice.margin;
    }
}

impl DrawSampler {
    /// Draws a position of a step from its `logits`, one for each token of the vocabulary. Those of
    /// tokens that are not allowed become −∞.
    ///
    /// # Errors
    /// The errors of `noise`.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn draw(
        &mut self,
        logits: &mut [f32],
        position: usize,
        input: &StepInput<'_>,
    ) -> Result<Choice> {
        match input.allowed {
            Allowed::All => {}
            Allowed::Except(token) => {
                let excluded = usize::try_from(token).ok();
                if let Some(logit) = excluded.and_then(|token| logits.get_mut(token)) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            Allowed::Sets { .. } => {
                for (token, logit) in logits.iter_mut().enumerate() {
                    // A vocabulary's ids are tokens.
                    if !input.allowed.contains(position, token as Token) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
        self.choose(logits, input.filter, input.rule.at(position))
    }

    /// Draws from `logits`, one for each token of the vocabulary. Tokens with a logit of −∞ are
    /// never drawn.
    ///
    /// # Errors
    /// The errors of `noise`.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn choose(&mut self, logits: &[f32], filter: Filter, draw: Draw<'_>) -> Result<Choice> {
        self.filter(logits, filter);
        let temperature = match draw {
            Draw::Inverse { temperature, .. } => temperature,
            Draw::Greedy | Draw::Gumbel { .. } => 1.0,
        };
        let [first, second] = self.two_most_likely();
        let total = self.weigh(first.logit, temperature);
        let index = match draw {
            Draw::Greedy => first.index,
            Draw::Inverse { uniform, .. } => self.at(f64::from(uniform) * total),
            Draw::Gumbel {
                temperature,
                position,
                noise,
            } => {
                self.noise.resize(logits.len(), 0.0);
                let VocabularyNoise {
                    source,
                    block,
                    step,
                } = noise;
                source.vocabulary(block, step, position, &mut self.noise)?;
                self.largest_noised(temperature)
            }
        };
        let probability = |candidate: &Candidate| (candidate.weight / total) as f32;
        let runner_up = match second.index == first.index {
            true => 0.0,
            false => probability(&self.candidates[second.index]),
        };
        let drawn = &self.candidates[index];
        Ok(Choice {
            argmax: self.candidates[first.index].token,
            sampled: drawn.token,
            entropy: self.entropy(total, first.logit, temperature),
            probability: probability(drawn),
            margin: probability(&self.candidates[first.index]) - runner_up,
        })
    }

    /// The tokens that pass a filter.
    ///
    /// # Panics
    /// If there are no logits.
    pub(crate) fn passing(&mut self, logits: &[f32], filter: Filter) -> Vec<Token> {
        self.filter(logits, filter);
        self.candidates
            .iter()
            .map(|candidate| candidate.token)
            .collect()
    }

    /// Selects the tokens that pass. They are sorted by likelihood, unless all of them pass.
    fn filter(&mut self, logits: &[f32], filter: Filter) {
        let count = match filter.top_k {
            0 => logits.len(),
            k => k.min(logits.len()),
        };
        let nucleus = f64::from(filter.top_p);
        if nucleus >= 1.0 {
            match count == logits.len() {
                true => {
                    self.candidates.clear();
                    let all = logits.iter().enumerate();
                    self.candidates
                        .extend(all.map(|(t, &l)| Candidate::new(t, l)));
                }
                false => self.take_most_likely(logits, count),
            }
            return;
        }
        // All of `count` contribute, but those outside the nucleus need no order.
        let total = match count == logits.len() {
            true => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                logits.iter().map(|l| f64::from(l - max).exp()).sum()
            }
            false => {
                self.take_most_likely(logits, count);
                self.weigh(self.candidates[0].logit, 1.0)
            }
        };
        let mut guess = FIRST_GUESS.min(count);
        loop {
            self.take_most_likely(logits, guess);
            self.weigh(self.candidates[0].logit, 1.0);
            let mut sum = 0.0;
            let last = self.candidates.iter().position(|candidate| {
                sum += candidate.weight;
                sum >= nucleus * total
            });
            if let Some(last) = last {
                self.candidates.truncate(last + 1);
                return;
            }
            if guess == count {
                return;
            }
            guess = (guess * 4).min(count);
        }
    }

    /// Takes the `count` most likely tokens, sorted. One pass over the vocabulary, with a buffer of
    /// at most twice that size.
    fn take_most_likely(&mut self, logits: &[f32], count: usize) {
        let kept = &mut self.candidates;
        kept.clear();
        let mut threshold = None;
        for (token, &logit) in logits.iter().enumerate() {
            // An equal one with a higher id comes after those that are kept.
            if threshold.is_some_and(|threshold| logit <= threshold) {
                continue;
            }
            kept.push(Candidate::new(token, logit));
            if kept.len() >= 2 * count + FIRST_GUESS {
                kept.select_nth_unstable_by(count - 1, Candidate::by_likelihood);
                kept.truncate(count);
                threshold = Some(kept[count - 1].logit);
            }
        }
        kept.sort_unstable_by(Candidate::by_likelihood);
        kept.truncate(count);
    }

    /// The most likely candidate and the next one; the same twice if it is the only one.
    fn two_most_likely(&self) -> [Ranked; 2] {
        let mut best = [Ranked {
            index: 0,
            logit: self.candidates[0].logit,
        }; 2];
        for (index, candidate) in self.candidates.iter().enumerate().skip(1) {
            let logit = candidate.logit;
            if logit > best[0].logit {
                best = [Ranked { index, logit }, best[0]];
            } else if best[1].index == best[0].index || logit > best[1].logit {
                best[1] = Ranked { index, logit };
            }
        }
        best
    }

    /// Sets the weights to exp((logit − max) / temperature) and returns their sum.
    fn weigh(&mut self, max: f32, temperature: f32) -> f64 {
        let scale = 1.0 / f64::from(temperature);
        let mut total = 0.0;
        for candidate in &mut self.candidates {
            candidate.weight = (f64::from(candidate.logit - max) * scale).exp();
            total += candidate.weight;
        }
        total
    }

    /// H = ln Z − Σ w x / Z with the exponents x = ln w.
    fn entropy(&self, total: f64, max: f32, temperature: f32) -> f32 {
        let scale = 1.0 / f64::from(temperature);
        let weighted = |c: &Candidate| match c.weight {
            // 0 · ln 0 is 0.
            0.0 => 0.0,
            weight => weight * f64::from(c.logit - max) * scale,
        };
        let sum: f64 = self.candidates.iter().map(weighted).sum();
        (total.ln() - sum / total) as f32
    }

    /// The candidate in whose part of the sum of weights `point` lies.
    fn at(&self, point: f64) -> usize {
        let mut sum = 0.0;
        let found = self.candidates.iter().position(|candidate| {
            sum += candidate.weight;
            sum > point
        });
        // Rounding may leave a point after the last sum.
        found.unwrap_or_else(|| {
            let possible = self.candidates.iter().rposition(|c| c.weight > 0.0);
            possible.unwrap_or_default()
        })
    }

    fn largest_noised(&self, temperature: f32) -> usize {
        let scale = 1.0 / f64::from(temperature);
        let mut best = (0, f64::NEG_INFINITY);
        for (index, candidate) in self.candidates.iter().enumerate() {
            let uniform = self.noise[candidate.token as usize];
            let noised = f64::from(candidate.logit) * scale - (-uniform.ln()).ln();
            if noised > best.1 {
                best = (index, noised);
            }
        }
        best.0
    }
}

#[derive(Clone, Copy)]
struct Ranked {
    index: usize,
    logit: f32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::CounterNoise;
    use proptest::prelude::*;

    fn choose(logits: &[f32], filter: Filter, draw: Draw<'_>) -> Choice {
        let mut sampler = DrawSampler::default();
        sampler.choose(logits, filter, draw).unwrap()
    }

    fn inverse(uniform: f32) -> Draw<'static> {
        Draw::Inverse {
            temperature: 1.0,
            uniform,
        }
    }

    /// Logits of the probabilities 1/8, 1/2, 1/4, 1/8.
    fn eighths() -> [f32; 4] {
        [1.0_f32, 4.0, 2.0, 1.0].map(f32::ln)
    }

    #[test]
    fn greedy_by_hand() {
        let choice = choose(&eighths(), Filter::NONE, Draw::Greedy);
        assert_eq!((choice.argmax, choice.sampled), (1, 1));
        assert!((choice.probability - 0.5).abs() < 1e-6, "{choice:?}");
        assert!((choice.margin - 0.25).abs() < 1e-6, "{choice:?}");
        assert!(
            (choice.entropy - 1.75 * 2_f32.ln()).abs() < 1e-6,
            "{choice:?}"
        );
    }

    #[test]
    fn of_equally_likely_tokens_the_first_wins() {
        let choice = choose(&[0.0, 3.0, 3.0], Filter::NONE, Draw::Greedy);
        assert_eq!((choice.sampled, choice.margin), (1, 0.0));
        let one = Filter {
            top_k: 1,
            top_p: 1.0,
        };
        let choice = choose(&[3.0; 500], one, inverse(0.99));
        // Nothing else can be drawn.
        assert_eq!((choice.sampled, choice.margin), (0, 1.0));
    }

    #[test]
    fn the_inverse_cdf_gives_each_token_its_share() {
        let drawn = |uniform| choose(&eighths(), Filter::NONE, inverse(uniform)).sampled;
        for (uniform, token) in [(0.0, 0), (0.12, 0), (0.13, 1), (0.62, 1), (0.63, 2)] {
            assert_eq!(drawn(uniform), token, "{uniform}");
        }
        assert_eq!(drawn(0.88), 3);
        // Half the temperature squares the weights: 1, 16, 4, 1.
        let cold = Draw::Inverse {
            temperature: 0.5,
            uniform: 0.0,
        };
        let choice = choose(&eighths(), Filter::NONE, cold);
        assert!((choice.probability - 1.0 / 22.0).abs() < 1e-6, "{choice:?}");
    }

    #[test]
    fn a_uniform_on_the_edge_of_a_token_draws_the_token_after_it() {
        for quarter in 0..4 {
            let uniform = quarter as f32 / 4.0;
            let draw = |vocab| choose(&vec![1.0; vocab], Filter::NONE, inverse(uniform)).sampled;
            assert_eq!(draw(4), quarter, "{uniform}");
            assert_eq!(draw(2), quarter / 2, "{uniform}");
        }
    }

    #[test]
    fn the_nucleus_is_the_least_that_has_its_probability() {
        for (top_p, tokens) in [(0.4, 1), (0.6, 2), (0.8, 3), (0.9, 4)] {
            let filter = Filter { top_k: 0, top_p };
            let entropy = choose(&eighths(), filter, Draw::Greedy).entropy;
            let mut sampler = DrawSampler::default();
            sampler.filter(&eighths(), filter);
            assert_eq!(sampler.candidates.len(), tokens, "{top_p}");
            assert_eq!(entropy == 0.0, tokens == 1);
        }
        // Of the two of top-k, the first has 2/3.
        let filter = Filter {
            top_k: 2,
            top_p: 0.6,
        };
        assert_eq!(choose(&eighths(), filter, inverse(0.99)).sampled, 1);
    }

    #[test]
    fn what_is_impossible_is_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        for draw in [Draw::Greedy, inverse(0.0), inverse(0.999_999_94)] {
            let choice = choose(&logits, Filter::NONE, draw);
            assert_eq!(
                (choice.sampled, choice.entropy, choice.probability),
                (1, 0.0, 1.0)
            );
        }
    }

    #[test]
    fn logits_that_are_not_finite_show_in_the_entropy() {
        for bad in [f32::NAN, f32::INFINITY] {
            let choice = choose(&[0.0, bad, 1.0], Filter::NONE, Draw::Greedy);
            assert!(!choice.entropy.is_finite(), "{bad}: {choice:?}");
        }
    }

    #[test]
    fn gumbel_noise_draws_from_the_tempered_distribution() {
        let noise = CounterNoise::new(5, 4).unwrap();
        // Weights 1, 16, 4, 1 at half the temperature.
        let mut counts = [0_u32; 4];
        for step in 0..22_000 {
            let draw = Draw::Gumbel {
                temperature: 0.5,
                position: 3,
                noise: VocabularyNoise {
                    source: &noise,
                    block: 0,
                    step,
                },
            };
            let choice = choose(&eighths(), Filter::NONE, draw);
            counts[choice.sampled as usize] += 1;
            assert!((choice.margin - 0.25).abs() < 1e-6, "{choice:?}");
        }
        for (count, expected) in counts.into_iter().zip([1000.0, 16_000.0, 4000.0, 1000.0]) {
            // Five standard deviations.
            let bound = 5.0 * f64::sqrt(expected);
            assert!((f64::from(count) - expected).abs() < bound, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn the_most_likely_are_those_of_a_full_sort(
            logits in prop::collection::vec(prop_oneof![-4.0..4.0_f32, Just(0.5), Just(1.5)], 1..600),
            count in 1_usize..100,
        ) {
            let count = count.min(logits.len());
            let mut sampler = DrawSampler::default();
            sampler.take_most_likely(&logits, count);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let tokens: Vec<usize> = sampler.candidates.iter().map(|c| c.token as usize).collect();
            prop_assert_eq!(&tokens[..], &order[..count]);
        }

        #[test]
        fn a_nucleus_of_any_size_is_found(
            logits in prop::collection::vec(-3.0..3.0_f32, 1..600),
            top_k in 0_usize..700,
            top_p in 0.05..0.99_f32,
        ) {
            let mut sampler = DrawSampler::default();
            sampler.filter(&logits, Filter { top_k, top_p });
            let mut weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
            weights.sort_by(|a, b| b.total_cmp(a));
            if top_k > 0 {
                weights.truncate(top_k);
            }
            let share = |n: usize| {
                weights[..n].iter().sum::<f64>() / weights.iter().sum::<f64>() - f64::from(top_p)
            };
            let n = sampler.candidates.len();
            prop_assert!(share(n) > -1e-9 && share(n - 1) < 1e-9, "{n}");
        }
    }
}
