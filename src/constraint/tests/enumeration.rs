//! Every canvas of a small language, one by one.

use super::*;
use crate::constraint::bytes::tests::expressions;

/// All canvases of a language.
struct Enumeration<'a> {
    tokens: &'a Tokens,
    oracle: Oracle,
    rows: &'a [Vec<f64>],
    budget: usize,
    /// Each canvas up to its end token, and the logarithm of its probability.
    canvases: Vec<(Vec<Token>, f64)>,
    /// Probabilities of the best and the second best canvas when the tail counts by its likeliest tokens.
    best: [(f64, Vec<Token>); 2],
}

impl<'a> Enumeration<'a> {
    fn new(pattern: &str, tokens: &'a Tokens, rows: &'a [Vec<f64>], budget: usize) -> Self {
        let nothing = (f64::NEG_INFINITY, Vec::new());
        let mut enumeration = Self {
            tokens,
            oracle: Oracle::new(pattern, tokens),
            rows,
            budget,
            canvases: Vec::new(),
            best: [nothing.clone(), nothing],
        };
        enumeration.extend(&mut Vec::new(), &[], 0.0);
        enumeration
    }

    fn extend(&mut self, canvas: &mut Vec<Token>, text: &[u8], log: f64) {
        let position = canvas.len();
        if position == self.rows.len() {
            if self.oracle.completable(text, self.budget - position) {
                self.add(canvas, log);
            }
            return;
        }
        if self.oracle.matches(text) {
            for &end in &self.tokens.end {
                canvas.push(end);
                self.add(canvas, log + self.rows[position][end as usize]);
                canvas.pop();
            }
        }
        if position == self.budget {
            return;
        }
        for (token, bytes) in self.tokens.text() {
            let text = [text, bytes].concat();
            if self.oracle.completable(&text, self.budget - position - 1) {
                canvas.push(token);
                self.extend(canvas, &text, log + self.rows[position][token as usize]);
                canvas.pop();
            }
        }
    }

    fn add(&mut self, canvas: &[Token], log: f64) {
        if log == f64::NEG_INFINITY {
            return;
        }
        self.canvases.push((canvas.to_vec(), log));
        let row_max = |row: &Vec<f64>| row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let with_tail = log + self.rows[canvas.len()..].iter().map(row_max).sum::<f64>();
        if with_tail > self.best[0].0 {
            self.best.swap(0, 1);
            self.best[0] = (with_tail, canvas.to_vec());
        } else if with_tail > self.best[1].0 {
            self.best[1] = (with_tail, canvas.to_vec());
        }
    }

    fn log_z(&self) -> f64 {
        log_sum(self.canvases.iter().map(|canvas| canvas.1))
    }

    /// Probability of each token at each position, and of the tail.
    fn marginals(&self) -> (Vec<Vec<f64>>, Vec<f64>) {
        let log_z = self.log_z();
        let mut marginals = vec![vec![0.0; self.tokens.texts.len()]; self.rows.len()];
        let mut tail = vec![0.0; self.rows.len()];
        for (canvas, log) in &self.canvases {
            let probability = (log - log_z).exp();
            for (position, tail) in tail.iter_mut().enumerate() {
                match canvas.get(position) {
                    Some(&token) => marginals[position][token as usize] += probability,
                    None => *tail += probability,
                }
            }
        }
        for ((row, tail), logs) in marginals.iter_mut().zip(&tail).zip(self.rows) {
            row.iter_mut()
                .zip(logs)
                .for_each(|(m, log)| *m += log.exp() * tail);
        }
        (marginals, tail)
    }
}

/// The path of classes of `canvas`, which may be cut after its end token.
fn classes_of(automaton: &TokenAutomaton, canvas: &[Token]) -> Vec<Option<u16>> {
    let class = |&token: &Token| Some(automaton.classes()[token as usize]);
    canvas.iter().map(class).collect()
}

fn compare(
    pattern: &str,
    tokens: &Tokens,
    positions: usize,
    budget: usize,
    kind: Logits,
    seed: u64,
) {
    let Ok(automaton) = tokens.automaton(pattern) else {
        // The language is empty, or empty for these tokens: so says the oracle.
        assert!(
            !Oracle::new(pattern, tokens).completable(b"", positions.min(5)),
            "{pattern}"
        );
        return;
    };
    let mut rows = log_probabilities(kind, positions, tokens.texts.len(), seed);
    let tables = tables(&automaton, &mut rows);
    let language = match CanvasLanguage::new(&automaton, automaton.start(), positions, budget) {
        Ok(language) => language,
        Err(error) => {
            let needed = automaton.min_tokens(automaton.start());
            assert_eq!(error, ConstraintError::Budget { needed, budget });
            assert!(
                !Oracle::new(pattern, tokens).completable(b"", budget),
                "{pattern}"
            );
            return;
        }
    };
    let all = Enumeration::new(pattern, tokens, &rows, budget);
    let uniforms = Uniforms(seed ^ 1).take(positions);
    let case = format!("{pattern}, {positions} positions, budget {budget}, {kind:?}, seed {seed}");
    let projection = match language.project(&tables, &uniforms, &mut Work::default()) {
        Ok(projection) => projection,
        Err(error) => {
            assert_eq!(error, ConstraintError::Fixed, "{case}");
            assert!(all.canvases.is_empty(), "{case}");
            return;
        }
    };

    let log_z = all.log_z();
    assert!(
        (projection.log_z - log_z).abs() < 1e-5,
        "{case}: {} {log_z}",
        projection.log_z
    );

    let best = best_tokens(&automaton, &projection.best, &rows);
    let value: f64 = best
        .iter()
        .zip(&rows)
        .map(|(&t, row)| row[t as usize])
        .sum();
    let [(expected, canvas), (second, _)] = &all.best;
    assert!(
        (value - expected).abs() < 1e-4 + 1e-6 * expected.abs(),
        "{case}: {value} {expected}"
    );
    let text = language
        .read(&best)
        .unwrap_or_else(|| panic!("{case}: {best:?}"));
    if expected - second > 1e-3 * (1.0 + expected.abs()) {
        assert_eq!(&best[..canvas.len()], canvas, "{case}");
        assert_eq!(text.text + usize::from(text.ended), canvas.len(), "{case}");
    }

    let (marginals, tail) = all.marginals();
    for position in 0..positions {
        let given = f64::from(projection.tail[position]);
        assert!(
            (given - tail[position]).abs() < 1e-5,
            "{case}, {position}: {given}"
        );
        for (token, &class) in automaton.classes().iter().enumerate() {
            let at = position * automaton.class_count() + usize::from(class);
            let log_multiplier = f64::from(projection.log_multipliers[at]);
            let log = rows[position][token];
            let given = match log == f64::NEG_INFINITY {
                true => 0.0,
                false => (log + log_multiplier).exp() + log.exp() * given,
            };
            let expected = marginals[position][token];
            // The multiplier's logarithm is rounded to f32.
            let tolerance = 1e-5 + expected * 1.2e-7 * log_multiplier.abs().min(1e4);
            assert!(
                (given - expected).abs() < tolerance,
                "{case}, {position}, {token}: {given} {expected}"
            );
        }
    }
    let sampled = sampled_tokens(&automaton, &projection, &rows);
    let reading = language
        .read(&sampled)
        .unwrap_or_else(|| panic!("{case}: {sampled:?}"));
    let canvas = &sampled[..reading.text + usize::from(reading.ended)];
    assert!(
        all.canvases.iter().any(|(c, _)| c == canvas),
        "{case}: {sampled:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn three_texts_and_long_canvases(
        pattern in expressions(), positions in 1..9_usize, budget in 0..10_usize, kind in logits(), seed: u64,
    ) {
        compare(&pattern, &few_tokens(), positions, budget.max(positions.min(budget + 1)), kind, seed);
    }

    #[test]
    fn twelve_tokens_and_short_canvases(
        pattern in expressions(), positions in 1..5_usize, budget in 0..6_usize, kind in logits(), seed: u64,
    ) {
        compare(&pattern, &twelve_tokens(), positions, budget, kind, seed);
    }
}

#[test]
fn samples_follow_the_distribution_given_the_language() {
    for (pattern, positions, budget, kind, seed) in [
        ("(?:a|b)*", 4, 9, Logits::Mild, 1),
        ("a?b?(?:ab)*", 6, 6, Logits::Mild, 2),
        ("(?:ab|ba){0,3}a", 8, 8, Logits::Equal, 3),
        ("[ab]{2,5}", 5, 5, Logits::Holes, 4),
        ("(?:a*b){0,2}", 6, 7, Logits::Peaked, 5),
    ] {
        let tokens = few_tokens();
        let automaton = tokens.automaton(pattern).unwrap();
        let mut rows = log_probabilities(kind, positions, tokens.texts.len(), seed);
        let tables = tables(&automaton, &mut rows);
        let language =
            CanvasLanguage::new(&automaton, automaton.start(), positions, budget).unwrap();
        let all = Enumeration::new(pattern, &tokens, &rows, budget);
        let mut counts: HashMap<Vec<Token>, usize> = HashMap::new();
        let (mut uniforms, mut work) = (Uniforms(seed + 10), Work::default());
        let draws = 20_000;
        for _ in 0..draws {
            let uniforms = uniforms.take(positions);
            let projection = language.project(&tables, &uniforms, &mut work).unwrap();
            let canvas = sampled_tokens(&automaton, &projection, &rows);
            let reading = language.read(&canvas).unwrap();
            let end = reading.text + usize::from(reading.ended);
            *counts.entry(canvas[..end].to_vec()).or_default() += 1;
        }
        // Canvases that are too rare for the statistic count as one.
        let (log_z, mut rest, mut chi2, mut freedom) = (all.log_z(), (0.0, 0.0), 0.0, 0);
        for (canvas, log) in &all.canvases {
            let expected = (log - log_z).exp() * f64::from(draws);
            let observed = counts.remove(canvas).unwrap_or_default() as f64;
            if expected < 5.0 {
                rest = (rest.0 + expected, rest.1 + observed);
            } else {
                chi2 += (observed - expected).powi(2) / expected;
                freedom += 1;
            }
        }
        assert!(
            counts.is_empty(),
            "{pattern}: drawn outside of the language: {counts:?}"
        );
        chi2 += (rest.1 - rest.0).powi(2) / rest.0.max(5.0);
        let freedom = f64::from(freedom);
        let bound = freedom + 4.0 * (2.0 * freedom).sqrt() + 4.0;
        assert!(
            chi2 < bound,
            "{pattern}: χ² {chi2} with {freedom} degrees of freedom"
        );
    }
}

#[test]
fn the_tail_counts_by_its_likeliest_tokens_on_the_best_path() {
    // Padding is likely after the end: the short text wins over one that is likelier token by token only
    // if the tail counted as nothing, and loses where it counts by what the model says.
    let tokens = few_tokens();
    let automaton = tokens.automaton("a|ab{3}").unwrap();
    let language = CanvasLanguage::new(&automaton, automaton.start(), 4, 4).unwrap();
    let row = |p: [f64; 4]| p.map(f64::ln).to_vec();
    let unsure = row([0.1, 0.45, 0.05, 0.4]);
    let mut rows = vec![
        row([0.97, 0.01, 0.01, 0.01]),
        unsure.clone(),
        unsure.clone(),
        unsure,
    ];
    let tables = tables(&automaton, &mut rows);
    let projection = language
        .project(&tables, &[0.5; 4], &mut Work::default())
        .unwrap();
    let expected = [&[0, 1][..], &[0, 3, 3, 3]].map(|canvas| classes_of(&automaton, canvas));
    assert_eq!(projection.best[..2], expected[0]); // 0.45³ > 0.4³
    assert_eq!(projection.best[2..], [None, None]);
    rows[1] = row([0.1, 0.35, 0.05, 0.5]);
    let tables = super::tables(&automaton, &mut rows);
    let projection = language
        .project(&tables, &[0.5; 4], &mut Work::default())
        .unwrap();
    assert_eq!(projection.best, expected[1]); // 0.5 · 0.4² is 0.08, above 0.0709, 0.35 · 0.45²
}

#[test]
fn numbers_that_are_none_are_named() {
    let tokens = few_tokens();
    let automaton = tokens.automaton("[ab]*").unwrap();
    let language = CanvasLanguage::new(&automaton, automaton.start(), 3, 9).unwrap();
    let mut rows = log_probabilities(Logits::Mild, 3, 4, 1);
    let good = tables(&automaton, &mut rows);
    let classes = good.classes;
    let not_finite = Err(ConstraintError::NotFinite { position: 2 });
    for bad in [f32::NAN, f32::INFINITY] {
        let mut sums = good.clone();
        sums.log_sum[2 * classes] = bad;
        let mut maxima = good.clone();
        maxima.log_max[2 * classes + 1] = bad;
        let mut rows = good.clone();
        rows.log_row_max[2] = bad;
        for tables in [sums, maxima, rows] {
            assert_eq!(
                language.best_path(&tables, &mut Work::default()),
                not_finite
            );
        }
    }
    assert!(language.best_path(&good, &mut Work::default()).is_ok());
}
