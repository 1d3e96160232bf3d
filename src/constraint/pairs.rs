//! Pairs of states with tokens between them, and the sets of classes that lead from one to the other.

use std::collections::HashMap;

use super::classes::{Classes, TextStates};
use super::effects::Effects;
use super::error::{ConstraintError, Limits, Result};
use super::scaffold::Scaffold;

/// All pairs of states with tokens between them.
pub(super) struct Pairs {
    /// State before, state after, group.
    pub pairs: Vec<(u32, u32, u32)>,
    /// The distinct sets of classes, each ascending.
    pub groups: Vec<Vec<u16>>,
    /// The group of the end tokens.
    pub end: u32,
}

impl Pairs {
    pub(super) fn new(
        effects: &Effects,
        text: &TextStates,
        classes: &Classes,
        scaffold: &Scaffold,
        limits: &Limits,
    ) -> Result<Self> {
        let mut groups = Groups::default();
        let mut pairs = of_scaffold(scaffold, classes, &mut groups);
        let before = scaffold.states() as u32;
        let mut of_text = PairClasses::new(effects, text, classes);
        while let Some((from, to, set)) = of_text.next_pair() {
            let group = groups.id(set);
            pairs.push((before + from, before + to, group));
            if from == 0 && scaffold.is_optional() {
                pairs.push((0, before + to, group));
            }
            if pairs.len() > limits.pairs {
                return Err(ConstraintError::TooLarge {
                    what: "pairs of states with a token between them",
                    limit: limits.pairs,
                });
            }
        }
        let end = groups.id(&classes.end);
        Ok(Self {
            pairs,
            groups: groups.sets,
            end,
        })
    }
}

/// The pairs before the text.
fn of_scaffold(
    scaffold: &Scaffold,
    classes: &Classes,
    groups: &mut Groups,
) -> Vec<(u32, u32, u32)> {
    match scaffold {
        Scaffold::None => Vec::new(),
        Scaffold::Fixed(_) | Scaffold::Optional(_) => of_places(classes, groups),
        Scaffold::Until(_) => until_closed(0, classes, groups).into(),
        Scaffold::Between { .. } => {
            let mut pairs = of_places(classes, groups);
            pairs.extend(until_closed(1, classes, groups));
            pairs
        }
    }
}

/// The tokens that have places, one after the other.
fn of_places(classes: &Classes, groups: &mut Groups) -> Vec<(u32, u32, u32)> {
    let places = classes.places.iter();
    let pair = |(&place, &class)| (place, place + 1, groups.id(&[class]));
    places.map(pair).collect()
}

/// Any tokens in a state, and the one that leads to the next.
fn until_closed(state: u32, classes: &Classes, groups: &mut Groups) -> [(u32, u32, u32); 2] {
    let closing: Vec<u16> = classes.closing.into_iter().collect();
    let other = |class: &u16| !closing.contains(class) && !classes.end.contains(class);
    let others: Vec<u16> = (0..classes.count as u16).filter(other).collect();
    [
        (state, state, groups.id(&others)),
        (state, state + 1, groups.id(&closing)),
    ]
}

/// Distinct sets of classes.
#[derive(Default)]
struct Groups {
    sets: Vec<Vec<u16>>,
    ids: HashMap<Vec<u16>, u32>,
}

impl Groups {
    fn id(&mut self, set: &[u16]) -> u32 {
        if let Some(&id) = self.ids.get(set) {
            return id;
        }
        let id = self.sets.len() as u32;
        self.sets.push(set.to_vec());
        self.ids.insert(set.to_vec(), id);
        id
    }
}

/// Goes through the pairs of states with their sets of classes, in ascending order.
struct PairClasses {
    /// State s has `moves[offsets[s]..offsets[s + 1]]`: states after it and classes, ascending.
    offsets: Vec<usize>,
    moves: Vec<(u32, u16)>,
    state: usize,
    at: usize,
    set: Vec<u16>,
}

impl PairClasses {
    fn new(effects: &Effects, text: &TextStates, classes: &Classes) -> Self {
        let states = text.number.iter().flatten().count();
        let mut offsets = vec![0; states + 1];
        for (effect, of_effect) in &classes.of_effect {
            for (from, _) in text.moves(effects, *effect) {
                offsets[from as usize + 1] += of_effect.len();
            }
        }
        for state in 0..states {
            offsets[state + 1] += offsets[state];
        }
        let mut place = offsets.clone();
        let mut moves = vec![(0, 0); offsets[states]];
        for (effect, of_effect) in &classes.of_effect {
            for (from, to) in text.moves(effects, *effect) {
                let place = &mut place[from as usize];
                for &class in of_effect {
                    moves[*place] = (to, class);
                    *place += 1;
                }
            }
        }
        for range in offsets.windows(2) {
            moves[range[0]..range[1]].sort_unstable();
        }
        Self {
            offsets,
            moves,
            state: 0,
            at: 0,
            set: Vec::new(),
        }
    }

    fn next_pair(&mut self) -> Option<(u32, u32, &[u16])> {
        let &(to, _) = self.moves.get(self.at)?;
        while self.offsets[self.state + 1] <= self.at {
            self.state += 1;
        }
        let rest = &self.moves[self.at..self.offsets[self.state + 1]];
        self.set.clear();
        self.set
            .extend(rest.iter().take_while(|m| m.0 == to).map(|m| m.1));
        self.at += self.set.len();
        Some((self.state as u32, to, &self.set))
    }
}
