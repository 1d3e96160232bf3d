//! Which states follow each other.

use std::collections::VecDeque;

/// The neighbours of each state.
#[derive(Debug, Clone)]
pub(super) struct Edges {
    offsets: Vec<usize>,
    edges: Vec<Edge>,
}

/// A neighbour, and the classes that lead to or from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub state: u32,
    pub group: u32,
}

impl Edges {
    /// From (state, neighbour, group), in any order.
    pub(super) fn new(states: usize, mut triples: Vec<(u32, u32, u32)>) -> Self {
        triples.sort_unstable();
        let mut offsets = vec![0; states + 1];
        for triple in &triples {
            offsets[triple.0 as usize + 1] += 1;
        }
        for state in 0..states {
            offsets[state + 1] += offsets[state];
        }
        let edge = |(_, state, group)| Edge { state, group };
        Self {
            offsets,
            edges: triples.into_iter().map(edge).collect(),
        }
    }

    /// Number of edges.
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// The edges of `state`, in ascending order of the neighbour.
    pub(super) fn of(&self, state: u32) -> &[Edge] {
        &self.edges[self.offsets[state as usize]..self.offsets[state as usize + 1]]
    }
}

/// The number of edges from the nearest source to each state.
pub(super) fn distances(
    edges: &Edges,
    sources: impl IntoIterator<Item = u32>,
) -> Vec<Option<usize>> {
    let mut distance = vec![None; edges.offsets.len() - 1];
    let mut queue: VecDeque<u32> = sources.into_iter().collect();
    queue.iter().for_each(|&s| distance[s as usize] = Some(0));
    while let Some(state) = queue.pop_front() {
        let next = distance[state as usize].map(|d| d + 1);
        for edge in edges.of(state) {
            let distance = &mut distance[edge.state as usize];
            if distance.is_none() {
                *distance = next;
                queue.push_back(edge.state);
            }
        }
    }
    distance
}
