//! Which cached positions a token may attend to, and in which slot of the cache a position lies.
//! Pure arithmetic: no ggml.

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

/// Value of an F16 mask element for a visible key: 0.
const VISIBLE: u16 = 0;
/// Value of an F16 mask element for a hidden key: negative infinity.
const HIDDEN: u16 = 0xfc00;

impl KeyLayout {
    /// The slot of a position.
    pub fn slot(&self, position: usize) -> usize {
        position % self.slots
    }

    /// How many slots, from the first on, a pass must look at when positions below `end` are
    /// stored: all those in use, rounded up to `granularity`.
    pub fn used(&self, end: usize, granularity: usize) -> usize {
        end.next_multiple_of(granularity).min(self.slots)
    }

    /// The position that a slot holds when positions below `end` were stored in order.
    fn position(&self, slot: usize, end: usize) -> Option<usize> {
        (slot < end).then(|| slot + (end - 1 - slot) / self.slots * self.slots)
    }

    fn in_window(&self, key: usize, query: usize) -> bool {
        self.window.is_none_or(|window| key + window > query)
    }

    /// One row of a mask over `keys` slots.
    fn row(
        &self,
        keys: usize,
        end: usize,
        visible: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = u16> {
        (0..keys).map(move |slot| match self.position(slot, end) {
            Some(key) if visible(key) => VISIBLE,
            _ => HIDDEN,
        })
    }

    /// The encoder's mask, F16 `[keys, count]`, for tokens at positions `start .. start + count`:
    /// causal, and within the window on sliding layers.
    pub fn causal(&self, start: usize, count: usize, keys: usize) -> Vec<u16> {
        let mut mask = Vec::with_capacity(keys * count);
        for query in start..start + count {
            mask.extend(self.row(keys, start + count, |key| {
                key <= query && self.in_window(key, query)
            }));
        }
        mask
    }

    /// The decoder's mask, F16 `[keys, canvas]`, for a canvas behind `prefix` tokens: every
    /// position sees the whole canvas and, of the prefix, what the canvas's first position sees
    /// (everything, or the last `window - 1` tokens). The window does not move along the canvas.
    pub fn canvas(&self, prefix: usize, canvas: usize, keys: usize) -> Vec<u16> {
        let visible = |key| key >= prefix || self.in_window(key, prefix);
        let row: Vec<u16> = self.row(keys, prefix + canvas, visible).collect();
        row.repeat(canvas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(
        layout: &KeyLayout,
        mask: &[u16],
        keys: usize,
        end: usize,
        query: usize,
    ) -> Vec<usize> {
        let mut seen: Vec<usize> = (0..keys)
            .filter(|slot| mask[query * keys + slot] == VISIBLE)
            .map(|slot| layout.position(slot, end).unwrap())
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
        let mask = layout.canvas(7, 3, keys);
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
            let canvas = layout.canvas(start, 4, keys);
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
        assert_eq!(layout.position(3, 3), None);
        assert_eq!(layout.position(3, 4), Some(3));
        assert_eq!(layout.position(3, 11), Some(3));
        assert_eq!(layout.position(3, 12), Some(11));
    }
}
