//! Small vocabularies, against enumeration of all canvases and the `regex` crate's engine.

mod enumeration;
mod validity;

use std::collections::HashMap;

use proptest::prelude::*;
use regex::bytes::Regex;

use super::*;
use crate::token::Token;

/// A small model: what its tokens write, and its end tokens.
#[derive(Debug, Clone)]
struct Tokens {
    texts: Vec<Option<&'static [u8]>>,
    end: Vec<Token>,
}

impl Tokens {
    fn vocabulary(&self) -> Vocabulary {
        Vocabulary::new(self.texts.iter().map(|text| text.map(<[u8]>::to_vec)))
    }

    /// The tokens that a text may contain, with their bytes.
    fn text(&self) -> impl Iterator<Item = (Token, &'static [u8])> {
        let tokens = self.texts.iter().enumerate();
        let tokens = tokens.filter_map(|(token, text)| Some((token as Token, (*text)?)));
        tokens.filter(|(token, text)| !self.end.contains(token) && !text.is_empty())
    }

    fn automaton(&self, pattern: &str) -> Result<TokenAutomaton, ConstraintError> {
        let limits = Limits::default();
        let language = ByteAutomaton::from_regex(pattern, &limits)?;
        TokenAutomaton::new(
            &language,
            &self.vocabulary(),
            &Scaffold::None,
            &self.end,
            &limits,
        )
    }
}

/// Three tokens with text, for long canvases.
fn few_tokens() -> Tokens {
    Tokens {
        texts: vec![Some(b"a"), None, Some(b"ab"), Some(b"b")],
        end: vec![1],
    }
}

/// Twelve tokens: parts of characters, one text written by two tokens, an end token with text, two without
/// any.
fn twelve_tokens() -> Tokens {
    Tokens {
        texts: vec![
            Some(b"a"),
            Some(b"</s>"),
            Some(b"b"),
            Some(b"ab"),
            Some(b"\xc3"),
            None,
            Some(b"\xa9"),
            Some(b"\xc3\xa9a"),
            None,
            Some(b"B"),
            Some(b"a"),
            Some(b""),
        ],
        end: vec![1, 8],
    }
}

/// The texts of an expression, by the `regex` crate.
struct Oracle {
    regex: Regex,
    text: Vec<&'static [u8]>,
    completable: HashMap<(Vec<u8>, usize), bool>,
}

impl Oracle {
    fn new(pattern: &str, tokens: &Tokens) -> Self {
        Self {
            regex: Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap(),
            text: tokens.text().map(|(_, text)| text).collect(),
            completable: HashMap::new(),
        }
    }

    fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// Whether at most `tokens` further tokens make `text` match.
    fn completable(&mut self, text: &[u8], tokens: usize) -> bool {
        if self.matches(text) {
            return true;
        }
        if tokens == 0 {
            return false;
        }
        if let Some(&known) = self.completable.get(&(text.to_vec(), tokens)) {
            return known;
        }
        let completable = (0..self.text.len())
            .any(|token| self.completable(&[text, self.text[token]].concat(), tokens - 1));
        self.completable
            .insert((text.to_vec(), tokens), completable);
        completable
    }
}

/// Uniform numbers in [0, 1) for tests (SplitMix64).
struct Uniforms(u64);

impl Uniforms {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn take(&mut self, n: usize) -> Vec<f32> {
        let below_one = |u: f64| (u as f32).min(1.0 - f32::EPSILON);
        (0..n).map(|_| below_one(self.next())).collect()
    }
}

/// What a model might say.
#[derive(Debug, Clone, Copy)]
enum Logits {
    Equal,
    /// Up to ±3.
    Mild,
    /// Up to ±30, at temperature 0.1.
    Peaked,
    /// As `Mild`, a fifth of the tokens impossible.
    Holes,
    /// As `Mild`, a third of the positions fixed to one token.
    Fixed,
}

fn logits() -> impl Strategy<Value = Logits> {
    use Logits::{Equal, Fixed, Holes, Mild, Peaked};
    prop::sample::select(vec![Equal, Mild, Peaked, Holes, Fixed])
}

/// Logarithms of probabilities, `[positions][tokens]`.
fn log_probabilities(logits: Logits, positions: usize, tokens: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut uniforms = Uniforms(seed);
    let mut row = || {
        let fixed = (
            uniforms.next() < 0.33,
            (uniforms.next() * tokens as f64) as usize,
        );
        let mut logit = |token: usize| {
            let u = uniforms.next() * 2.0 - 1.0;
            let hole = uniforms.next() < 0.2;
            match logits {
                Logits::Equal => 0.0,
                Logits::Mild => 3.0 * u,
                Logits::Peaked => 300.0 * u,
                // One token stays possible, as in any distribution.
                Logits::Holes if hole && token != fixed.1 => f64::NEG_INFINITY,
                Logits::Fixed if fixed.0 && token != fixed.1 => f64::NEG_INFINITY,
                Logits::Holes | Logits::Fixed => 3.0 * u,
            }
        };
        let row: Vec<f64> = (0..tokens).map(&mut logit).collect();
        let norm = log_sum(row.iter().copied());
        row.into_iter().map(|logit| logit - norm).collect()
    };
    (0..positions).map(|_| row()).collect()
}

fn log_sum(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + logs.map(|log| (log - max).exp()).sum::<f64>().ln()
}

/// The tables of a distribution. Replaces it by one that agrees with the tables' rounded numbers.
fn tables(automaton: &TokenAutomaton, rows: &mut [Vec<f64>]) -> ClassTables {
    let classes = automaton.class_count();
    let mut tables = ClassTables {
        classes,
        log_sum: Vec::new(),
        log_max: Vec::new(),
        log_row_max: Vec::new(),
    };
    for row in rows {
        for class in 0..classes as u16 {
            let members = automaton.members(class);
            let exact = log_sum(members.iter().map(|&t| row[t as usize]));
            let rounded = exact as f32;
            tables.log_sum.push(rounded);
            let of_class = members.iter().map(|&t| t as usize);
            if rounded > f32::NEG_INFINITY {
                of_class
                    .clone()
                    .for_each(|t| row[t] += f64::from(rounded) - exact);
            }
            let max = of_class.map(|t| row[t]).fold(f64::NEG_INFINITY, f64::max);
            tables.log_max.push(max as f32);
        }
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        tables.log_row_max.push(max as f32);
    }
    tables
}

/// The most likely token of each class of a path; in the tail the most likely of all.
fn best_tokens(automaton: &TokenAutomaton, path: &[Option<u16>], rows: &[Vec<f64>]) -> Vec<Token> {
    let all: Vec<Token> = (0..rows[0].len() as Token).collect();
    let token = |(class, row): (&Option<u16>, &Vec<f64>)| {
        let members = class.map_or(all.as_slice(), |class| automaton.members(class));
        let likelier = |a: &&Token, b: &&Token| row[**a as usize].total_cmp(&row[**b as usize]);
        *members.iter().max_by(likelier).unwrap()
    };
    path.iter().zip(rows).map(token).collect()
}

/// The tokens of a drawn path: within each class by what is left of the uniform numbers.
fn sampled_tokens(
    automaton: &TokenAutomaton,
    projection: &Projection,
    rows: &[Vec<f64>],
) -> Vec<Token> {
    let all: Vec<Token> = (0..rows[0].len() as Token).collect();
    let draw = |position: usize| {
        let row = &rows[position];
        let class = projection.sampled[position];
        let members = class.map_or(all.as_slice(), |class| automaton.members(class));
        let total = log_sum(members.iter().map(|&t| row[t as usize]));
        let mut left = f64::from(projection.remainder[position]);
        assert!((0.0..1.0).contains(&left));
        let mut last = None;
        for &token in members {
            let share = (row[token as usize] - total).exp();
            if share > 0.0 {
                last = Some(token);
            }
            if left < share {
                break;
            }
            left -= share;
        }
        last.unwrap()
    };
    (0..rows.len()).map(draw).collect()
}

fn text_of(tokens: &Tokens, canvas: &[Token]) -> Vec<u8> {
    let text = canvas.iter();
    text.flat_map(|&t| tokens.texts[t as usize].unwrap())
        .copied()
        .collect()
}
