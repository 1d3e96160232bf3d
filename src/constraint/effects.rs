//! What the bytes of a token do to every state of an automaton at once.
//!
//! The effect of a string is a partial function from states to states. Few effects are distinct: almost
//! all words do the same. Effects of prefixes are shared, and what one more byte makes of an effect is
//! computed once, so that a vocabulary is read in one pass, whatever the number of states.

use std::collections::HashMap;
use std::rc::Rc;

use super::bytes::ByteAutomaton;
use super::error::{ConstraintError, Limits, Result};
use super::vocabulary::Vocabulary;

/// States before and after, ascending; states that reject the string are missing.
type Moves = Rc<[(u32, u32)]>;

/// The distinct effects of strings on the states of an automaton.
pub(super) struct Effects<'a> {
    automaton: &'a ByteAutomaton,
    limit: usize,
    moves: Vec<Moves>,
    ids: HashMap<Moves, u32>,
    /// `[effects × classes of bytes]`: the effect with one more byte, or [`UNKNOWN`].
    longer: Vec<u32>,
    stored: usize,
}

/// The effect of a string that every state rejects.
pub(super) const NONE: u32 = 0;
/// The effect of the empty string.
const IDENTITY: u32 = 1;
const UNKNOWN: u32 = u32::MAX;

impl<'a> Effects<'a> {
    pub(super) fn new(automaton: &'a ByteAutomaton, limits: &Limits) -> Result<Self> {
        let mut effects = Self {
            automaton,
            limit: limits.token_transitions,
            moves: Vec::new(),
            ids: HashMap::new(),
            longer: Vec::new(),
            stored: 0,
        };
        effects.intern(&[])?;
        let identity: Vec<_> = (0..automaton.state_count() as u32)
            .map(|s| (s, s))
            .collect();
        effects.intern(&identity)?;
        Ok(effects)
    }

    /// The states before and after a string of this effect.
    pub(super) fn moves(&self, effect: u32) -> &[(u32, u32)] {
        &self.moves[effect as usize]
    }

    /// Number of effects; each is below it.
    pub(super) fn len(&self) -> usize {
        self.moves.len()
    }

    /// The effect of each token, by its number.
    pub(super) fn of_vocabulary(&mut self, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
        let mut of_token = vec![NONE; vocabulary.size()];
        // The effects of the current token's prefixes, from the empty one on, and the length of the prefix
        // that every state rejects.
        let mut prefixes = vec![IDENTITY];
        let mut rejected = usize::MAX;
        for (token, bytes, common) in vocabulary.sorted() {
            if common >= rejected {
                continue;
            }
            prefixes.truncate(common + 1);
            rejected = usize::MAX;
            let mut effect = prefixes[prefixes.len() - 1];
            for &byte in &bytes[prefixes.len() - 1..] {
                effect = self.longer(effect, self.automaton.class_of(byte))?;
                if effect == NONE {
                    rejected = prefixes.len();
                    break;
                }
                prefixes.push(effect);
            }
            of_token[token as usize] = effect;
        }
        Ok(of_token)
    }

    /// The effect of a string and one more byte.
    fn longer(&mut self, effect: u32, class: u8) -> Result<u32> {
        let index = effect as usize * self.automaton.class_count() + usize::from(class);
        if self.longer[index] == UNKNOWN {
            let step = |&(from, to)| Some((from, self.automaton.next(to, class)?));
            let moves: Vec<_> = self.moves[effect as usize]
                .iter()
                .filter_map(step)
                .collect();
            self.longer[index] = self.intern(&moves)?;
        }
        Ok(self.longer[index])
    }

    fn intern(&mut self, moves: &[(u32, u32)]) -> Result<u32> {
        if let Some(&id) = self.ids.get(moves) {
            return Ok(id);
        }
        let classes = self.automaton.class_count();
        self.stored += moves.len() + classes / 2 + 8; // in units of a move, with the tables' share
        if self.stored > self.limit {
            return Err(ConstraintError::TooLarge {
                what: "transitions over tokens",
                limit: self.limit,
            });
        }
        let id = self.moves.len() as u32;
        let shared: Moves = moves.into();
        self.moves.push(shared.clone());
        self.ids.insert(shared, id);
        self.longer.resize(self.moves.len() * classes, UNKNOWN);
        Ok(id)
    }
}
