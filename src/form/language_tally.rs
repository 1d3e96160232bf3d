//! Probabilities of the texts of a language in a blank, over several canvases.

use super::answer::FilledBlank;
use super::tally::{RowLogits, entropy, log_sum, standard_error};
use crate::constraint::{CanvasLanguage, ClassTables, Constraint, Projection, Work};
use crate::diffusion::{Token, refused};
use crate::error::Result;

/// A blank with the texts of a language: what the canvases say of them. Texts of different lengths need
/// canvases for each length; what the model makes of the text after the blank says how likely the length is.
pub(crate) struct LanguageTally {
    language: Constraint,
    tokens: TextTokens,
    lengths: Vec<Length>,
    /// The length that canvases are read of.
    rows: Rows,
    work: Work,
}

/// The tokens of a language's texts, those of a class side by side.
struct TextTokens {
    tokens: Vec<Token>,
    /// For each class with tokens its number, and where they begin.
    classes: Vec<(u16, usize)>,
    /// The number of all classes of the language.
    class_count: usize,
}

/// A number of tokens.
struct Length {
    len: usize,
    /// For each sample, the log-probability of all texts of this length, and of what was left out.
    log_z: Vec<f64>,
    held_out: Vec<f64>,
    texts: Option<Texts>,
}

/// The texts of one length, by the means of the samples.
struct Texts {
    best: Vec<Token>,
    /// Log-probability of the best, and of all.
    best_logprob: f64,
    log_z: f64,
    /// Entropy, given the length.
    entropy: f64,
    /// The square of the best one's standard error, given the length, in relation to its probability.
    variance: Option<f64>,
}

/// The distributions of a length's positions, over the tokens of the texts.
#[derive(Default)]
struct Rows {
    /// Log-probabilities of the sample that is read.
    current: Vec<Vec<f64>>,
    /// The logarithm of the sum of all samples' probabilities.
    log_total: Vec<Vec<f64>>,
    /// The probability given the language: of the first sample, and of all the sums of what they differ from
    /// it, and of the squares of that. Sums of probabilities that hardly differ would lose the difference.
    first: Vec<Vec<f32>>,
    differences: Vec<Vec<f32>>,
    squares: Vec<Vec<f32>>,
}

impl LanguageTally {
    pub(crate) fn new(language: &Constraint, lengths: &[usize], samples: usize) -> Self {
        let length = |len: &usize| Length {
            len: *len,
            log_z: vec![0.0; samples],
            held_out: vec![0.0; samples],
            texts: None,
        };
        Self {
            tokens: TextTokens::new(language),
            language: language.clone(),
            lengths: lengths.iter().map(length).collect(),
            rows: Rows::default(),
            work: Work::default(),
        }
    }

    /// Takes position `index` of the blank from a sample's canvas of this length. Positions, samples and lengths
    /// come in ascending order.
    ///
    /// # Errors
    /// The language cannot be projected.
    pub(crate) fn take(
        &mut self,
        sample: usize,
        length: usize,
        index: usize,
        row: &RowLogits<'_>,
    ) -> Result<()> {
        if (sample, index) == (0, 0) {
            self.rows = Rows::default();
        }
        let logprobs = self.tokens.tokens.iter().map(|token| row.logprob(*token));
        self.rows.current.push(logprobs.collect());
        if index + 1 < length {
            return Ok(());
        }
        let language = self.language.clone();
        let current = std::mem::take(&mut self.rows.current);
        let projection = self.tokens.project(&language, &current, &mut self.work)?;
        self.rows.add(&self.tokens, current, &projection);
        let samples = self.of(length).log_z.len();
        self.of(length).log_z[sample] = projection.log_z;
        if sample + 1 == samples {
            let rows = std::mem::take(&mut self.rows);
            self.of(length).texts = Some(self.texts(rows, samples)?);
        }
        Ok(())
    }

    /// Takes the log-probability of a token that was left out of a sample's canvas of this length.
    pub(crate) fn take_held_out(&mut self, sample: usize, length: usize, logprob: f64) {
        self.of(length).held_out[sample] += logprob;
    }

    fn of(&mut self, length: usize) -> &mut Length {
        let index = self.lengths.iter().position(|known| known.len == length);
        &mut self.lengths[index.unwrap_or(0)]
    }

    /// What all samples say of the texts of a length.
    fn texts(&mut self, rows: Rows, samples: usize) -> Result<Texts> {
        let less = (samples as f64).ln();
        let mean = |row: &Vec<f64>| row.iter().map(|log| log - less).collect();
        let means: Vec<Vec<f64>> = rows.log_total.iter().map(mean).collect();
        let language = self.language.clone();
        let projection = self.tokens.project(&language, &means, &mut self.work)?;
        let mut texts = Texts {
            best: Vec::new(),
            best_logprob: 0.0,
            log_z: projection.log_z,
            entropy: projection.log_z,
            variance: Some(0.0),
        };
        for (position, mean) in means.iter().enumerate() {
            for (token, given) in self.tokens.given(&projection, position, mean) {
                if given > 0.0 {
                    texts.entropy -= given * mean[token];
                }
            }
            let best = self.tokens.best(projection.best[position], mean);
            texts.best.push(self.tokens.tokens[best]);
            texts.best_logprob += mean[best];
            let sum = f64::from(rows.differences[position][best]);
            let squares = f64::from(rows.squares[position][best]);
            let error = standard_error(samples, sum, squares);
            let mean = f64::from(rows.first[position][best]) + sum / samples as f64;
            let share = error.map(|error| (error / mean).powi(2));
            texts.variance = texts.variance.zip(share).map(|(all, own)| all + own);
        }
        texts.entropy = texts.entropy.max(0.0);
        Ok(texts)
    }

    /// The answer: the most likely text of the most likely length that has one. Its positions count as
    /// independent in its standard error.
    pub(crate) fn answer(&self, name: &str) -> FilledBlank {
        let lengths: Vec<(&Length, &Texts)> = self
            .lengths
            .iter()
            .filter_map(|length| Some((length, length.texts.as_ref()?)))
            .collect();
        let weights = lengths.iter().map(|(length, _)| length.weight());
        let weights: Vec<f64> = weights.collect();
        let totals = lengths
            .iter()
            .zip(&weights)
            .map(|((_, texts), weight)| weight + texts.log_z);
        let totals: Vec<f64> = totals.collect();
        let total = log_sum(totals.iter().copied());
        let shares = || totals.iter().map(|of_length| (of_length - total).exp());
        let within = lengths
            .iter()
            .zip(shares())
            .map(|((_, texts), share)| share * texts.entropy);
        let mut blank = FilledBlank {
            name: name.into(),
            tokens: Vec::new(),
            choice: None,
            logprob: f64::NEG_INFINITY,
            probability: 0.0,
            entropy: entropy(shares()) + within.sum::<f64>(),
            allowed_mass: (total - log_sum(weights.iter().copied())).exp().min(1.0),
            standard_error: None,
            choices: Vec::new(),
        };
        for ((length, texts), weight) in lengths.iter().zip(&weights) {
            // The sums are rounded.
            let logprob = (weight + texts.best_logprob - total).min(0.0);
            if logprob > blank.logprob {
                blank.tokens.clone_from(&texts.best);
                blank.logprob = logprob;
                blank.probability = logprob.exp();
                let variance = texts.variance.zip(self.length_variance(length));
                let relative = variance.map(|(texts, length)| (texts + length).sqrt());
                blank.standard_error = relative.map(|relative| blank.probability * relative);
            }
        }
        blank
    }

    /// The square of the standard error of a length's probability, in relation to that.
    fn length_variance(&self, length: &Length) -> Option<f64> {
        let samples = length.log_z.len();
        let share = |sample: usize| {
            let joint = |length: &Length| length.held_out[sample] + length.log_z[sample];
            (joint(length) - log_sum(self.lengths.iter().map(joint))).exp()
        };
        let sum: f64 = (0..samples).map(share).sum();
        let squares = (0..samples).map(|sample| share(sample).powi(2)).sum();
        let error = standard_error(samples, sum, squares);
        error.map(|error| (error * samples as f64 / sum).powi(2))
    }
}

impl Length {
    /// The log-probability of what was left out, over the samples.
    fn weight(&self) -> f64 {
        log_sum(self.held_out.iter().copied()) - (self.held_out.len() as f64).ln()
    }
}

impl TextTokens {
    fn new(language: &Constraint) -> Self {
        let automaton = language.automaton();
        let mut this = Self {
            tokens: Vec::new(),
            classes: Vec::new(),
            class_count: automaton.class_count(),
        };
        for class in automaton.text_classes() {
            this.classes.push((class, this.tokens.len()));
            this.tokens.extend(automaton.members(class));
        }
        this
    }

    /// The texts, given the log-probabilities of the tokens at each position.
    fn project(
        &self,
        language: &Constraint,
        rows: &[Vec<f64>],
        work: &mut Work,
    ) -> Result<Projection> {
        let automaton = language.automaton();
        let len = rows.len();
        let canvas = CanvasLanguage::new(automaton, automaton.start(), len, len);
        let tables = self.tables(rows);
        canvas
            .and_then(|canvas| canvas.project(&tables, &vec![0.0; len], work))
            .map_err(refused)
    }

    fn tables(&self, rows: &[Vec<f64>]) -> ClassTables {
        let nothing = vec![f32::NEG_INFINITY; rows.len() * self.class_count];
        let greatest = |row: &[f64]| row.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32;
        let mut tables = ClassTables {
            classes: self.class_count,
            log_sum: nothing.clone(),
            log_max: nothing,
            log_row_max: rows.iter().map(|row| greatest(row)).collect(),
        };
        for (position, row) in rows.iter().enumerate() {
            for (index, (class, _)) in self.classes.iter().enumerate() {
                let of_class = &row[self.range(index)];
                let at = position * self.class_count + usize::from(*class);
                tables.log_sum[at] = log_sum(of_class.iter().copied()) as f32;
                tables.log_max[at] = greatest(of_class);
            }
        }
        tables
    }

    /// Where the tokens of a class are, by its index.
    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let end = self.classes.get(index + 1).map(|(_, start)| *start);
        self.classes[index].1..end.unwrap_or(self.tokens.len())
    }

    /// The probability of each token at a position, given the language, by its log-probability without.
    fn given(
        &self,
        projection: &Projection,
        position: usize,
        row: &[f64],
    ) -> impl Iterator<Item = (usize, f64)> {
        let multipliers = &projection.log_multipliers[position * self.class_count..];
        self.classes
            .iter()
            .enumerate()
            .flat_map(move |(index, (class, _))| {
                let multiplier = f64::from(multipliers[usize::from(*class)]);
                self.range(index)
                    .map(move |token| (token, (row[token] + multiplier).exp()))
            })
    }

    /// The most likely token of a class; of equals the first.
    fn best(&self, class: Option<u16>, row: &[f64]) -> usize {
        let index = self
            .classes
            .iter()
            .position(|(known, _)| Some(*known) == class);
        let range = self.range(index.unwrap_or(0));
        let first = range.start;
        range.fold(
            first,
            |best, token| if row[token] > row[best] { token } else { best },
        )
    }
}

impl Rows {
    /// Adds a sample.
    fn add(&mut self, tokens: &TextTokens, sample: Vec<Vec<f64>>, projection: &Projection) {
        let count = tokens.tokens.len();
        self.log_total
            .resize_with(sample.len(), || vec![f64::NEG_INFINITY; count]);
        let is_first = self.first.is_empty();
        for numbers in [&mut self.first, &mut self.differences, &mut self.squares] {
            numbers.resize_with(sample.len(), || vec![0.0; count]);
        }
        for (position, row) in sample.iter().enumerate() {
            for (token, given) in tokens.given(projection, position, row) {
                if is_first {
                    self.first[position][token] = given as f32;
                }
                let difference = given as f32 - self.first[position][token];
                self.differences[position][token] += difference;
                self.squares[position][token] += difference * difference;
            }
            let totals = self.log_total[position].iter_mut().zip(row);
            totals.for_each(|(total, log)| *total = log_sum([*total, *log].into_iter()));
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::constraint::{ByteAutomaton, Limits, TokenAutomaton, Vocabulary};

    /// Token 2 stands in no text.
    const TEXTS: [Option<&str>; 6] = [
        Some("a"),
        Some("b"),
        None,
        Some("ab"),
        Some("é"),
        Some("ba"),
    ];

    fn language(pattern: &str) -> Constraint {
        let limits = Limits::default();
        let bytes = ByteAutomaton::from_regex(pattern, &limits).unwrap();
        let vocabulary = Vocabulary::new(TEXTS.map(|text| text.map(|t| t.as_bytes().to_vec())));
        Constraint::new(TokenAutomaton::filling(&bytes, &vocabulary, &limits).unwrap())
    }

    /// Logits that look random.
    fn logits(seed: usize) -> Vec<f32> {
        let number = |token: usize| ((seed * 31 + token * 17 + 7) * 2_654_435_761 % 1009) as f32;
        (0..TEXTS.len())
            .map(|token| number(token) / 150.0)
            .collect()
    }

    /// All texts of `len` tokens that the expression matches.
    fn enumerated(pattern: &str, len: usize) -> Vec<Vec<usize>> {
        let regex = Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        let count = TEXTS.len();
        let all = (0..count.pow(len as u32)).map(|n| -> Vec<usize> {
            let digits = (0..len as u32).map(|i| n / count.pow(i) % count);
            digits.collect()
        });
        let is_text = |tokens: &Vec<usize>| {
            let pieces: Option<String> = tokens.iter().map(|token| TEXTS[*token]).collect();
            pieces.is_some_and(|text| regex.is_match(&text))
        };
        all.filter(is_text).collect()
    }

    fn close(found: f64, expected: f64, what: &str) {
        assert!(
            (found - expected).abs() < 1e-5,
            "{what}: {found}, not {expected}"
        );
    }

    /// Means and relative variances of numbers.
    fn relative_variance(numbers: &[f64]) -> f64 {
        let n = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / n;
        let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
        squares / (n - 1.0) / n / mean.powi(2)
    }

    /// A text of an enumeration: which length it has, its tokens, and its log-probability by the means.
    type Text = (usize, Vec<usize>, f64);

    /// Compares with the enumeration of all texts of up to `max` tokens.
    fn compare(pattern: &str, max: usize, seed: usize) {
        const SAMPLES: usize = 3;
        let language = language(pattern);
        let lengths = language.automaton().lengths(max);
        assert!(!lengths.is_empty(), "{pattern}");
        let mut tally = LanguageTally::new(&language, &lengths, SAMPLES);
        let mut texts: Vec<Text> = Vec::new();
        let mut weights = Vec::new();
        let mut rows: Vec<Vec<Vec<Vec<f64>>>> = Vec::new();
        let held_out = |sample: usize, len: usize| -((seed + sample * 3 + len * 5) as f64 % 4.0);
        for (which, len) in lengths.iter().copied().enumerate() {
            rows.push(Vec::new());
            for sample in 0..SAMPLES {
                let mut of_sample = Vec::new();
                for index in 0..len {
                    let logits = logits(seed + 100 * sample + 10 * len + index);
                    let row = RowLogits::new(&logits).unwrap();
                    tally.take(sample, len, index, &row).unwrap();
                    let all = (0..TEXTS.len()).map(|token| row.logprob(token as Token));
                    of_sample.push(all.collect::<Vec<f64>>());
                }
                tally.take_held_out(sample, len, held_out(sample, len));
                rows[which].push(of_sample);
            }
            let mean = |index: usize, token: usize| {
                let of_samples = rows[which].iter().map(|row| row[index][token].exp());
                (of_samples.sum::<f64>() / SAMPLES as f64).ln()
            };
            let weight = (0..SAMPLES)
                .map(|sample| held_out(sample, len).exp())
                .sum::<f64>();
            let weight = (weight / SAMPLES as f64).ln();
            weights.push(weight);
            for text in enumerated(pattern, len) {
                let of_text = text.iter().enumerate().map(|(i, token)| mean(i, *token));
                let logprob = weight + of_text.sum::<f64>();
                texts.push((which, text, logprob));
            }
        }
        let blank = tally.answer("x");
        let total = log_sum(texts.iter().map(|text| text.2));
        let best = texts.iter().max_by(|a, b| a.2.total_cmp(&b.2)).unwrap();
        let found: Vec<usize> = blank.tokens.iter().map(|token| *token as usize).collect();
        assert_eq!(found, best.1, "{pattern}");
        close(blank.logprob, best.2 - total, "logprob");
        close(blank.probability, (best.2 - total).exp(), "probability");
        let logprobs = texts.iter().map(|text| text.2 - total);
        close(
            blank.entropy,
            -logprobs.map(|log| log * log.exp()).sum::<f64>(),
            "entropy",
        );
        let mass = (total - log_sum(weights.iter().copied())).exp();
        close(blank.allowed_mass, mass, "mass");

        // Given the language, for each sample: of the length, and of each token of the best text.
        let joint = |sample: usize, text: &Text| -> f64 {
            let row = &rows[text.0][sample];
            let own: f64 = text
                .1
                .iter()
                .enumerate()
                .map(|(i, token)| row[i][*token])
                .sum();
            (own + held_out(sample, lengths[text.0])).exp()
        };
        let share = |sample: usize, of: &dyn Fn(&[usize]) -> bool, all: bool| {
            let of_length = |text: &&Text| all || text.0 == best.0;
            let sum = |wanted: &dyn Fn(&Text) -> bool| -> f64 {
                let texts = texts.iter().filter(of_length).filter(|text| wanted(text));
                texts.map(|text| joint(sample, text)).sum()
            };
            sum(&|text| text.0 == best.0 && of(&text.1)) / sum(&|_| true)
        };
        let shares = |of: &dyn Fn(&[usize]) -> bool, all: bool| -> Vec<f64> {
            (0..SAMPLES).map(|sample| share(sample, of, all)).collect()
        };
        let mut variance = relative_variance(&shares(&|_| true, true));
        for (index, token) in best.1.iter().enumerate() {
            variance += relative_variance(&shares(&|text| text[index] == *token, false));
        }
        let error = (best.2 - total).exp() * variance.sqrt();
        close(blank.standard_error.unwrap(), error, "error");
        assert!(blank.choice.is_none() && blank.choices.is_empty());
    }

    #[test]
    fn answers_are_those_of_the_enumerated_texts() {
        for (pattern, max) in [
            ("a", 1),
            ("[ab]", 1),
            ("(ab){2}", 4),
            ("a*b", 4),
            ("é?(ab|ba)+", 4),
            ("(aba|bab){1,2}", 4),
            ("[abé]{3}", 3),
            ("a?b?é?", 3),
        ] {
            for seed in [1, 2, 3, 40, 500] {
                compare(pattern, max, seed);
            }
        }
    }

    #[test]
    fn one_sample_has_no_standard_error() {
        let language = language("a|b");
        let mut tally = LanguageTally::new(&language, &[1], 1);
        let logits = logits(1);
        tally
            .take(0, 1, 0, &RowLogits::new(&logits).unwrap())
            .unwrap();
        assert_eq!(tally.answer("x").standard_error, None);
    }

    #[test]
    fn a_text_that_is_nearly_impossible_is_found() {
        let language = language("ab");
        let mut tally = LanguageTally::new(&language, &[2], 2);
        for sample in 0..2 {
            for index in 0..2 {
                let logits = [-400.0, -400.0, 400.0, -500.0, 0.0, 0.0];
                let row = RowLogits::new(&logits).unwrap();
                tally.take(sample, 2, index, &row).unwrap();
            }
        }
        let blank = tally.answer("x");
        assert_eq!(blank.tokens, [0, 1]);
        close(blank.probability, 1.0, "probability");
        assert_eq!(blank.allowed_mass, 0.0);
    }
}
