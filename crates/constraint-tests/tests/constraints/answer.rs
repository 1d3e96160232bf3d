//! Answers of a model that has nothing to say: canvases filled by the lattice from made-up logits.

use llama_diffusion::constraint::{
    CanvasLanguage, ClassTables, ConstraintError, TokenAutomaton, Vocabulary, Work,
};

use crate::random::Random;

/// What the model wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logits {
    Equal,
    /// Each token +30 or -30.
    Extreme,
    /// +200 for tokens that no text of the language contains.
    Forbidden,
}

pub(crate) const ALL_LOGITS: [Logits; 3] = [Logits::Equal, Logits::Extreme, Logits::Forbidden];

/// The bytes of each token: all single ones, what is common in JSON, parts of characters, and tokens that no
/// text contains.
pub(crate) fn tokens() -> Vec<Option<Vec<u8>>> {
    let single = (0..=u8::MAX).map(|byte| Some(vec![byte]));
    let common = [
        "{\"", "\":", "\": ", "\",", "\", \"", "\"}", "\"]", "}]", "},", "[]", "{}", "[{\"",
        ": \"", ", ", "\n ", "\n  ", "    ", "true", "false", "null", "name", "age", "kind",
        "value", "next", "red", "foo", "10", "00", "000", "12", "-1", "0.", "e+", "\\n", "\\\"",
        "\\u00", "é", "😀", "abc", " the", "2024-", "\"\"",
    ];
    let common = common.iter().map(|text| Some(text.as_bytes().to_vec()));
    let parts = [&b"\xc3"[..], b"\xf0\x9f", b"\xa9\"", b"\x98\x80"].map(|part| Some(part.to_vec()));
    single
        .chain(common)
        .chain(parts)
        .chain([None, None, Some(Vec::new())])
        .collect()
}

/// The token that ends an answer: the first of those that no text contains.
pub(crate) fn end_token(tokens: &[Option<Vec<u8>>]) -> i32 {
    tokens.iter().position(Option::is_none).unwrap() as i32
}

/// Writes answers of one language.
pub(crate) struct Writer<'a> {
    pub(crate) automaton: &'a TokenAutomaton,
    pub(crate) tokens: &'a [Option<Vec<u8>>],
    pub(crate) logits: Logits,
    /// Commits the most likely canvases, or drawn ones.
    pub(crate) best: bool,
    /// Tokens of a canvas.
    pub(crate) canvas: usize,
}

impl Writer<'_> {
    /// The text of an answer of at most so many tokens, and its canvases.
    pub(crate) fn answer(
        &self,
        budget: usize,
        random: &mut Random,
    ) -> Result<(Vec<u8>, usize), ConstraintError> {
        let mut text = Vec::new();
        let mut left = budget;
        let mut state = self.automaton.start();
        let mut work = Work::default();
        for canvases in 1.. {
            let language = CanvasLanguage::new(self.automaton, state, self.canvas, left)?;
            let canvas = self.canvas_of(&language, &mut work, random)?;
            let reading = language.read(&canvas).expect("a canvas of the language");
            for &token in &canvas[..reading.text] {
                text.extend(self.tokens[token as usize].as_deref().unwrap());
            }
            left -= reading.text;
            state = reading.state;
            let complete =
                self.automaton.accepts(state) && (left == 0 || self.automaton.is_complete(state));
            if reading.ended || complete {
                return Ok((text, canvases));
            }
        }
        unreachable!("the budget ends")
    }

    fn canvas_of(
        &self,
        language: &CanvasLanguage<'_>,
        work: &mut Work,
        random: &mut Random,
    ) -> Result<Vec<i32>, ConstraintError> {
        let logits: Vec<Vec<f32>> = (0..self.canvas).map(|_| self.row(random)).collect();
        let tables = self.tables(&logits);
        let uniforms: Vec<f32> = (0..self.canvas).map(|_| random.unit()).collect();
        let projection = language.project(&tables, &uniforms, work)?;
        let path = if self.best {
            &projection.best
        } else {
            &projection.sampled
        };
        let canvas = path.iter().zip(&logits).map(|(class, row)| match class {
            Some(class) => self.most_likely(*class, row),
            None => random.below(self.tokens.len()) as i32,
        });
        Ok(canvas.collect())
    }

    fn row(&self, random: &mut Random) -> Vec<f32> {
        let mut logit = |token: &Option<Vec<u8>>| match self.logits {
            Logits::Equal => 0.0,
            Logits::Extreme => 30.0 - 60.0 * random.below(2) as f32,
            Logits::Forbidden => match token.as_deref() {
                None | Some([] | [0..0x20, ..]) => 200.0,
                Some(_) => random.unit(),
            },
        };
        self.tokens.iter().map(&mut logit).collect()
    }

    fn most_likely(&self, class: u16, row: &[f32]) -> i32 {
        let members = self.automaton.members(class).iter().copied();
        members
            .max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]))
            .expect("a class has members")
    }

    fn tables(&self, logits: &[Vec<f32>]) -> ClassTables {
        let classes = self.automaton.class_count();
        let mut tables = ClassTables {
            classes,
            log_sum: Vec::with_capacity(logits.len() * classes),
            log_max: Vec::with_capacity(logits.len() * classes),
            log_row_max: Vec::with_capacity(logits.len()),
        };
        for row in logits {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_all = max
                + row
                    .iter()
                    .map(|logit| (logit - max).exp())
                    .sum::<f32>()
                    .ln();
            let mut maxima = vec![f32::NEG_INFINITY; classes];
            for (&class, &logit) in self.automaton.classes().iter().zip(row) {
                let known = &mut maxima[usize::from(class)];
                *known = known.max(logit);
            }
            let mut sums = vec![0.0; classes];
            for (&class, &logit) in self.automaton.classes().iter().zip(row) {
                sums[usize::from(class)] += (logit - maxima[usize::from(class)]).exp();
            }
            let sums = sums
                .iter()
                .zip(&maxima)
                .map(|(sum, max)| max + sum.ln() - log_all);
            tables.log_sum.extend(sums);
            tables
                .log_max
                .extend(maxima.iter().map(|max| max - log_all));
            tables.log_row_max.push(max - log_all);
        }
        tables
    }

    /// What the projection says to tables with something that is not a number.
    pub(crate) fn with_nan(&self, random: &mut Random) -> Result<(), ConstraintError> {
        let budget = self.automaton.min_tokens(self.automaton.start());
        let language =
            CanvasLanguage::new(self.automaton, self.automaton.start(), self.canvas, budget)?;
        let logits: Vec<Vec<f32>> = (0..self.canvas).map(|_| self.row(random)).collect();
        let mut tables = self.tables(&logits);
        let damaged = random.below(tables.log_sum.len());
        tables.log_sum[damaged] = f32::NAN;
        language
            .project(&tables, &vec![0.5; self.canvas], &mut Work::default())
            .map(drop)
    }
}

pub(crate) fn vocabulary(tokens: &[Option<Vec<u8>>]) -> Vocabulary {
    Vocabulary::new(tokens.iter().cloned())
}

/// Below the shortest answer, every budget is refused with both numbers.
pub(crate) fn check_refusal(automaton: &TokenAutomaton, needed: usize) {
    for budget in [0, needed / 2, needed.saturating_sub(1)]
        .into_iter()
        .filter(|&budget| budget < needed)
    {
        let refused = CanvasLanguage::new(automaton, automaton.start(), 32, budget);
        assert_eq!(
            refused.err(),
            Some(ConstraintError::Budget { needed, budget })
        );
    }
}
