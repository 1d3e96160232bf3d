//! Which canvases the choices of a blank are read from, if some have several tokens. The tokens of a choice
//! depend on each other: what the model expects at a position counts given the tokens before it.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::{HeldOut, Layout};
use super::tally::{ChoiceTally, RowLogits};
use crate::diffusion::{Template, Token};

/// What a position of a canvas says.
#[derive(Debug, Clone, PartialEq)]
enum Evidence {
    /// How likely a token is that stands in a choice, or is judged after it.
    Choice(usize, HeldOut),
    /// How likely a token is that is judged after a text of the length with this index.
    Length(usize, HeldOut),
}

/// A canvas, and what it is read for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChoiceCanvas {
    pub(crate) template: Arc<Template>,
    evidence: Vec<(usize, Evidence)>,
}

impl ChoiceCanvas {
    /// The canvases of these choices, which have `lengths`. `layout` has a blank of that many tokens, of
    /// which the first are known, as number `index`.
    ///
    /// A token is read after those before it, as far as these tell its choice from others: the first
    /// tokens that do so are known on a canvas from which all further ones are read.
    ///
    /// `None`: these are more than `most` canvases.
    pub(crate) fn of(
        choices: &[Vec<Token>],
        lengths: &[usize],
        index: usize,
        most: usize,
        layout: &dyn Fn(&[Token], usize) -> Layout,
    ) -> Option<Vec<Self>> {
        let mut all = Canvases::default();
        for (which, length) in lengths.iter().enumerate() {
            let of_length = layout(&[], *length);
            let judged = of_length.held_out.iter().cloned();
            let evidence =
                judged.map(|(position, token)| (position, Evidence::Length(which, token)));
            all.add(of_length.template, evidence);
        }
        for (number, (choice, shared)) in choices.iter().zip(shared_prefixes(choices)).enumerate() {
            // One more token tells it from the others, unless it is the beginning of one.
            let telling = shared.map_or(0, |shared| choice.len().min(shared + 1));
            for known in 0..=telling {
                let canvas = layout(&choice[..known], choice.len());
                let start = canvas.starts[index];
                let last = known == telling;
                let read = known..if last { choice.len() } else { known + 1 };
                let own = read.map(|i| (start + i, HeldOut::Text(choice[i])));
                let after = canvas.held_out.iter().filter(|_| last).cloned();
                let evidence = own.chain(after);
                let evidence =
                    evidence.map(|(position, token)| (position, Evidence::Choice(number, token)));
                all.add(canvas.template, evidence);
            }
            if all.canvases.len() > most {
                return None;
            }
        }
        Some(all.canvases)
    }

    /// The positions that are read.
    pub(crate) fn positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self
            .evidence
            .iter()
            .map(|(position, _)| *position)
            .collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// Takes a position of a sample's canvas; `ends` are the end tokens.
    pub(crate) fn take(
        &self,
        tally: &mut ChoiceTally,
        sample: usize,
        (position, row): (usize, &RowLogits<'_>),
        ends: &[Token],
    ) {
        for (_, evidence) in self.evidence.iter().filter(|(at, _)| *at == position) {
            match evidence {
                Evidence::Choice(choice, token) => {
                    tally.take(sample, *choice, token.logprob(row, ends));
                }
                Evidence::Length(length, token) => {
                    tally.take_length(sample, *length, token.logprob(row, ends));
                }
            }
        }
    }
}

/// Canvases, each once.
#[derive(Default)]
struct Canvases {
    canvases: Vec<ChoiceCanvas>,
    /// Where the canvas of a template is.
    of: HashMap<Arc<Template>, usize>,
}

impl Canvases {
    /// Adds evidence of a canvas.
    fn add(&mut self, template: Template, evidence: impl Iterator<Item = (usize, Evidence)>) {
        let mut evidence = evidence.peekable();
        if evidence.peek().is_none() {
            return;
        }
        let entry = self.of.entry(Arc::new(template));
        let index = *entry.or_insert_with_key(|template| {
            self.canvases.push(ChoiceCanvas {
                template: Arc::clone(template),
                evidence: Vec::new(),
            });
            self.canvases.len() - 1
        });
        self.canvases[index].evidence.extend(evidence);
    }
}

/// How many tokens each text begins with that another one begins with, too; `None` if there is no other.
fn shared_prefixes(texts: &[Vec<Token>]) -> Vec<Option<usize>> {
    let mut sorted: Vec<usize> = (0..texts.len()).collect();
    sorted.sort_unstable_by_key(|index| &texts[*index]);
    let mut shared = vec![None; texts.len()];
    // The text that has most in common with one is next to it.
    for pair in sorted.windows(2) {
        let common = common_prefix(&texts[pair[0]], &texts[pair[1]]);
        for index in pair {
            shared[*index] = shared[*index].max(Some(common));
        }
    }
    shared
}

/// How many tokens two texts begin with in common.
fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shared_prefixes_are_those_of_all_pairs(
            texts in prop::collection::vec(prop::collection::vec(0..3, 0..5), 0..12),
        ) {
            let expected = texts.iter().enumerate().map(|(index, text)| {
                let others = texts.iter().enumerate().filter(|(other, _)| *other != index);
                others.map(|(_, other)| common_prefix(text, other)).max()
            });
            prop_assert_eq!(shared_prefixes(&texts), expected.collect::<Vec<_>>());
        }
    }
}
