//! Which cached positions a token may attend to, and which slot of the cache holds a position. Pure
//! arithmetic: of ggml it knows the elements of a mask.

use std::ops::Range;

use crate::ggml::ops::{HIDDEN, VISIBLE};

/// The KV cache of one kind of layer as a ring of slots: position `p` lies in slot `p % slots`.
///
/// Full-attention layers have a slot for every position of the context, so nothing wraps. Sliding
/// layers have only as many as their window and one pass over the model need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    /// Slots of the ring.
    pub slots: usize,
    /// Positions that a token sees, itself included; `None` is all.
    pub window: Option<usize>,
}

impl KeyLayout {
    /// The slot of a position.
    pub fn slot(&self, position: usize) -> usize {
        position % self.slots
    }

    /// The slots of a range of positions, in order: one run, or two at the seam of the ring.
    pub(super) fn runs(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let start = self.slot(positions.start);
        let before_seam = positions.len().min(self.slots - start);
        let runs = [start..start + before_seam, 0..positions.len() - before_seam];
        runs.into_iter().filter(|run| !run.is_empty())
    }

    /// How many slots, from the first on, a pass must look at when positions below `end` are
    /// stored: all those in use, rounded up to `granularity`.
    pub fn used(&self, end: usize, granularity: usize) -> usize {
        end.next_multiple_of(granularity).min(self.slots)
    }

    /// The first position that a query sees.
    fn first_seen(&self, query: usize) -> usize {
        self.window
            .map_or(0, |window| (query + 1).saturating_sub(window))
    }

    /// Shows positions in a row of a mask that hides all, when positions below `end` are stored:
    /// they are contiguous in the ring, except at its seam.
    fn show(&self, positions: Range<usize>, end: usize, row: &mut [u16]) {
        let first = positions.start.max(end.saturating_sub(self.slots));
        let count = positions.end - first;
        let slot = self.slot(first);
        let before_seam = count.min(self.slots - slot);
        row[slot..slot + before_seam].fill(VISIBLE);
        row[..count - before_seam].fill(VISIBLE);
    }

    /// The encoder's mask, F16 `[keys, count]`, for tokens at positions `start .. start + count`:
    /// causal, and within the window on sliding layers.
    pub fn causal(&self, start: usize, count: usize, keys: usize) -> Vec<u16> {
        let mut mask = vec![HIDDEN; keys * count];
        for (query, row) in (start..).zip(mask.chunks_exact_mut(keys)) {
            self.show(self.first_seen(query)..query + 1, start + count, row);
        }
        mask
    }

    /// The decoder's mask, F16 `[keys, canvas * count]`, for `count` canvases that all follow `prefix`
    /// tokens and lie one after the other in the cache. Every position sees the whole of its own canvas,
    /// none of the others, and, of the prefix, what the first position after it sees (everything, or
    /// the last `window - 1` tokens). The window does not move along a canvas.
    pub fn canvases(&self, prefix: usize, canvas: usize, count: usize, keys: usize) -> Vec<u16> {
        let end = prefix + canvas * count;
        let mut mask = Vec::with_capacity(keys * canvas * count);
        for start in (prefix..end).step_by(canvas) {
            let mut row = vec![HIDDEN; keys];
            self.show(self.first_seen(prefix)..prefix, end, &mut row);
            self.show(start..start + canvas, end, &mut row);
            mask.extend(row.repeat(canvas));
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position that a slot holds when positions below `end` were stored in order.
    fn position(layout: &KeyLayout, slot: usize, end: usize) -> Option<usize> {
        (slot < end).then(|| slot + (end - 1 - slot) / layout.slots * layout.slots)
    }

    fn visible(
        layout: &KeyLayout,
        mask: &[u16],
        keys: usize,
        end: usize,
        query: usize,
    ) -> Vec<usize> {
        let mut seen: Vec<usize> = (0..keys)
            .filter(|slot| mask[query * keys + slot] == VISIBLE)
            .map(|slot| position(layout, slot, end).unwrap())
            .collect();
        seen.sort_unstable();
        seen
    }

    #[test]
    fn full_layers_see_every_earlier_token() {
        let layout = KeyLayout {
            slots: 32,
            window: None,
        };
        let keys = layout.used(10, 8);
        assert_eq!(keys, 16);
        let mask = layout.causal(7, 3, keys);
        for query in 0..3 {
            assert_eq!(
                visible(&layout, &mask, keys, 10, query),
                (0..=7 + query).collect::<Vec<_>>()
            );
        }
        let mask = layout.canvases(7, 3, 1, keys);
        for query in 0..3 {
            assert_eq!(
                visible(&layout, &mask, keys, 10, query),
                (0..10).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn sliding_layers_see_their_window_wherever_the_ring_is() {
        for start in 0..40 {
            // A window of 5 and passes of 4 need 5 - 1 + 4 slots.
            let layout = KeyLayout {
                slots: 8,
                window: Some(5),
            };
            let end = start + 4;
            let keys = layout.used(end, 4);
            let causal = layout.causal(start, 4, keys);
            let canvas = layout.canvases(start, 4, 1, keys);
            let halves = layout.canvases(start, 2, 2, keys);
            for query in 0..4 {
                let i: usize = start + query;
                let own = visible(&layout, &causal, keys, end, query);
                assert_eq!(
                    own,
                    (i.saturating_sub(4)..=i).collect::<Vec<_>>(),
                    "start {start} query {query}"
                );
                let all = visible(&layout, &canvas, keys, end, query);
                assert_eq!(all, (start.saturating_sub(4)..end).collect::<Vec<_>>());
                let half = visible(&layout, &halves, keys, end, query);
                let own = start + query / 2 * 2;
                let expected = (start.saturating_sub(4)..start).chain(own..own + 2);
                assert_eq!(half, expected.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn runs_are_the_slots_of_the_positions_in_order() {
        let layout = KeyLayout {
            slots: 8,
            window: Some(5),
        };
        for start in 0..20 {
            for count in 0..=8 {
                let runs: Vec<_> = layout.runs(start..start + count).collect();
                let slots: Vec<usize> = runs.iter().cloned().flatten().collect();
                let expected: Vec<usize> = (start..start + count).map(|p| p % 8).collect();
                assert_eq!(slots, expected, "{count} positions from {start}");
                // Each is one transfer.
                let seams = expected.windows(2).filter(|pair| pair[1] == 0).count();
                assert_eq!(runs.len(), usize::from(count > 0) + seams);
            }
        }
    }

    #[test]
    fn slots_repeat_after_a_round() {
        let layout = KeyLayout {
            slots: 8,
            window: Some(5),
        };
        assert_eq!((layout.slot(3), layout.slot(11)), (3, 3));
        assert_eq!(position(&layout, 3, 3), None);
        assert_eq!(position(&layout, 3, 4), Some(3));
        assert_eq!(position(&layout, 3, 11), Some(3));
        assert_eq!(position(&layout, 3, 12), Some(11));
    }
}
