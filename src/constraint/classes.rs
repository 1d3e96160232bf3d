//! Classes of tokens: those with the same effect on every state and the same role.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use super::bytes::ByteAutomaton;
use super::edges::{Edges, distances};
use super::effects::{Effects, NONE};
use super::error::{ConstraintError, Result};
use super::scaffold::Role;
use crate::token::Token;

/// The states of the byte automaton between tokens, as far as tokens lead to them and on to acceptance.
pub(super) struct TextStates {
    /// The number of each state among them.
    pub number: Vec<Option<u32>>,
    /// The fewest tokens to acceptance.
    pub min_tokens: Vec<Option<usize>>,
}

impl TextStates {
    pub(super) fn new(language: &ByteAutomaton, effects: &Effects, used: &[u32]) -> Result<Self> {
        let states = language.state_count();
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let mut dense_at = 1 << 20;
        for &effect in used {
            pairs.extend_from_slice(effects.moves(effect));
            // Most effects repeat the pairs of others.
            if pairs.len() > dense_at {
                pairs.sort_unstable();
                pairs.dedup();
                dense_at = dense_at.max(2 * pairs.len());
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let triples = |reverse: bool| {
            let triple = move |&(from, to): &(u32, u32)| match reverse {
                false => (from, to, 0),
                true => (to, from, 0),
            };
            pairs.iter().map(triple).collect()
        };
        let reached = distances(&Edges::new(states, triples(false)), [0]);
        let accepting = (0..states as u32).filter(|&s| language.accepts(s));
        let mut min_tokens = distances(&Edges::new(states, triples(true)), accepting);
        if min_tokens[0].is_none() {
            return Err(ConstraintError::EmptyForVocabulary);
        }
        for (min, reached) in min_tokens.iter_mut().zip(reached) {
            *min = min.filter(|_| reached.is_some());
        }
        let mut count = 0;
        let number = min_tokens.iter().map(|min| {
            min.map(|_| {
                count += 1;
                count - 1
            })
        });
        Ok(Self {
            number: number.collect(),
            min_tokens,
        })
    }

    /// The moves of an effect between the states that are kept, by their numbers.
    pub(super) fn moves(&self, effects: &Effects, effect: u32) -> impl Iterator<Item = (u32, u32)> {
        let number = |state: u32| self.number[state as usize];
        let moves = effects.moves(effect).iter();
        moves.filter_map(move |&(from, to)| Some((number(from)?, number(to)?)))
    }
}

/// Tokens by effect and role.
pub(super) struct Classes {
    pub of_token: Vec<u16>,
    pub count: usize,
    /// The classes of each distinct effect, with the effect of one of its tokens.
    pub of_effect: Vec<(u32, Vec<u16>)>,
    /// The classes of end tokens.
    pub end: Vec<u16>,
    /// The classes of the scaffold's tokens, by place.
    pub places: BTreeMap<u32, u16>,
    /// The class of the token that ends the scaffold.
    pub closing: Option<u16>,
}

impl Classes {
    pub(super) fn new(
        effects: &Effects,
        text: &TextStates,
        of_token: &[u32],
        used: &[u32],
        roles: &BTreeMap<Token, Role>,
    ) -> Result<Self> {
        let merged = merge_effects(effects, text, used);
        let no_role = Role::default();
        let mut ids: HashMap<(u32, &Role), u16> = HashMap::new();
        let mut classes = Self {
            of_token: Vec::with_capacity(of_token.len()),
            count: 0,
            of_effect: Vec::new(),
            end: Vec::new(),
            places: BTreeMap::new(),
            closing: None,
        };
        let mut of_effect: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        let mut last = (u32::MAX, &no_role, 0);
        for (token, effect) in of_token.iter().enumerate() {
            let effect = merged[*effect as usize];
            let role = roles.get(&(token as Token)).unwrap_or(&no_role);
            if (last.0, last.1) != (effect, role) {
                let new = u16::try_from(ids.len()).map_err(|_| ConstraintError::TooLarge {
                    what: "classes of tokens",
                    limit: usize::from(u16::MAX),
                })?;
                let class = *ids.entry((effect, role)).or_insert(new);
                if class == new {
                    classes.add(class, role);
                    of_effect.entry(effect).or_default().push(class);
                }
                last = (effect, role, class);
            }
            classes.of_token.push(last.2);
        }
        classes.count = ids.len();
        classes.of_effect = of_effect.into_iter().collect();
        Ok(classes)
    }

    /// Notes what a new class is good for.
    fn add(&mut self, class: u16, role: &Role) {
        self.end.extend(role.ends.then_some(class));
        self.places.extend(role.places.iter().map(|&p| (p, class)));
        if role.closes {
            self.closing = Some(class);
        }
    }
}

/// For each of the used effects the first one that does the same between the states that are kept.
fn merge_effects(effects: &Effects, text: &TextStates, used: &[u32]) -> Vec<u32> {
    let state = RandomState::new();
    let mut alike: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut merged = vec![NONE; effects.len()];
    for &effect in used {
        let mut hasher = state.build_hasher();
        for (from, to) in text.moves(effects, effect) {
            hasher.write_u64(u64::from(from) << 32 | u64::from(to));
        }
        let alike = alike.entry(hasher.finish()).or_default();
        let same = |other: &&u32| text.moves(effects, effect).eq(text.moves(effects, **other));
        let first = alike.iter().find(same).copied();
        merged[effect as usize] = first.unwrap_or_else(|| {
            alike.push(effect);
            effect
        });
    }
    merged
}
