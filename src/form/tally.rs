//! Probabilities of what may stand in a blank, over several canvases.

use super::answer::{FilledBlank, ScoredChoice};
use crate::diffusion::{Token, TokenSet};

/// The logits of a position, as a distribution at temperature 1.
#[derive(Clone, Copy)]
pub(crate) struct RowLogits<'a> {
    logits: &'a [f32],
    /// Logarithm of the sum of all exponentials.
    log_total: f64,
}

impl<'a> RowLogits<'a> {
    /// `None` if a logit is not finite.
    pub(crate) fn new(logits: &'a [f32]) -> Option<Self> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return None;
        }
        let log_total = log_sum(logits.iter().map(|logit| f64::from(*logit)));
        Some(Self { logits, log_total })
    }

    /// The log-probability of a token of the vocabulary, in nats.
    pub(crate) fn logprob(&self, token: Token) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_total
    }

    /// The log-probability of a set of tokens of the vocabulary.
    pub(crate) fn logprob_of(&self, tokens: &[Token]) -> f64 {
        log_sum(tokens.iter().map(|token| self.logprob(*token)))
    }
}

/// The logarithm of the sum of exponentials; -∞ if there are none.
pub(crate) fn log_sum(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = numbers.clone().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY {
        return greatest;
    }
    greatest
        + numbers
            .map(|number| (number - greatest).exp())
            .sum::<f64>()
            .ln()
}

/// The entropy of a distribution, in nats.
pub(super) fn entropy(probabilities: impl Iterator<Item = f64>) -> f64 {
    let positive = probabilities.filter(|p| *p > 0.0);
    positive.map(|p| -p * p.ln()).sum::<f64>().max(0.0)
}

/// Standard error of the mean of `count` numbers, by their sum and that of their squares.
pub(super) fn standard_error(count: usize, sum: f64, squares: f64) -> Option<f64> {
    let n = count as f64;
    let variance = (squares - sum * sum / n).max(0.0) / (n - 1.0);
    (count > 1).then(|| (variance / n).sqrt())
}

/// The choices of a blank: what the canvases of each sample say of them.
#[derive(Debug, Clone)]
pub(crate) struct ChoiceTally {
    choices: Vec<Vec<Token>>,
    /// For each sample and each choice the log-probability of its tokens, and of what is judged after them.
    choice: Vec<Vec<f64>>,
    /// For each sample and each length that choices have the log-probability of what is judged after it,
    /// whatever stands in the blank.
    length: Vec<Vec<f64>>,
}

impl ChoiceTally {
    /// For choices of `lengths` different lengths.
    pub(crate) fn new(choices: &[Vec<Token>], lengths: usize, samples: usize) -> Self {
        Self {
            choices: choices.to_vec(),
            choice: vec![vec![0.0; choices.len()]; samples],
            length: vec![vec![0.0; lengths]; samples],
        }
    }

    /// Takes the log-probability of a token of a choice, or of one that is judged after it.
    pub(crate) fn take(&mut self, sample: usize, choice: usize, logprob: f64) {
        self.choice[sample][choice] += logprob;
    }

    /// Takes the log-probability of a token that is judged after any text of the length with this index.
    pub(crate) fn take_length(&mut self, sample: usize, length: usize, logprob: f64) {
        self.length[sample][length] += logprob;
    }

    /// Takes the position of choices that all have one token.
    pub(crate) fn take_position(&mut self, sample: usize, row: &RowLogits<'_>) {
        let choices = self.choice[sample].iter_mut().zip(&self.choices);
        choices.for_each(|(sum, choice)| *sum += row.logprob(choice[0]));
    }

    /// The answer.
    pub(crate) fn answer(&self, name: &str) -> FilledBlank {
        let samples = self.choice.len();
        let sums = |index: usize| log_sum(self.choice.iter().map(move |sample| sample[index]));
        let scores: Vec<f64> = (0..self.choices.len()).map(sums).collect();
        let total = log_sum(scores.iter().copied());
        let of_lengths = log_sum(self.length.iter().flatten().copied());
        let restricted: Vec<Vec<f64>> = self
            .choice
            .iter()
            .map(|sample| {
                let total = log_sum(sample.iter().copied());
                sample.iter().map(|score| (score - total).exp()).collect()
            })
            .collect();
        let error = |index: usize| {
            let of_samples = || restricted.iter().map(|sample| sample[index]);
            let squares = of_samples().map(|p| p * p).sum();
            standard_error(samples, of_samples().sum(), squares)
        };
        let choices: Vec<ScoredChoice> = scores
            .iter()
            .enumerate()
            .map(|(index, score)| ScoredChoice {
                logprob: score - total,
                probability: (score - total).exp(),
                standard_error: error(index),
            })
            .collect();
        let best = first_greatest(&scores);
        FilledBlank {
            name: name.into(),
            tokens: self.choices[best].clone(),
            choice: Some(best),
            logprob: choices[best].logprob,
            probability: choices[best].probability,
            entropy: entropy(choices.iter().map(|choice| choice.probability)),
            allowed_mass: (total - of_lengths).exp().min(1.0),
            standard_error: choices[best].standard_error,
            choices,
        }
    }
}

fn first_greatest(numbers: &[f64]) -> usize {
    let mut best = 0;
    for (index, number) in numbers.iter().enumerate() {
        if *number > numbers[best] {
            best = index;
        }
    }
    best
}

/// The tokens of a free blank: the distribution of each position, over several canvases.
#[derive(Debug, Clone)]
pub(crate) struct FreeTally {
    /// For each position the tokens that may stand there, and its sums.
    positions: Vec<(Option<TokenSet>, Sums)>,
    samples: usize,
}

fn allows(set: &Option<TokenSet>, token: usize) -> bool {
    // A vocabulary's ids are tokens.
    set.as_ref().is_none_or(|set| set.contains(token as Token))
}

/// Sums over samples, one entry for each token of the vocabulary.
#[derive(Debug, Clone, Default)]
struct Sums {
    probability: Vec<f32>,
    /// Of the probability given that the token is allowed, and of its square.
    restricted: Vec<f32>,
    squares: Vec<f32>,
}

impl FreeTally {
    pub(crate) fn new(sets: &[Option<TokenSet>], samples: usize) -> Self {
        let position = |set: &Option<TokenSet>| (set.clone(), Sums::default());
        Self {
            positions: sets.iter().map(position).collect(),
            samples,
        }
    }

    /// Takes position `index` of the blank from a canvas.
    pub(crate) fn take(&mut self, index: usize, row: &RowLogits<'_>) {
        let vocab = row.logits.len();
        let (set, sums) = &mut self.positions[index];
        let allowed: Vec<usize> = (0..vocab).filter(|token| allows(set, *token)).collect();
        let mass: f64 = allowed
            .iter()
            .map(|token| row.logprob(*token as Token).exp())
            .sum();
        for sum in [
            &mut sums.probability,
            &mut sums.restricted,
            &mut sums.squares,
        ] {
            sum.resize(vocab, 0.0);
        }
        for token in allowed {
            let probability = row.logprob(token as Token).exp();
            let restricted = probability / mass;
            sums.probability[token] += probability as f32;
            sums.restricted[token] += restricted as f32;
            sums.squares[token] += (restricted * restricted) as f32;
        }
    }

    /// The answer: the most likely token at each position. Its positions count as independent.
    pub(crate) fn answer(&self, name: &str) -> FilledBlank {
        let mut blank = FilledBlank {
            name: name.into(),
            tokens: Vec::new(),
            choice: None,
            logprob: 0.0,
            probability: 1.0,
            entropy: 0.0,
            allowed_mass: 1.0,
            standard_error: None,
            choices: Vec::new(),
        };
        let mut relative = Some(0.0);
        for (set, sums) in &self.positions {
            let total: f64 = sums.probability.iter().copied().map(f64::from).sum();
            let probability = |token: usize| f64::from(sums.probability[token]) / total;
            let mut best = None;
            for token in (0..sums.probability.len()).filter(|token| allows(set, *token)) {
                if best.is_none_or(|best: usize| sums.probability[token] > sums.probability[best]) {
                    best = Some(token);
                }
            }
            let best = best.unwrap_or(0);
            blank.tokens.push(best as Token);
            blank.logprob += probability(best).ln();
            blank.entropy += entropy((0..sums.probability.len()).map(probability));
            blank.allowed_mass *= (total / self.samples as f64).min(1.0);
            let (sum, squares) = (sums.restricted[best].into(), sums.squares[best].into());
            let error = standard_error(self.samples, sum, squares);
            let share = error.map(|error| (error / probability(best)).powi(2));
            relative = relative.zip(share).map(|(all, own)| all + own);
        }
        blank.probability = blank.logprob.exp();
        blank.standard_error = relative.map(|relative: f64| blank.probability * relative.sqrt());
        blank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    /// Logits of these probabilities.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn choices_of_one_token_by_hand() {
        let choices = [vec![1], vec![2]];
        let mut tally = ChoiceTally::new(&choices, 1, 2);
        for (sample, row) in [[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]].iter().enumerate() {
            let logits = logits(row);
            tally.take_position(sample, &RowLogits::new(&logits).unwrap());
        }
        let blank = tally.answer("a");
        // Means 0.3 and 0.35.
        assert_eq!((blank.choice, &blank.tokens[..]), (Some(1), &[2][..]));
        close(blank.allowed_mass, 0.65);
        close(blank.probability, 0.35 / 0.65);
        close(blank.logprob, (0.35_f64 / 0.65).ln());
        let (p, q) = (0.3_f64 / 0.65, 0.35_f64 / 0.65);
        close(blank.entropy, -p * p.ln() - q * q.ln());
        // Of the samples 0.2 and 0.75: the half of their difference.
        close(blank.standard_error.unwrap(), 0.275);
        close(blank.choices[0].probability, p);
    }

    #[test]
    fn one_sample_has_no_standard_error() {
        let mut tally = ChoiceTally::new(&[vec![0], vec![1]], 1, 1);
        let logits = logits(&[0.25, 0.25, 0.5]);
        tally.take_position(0, &RowLogits::new(&logits).unwrap());
        let blank = tally.answer("a");
        // Of equals the first.
        assert_eq!((blank.choice, blank.standard_error), (Some(0), None));
        let mut free = FreeTally::new(&[None], 1);
        free.take(0, &RowLogits::new(&logits).unwrap());
        assert_eq!(free.answer("b").standard_error, None);
    }

    #[test]
    fn the_text_after_it_decides_between_lengths() {
        // Alone the short one is likelier; what follows it is not.
        let choices = [vec![0], vec![1, 2]];
        let mut tally = ChoiceTally::new(&choices, 2, 1);
        let take = |tally: &mut ChoiceTally, choice, p: f64| tally.take(0, choice, p.ln());
        take(&mut tally, 0, 0.6);
        take(&mut tally, 1, 0.2);
        take(&mut tally, 1, 0.2);
        assert_eq!(tally.answer("a").choice, Some(0));
        take(&mut tally, 0, 0.001);
        take(&mut tally, 1, 0.5);
        tally.take_length(0, 0, 0.01_f64.ln());
        tally.take_length(0, 1, 0.09_f64.ln());
        let blank = tally.answer("a");
        assert_eq!(blank.choice, Some(1));
        let (short, long) = (0.6 * 0.001, 0.04 * 0.5);
        close(blank.probability, long / (short + long));
        close(blank.allowed_mass, (short + long) / 0.1);
    }

    #[test]
    fn free_tokens_by_hand() {
        let allowed: TokenSet = [1, 2].into_iter().collect();
        let mut tally = FreeTally::new(&[Some(allowed.clone()), Some(allowed)], 2);
        for row in [[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]] {
            let logits = logits(&row);
            tally.take(0, &RowLogits::new(&logits).unwrap());
            tally.take(1, &RowLogits::new(&logits).unwrap());
        }
        let blank = tally.answer("b");
        let p = 0.35_f64 / 0.65;
        assert_eq!((blank.choice, &blank.tokens[..]), (None, &[2, 2][..]));
        close(blank.probability, p * p);
        close(blank.allowed_mass, 0.65 * 0.65);
        // Of samples 0.2 and 0.75 relative to p, twice.
        let error = (0.75 - 0.2) / 2.0;
        close(
            blank.standard_error.unwrap(),
            p * p * 2.0_f64.sqrt() * error / p,
        );
    }

    #[test]
    fn what_is_not_finite_is_no_distribution() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(RowLogits::new(&[0.0, bad]).is_none());
        }
        let far = [-200.0, 200.0];
        close(RowLogits::new(&far).unwrap().logprob(0), -400.0);
    }
}
