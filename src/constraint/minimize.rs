//! The smallest deterministic automaton of a language: O(m log m) for m transitions.
//!
//! The algorithm refines two partitions in turn (Valmari and Lehtinen, "Efficient minimization of DFAs
//! with partial transition functions"): of the states by what they accept, and of the transitions by
//! label and by the class of states they lead to. Missing transitions need no dead state.

/// A transition: from a state, by a label, to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transition {
    pub from: u32,
    pub label: u8,
    pub to: u32,
}

/// For each state the number of its class: two states are in one class if they accept the same texts.
/// All states have to lead to an accepting one. `None`: there are more than `most` classes.
pub(super) fn classes_of_states(
    accepting: &[bool],
    transitions: &[Transition],
    most: usize,
) -> Option<Vec<u32>> {
    let mut states = Partition::new(accepting.len());
    (0..accepting.len())
        .filter(|&s| accepting[s])
        .for_each(|s| states.mark(s as u32));
    states.split_marked();

    let mut order: Vec<u32> = (0..transitions.len() as u32).collect();
    order.sort_by_key(|&t| transitions[t as usize].label);
    let mut bundles = Partition::sorted(order, |t| transitions[t as usize].label);
    let incoming = Incoming::new(accepting.len(), transitions);

    // The states' class 0 needs no turn as a splitter: the other classes and the labels imply it.
    let (mut class, mut bundle) = (1, 0);
    while bundle < bundles.len() {
        for index in bundles.range(bundle) {
            let transition = bundles.elements[index];
            states.mark(transitions[transition as usize].from);
        }
        states.split_marked();
        // Classes are only ever split.
        if states.len() > most {
            return None;
        }
        bundle += 1;
        while class < states.len() {
            for index in states.range(class) {
                for &transition in incoming.of(states.elements[index]) {
                    bundles.mark(transition);
                }
            }
            bundles.split_marked();
            class += 1;
        }
    }
    Some(states.set_of)
}

/// A partition of 0..n whose sets can be split in time proportional to the marked elements.
struct Partition {
    /// All elements; each set is a range of them, with its marked elements first.
    elements: Vec<u32>,
    /// Where an element is.
    place: Vec<u32>,
    set_of: Vec<u32>,
    /// First index of each set, the index after its last, and the index after its last marked one.
    first: Vec<u32>,
    past: Vec<u32>,
    marked_past: Vec<u32>,
    /// Sets with marked elements.
    touched: Vec<u32>,
}

impl Partition {
    /// All elements in one set.
    fn new(n: usize) -> Self {
        Self::sorted((0..n as u32).collect(), |_| ())
    }

    /// A set for each run of equal keys.
    fn sorted<K: PartialEq>(elements: Vec<u32>, key: impl Fn(u32) -> K) -> Self {
        let n = elements.len();
        let mut partition = Self {
            place: vec![0; n],
            set_of: vec![0; n],
            first: Vec::new(),
            past: Vec::new(),
            marked_past: Vec::new(),
            touched: Vec::new(),
            elements,
        };
        for index in 0..n {
            let element = partition.elements[index];
            if index == 0 || key(partition.elements[index - 1]) != key(element) {
                partition.first.push(index as u32);
                partition.marked_past.push(index as u32);
                partition.past.push(index as u32);
            }
            let set = partition.first.len() - 1;
            partition.past[set] = index as u32 + 1;
            partition.place[element as usize] = index as u32;
            partition.set_of[element as usize] = set as u32;
        }
        partition
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    fn range(&self, set: usize) -> std::ops::Range<usize> {
        self.first[set] as usize..self.past[set] as usize
    }

    fn mark(&mut self, element: u32) {
        let set = self.set_of[element as usize] as usize;
        let (from, to) = (self.place[element as usize], self.marked_past[set]);
        if from < to {
            return; // marked already
        }
        if to == self.first[set] {
            self.touched.push(set as u32);
        }
        let other = self.elements[to as usize];
        self.elements.swap(from as usize, to as usize);
        self.place[element as usize] = to;
        self.place[other as usize] = from;
        self.marked_past[set] += 1;
    }

    /// Splits each set into its marked and its other elements, and removes the marks. The smaller part
    /// becomes the new set.
    fn split_marked(&mut self) {
        while let Some(set) = self.touched.pop() {
            let set = set as usize;
            let (first, middle, past) = (self.first[set], self.marked_past[set], self.past[set]);
            self.marked_past[set] = first;
            if middle == past {
                continue;
            }
            let new = self.first.len() as u32;
            let part = if middle - first <= past - middle {
                self.first[set] = middle;
                self.marked_past[set] = middle;
                first..middle
            } else {
                self.past[set] = middle;
                middle..past
            };
            self.first.push(part.start);
            self.marked_past.push(part.start);
            self.past.push(part.end);
            for index in part {
                self.set_of[self.elements[index as usize] as usize] = new;
            }
        }
    }
}

/// The transitions that lead to each state.
struct Incoming {
    offsets: Vec<u32>,
    transitions: Vec<u32>,
}

impl Incoming {
    fn new(states: usize, transitions: &[Transition]) -> Self {
        let mut offsets = vec![0; states + 1];
        for transition in transitions {
            offsets[transition.to as usize + 1] += 1;
        }
        for state in 0..states {
            offsets[state + 1] += offsets[state];
        }
        let mut next = offsets.clone();
        let mut sorted = vec![0; transitions.len()];
        for (index, transition) in transitions.iter().enumerate() {
            let at = &mut next[transition.to as usize];
            sorted[*at as usize] = index as u32;
            *at += 1;
        }
        Self {
            offsets,
            transitions: sorted,
        }
    }

    fn of(&self, state: u32) -> &[u32] {
        let range =
            self.offsets[state as usize] as usize..self.offsets[state as usize + 1] as usize;
        &self.transitions[range]
    }
}
