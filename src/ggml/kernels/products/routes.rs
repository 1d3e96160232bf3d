//! Tokens by expert, and the share of a thread.

use std::ops::Range;

use crate::sys;

/// The tokens of each expert. A route is the choice of one expert by one token: number
/// `token * used + choice`.
pub(super) struct Routes {
    /// Routes, grouped by expert.
    order: Vec<usize>,
    /// Where the routes of each expert begin, and the end of the last.
    starts: Vec<usize>,
}

impl Routes {
    /// # Safety
    /// `chosen` is I32 `[used, tokens]` in host memory, with numbers below `experts`.
    pub(super) unsafe fn new(chosen: *const sys::ggml_tensor, experts: usize) -> Self {
        // SAFETY: by the contract of this function.
        let numbers: Vec<usize> = unsafe {
            let chosen = &*chosen;
            let (used, tokens) = (chosen.ne[0] as usize, chosen.ne[1] as usize);
            let number = |route: usize| {
                let offset = route / used * chosen.nb[1] + route % used * chosen.nb[0];
                chosen.data.cast::<u8>().add(offset).cast::<i32>().read() as usize
            };
            (0..used * tokens).map(number).collect()
        };
        Self::of(&numbers, experts)
    }

    fn of(numbers: &[usize], experts: usize) -> Self {
        let mut starts = vec![0; experts + 1];
        for number in numbers {
            starts[number + 1] += 1;
        }
        for e in 0..experts {
            starts[e + 1] += starts[e];
        }
        let mut next = starts.clone();
        let mut order = vec![0; numbers.len()];
        for (route, number) in numbers.iter().enumerate() {
            order[next[*number]] = route;
            next[*number] += 1;
        }
        Self { order, starts }
    }

    /// Experts with at least one token, and their routes.
    pub(super) fn experts(&self) -> impl Iterator<Item = (usize, &[usize])> {
        let bounds = self.starts.windows(2).enumerate();
        bounds
            .map(|(expert, bounds)| (expert, &self.order[bounds[0]..bounds[1]]))
            .filter(|(_, routes)| !routes.is_empty())
    }

    /// The strips of each expert, of `strips`, that thread `index` of `threads` multiplies, so that
    /// all threads take about the same time.
    pub(super) fn share(
        &self,
        strips: usize,
        index: usize,
        threads: usize,
    ) -> impl Iterator<Item = (usize, &[usize], Range<usize>)> {
        let cost = |routes: &[usize]| routes.len() + DECODING;
        let total: usize = self
            .experts()
            .map(|(_, routes)| strips * cost(routes))
            .sum();
        let (begin, end) = (total * index / threads, total * (index + 1) / threads);
        let mut before = 0;
        self.experts().map(move |(expert, routes)| {
            let cost = cost(routes);
            // A strip belongs to the thread in whose part of the total it begins.
            let first = |bound: usize| bound.saturating_sub(before).div_ceil(cost).min(strips);
            let range = first(begin)..first(end);
            before += strips * cost;
            (expert, routes, range)
        })
    }
}

/// The time to decode a row in multiplications with a token.
const DECODING: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_grouped_by_expert_in_order() {
        let routes = Routes::of(&[3, 0, 3, 1, 0, 3], 5);
        let all: Vec<_> = routes.experts().map(|(e, r)| (e, r.to_vec())).collect();
        assert_eq!(all, [(0, vec![1, 4]), (1, vec![3]), (3, vec![0, 2, 5])]);
        assert_eq!(Routes::of(&[], 2).experts().count(), 0);
    }

    #[test]
    fn threads_share_all_strips_once_and_evenly() {
        let numbers: Vec<usize> = (0..400).map(|i| i * i % 7 % 5).collect();
        let routes = Routes::of(&numbers, 6);
        for (strips, threads) in [(1, 1), (3, 2), (44, 16), (2, 64)] {
            let mut done = vec![vec![0; strips]; 6];
            let mut costs = Vec::new();
            for index in 0..threads {
                let mut cost = 0;
                for (expert, routes, range) in routes.share(strips, index, threads) {
                    cost += range.len() * (routes.len() + DECODING);
                    range.for_each(|strip| done[expert][strip] += 1);
                }
                costs.push(cost);
            }
            for (expert, strips) in done.iter().enumerate() {
                let expected = usize::from(numbers.contains(&expert));
                assert!(strips.iter().all(|times| *times == expected), "{done:?}");
            }
            let widest = costs.iter().max().unwrap() * threads;
            let strip = 400 + DECODING;
            assert!(widest <= costs.iter().sum::<usize>() + threads * strip);
        }
    }
}
