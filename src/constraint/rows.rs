//! The distribution of one position: its sums by token class, which the lattice reads, and what it
//! becomes given the language.

use super::automaton::TokenAutomaton;
use super::row_sums::{ClassSum, scale, sum_of};
use super::tables::{ClassTables, Projection};
use crate::token::Token;

pub use super::row_sums::Spread;

/// Weights below this share of the row's greatest may have lost their order to rounding: classes
/// without a greater one are computed from the exact logarithms.
const FAINT: f32 = 1e-34;
/// Classes of less probability add nothing to an entropy that F32 could show.
const NEGLIGIBLE: f32 = 1e-12;

/// The distribution of one position over the vocabulary.
pub struct Row<'a> {
    /// Unnormalised probabilities, at least 0.
    pub weights: &'a mut [f32],
    /// The natural logarithm of a token's weight, by all weights, also where the weight itself has
    /// underflowed; −∞ for tokens that are not allowed.
    pub exact: &'a dyn Fn(&[f32], Token) -> f32,
}

/// The token classes of a vocabulary.
pub trait Classes {
    /// The class of each token.
    fn of(&self) -> &[u16];

    /// How many classes there are.
    fn count(&self) -> usize;

    /// The tokens of a class, in the order of ids.
    fn members(&self, class: u16) -> &[Token];
}

impl Classes for TokenAutomaton {
    fn of(&self) -> &[u16] {
        self.classes()
    }

    fn count(&self) -> usize {
        self.class_count()
    }

    fn members(&self, class: u16) -> &[Token] {
        self.members(class)
    }
}

impl ClassTables {
    /// The tables of a canvas, from those of its rows.
    pub fn from_rows<'r>(classes: usize, rows: impl Iterator<Item = &'r RowTable>) -> Self {
        let mut tables = Self {
            classes,
            log_sum: Vec::new(),
            log_max: Vec::new(),
            log_row_max: Vec::new(),
        };
        for row in rows {
            tables.log_sum.extend_from_slice(&row.log_sum);
            tables.log_max.extend_from_slice(&row.log_max);
            tables.log_row_max.push(row.log_row_max);
        }
        tables
    }
}

impl<'a> Given<'a> {
    /// What a projection says about one position.
    pub fn at(projection: &'a Projection, position: usize, greatest: f32, least: f32) -> Self {
        let classes = projection.log_multipliers.len() / projection.best.len();
        Self {
            log_factors: &projection.log_multipliers[position * classes..][..classes],
            tail: projection.tail[position],
            best: projection.best[position],
            sampled: projection.sampled[position],
            remainder: projection.remainder[position],
            greatest,
            least,
        }
    }
}

/// A row by token class. Logarithms are natural, of probabilities.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowTable {
    /// Of the class's tokens together; −∞ if none is allowed.
    pub log_sum: Vec<f32>,
    /// Of its most likely token.
    pub log_max: Vec<f32>,
    /// That token; of equally likely ones the lowest id.
    pub best: Vec<Token>,
    /// Of the most likely token of all.
    pub log_row_max: f32,
    /// That token.
    pub argmax: Token,
    /// The logarithm of the sum of the row's weights.
    log_total: f32,
    /// Whether a class is faint.
    faint: Vec<bool>,
}

/// How the language changes a row.
pub struct Given<'a> {
    /// Logarithm of the factor of each class.
    pub log_factors: &'a [f32],
    /// Probability that the position lies after the end of the text.
    pub tail: f32,
    /// The class of the best path; `None` after the end of the text.
    pub best: Option<u16>,
    /// The class of the path drawn; `None` after the end of the text.
    pub sampled: Option<u16>,
    /// In [0, 1): chooses the token within that class.
    pub remainder: f32,
    /// What the greatest weight becomes.
    pub greatest: f32,
    /// The weight above which [`Spread::kept`] counts a token.
    pub least: f32,
}

/// What a row gives, given the language.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowChoice {
    /// The most likely token of the best path's class.
    pub argmax: Token,
    /// The token of the path drawn.
    pub sampled: Token,
    /// Entropy of the position in nats.
    pub entropy: f32,
    /// Probability of the token drawn.
    pub probability: f32,
    /// Probability of the most likely token, less that of the second.
    pub margin: f32,
    /// The weights that the row has now.
    pub spread: Spread,
}

impl RowTable {
    /// The table of a position whose token is certain.
    pub fn certain(classes: &dyn Classes, token: Token) -> Self {
        let mut table = Self {
            log_sum: vec![f32::NEG_INFINITY; classes.count()],
            log_max: vec![f32::NEG_INFINITY; classes.count()],
            best: vec![token; classes.count()],
            argmax: token,
            faint: vec![false; classes.count()],
            ..Self::default()
        };
        let class = usize::from(classes.of()[token as usize]);
        table.log_sum[class] = 0.0;
        table.log_max[class] = 0.0;
        table
    }

    /// The table of a row. Its entries are NaN if a weight is not a number.
    pub fn new(row: &Row<'_>, classes: &dyn Classes) -> Self {
        let count = classes.count();
        let sums = (0..count).map(|class| sum_of(row.weights, classes.members(class as u16)));
        let sums: Vec<ClassSum> = sums.collect();
        let total: f64 = sums.iter().map(|sum| sum.total).sum();
        let log_total = total.ln() as f32;
        let top = sums.iter().map(|sum| sum.greatest).fold(0.0, f32::max);
        let log = |weight: f64| (weight / total).ln() as f32;
        let mut table = Self {
            log_sum: sums.iter().map(|sum| log(sum.total)).collect(),
            log_max: sums.iter().map(|sum| log(sum.greatest.into())).collect(),
            best: sums.iter().map(|sum| sum.best).collect(),
            log_row_max: 0.0,
            argmax: 0,
            log_total,
            faint: sums.iter().map(|sum| sum.greatest < FAINT * top).collect(),
        };
        for class in 0..count {
            if table.faint[class] {
                table.measure_faint(class, row, classes);
            }
        }
        // Of equals the one with the lowest id.
        let mut most = (f32::NEG_INFINITY, Token::MAX);
        for (&log, &token) in table.log_max.iter().zip(&table.best) {
            if log > most.0 || (log == most.0 && token < most.1) {
                most = (log, token);
            }
        }
        (table.log_row_max, table.argmax) = most;
        if !total.is_finite() || total <= 0.0 {
            table.log_row_max = f32::NAN;
        }
        table
    }

    /// Sums a class from the exact logarithms of its weights.
    fn measure_faint(&mut self, class: usize, row: &Row<'_>, classes: &dyn Classes) {
        let members = classes.members(class as u16).iter();
        let exact = |token: &Token| (row.exact)(row.weights, *token);
        let logs: Vec<f32> = members.clone().map(exact).collect();
        let mut most = f32::NEG_INFINITY;
        for (&log, &token) in logs.iter().zip(members) {
            if log > most {
                (most, self.best[class]) = (log, token);
            }
        }
        self.log_max[class] = most - self.log_total;
        self.log_sum[class] = f32::NEG_INFINITY;
        if most > f32::NEG_INFINITY {
            let sum: f64 = logs.iter().map(|log| f64::from(log - most).exp()).sum();
            self.log_sum[class] = self.log_max[class] + sum.ln() as f32;
        }
    }

    /// The token of the best path at this position.
    pub fn best_of(&self, class: Option<u16>) -> Token {
        class.map_or(self.argmax, |class| self.best[usize::from(class)])
    }

    /// Turns a row into its distribution given the language, and draws from it.
    pub fn project(
        &self,
        row: &mut Row<'_>,
        classes: &dyn Classes,
        given: &Given<'_>,
    ) -> RowChoice {
        let sampled = self.draw(row, classes, given);
        // ln (f + tail), of each class.
        let factor = |log: f32| match given.tail > 0.0 {
            true => (f64::from(log).exp() + f64::from(given.tail)).ln() as f32,
            false => log,
        };
        let factors: Vec<f32> = given.log_factors.iter().map(|log| factor(*log)).collect();
        let logs = self.log_max.iter().zip(&factors);
        let most = logs
            .map(|(max, factor)| max + factor)
            .fold(f32::NEG_INFINITY, f32::max);
        let log_scale = given.greatest.ln() - most - self.log_total;
        let gain = |class: usize| match self.faint[class] {
            true => 0.0,
            false => (factors[class] + log_scale).exp(),
        };
        let gains: Vec<f32> = (0..factors.len()).map(gain).collect();
        let shown = |class: &usize| {
            self.faint[*class] && self.log_sum[*class] + factors[*class] > most + NEGLIGIBLE.ln()
        };
        // Their weights are computed again, and their factor leaves them as they are.
        let mut gains = gains;
        for class in (0..factors.len()).filter(shown) {
            for &token in classes.members(class as u16) {
                let log = (row.exact)(row.weights, token) + factors[class] + log_scale;
                row.weights[token as usize] = log.exp();
            }
            gains[class] = 1.0;
        }
        let spread = scale(
            row.weights,
            classes.of(),
            &gains,
            given.greatest,
            given.least,
        );
        RowChoice {
            spread,
            argmax: given
                .best
                .map_or(self.argmax, |class| self.best[usize::from(class)]),
            sampled,
            entropy: spread.entropy,
            probability: (f64::from(row.weights[sampled as usize]) / spread.total) as f32,
            margin: (f64::from(spread.first - spread.second) / spread.total) as f32,
        }
    }

    /// Draws a token of the class that was drawn, from the row as it was.
    fn draw(&self, row: &Row<'_>, classes: &dyn Classes, given: &Given<'_>) -> Token {
        let remainder = f64::from(given.remainder);
        let Some(class) = given.sampled else {
            let all = row.weights.iter().enumerate();
            let total = f64::from(self.log_total).exp();
            let drawn = pick(
                all.map(|(t, w)| (t as Token, f64::from(*w))),
                remainder * total,
            );
            return drawn.unwrap_or(self.argmax);
        };
        let members = classes.members(class);
        let (log_max, log_sum) = (
            self.log_max[usize::from(class)],
            self.log_sum[usize::from(class)],
        );
        let drawn = match self.faint[usize::from(class)] {
            true => {
                let most = log_max + self.log_total;
                let weight = |token| f64::from((row.exact)(row.weights, token) - most).exp();
                let total = f64::from(log_sum - log_max).exp();
                pick(members.iter().map(|t| (*t, weight(*t))), remainder * total)
            }
            false => {
                let total = f64::from(log_sum + self.log_total).exp();
                pick_member(row.weights, members, remainder * total)
            }
        };
        drawn.unwrap_or(self.best[usize::from(class)])
    }
}

/// The first token whose cumulative weight is above `target`; rounding may leave it unreached: then
/// it is the last one that has weight.
fn pick(weights: impl Iterator<Item = (Token, f64)>, target: f64) -> Option<Token> {
    let (mut sum, mut last) = (0.0, None);
    for (token, weight) in weights {
        if weight > 0.0 {
            sum += weight;
            last = Some(token);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Tokens of a class that are skipped at once where another one is drawn.
const PICKED: usize = 256;

/// [`pick`] among the tokens of a class, by their weights in a row.
fn pick_member(weights: &[f32], members: &[Token], target: f64) -> Option<Token> {
    // The stretch in which it is, and the sum before that.
    let (mut found, mut sum) = (None, 0.0);
    for stretch in members.chunks(PICKED) {
        let total = sum_of(weights, stretch).total;
        if total > 0.0 {
            found = Some((stretch, sum));
        }
        sum += total;
        if sum > target {
            break;
        }
    }
    let (stretch, before) = found?;
    let each = stretch.iter();
    let each = each.map(|token| (*token, f64::from(weights[*token as usize])));
    pick(each, target - before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Six tokens in three classes.
    const OF: [u16; 6] = [0, 1, 0, 2, 1, 1];
    const MEMBERS: [&[Token]; 3] = [&[0, 2], &[1, 4, 5], &[3]];

    struct Three;

    impl Classes for Three {
        fn of(&self) -> &[u16] {
            &OF
        }

        fn count(&self) -> usize {
            3
        }

        fn members(&self, class: u16) -> &[Token] {
            MEMBERS[usize::from(class)]
        }
    }

    /// A row whose weights are those of the logarithms, as far as F32 holds them.
    fn with_row<T>(logs: [f32; 6], work: impl FnOnce(&mut Row<'_>) -> T) -> (T, [f32; 6]) {
        let top = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut weights = logs.map(|log| (log - top).max(-87.0).exp());
        if top == f32::NEG_INFINITY {
            weights = [0.0; 6];
        }
        for (weight, log) in weights.iter_mut().zip(logs) {
            if log == f32::NEG_INFINITY {
                *weight = 0.0;
            }
        }
        let exact = move |_: &[f32], token: Token| logs[token as usize] - top;
        let mut row = Row {
            weights: &mut weights,
            exact: &exact,
        };
        let result = work(&mut row);
        (result, weights)
    }

    fn probabilities(logs: [f32; 6]) -> [f64; 6] {
        let top = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = logs.map(|log| f64::from(log - top).exp());
        let total: f64 = weights.iter().sum();
        weights.map(|weight| weight / total)
    }

    fn logs() -> impl Strategy<Value = [f32; 6]> {
        // Far apart, equal, and not allowed.
        let log = prop_oneof![
            4 => -8.0..8.0_f32,
            1 => Just(-150.0_f32),
            1 => -160.0..-140.0_f32,
            1 => Just(2.5_f32),
            1 => Just(f32::NEG_INFINITY),
        ];
        prop::array::uniform6(log).prop_filter("nothing is allowed", |logs| {
            logs.iter().any(|log| *log > f32::NEG_INFINITY)
        })
    }

    proptest! {
        #[test]
        fn tables_are_sums_and_maxima(logs in logs()) {
            let (table, _) = with_row(logs, |row| RowTable::new(row, &Three));
            let top = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = logs.iter().map(|log| f64::from(log - top).exp()).sum();
            for (class, members) in MEMBERS.iter().enumerate() {
                let of = |t: &Token| logs[*t as usize];
                let max = members.iter().map(of).fold(f32::NEG_INFINITY, f32::max);
                if max == f32::NEG_INFINITY {
                    prop_assert_eq!(table.log_sum[class], f32::NEG_INFINITY);
                    prop_assert_eq!(table.log_max[class], f32::NEG_INFINITY);
                    continue;
                }
                let sum: f64 = members.iter().map(|t| f64::from(of(t) - max).exp()).sum();
                let log_max = f64::from(max - top) - total.ln();
                prop_assert!((f64::from(table.log_max[class]) - log_max).abs() < 1e-4);
                prop_assert!((f64::from(table.log_sum[class]) - log_max - sum.ln()).abs() < 1e-4);
                let best = members.iter().find(|t| of(t) == max).unwrap();
                prop_assert_eq!(table.best[class], *best);
            }
            let first = (0..6).find(|t| logs[*t] == top).unwrap();
            prop_assert_eq!(table.argmax, first as Token);
        }

        #[test]
        fn the_projection_multiplies_classes(
            logs in logs(),
            factors in prop::array::uniform3(prop_oneof![-5.0..5.0_f32, Just(120.0_f32)]),
            tail in prop_oneof![Just(0.0_f32), 0.0..1.0_f32],
            remainder in 0.0..1.0_f32,
        ) {
            // As a posterior would: a class that is certain has a factor that makes up for its faintness.
            let p = probabilities(logs);
            let weighted: Vec<f64> = (0..6)
                .map(|t| p[t] * (f64::from(factors[usize::from(OF[t])]).exp() + f64::from(tail)))
                .collect();
            let total: f64 = weighted.iter().sum();
            prop_assume!(total > 1e-30);
            let expected: Vec<f64> = weighted.iter().map(|w| w / total).collect();
            for class in 0..3_u16 {
                let members = MEMBERS[usize::from(class)];
                if members.iter().all(|t| logs[*t as usize] == f32::NEG_INFINITY) {
                    continue;
                }
                let ((table, choice), weights) = with_row(logs, |row| {
                    let table = RowTable::new(row, &Three);
                    let given = Given {
                        log_factors: &factors,
                        tail,
                        best: Some(class),
                        sampled: Some(class),
                        remainder,
                        greatest: 32768.0,
                        least: 0.5,
                    };
                    let choice = table.project(row, &Three, &given);
                    (table, choice)
                });
                prop_assert_eq!(choice.argmax, table.best[usize::from(class)]);
                prop_assert!(members.contains(&choice.sampled));
                // By the inverse CDF within the class.
                let shares: Vec<f64> = members.iter().map(|t| {
                    let most = members.iter().map(|t| logs[*t as usize]).fold(f32::NEG_INFINITY, f32::max);
                    f64::from(logs[*t as usize] - most).exp()
                }).collect();
                let sum: f64 = shares.iter().sum();
                let index = members.iter().position(|t| *t == choice.sampled).unwrap();
                let before: f64 = shares[..index].iter().sum::<f64>() / sum;
                let own = shares[index] / sum;
                let u = f64::from(remainder);
                prop_assert!(before - 1e-4 <= u && u <= before + own + 1e-4);
                let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
                for (weight, expected) in weights.iter().zip(&expected) {
                    prop_assert!((f64::from(*weight) / total - expected).abs() < 1e-4);
                }
                let greatest = weights.iter().copied().fold(0.0, f32::max);
                prop_assert!((greatest / 32768.0 - 1.0).abs() < 1e-3, "{}", greatest);
                let entropy: f64 = expected.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
                prop_assert!((f64::from(choice.entropy) - entropy).abs() < 1e-3);
                let kept = weights.iter().filter(|weight| **weight > 0.5).count();
                prop_assert_eq!(choice.spread.kept, kept);
                let own = expected[choice.sampled as usize];
                prop_assert!((f64::from(choice.probability) - own).abs() < 1e-4);
                let mut sorted = expected.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                prop_assert!((f64::from(choice.margin) - (sorted[0] - sorted[1])).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn after_the_end_of_the_text_any_token_is_drawn() {
        let logs = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let draw = |remainder| {
            with_row(logs, |row| {
                let table = RowTable::new(row, &Three);
                let given = Given {
                    log_factors: &[f32::NEG_INFINITY; 3],
                    tail: 1.0,
                    best: None,
                    sampled: None,
                    remainder,
                    greatest: 1.0,
                    least: 0.0,
                };
                table.project(row, &Three, &given)
            })
            .0
        };
        assert_eq!(draw(0.0).sampled, 0);
        assert_eq!(draw(0.999).sampled, 5);
        assert_eq!(draw(0.5).argmax, 5);
    }

    #[test]
    fn a_certain_token_has_all_of_its_class() {
        let table = RowTable::certain(&Three, 4);
        assert_eq!(table.log_sum, [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]);
        assert_eq!(
            (table.log_row_max, table.argmax, table.best[1]),
            (0.0, 4, 4)
        );
    }

    #[test]
    fn weights_that_are_not_numbers_stay_visible() {
        let mut weights = [1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0];
        let row = Row {
            weights: &mut weights,
            exact: &|_, _| 0.0,
        };
        assert!(RowTable::new(&row, &Three).log_row_max.is_nan());
    }
}
