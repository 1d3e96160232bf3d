//! A regular language read token by token.

use super::bytes::ByteAutomaton;
use super::classes::{Classes, TextStates};
use super::edges::{Edge, Edges};
use super::effects::{Effects, NONE};
use super::error::{ConstraintError, Limits, Result};
use super::pairs::Pairs;
use super::scaffold::{Scaffold, roles};
use super::vocabulary::Vocabulary;
use crate::token::Token;

/// A state of a [`TokenAutomaton`]: all that matters of the tokens read so far. It may lie within a
/// character of several bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(pub(super) u32);

/// A language of texts over the tokens of a vocabulary, after a [`Scaffold`].
///
/// Tokens with the same effect on every state form a class; class and state decide the next state. From
/// every state some tokens lead to acceptance.
#[derive(Debug, Clone)]
pub struct TokenAutomaton {
    /// Class of each token.
    classes: Vec<u16>,
    /// Tokens of each class: `members[member_offsets[k]..member_offsets[k + 1]]`.
    members: Vec<Token>,
    member_offsets: Vec<usize>,
    /// Distinct sets of classes that lead from one state to another, ascending.
    pub(super) groups: Vec<Vec<u16>>,
    /// Pairs of states with their groups, by the state before and by the state after.
    pub(super) outgoing: Edges,
    pub(super) incoming: Edges,
    min_tokens: Vec<usize>,
    /// States in which a text may end, ascending.
    pub(super) accepting: Vec<u32>,
    /// The group of the end tokens.
    pub(super) end: u32,
}

impl TokenAutomaton {
    /// The texts of `language` after `scaffold`, in the tokens of `vocabulary`. `end` are the tokens that
    /// end an answer: they are never part of the text.
    ///
    /// # Errors
    /// The language is empty for the vocabulary or too large, there is no end token, or a token is
    /// outside the vocabulary: see [`ConstraintError`].
    pub fn new(
        language: &ByteAutomaton,
        vocabulary: &Vocabulary,
        scaffold: &Scaffold,
        end: &[Token],
        limits: &Limits,
    ) -> Result<Self> {
        if end.is_empty() {
            return Err(ConstraintError::NoEndToken);
        }
        Self::with_end(language, vocabulary, scaffold, end, limits)
    }

    /// The texts of `language` in the tokens of `vocabulary`, which no token ends: they have to fill the positions
    /// that they are given.
    ///
    /// # Errors
    /// As [`new`](Self::new), but that there is no end token.
    pub fn filling(
        language: &ByteAutomaton,
        vocabulary: &Vocabulary,
        limits: &Limits,
    ) -> Result<Self> {
        Self::with_end(language, vocabulary, &Scaffold::None, &[], limits)
    }

    fn with_end(
        language: &ByteAutomaton,
        vocabulary: &Vocabulary,
        scaffold: &Scaffold,
        end: &[Token],
        limits: &Limits,
    ) -> Result<Self> {
        let roles = roles(vocabulary, scaffold, end)?;
        let mut effects = Effects::new(language, limits)?;
        let mut of_token = effects.of_vocabulary(vocabulary)?;
        for &token in end {
            of_token[token as usize] = NONE;
        }
        let mut used = of_token.clone();
        used.sort_unstable();
        used.dedup();
        let text = TextStates::new(language, &effects, &used)?;
        let classes = Classes::new(&effects, &text, &of_token, &used, &roles)?;
        let pairs = Pairs::new(&effects, &text, &classes, scaffold, limits)?;
        Ok(Self::assemble(&text, classes, scaffold, pairs))
    }

    fn assemble(text: &TextStates, classes: Classes, scaffold: &Scaffold, pairs: Pairs) -> Self {
        let before = scaffold.states() as u32;
        let kept = text.number.iter().flatten().count();
        let states = before as usize + kept;
        let mut min_tokens: Vec<usize> = (1..=before as usize).rev().collect();
        let mut accepting = Vec::new();
        let first = text.min_tokens[0].unwrap_or_default();
        min_tokens.iter_mut().for_each(|min| *min += first);
        if scaffold.is_optional() {
            min_tokens[0] = first;
            accepting.extend((first == 0).then_some(0));
        }
        for (number, min) in text.number.iter().zip(&text.min_tokens) {
            if let (Some(number), Some(min)) = (number, min) {
                min_tokens.push(*min);
                accepting.extend((*min == 0).then_some(before + number));
            }
        }
        let mut member_offsets = vec![0; classes.count + 1];
        for &class in &classes.of_token {
            member_offsets[usize::from(class) + 1] += 1;
        }
        for class in 0..classes.count {
            member_offsets[class + 1] += member_offsets[class];
        }
        let mut members: Vec<Token> = (0..classes.of_token.len() as Token).collect();
        members.sort_by_key(|&token| classes.of_token[token as usize]);
        let reversed = pairs.pairs.iter();
        let reversed = reversed.map(|&(from, to, group)| (to, from, group));
        Self {
            incoming: Edges::new(states, reversed.collect()),
            outgoing: Edges::new(states, pairs.pairs),
            classes: classes.of_token,
            members,
            member_offsets,
            groups: pairs.groups,
            min_tokens,
            accepting,
            end: pairs.end,
        }
    }

    /// The state before the first token.
    pub fn start(&self) -> State {
        State(0)
    }

    /// The state after `token`; `None` if it may not follow.
    pub fn next(&self, state: State, token: Token) -> Option<State> {
        let class = self.classes.get(usize::try_from(token).ok()?)?;
        let leads = |edge: &&Edge| {
            self.groups[edge.group as usize]
                .binary_search(class)
                .is_ok()
        };
        let edge = self.outgoing.of(state.0).iter().find(leads);
        edge.map(|edge| State(edge.state))
    }

    /// The fewest tokens from `state` to a state in which the text may end, without the end token. 0: it
    /// may end here.
    pub fn min_tokens(&self, state: State) -> usize {
        self.min_tokens[state.0 as usize]
    }

    /// Whether the text may end in `state`.
    pub fn accepts(&self, state: State) -> bool {
        self.min_tokens(state) == 0
    }

    /// Whether the text has to end in `state`: nothing can follow.
    pub fn is_complete(&self, state: State) -> bool {
        self.outgoing.of(state.0).is_empty()
    }

    /// Whether `token` ends an answer.
    pub fn is_end(&self, token: Token) -> bool {
        let class = usize::try_from(token)
            .ok()
            .and_then(|t| self.classes.get(t));
        let end = &self.groups[self.end as usize];
        class.is_some_and(|class| end.binary_search(class).is_ok())
    }

    /// The class of each token, below [`class_count`](Self::class_count).
    pub fn classes(&self) -> &[u16] {
        &self.classes
    }

    /// Number of classes.
    pub fn class_count(&self) -> usize {
        self.member_offsets.len() - 1
    }

    /// The tokens of a class, ascending.
    pub fn members(&self, class: u16) -> &[Token] {
        let class = usize::from(class);
        &self.members[self.member_offsets[class]..self.member_offsets[class + 1]]
    }

    /// Number of states.
    pub fn state_count(&self) -> usize {
        self.min_tokens.len()
    }

    /// Number of pairs of states with tokens between them.
    pub fn pair_count(&self) -> usize {
        self.outgoing.len()
    }

    /// Number of distinct sets of classes between two states.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let groups = self.groups.iter().map(|set| 24 + 2 * set.len());
        2 * self.classes.len()
            + 4 * self.members.len()
            + 8 * self.member_offsets.len()
            + groups.sum::<usize>()
            + 16 * self.pair_count()
            + 24 * self.state_count()
            + 4 * self.accepting.len()
    }
}
