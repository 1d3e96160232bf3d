//! Responses that are kept in memory, within a number and a size: the one that was not used for longest
//! goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::Owner;
use crate::protocol::kept::{Responses, Turn, Turns};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of responses.
    pub count: usize,
    /// Bytes of all of them and their conversations.
    pub bytes: usize,
}

/// The responses that are kept.
#[derive(Debug)]
pub struct Kept {
    limits: Limits,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<String, Entry>,
    /// The ids by when they were used.
    by_use: BTreeMap<u64, String>,
    uses: u64,
    /// How many entries have a turn. A turn that several have takes its memory once.
    holders: HashMap<String, usize>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// The last one is the response itself.
    turns: Turns,
    used: u64,
}

impl Kept {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            shelf: Mutex::default(),
        }
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.limits.count > 0 && self.limits.bytes > 0
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a response, the last of these turns, if it is not larger than all that may be kept.
    pub fn keep(&self, owner: Owner, turns: Turns) {
        let bytes = own_size(&turns) + turns.iter().map(|turn| turn_size(turn)).sum::<usize>();
        if bytes > self.limits.bytes {
            return;
        }
        let mut shelf = self.shelf();
        shelf.add(owner, turns);
        let mut gone = Vec::new();
        while shelf.entries.len() > self.limits.count || shelf.bytes > self.limits.bytes {
            gone.extend(shelf.remove_oldest());
        }
        drop(shelf); // before what is gone is freed
    }

    /// The conversation that ends with a response of this client.
    pub fn get(&self, owner: Owner, id: &str) -> Option<Turns> {
        let mut shelf = self.shelf();
        let shelf = &mut *shelf;
        let entry = shelf.entries.get_mut(id)?;
        if entry.owner != owner {
            return None;
        }
        let id = shelf.by_use.remove(&entry.used)?;
        shelf.uses += 1;
        entry.used = shelf.uses;
        shelf.by_use.insert(entry.used, id);
        Some(Arc::clone(&entry.turns))
    }

    /// Forgets a response of this client. Returns whether there was one.
    pub fn remove(&self, owner: Owner, id: &str) -> bool {
        let mut shelf = self.shelf();
        let is_it = shelf.entries.get(id).is_some_and(|it| it.owner == owner);
        let gone = is_it.then(|| shelf.remove(id)).flatten();
        drop(shelf);
        gone.is_some()
    }

    /// Number and bytes of what is kept.
    pub fn size(&self) -> (usize, usize) {
        let shelf = self.shelf();
        (shelf.entries.len(), shelf.bytes)
    }

    /// Those that one client may build on.
    pub fn of(self: &Arc<Self>, owner: Owner) -> Option<Arc<dyn Responses>> {
        let kept = Arc::clone(self);
        self.is_on()
            .then(|| Arc::new(OfOwner { kept, owner }) as Arc<dyn Responses>)
    }
}

/// Bytes of a turn.
fn turn_size(turn: &Turn) -> usize {
    size_of::<Turn>() + 2 * turn.id.len() + turn.input.len() + turn.response.len()
}

/// Bytes of an entry without its turns.
fn own_size(turns: &Turns) -> usize {
    let id = turns.last().map_or(0, |turn| turn.id.len());
    size_of::<Entry>() + 2 * id + size_of_val(&**turns)
}

impl Shelf {
    fn add(&mut self, owner: Owner, turns: Turns) {
        let Some(last) = turns.last() else {
            return;
        };
        let id = last.id.clone();
        self.bytes += own_size(&turns);
        for turn in turns.iter() {
            let holders = self.holders.entry(turn.id.clone()).or_default();
            *holders += 1;
            if *holders == 1 {
                self.bytes += turn_size(turn);
            }
        }
        self.uses += 1;
        let used = self.uses;
        self.by_use.insert(used, id.clone());
        self.entries.insert(id, Entry { owner, turns, used });
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.by_use.remove(&entry.used);
        self.bytes -= own_size(&entry.turns);
        for turn in entry.turns.iter() {
            let holders = self.holders.get_mut(&turn.id)?;
            *holders -= 1;
            if *holders == 0 {
                self.holders.remove(&turn.id);
                self.bytes -= turn_size(turn);
            }
        }
        Some(entry)
    }

    fn remove_oldest(&mut self) -> Option<Entry> {
        let (_, id) = self.by_use.pop_first()?;
        self.remove(&id)
    }
}

/// The responses of one client.
#[derive(Debug)]
struct OfOwner {
    kept: Arc<Kept>,
    owner: Owner,
}

impl Responses for OfOwner {
    fn turns(&self, id: &str) -> Option<Turns> {
        self.kept.get(self.owner, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Owner = Owner(0);

    fn kept(count: usize, bytes: usize) -> Kept {
        Kept::new(Limits { count, bytes })
    }

    /// A response after those of a conversation.
    fn turns(id: &str, before: &[Arc<Turn>], size: usize) -> Turns {
        let turn = Turn {
            id: id.into(),
            input: "null".into(),
            response: "x".repeat(size).into(),
        };
        before.iter().cloned().chain([Arc::new(turn)]).collect()
    }

    fn has(kept: &Kept, id: &str) -> bool {
        kept.get(ME, id).is_some()
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_goes_first() {
        let kept = kept(2, 1 << 20);
        kept.keep(ME, turns("a", &[], 10));
        kept.keep(ME, turns("b", &[], 10));
        assert!(has(&kept, "a"));
        kept.keep(ME, turns("c", &[], 10));
        assert!(has(&kept, "a") && has(&kept, "c") && !has(&kept, "b"));
        assert_eq!(kept.size().0, 2);
    }

    #[test]
    fn bytes_are_limited_and_all_come_back() {
        let kept = kept(100, 10_000);
        for number in 0..50 {
            kept.keep(ME, turns(&number.to_string(), &[], 3000));
            assert!(kept.size().1 <= 10_000);
        }
        assert_eq!(kept.size().0, 3);
        // What is too large for all the space removes nothing.
        kept.keep(ME, turns("large", &[], 10_001));
        assert!(!has(&kept, "large") && has(&kept, "49"));
        for id in ["47", "48", "49"] {
            assert!(kept.remove(ME, id), "{id}");
            assert!(!kept.remove(ME, id), "{id}");
        }
        assert_eq!(kept.size(), (0, 0));
    }

    #[test]
    fn a_turn_that_several_have_counts_once() {
        let kept = kept(100, 1 << 20);
        let first = turns("a", &[], 5000);
        let second = turns("b", &first, 10);
        let third = turns("c", &second, 10);
        for turns in [&first, &second, &third] {
            kept.keep(ME, Arc::clone(turns));
        }
        assert!(kept.size().1 < 7000, "{:?}", kept.size());
        // A conversation survives its earlier responses.
        assert!(kept.remove(ME, "a") && kept.remove(ME, "b"));
        assert_eq!(kept.get(ME, "c"), Some(third));
        assert!(kept.size().1 > 5000);
        assert!(kept.remove(ME, "c"));
        assert_eq!(kept.size(), (0, 0));
    }

    #[test]
    fn others_see_nothing() {
        let kept = Arc::new(kept(100, 1 << 20));
        kept.keep(ME, turns("a", &[], 10));
        let other = Owner(1);
        assert!(kept.get(other, "a").is_none() && !kept.remove(other, "a"));
        assert!(kept.of(other).unwrap().turns("a").is_none());
        assert!(kept.of(ME).unwrap().turns("a").is_some());
    }

    #[test]
    fn nothing_is_kept_where_there_is_no_room() {
        for (count, bytes) in [(0, 100), (100, 0)] {
            let kept = Arc::new(kept(count, bytes));
            assert!(!kept.is_on() && kept.of(ME).is_none());
            kept.keep(ME, turns("a", &[], 10));
            assert_eq!(kept.size(), (0, 0));
        }
    }

    #[test]
    fn many_threads() {
        let kept = kept(8, 1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let kept = &kept;
                scope.spawn(move || {
                    let mut before = Turns::default();
                    for number in 0..200 {
                        let id = format!("{thread}-{number}");
                        before = turns(&id, &before[before.len().saturating_sub(3)..], 10);
                        kept.keep(ME, Arc::clone(&before));
                        kept.get(ME, &id);
                        if number % 3 == 0 {
                            kept.remove(ME, &id);
                        }
                    }
                });
            }
        });
        let ids: Vec<String> = kept.shelf().entries.keys().cloned().collect();
        assert!(ids.len() <= 8);
        for id in ids {
            assert!(kept.remove(ME, &id));
        }
        assert_eq!(kept.size(), (0, 0));
        assert!(kept.shelf().holders.is_empty() && kept.shelf().by_use.is_empty());
    }
}
