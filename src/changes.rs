//! What differs between two sequences, such as the lines of a text before and after an edit.

use std::ops::Range;

/// Pairs of elements beyond which all that is between the first and the last change counts as changed.
const MAX_PAIRS: usize = 1 << 22;

/// A run of elements that another run replaces. One of the two may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The elements before.
    pub old: Range<usize>,
    /// The elements after.
    pub new: Range<usize>,
}

/// The changes that make one sequence of another, in order, by their longest common subsequence.
pub fn changes<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Change> {
    let first = common(old.iter(), new.iter());
    let (a, b) = (&old[first..], &new[first..]);
    let last = common(a.iter().rev(), b.iter().rev());
    let (a, b) = (&a[..a.len() - last], &b[..b.len() - last]);
    if a.len().saturating_mul(b.len()) > MAX_PAIRS {
        return vec![Change {
            old: first..first + a.len(),
            new: first..first + b.len(),
        }];
    }
    between(a, b)
        .into_iter()
        .map(|Change { old, new }| Change {
            old: first + old.start..first + old.end,
            new: first + new.start..first + new.end,
        })
        .collect()
}

/// How many elements two sequences begin with in common.
fn common<'t, T: PartialEq + 't>(
    a: impl Iterator<Item = &'t T>,
    b: impl Iterator<Item = &'t T>,
) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count()
}

fn between<T: PartialEq>(a: &[T], b: &[T]) -> Vec<Change> {
    let width = b.len() + 1;
    // The length of the longest common subsequence from element i of one and j of the other on.
    let mut lengths = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i * width + j] = match a[i] == b[j] {
                true => lengths[(i + 1) * width + j + 1] + 1,
                false => lengths[(i + 1) * width + j].max(lengths[i * width + j + 1]),
            };
        }
    }
    let mut changes = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let start = (i, j);
        while (i < a.len() || j < b.len()) && !(i < a.len() && j < b.len() && a[i] == b[j]) {
            let drops = i < a.len()
                && (j == b.len() || lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]);
            match drops {
                true => i += 1,
                false => j += 1,
            }
        }
        if start != (i, j) {
            changes.push(Change {
                old: start.0..i,
                new: start.1..j,
            });
        }
        if i < a.len() {
            (i, j) = (i + 1, j + 1); // both have it
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(old: &str, new: &str) -> Vec<(Range<usize>, Range<usize>)> {
        let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
        let pairs = changes(&old, &new).into_iter();
        pairs.map(|change| (change.old, change.new)).collect()
    }

    #[test]
    fn runs_that_differ() {
        assert_eq!(of("abc", "abc"), []);
        assert_eq!(of("", ""), []);
        assert_eq!(of("abc", "axc"), [(1..2, 1..2)]);
        assert_eq!(of("ac", "abbc"), [(1..1, 1..3)]);
        assert_eq!(of("abbc", "ac"), [(1..3, 1..1)]);
        assert_eq!(of("", "ab"), [(0..0, 0..2)]);
        assert_eq!(of("ab", ""), [(0..2, 0..0)]);
        assert_eq!(of("xabyc", "abzzc"), [(0..1, 0..0), (3..4, 2..4)]);
    }

    #[test]
    fn a_change_beyond_the_limit_is_one() {
        let old: Vec<usize> = (0..3000).map(|i| 2 * i).collect();
        let mut new: Vec<usize> = (0..3000).map(|i| 3 * i).collect();
        new[0] = old[0];
        let whole = Change {
            old: 1..3000,
            new: 1..3000,
        };
        assert_eq!(changes(&old, &new), [whole]);
    }
}
