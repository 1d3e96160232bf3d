//! A form: known text, and the blanks between it.

use std::collections::HashSet;

use crate::constraint::{Constraint, TokenAutomaton};
use crate::diffusion::{Token, TokenSet};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// What may stand in a blank.
#[derive(Debug, Clone, PartialEq)]
pub enum BlankKind {
    /// One of these texts, each at least one token.
    Choices(Vec<Vec<Token>>),
    /// As many tokens as there are entries, at least 1, each from its set; `None` is the vocabulary.
    Free(Vec<Option<TokenSet>>),
    /// A text of `language`, which [fills](TokenAutomaton::filling) its positions, of 1 to `tokens` tokens.
    Language {
        /// The texts.
        language: Constraint,
        /// Maximum number of tokens.
        tokens: usize,
    },
}

/// A blank of a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Blank {
    /// What errors and answers call it.
    pub name: String,
    /// What may stand in it.
    pub kind: BlankKind,
}

/// A part of a form.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Tokens that are known.
    Text(Vec<Token>),
    /// Tokens that are not.
    Blank(Blank),
}

/// A text with blanks.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    pieces: Vec<Piece>,
}

/// How a form is filled.
#[derive(Debug, Clone, PartialEq)]
pub struct FormParams {
    /// Number of denoising steps, 1 to [`MAX_STEPS`](Self::MAX_STEPS). Blanks with a choice of several
    /// tokens, or with texts of several lengths, are always read in one. Default 1.
    pub steps: u32,
    /// Number of canvases that differ in their noise, at least 1: answers are means over them. Default 4.
    pub samples: usize,
    /// Tokens of a canvas; `None` is the shortest that holds the form. Default `None`.
    pub canvas: Option<usize>,
    /// Key of the randomness, see [`CounterNoise`](crate::diffusion::CounterNoise). Default 0.
    pub seed: u64,
}

impl Default for FormParams {
    fn default() -> Self {
        Self {
            steps: 1,
            samples: 4,
            canvas: None,
            seed: 0,
        }
    }
}

impl FormParams {
    /// The maximum of [`steps`](Self::steps): far more than a canvas needs.
    pub const MAX_STEPS: u32 = 4096;
    /// The maximum of [`samples`](Self::samples).
    pub const MAX_SAMPLES: usize = 4096;
    /// The maximum number of canvases that are read for the same blanks, samples included: they are in memory
    /// together.
    pub const MAX_ROWS: usize = 1 << 14;

    /// Checks them.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first parameter out of range.
    pub fn validate(&self) -> Result<()> {
        if !(1..=Self::MAX_STEPS).contains(&self.steps) {
            let (steps, max) = (self.steps, Self::MAX_STEPS);
            let problem = format!("steps is {steps}, but must be 1 to {max}");
            return Err(refusal(problem));
        }
        if !(1..=Self::MAX_SAMPLES).contains(&self.samples) {
            let (samples, max) = (self.samples, Self::MAX_SAMPLES);
            let problem = format!("samples is {samples}, but must be 1 to {max}");
            return Err(refusal(problem));
        }
        Ok(())
    }
}

impl Blank {
    /// Its numbers of tokens, ascending.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        match &self.kind {
            BlankKind::Free(sets) => vec![sets.len()],
            BlankKind::Language { language, tokens } => language.automaton().lengths(*tokens),
            BlankKind::Choices(choices) => {
                let mut lengths: Vec<usize> = choices.iter().map(Vec::len).collect();
                lengths.sort_unstable();
                lengths.dedup();
                lengths
            }
        }
    }

    /// Whether its texts need canvases of their own: they differ in length, or are choices of several tokens.
    pub(crate) fn is_judged(&self) -> bool {
        match &self.kind {
            BlankKind::Choices(choices) => choices.iter().any(|choice| choice.len() > 1),
            BlankKind::Free(_) | BlankKind::Language { .. } => self.lengths().len() > 1,
        }
    }

    /// The maximum number of tokens that it may have.
    pub(crate) fn longest(&self) -> usize {
        self.lengths().last().copied().unwrap_or(0)
    }

    /// The first of its tokens that `is_unknown`.
    fn unknown(&self, is_unknown: impl Fn(&Token) -> bool) -> Option<Token> {
        match &self.kind {
            BlankKind::Choices(choices) => choices.iter().flatten().copied().find(is_unknown),
            BlankKind::Free(sets) => {
                let mut sets = sets.iter().flatten();
                sets.find_map(|set| set.iter().find(&is_unknown))
            }
            BlankKind::Language { language, .. } => {
                let automaton = language.automaton();
                let classes = automaton.text_classes();
                automaton.tokens_of(&classes).find(is_unknown)
            }
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(refusal(format!("blank '{}': {problem}", self.name)));
        match &self.kind {
            BlankKind::Free(sets) if sets.is_empty() => {
                refuse("it has no tokens: give at least one".into())
            }
            BlankKind::Free(sets) => {
                let is_empty = |set: &TokenSet| set.iter().next().is_none();
                match sets.iter().flatten().any(is_empty) {
                    true => refuse("no token may stand there: allow at least one".into()),
                    false => Ok(()),
                }
            }
            BlankKind::Choices(choices) => {
                if choices.is_empty() {
                    return refuse("it has no choices: give at least one".into());
                }
                let mut known = HashSet::new();
                for (index, choice) in choices.iter().enumerate() {
                    if choice.is_empty() {
                        return refuse(format!("choice {index} has no tokens: give a text"));
                    }
                    if !known.insert(choice) {
                        return refuse(format!("choice {index} is given twice: omit one"));
                    }
                }
                Ok(())
            }
            BlankKind::Language { language, tokens } => {
                check_language(language.automaton(), *tokens).or_else(refuse)
            }
        }
    }
}

fn check_language(automaton: &TokenAutomaton, tokens: usize) -> Result<(), String> {
    let least = automaton.min_tokens(automaton.start());
    if !automaton.is_filling() {
        return Err("its language has an end token: make one that fills its positions".into());
    }
    if least > tokens {
        return Err(format!(
            "its texts have at least {least} tokens, but it has {tokens}: give it more"
        ));
    }
    match automaton.lengths(tokens).is_empty() {
        true => Err(format!("none of its texts has 1 to {tokens} tokens")),
        false => Ok(()),
    }
}

impl Form {
    /// A form of these pieces.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`]: there is no blank, two have the same name, or one has no choices, a
    /// choice without tokens, the same choice twice, no tokens, or a language of longer texts.
    pub fn new(pieces: Vec<Piece>) -> Result<Self> {
        let this = Self { pieces };
        let mut names = HashSet::new();
        for blank in this.blanks() {
            blank.check()?;
            if !names.insert(blank.name.as_str()) {
                let problem = format!("two blanks are called '{}': rename one", blank.name);
                return Err(refusal(problem));
            }
        }
        if names.is_empty() {
            return Err(refusal("it has no blank: there is nothing to fill".into()));
        }
        Ok(this)
    }

    /// Rejects tokens that a vocabulary of `vocab` does not have.
    pub(crate) fn check_tokens(&self, vocab: usize) -> Result<()> {
        let unknown = |token: &Token| !usize::try_from(*token).is_ok_and(|token| token < vocab);
        for piece in &self.pieces {
            let (place, unknown) = match piece {
                Piece::Text(tokens) => ("its text".into(), tokens.iter().copied().find(unknown)),
                Piece::Blank(blank) => (format!("blank '{}'", blank.name), blank.unknown(unknown)),
            };
            if let Some(token) = unknown {
                let problem = format!("{place}: {token} is not a token of the vocabulary");
                return Err(refusal(problem));
            }
        }
        Ok(())
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Its blanks, in order.
    pub fn blanks(&self) -> impl Iterator<Item = &Blank> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Blank(blank) => Some(blank),
        })
    }

    /// The maximum number of tokens that it may have.
    pub fn longest(&self) -> usize {
        let tokens = self.pieces.iter().map(|piece| match piece {
            Piece::Text(tokens) => tokens.len(),
            Piece::Blank(blank) => blank.longest(),
        });
        tokens.sum()
    }

    /// The text with these tokens in its blanks.
    pub(crate) fn filled(&self, blanks: &[&[Token]]) -> Vec<Token> {
        let mut blanks = blanks.iter();
        let mut text = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(tokens) => text.extend(tokens),
                Piece::Blank(_) => text.extend(blanks.next().copied().unwrap_or_default()),
            }
        }
        text
    }
}

pub(crate) fn refusal(problem: String) -> Error {
    Error::parameter(Parameter::Form, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(name: &str, choices: &[&[Token]]) -> Piece {
        Piece::Blank(Blank {
            name: name.into(),
            kind: BlankKind::Choices(choices.iter().map(|c| c.to_vec()).collect()),
        })
    }

    fn free(name: &str, tokens: usize, allowed: Option<TokenSet>) -> Piece {
        Piece::Blank(Blank {
            name: name.into(),
            kind: BlankKind::Free(vec![allowed; tokens]),
        })
    }

    #[test]
    fn what_cannot_be_filled_is_named() {
        let text = || Piece::Text(vec![1]);
        for (pieces, expected) in [
            (vec![text()], "form: it has no blank"),
            (vec![], "form: it has no blank"),
            (
                vec![blank("a", &[&[1]]), text(), blank("a", &[&[2]])],
                "form: two blanks are called 'a'",
            ),
            (vec![blank("a", &[])], "form: blank 'a': it has no choices"),
            (
                vec![blank("a", &[&[1], &[]])],
                "form: blank 'a': choice 1 has no tokens",
            ),
            (
                vec![blank("a", &[&[1], &[2], &[1]])],
                "form: blank 'a': choice 2 is given twice",
            ),
            (
                vec![free("b", 0, None)],
                "form: blank 'b': it has no tokens",
            ),
            (
                vec![free("b", 1, Some(TokenSet::default()))],
                "form: blank 'b': no token may stand there",
            ),
        ] {
            let error = Form::new(pieces).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn parameters_are_named() {
        let problem = |steps, samples| {
            let params = FormParams {
                steps,
                samples,
                ..FormParams::default()
            };
            params.validate().map_err(|error| error.to_string())
        };
        assert_eq!(problem(1, 1), Ok(()));
        assert!(problem(0, 1).unwrap_err().starts_with("form: steps is 0"));
        assert_eq!(
            problem(1_000_000, 1).unwrap_err(),
            "form: steps is 1000000, but must be 1 to 4096"
        );
        assert!(problem(1, 0).unwrap_err().starts_with("form: samples is 0"));
        assert!(
            problem(1, 5000)
                .unwrap_err()
                .starts_with("form: samples is 5000")
        );
    }

    #[test]
    fn lengths_are_those_of_the_choices() {
        let form = Form::new(vec![
            Piece::Text(vec![9, 9]),
            blank("a", &[&[1, 2, 3], &[4], &[5, 6, 7]]),
            free("b", 2, None),
        ])
        .unwrap();
        let lengths: Vec<_> = form.blanks().map(Blank::lengths).collect();
        assert_eq!(lengths, [vec![1, 3], vec![2]]);
        assert_eq!(form.longest(), 7);
        assert_eq!(form.filled(&[&[4], &[5, 6]]), [9, 9, 4, 5, 6]);
    }
}
