//! What is known about a canvas before its first step: tokens that are fixed, sets that others come
//! from, and tokens to start with.

use super::Token;
use super::run::EndTokens;
use super::step::TokenSet;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// One canvas position of a [`Template`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Any token.
    #[default]
    Free,
    /// This token: it is never renoised, has no entropy, and takes no part in acceptance.
    Fixed(Token),
    /// A token of the set with this index.
    Within(usize),
}

/// What is known about one canvas. Positions after its end are free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Template {
    slots: Vec<Slot>,
    sets: Vec<TokenSet>,
    /// What the canvas begins with instead of noise.
    initial: Vec<Option<Token>>,
    /// Whether `initial` is a text that stays where the model is uncertain.
    keeps_initial: bool,
    /// The step that it begins at.
    first_step: u32,
}

impl Template {
    /// Every position is free.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a position that holds any token.
    pub fn free(&mut self) -> &mut Self {
        self.push(Slot::Free)
    }

    /// Appends positions that hold these tokens.
    pub fn fixed(&mut self, tokens: &[Token]) -> &mut Self {
        self.slots.extend(tokens.iter().copied().map(Slot::Fixed));
        self
    }

    /// Appends a position that holds one of the tokens of a set.
    pub fn within(&mut self, set: TokenSet) -> &mut Self {
        let known = self.sets.iter().position(|other| *other == set);
        let index = known.unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        });
        self.push(Slot::Within(index))
    }

    /// Sets what the canvas begins with; `None` is noise. A fixed position begins with its token.
    pub fn begin_with(&mut self, tokens: Vec<Option<Token>>) -> &mut Self {
        self.initial = tokens;
        self
    }

    /// Makes what the canvas [begins with](Self::begin_with) stay where the model is uncertain: no acceptance of
    /// another token is forced there, and in place of noise the token comes back.
    pub(super) fn keep_beginning(&mut self) -> &mut Self {
        self.keeps_initial = true;
        self
    }

    /// Sets the step of the schedule at which the canvas begins: the closer what it
    /// [begins with](Self::begin_with) is to a finished text, the later. At the maximum number of steps it takes none, and is
    /// finished as it begins. 0 is the first step, which is the default.
    pub fn begin_at(&mut self, step: u32) -> &mut Self {
        self.first_step = step;
        self
    }

    /// The step at which the canvas begins.
    pub fn first_step(&self) -> u32 {
        self.first_step
    }

    /// The positions.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The sets that [`Slot::Within`] names.
    pub fn sets(&self) -> &[TokenSet] {
        &self.sets
    }

    /// Whether a position is fixed.
    pub fn is_fixed(&self, position: usize) -> bool {
        matches!(self.slots.get(position), Some(Slot::Fixed(_)))
    }

    /// Whether any position is fixed.
    pub fn fixes_any(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Fixed(_)))
    }

    /// Whether any position has a set.
    pub fn has_sets(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| matches!(slot, Slot::Within(_)))
    }

    /// Checks it for canvases of `canvas` tokens from a vocabulary of `vocab`; `None` is a canvas of
    /// any length.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the position that cannot work.
    pub fn check(&self, canvas: Option<usize>, vocab: usize) -> Result<()> {
        let len = self.slots.len().max(self.initial.len());
        if let Some(canvas) = canvas.filter(|canvas| len > *canvas) {
            return Err(invalid(format!(
                "has {len} positions, but a canvas has {canvas}: shorten it"
            )));
        }
        let known = |token: Token| usize::try_from(token).is_ok_and(|token| token < vocab);
        for (position, slot) in self.slots.iter().enumerate() {
            match slot {
                Slot::Free => {}
                Slot::Fixed(token) => check_token(*token, position, known)?,
                Slot::Within(set) => {
                    let mut tokens = self.sets[*set].iter();
                    let first = tokens.next().ok_or_else(|| {
                        let problem = "the set is empty: give at least one token";
                        invalid(format!("position {position}: {problem}"))
                    })?;
                    for token in std::iter::once(first).chain(tokens) {
                        check_token(token, position, known)?;
                    }
                }
            }
        }
        for (position, token) in self.initial.iter().enumerate() {
            if let Some(token) = token {
                check_token(*token, position, known)?;
            }
        }
        Ok(())
    }

    /// Whether a position can hold this token alone.
    pub(super) fn asks_for(&self, token: Token) -> bool {
        self.slots.iter().any(|slot| match slot {
            Slot::Free => false,
            Slot::Fixed(fixed) => *fixed == token,
            Slot::Within(set) => self.sets[*set].iter().all(|other| other == token),
        })
    }

    /// Puts what is known into a canvas.
    pub(super) fn fill(&self, canvas: &mut [Token]) {
        for (token, initial) in canvas.iter_mut().zip(&self.initial) {
            *token = initial.unwrap_or(*token);
        }
        for (token, slot) in canvas.iter_mut().zip(&self.slots) {
            if let Slot::Fixed(fixed) = slot {
                *token = *fixed;
            }
        }
    }

    /// The token that a position becomes again where none is accepted, if it is not noise.
    pub(super) fn kept(&self, position: usize) -> Option<Token> {
        let token = self.initial.get(position).copied().flatten();
        token.filter(|_| self.keeps_initial)
    }

    /// For each position of a canvas, the index of its set.
    pub(super) fn set_indices(&self, canvas: usize) -> Vec<Option<usize>> {
        let set = |slot: &Slot| match slot {
            Slot::Within(set) => Some(*set),
            Slot::Free | Slot::Fixed(_) => None,
        };
        let mut sets: Vec<_> = self.slots.iter().map(set).collect();
        sets.resize(canvas, None);
        sets
    }

    /// The position from which an end token ends the answer: before a fixed text, it does not.
    pub(super) fn end_counts_from(&self, end: &EndTokens) -> usize {
        let is_text = |slot: &Slot| match slot {
            Slot::Fixed(token) => !end.is_end(*token) && end.pad != Some(*token),
            Slot::Free | Slot::Within(_) => false,
        };
        self.slots
            .iter()
            .rposition(is_text)
            .map_or(0, |last| last + 1)
    }

    fn push(&mut self, slot: Slot) -> &mut Self {
        self.slots.push(slot);
        self
    }
}

fn check_token(token: Token, position: usize, known: impl Fn(Token) -> bool) -> Result<()> {
    match known(token) {
        true => Ok(()),
        false => Err(invalid(format!(
            "position {position}: {token} is not a token of the vocabulary"
        ))),
    }
}

fn invalid(problem: String) -> Error {
    Error::parameter(Parameter::Template, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tokens: &[Token]) -> TokenSet {
        tokens.iter().copied().collect()
    }

    #[test]
    fn equal_sets_are_kept_once() {
        let mut template = Template::new();
        template
            .within(set(&[1, 2]))
            .within(set(&[3]))
            .within(set(&[2, 1]));
        let slots = [Slot::Within(0), Slot::Within(1), Slot::Within(0)];
        assert_eq!(template.slots(), slots);
        assert_eq!(template.sets().len(), 2);
    }

    #[test]
    fn what_is_fixed_wins_over_what_the_canvas_begins_with() {
        let mut template = Template::new();
        template.fixed(&[5]).free().free();
        template.begin_with(vec![Some(6), Some(7), None]);
        let mut canvas = [1, 2, 3, 4];
        template.fill(&mut canvas);
        assert_eq!(canvas, [5, 7, 3, 4]);
    }

    #[test]
    fn a_beginning_is_kept_where_there_is_one_and_it_is_asked_for() {
        let mut template = Template::new();
        template.begin_with(vec![Some(6), None]);
        assert_eq!(template.kept(0), None);
        template.keep_beginning();
        assert_eq!([0, 1, 2].map(|p| template.kept(p)), [Some(6), None, None]);
    }

    #[test]
    fn what_cannot_work_names_its_position() {
        let check = |make: fn(&mut Template)| {
            let mut template = Template::new();
            make(&mut template);
            template.check(Some(3), 10).map_err(|e| e.to_string())
        };
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(
            check(|t| {
                t.fixed(&[9]).free().within(set(&[0]));
            }),
            Ok(())
        );
        for (make, expected) in [
            (
                (|t: &mut Template| {
                    t.fixed(&[1; 4]);
                }) as fn(&mut Template),
                "template: has 4 positions, but a canvas has 3",
            ),
            (
                |t| {
                    t.begin_with(vec![None; 4]);
                },
                "template: has 4 positions",
            ),
            (
                |t| {
                    t.free().fixed(&[10]);
                },
                "template: position 1: 10 is not a token",
            ),
            (
                |t| {
                    t.fixed(&[-1]);
                },
                "template: position 0: -1 is not a token",
            ),
            (
                |t| {
                    t.within(set(&[]));
                },
                "template: position 0: the set is empty",
            ),
            (
                |t| {
                    t.free().within(set(&[1, 10]));
                },
                "template: position 1: 10 is not a token",
            ),
            (
                |t| {
                    t.begin_with(vec![Some(10)]);
                },
                "template: position 0: 10 is not a token",
            ),
        ] {
            let error = check(make).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_end_token_counts_after_the_last_fixed_text() {
        let end = EndTokens {
            ids: vec![8],
            pad: Some(0),
        };
        let from = |make: fn(&mut Template)| {
            let mut template = Template::new();
            make(&mut template);
            template.end_counts_from(&end)
        };
        assert_eq!(from(|_| {}), 0);
        assert_eq!(
            from(|t| {
                t.free().fixed(&[5, 8, 0, 0]);
            }),
            2
        );
        assert_eq!(
            from(|t| {
                t.fixed(&[5]).free().fixed(&[6]).free();
            }),
            3
        );
    }
}
