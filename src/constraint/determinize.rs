//! Subset construction: from a nondeterministic automaton over bytes to a deterministic one.
//!
//! Steps and stored states are counted, so that an expression whose subsets explode ends in an error
//! after a bounded time.

use std::collections::HashMap;
use std::rc::Rc;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::Look;
use regex_automata::util::primitives::StateID;

use super::error::{ConstraintError, Limits, Result};

/// A deterministic automaton over bytes. State 0 is the start; bytes without a range are rejected.
#[derive(Debug, Default)]
pub(super) struct Determinized {
    /// Whether a text may end in the state.
    pub accepting: Vec<bool>,
    /// State s has the ranges `offsets[s]..offsets[s + 1]`.
    pub offsets: Vec<usize>,
    /// First byte, last byte, next state; ascending and disjoint within a state.
    pub ranges: Vec<(u8, u8, u32)>,
    /// Elementary steps that it took.
    pub steps: usize,
}

/// The deterministic automaton of the texts that `nfa` matches as a whole.
///
/// # Errors
/// [`ConstraintError::TooLarge`].
pub(super) fn determinize(nfa: &NFA, limits: &Limits) -> Result<Determinized> {
    let mut builder = Builder::new(nfa, limits);
    builder.closure.restart();
    builder.follow(nfa.start_anchored(), true, false)?;
    builder.intern(true)?;
    let mut moves = Vec::new();
    let mut dfa = Determinized {
        offsets: vec![0],
        ..Determinized::default()
    };
    let mut state = 0;
    while let Some(subset) = builder.subsets.get(state).cloned() {
        builder.moves(&subset, &mut moves);
        builder.expand(&mut moves, &mut dfa.ranges)?;
        dfa.offsets.push(dfa.ranges.len());
        state += 1;
    }
    dfa.accepting = builder.accepting;
    dfa.steps = builder.steps;
    Ok(dfa)
}

/// States of the nondeterministic automaton that are reachable without a byte.
struct Closure {
    /// Round in which a state was visited last.
    visited: Vec<u32>,
    round: u32,
    /// The visited states that matter: those that read a byte, and ends of texts.
    states: Vec<u32>,
    stack: Vec<StateID>,
}

impl Closure {
    fn restart(&mut self) {
        self.round += 1;
        self.states.clear();
    }
}

struct Builder<'a> {
    nfa: &'a NFA,
    limits: &'a Limits,
    closure: Closure,
    ids: HashMap<Rc<[u32]>, u32>,
    subsets: Vec<Rc<[u32]>>,
    accepting: Vec<bool>,
    steps: usize,
    stored: usize,
}

impl<'a> Builder<'a> {
    fn new(nfa: &'a NFA, limits: &'a Limits) -> Self {
        Self {
            nfa,
            limits,
            closure: Closure {
                visited: vec![0; nfa.states().len()],
                round: 0,
                states: Vec::new(),
                stack: Vec::new(),
            },
            ids: HashMap::new(),
            subsets: Vec::new(),
            accepting: Vec::new(),
            steps: 0,
            stored: 0,
        }
    }

    fn spend(&mut self, steps: usize) -> Result<()> {
        self.steps += steps;
        if self.steps > self.limits.determinize_steps {
            return Err(ConstraintError::TooLarge {
                what: "steps to make its automaton deterministic",
                limit: self.limits.determinize_steps,
            });
        }
        Ok(())
    }

    /// Adds to the closure what is reachable from `from` without a byte. `start` and `end` say whether
    /// this is a place where the text starts or ends.
    fn follow(&mut self, from: StateID, start: bool, end: bool) -> Result<()> {
        let mut steps = 0;
        let Closure {
            visited,
            round,
            states,
            stack,
        } = &mut self.closure;
        stack.push(from);
        while let Some(id) = stack.pop() {
            steps += 1;
            if std::mem::replace(&mut visited[id], *round) == *round {
                continue;
            }
            match self.nfa.state(id) {
                State::Union { alternates } => {
                    steps += alternates.len();
                    stack.extend(alternates.iter().rev());
                }
                State::BinaryUnion { alt1, alt2 } => stack.extend([*alt2, *alt1]),
                State::Capture { next, .. } => stack.push(*next),
                State::Look { look, next } => match look {
                    Look::Start if start => stack.push(*next),
                    Look::End if end => stack.push(*next),
                    // Followed when it is known that the text ends here.
                    Look::End => states.push(id.as_u32()),
                    _ => {}
                },
                State::Fail => {}
                State::ByteRange { .. }
                | State::Sparse(_)
                | State::Dense(_)
                | State::Match { .. } => states.push(id.as_u32()),
            }
        }
        self.spend(steps)
    }

    /// The state of the closure's subset; new if it was not seen before.
    fn intern(&mut self, start: bool) -> Result<u32> {
        let mut subset = std::mem::take(&mut self.closure.states);
        subset.sort_unstable();
        // `$^` holds nowhere but at the start, so the start is a state of its own.
        if !start && let Some(&id) = self.ids.get(subset.as_slice()) {
            self.closure.states = subset;
            return Ok(id);
        }
        self.stored += subset.len() + 16; // and what the map and both vectors take
        let limit = self.limits.byte_transitions;
        if self.stored > 4 * limit {
            return Err(ConstraintError::TooLarge {
                what: "subsets of states",
                limit: 4 * limit,
            });
        }
        let id = self.subsets.len() as u32;
        let shared: Rc<[u32]> = subset.as_slice().into();
        if !start {
            self.ids.insert(shared.clone(), id);
        }
        self.subsets.push(shared);
        let accepting = self.ends(&subset, start)?;
        self.accepting.push(accepting);
        self.closure.states = subset;
        Ok(id)
    }

    /// Whether a text may end in `subset`.
    fn ends(&mut self, subset: &[u32], start: bool) -> Result<bool> {
        self.closure.restart();
        for &id in subset {
            let id = StateID::must(id as usize);
            if matches!(self.nfa.state(id), State::Match { .. } | State::Look { .. }) {
                self.follow(id, start, true)?;
            }
        }
        let is_match = |&id: &u32| {
            matches!(
                self.nfa.state(StateID::must(id as usize)),
                State::Match { .. }
            )
        };
        Ok(self.closure.states.iter().any(is_match))
    }

    /// The bytes that the states of `subset` read, with their next states.
    fn moves(&self, subset: &[u32], moves: &mut Vec<(u8, u8, StateID)>) {
        moves.clear();
        for &id in subset {
            match self.nfa.state(StateID::must(id as usize)) {
                State::ByteRange { trans } => moves.push((trans.start, trans.end, trans.next)),
                State::Sparse(sparse) => {
                    moves.extend(sparse.transitions.iter().map(|t| (t.start, t.end, t.next)));
                }
                State::Dense(dense) => {
                    let next = |byte| dense.matches_byte(byte).map(|next| (byte, byte, next));
                    moves.extend((0..=255).filter_map(next));
                }
                _ => {}
            }
        }
        moves.sort_unstable();
        moves.dedup();
    }

    /// Appends the ranges of one state, given the sorted moves of its subset.
    fn expand(
        &mut self,
        moves: &mut [(u8, u8, StateID)],
        ranges: &mut Vec<(u8, u8, u32)>,
    ) -> Result<()> {
        let first = ranges.len();
        let mut cuts = [false; 257];
        for (low, high, _) in moves.iter() {
            cuts[usize::from(*low)] = true;
            cuts[usize::from(*high) + 1] = true;
        }
        let mut cuts = (0..=256).filter(|&at| cuts[at]);
        let Some(mut low) = cuts.next() else {
            return Ok(());
        };
        let (mut active, mut targets) = (Vec::new(), Vec::new());
        let (mut last_targets, mut last_state) = (Vec::new(), 0);
        let mut pending = moves.iter().peekable();
        for next_low in cuts {
            active.retain(|&(high, _)| usize::from(high) >= low);
            while let Some((_, high, target)) = pending.next_if(|m| usize::from(m.0) == low) {
                active.push((*high, *target));
            }
            self.spend(active.len() + 1)?;
            targets.clear();
            targets.extend(active.iter().map(|&(_, target)| target));
            targets.sort_unstable();
            targets.dedup();
            if !targets.is_empty() {
                if targets != last_targets {
                    self.closure.restart();
                    for &target in &targets {
                        self.follow(target, false, false)?;
                    }
                    last_state = self.intern(false)?;
                    std::mem::swap(&mut targets, &mut last_targets);
                }
                let (low, high) = (low as u8, (next_low - 1) as u8);
                match ranges[first..].last_mut() {
                    Some(range) if range.2 == last_state && range.1.checked_add(1) == Some(low) => {
                        range.1 = high;
                    }
                    _ => ranges.push((low, high, last_state)),
                }
            }
            low = next_low;
        }
        if ranges.len() > self.limits.byte_transitions {
            return Err(ConstraintError::TooLarge {
                what: "transitions over bytes",
                limit: self.limits.byte_transitions,
            });
        }
        Ok(())
    }
}
