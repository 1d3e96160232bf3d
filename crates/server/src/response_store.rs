//! Responses that are stored in memory, within a number and a size: the least recently used is
//! evicted, of the key that holds most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::Owner;
use crate::protocol::turns::{StoredResponses, Turn, Turns};

/// How much is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of responses.
    pub count: usize,
    /// Bytes of all of them and their conversations.
    pub bytes: usize,
}

/// An estimate of the bytes that maps and allocations add to an entry, and to a turn.
const OVERHEAD: usize = 160;

/// The stored responses.
#[derive(Debug)]
pub struct ResponseStore {
    limits: Limits,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    entries: HashMap<String, Entry>,
    /// What each key holds. None holds nothing.
    shares: BTreeMap<u64, Share>,
    uses: u64,
}

/// What one key holds.
#[derive(Debug, Default)]
struct Share {
    /// The ids of its entries by their last use.
    by_last_use: BTreeMap<u64, String>,
    /// How many of its entries have a turn, by the turn's address. Its memory counts once.
    references: HashMap<usize, usize>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    /// The last one is the response itself.
    turns: Turns,
    last_used: u64,
}

impl ResponseStore {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            contents: Mutex::default(),
        }
    }

    /// Whether anything is stored.
    pub fn is_on(&self) -> bool {
        self.limits.count > 0 && self.limits.bytes > 0
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a response, the last of these turns, if it is not larger than all that may be
    /// stored. It replaces one with the same id.
    pub fn insert(&self, owner: Owner, turns: Turns) {
        let bytes = own_size(&turns) + turns.iter().map(|turn| turn_size(turn)).sum::<usize>();
        if bytes > self.limits.bytes {
            return;
        }
        let mut contents = self.contents();
        let mut evicted = Vec::from_iter(contents.add(owner, turns));
        while contents.exceeds(self.limits) {
            let Some(entry) = contents.evict(self.limits) else {
                break;
            };
            evicted.push(entry);
        }
        drop(contents); // before the memory is freed
    }

    /// The conversation that ends with a response of this client.
    pub fn get(&self, owner: Owner, id: &str) -> Option<Turns> {
        let mut contents = self.contents();
        let contents = &mut *contents;
        let entry = contents.entries.get_mut(id)?;
        if entry.owner != owner {
            return None;
        }
        let share = contents.shares.get_mut(&owner.0)?;
        let id = share.by_last_use.remove(&entry.last_used)?;
        contents.uses += 1;
        entry.last_used = contents.uses;
        share.by_last_use.insert(entry.last_used, id);
        Some(Arc::clone(&entry.turns))
    }

    /// Forgets a response of this client. Returns whether there was one.
    pub fn remove(&self, owner: Owner, id: &str) -> bool {
        let mut contents = self.contents();
        let is_it = contents.entries.get(id).is_some_and(|it| it.owner == owner);
        let removed = is_it.then(|| contents.remove(id)).flatten();
        drop(contents);
        removed.is_some()
    }

    /// Number and bytes of the stored responses.
    pub fn size(&self) -> (usize, usize) {
        let contents = self.contents();
        (contents.entries.len(), contents.bytes())
    }

    /// Those that one client may build on.
    pub fn of(self: &Arc<Self>, owner: Owner) -> Option<Arc<dyn StoredResponses>> {
        let store = Arc::clone(self);
        self.is_on()
            .then(|| Arc::new(OfOwner { store, owner }) as Arc<dyn StoredResponses>)
    }
}

/// Bytes of a turn.
fn turn_size(turn: &Turn) -> usize {
    OVERHEAD + size_of::<Turn>() + turn.id.len() + turn.input.len() + turn.response.len()
}

/// Bytes of an entry without its turns.
fn own_size(turns: &Turns) -> usize {
    let id = turns.last().map_or(0, |turn| turn.id.len());
    OVERHEAD + size_of::<Entry>() + 2 * id + size_of_val(&**turns)
}

impl Contents {
    fn bytes(&self) -> usize {
        self.shares.values().map(|share| share.bytes).sum()
    }

    fn exceeds(&self, limits: Limits) -> bool {
        self.entries.len() > limits.count || self.bytes() > limits.bytes
    }

    /// Adds a response. Returns the one that had its id.
    fn add(&mut self, owner: Owner, turns: Turns) -> Option<Entry> {
        let id = turns.last()?.id.clone();
        let replaced = self.remove(&id);
        self.uses += 1;
        let entry = Entry {
            owner,
            turns,
            last_used: self.uses,
        };
        self.shares.entry(owner.0).or_default().add(&id, &entry);
        self.entries.insert(id, entry);
        replaced
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        if let Some(share) = self.shares.get_mut(&entry.owner.0) {
            share.remove(&entry);
            if share.by_last_use.is_empty() {
                self.shares.remove(&entry.owner.0);
            }
        }
        Some(entry)
    }

    /// Removes the least recently used response of the key that holds most of what has run out, so
    /// that no key can evict the responses of the others.
    fn evict(&mut self, limits: Limits) -> Option<Entry> {
        let is_by_count = self.entries.len() > limits.count;
        let most = self.shares.values().max_by_key(|share| {
            let held = match is_by_count {
                true => share.by_last_use.len(),
                false => share.bytes,
            };
            (held, Reverse(share.by_last_use.keys().next()))
        });
        let id = most?.by_last_use.values().next()?.clone();
        self.remove(&id)
    }
}

impl Share {
    fn add(&mut self, id: &str, entry: &Entry) {
        self.by_last_use.insert(entry.last_used, id.to_owned());
        self.bytes += own_size(&entry.turns);
        for turn in entry.turns.iter() {
            let references = self.references.entry(address(turn)).or_default();
            *references += 1;
            if *references == 1 {
                self.bytes += turn_size(turn);
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.by_last_use.remove(&entry.last_used);
        self.bytes -= own_size(&entry.turns);
        for turn in entry.turns.iter() {
            let Some(references) = self.references.get_mut(&address(turn)) else {
                continue;
            };
            *references -= 1;
            if *references == 0 {
                self.references.remove(&address(turn));
                self.bytes -= turn_size(turn);
            }
        }
    }
}

/// Where a turn is. No other one is there while an entry has it.
fn address(turn: &Arc<Turn>) -> usize {
    Arc::as_ptr(turn).addr()
}

/// The responses of one client.
#[derive(Debug)]
struct OfOwner {
    store: Arc<ResponseStore>,
    owner: Owner,
}

impl StoredResponses for OfOwner {
    fn turns(&self, id: &str) -> Option<Turns> {
        self.store.get(self.owner, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Owner = Owner(0);

    fn store(count: usize, bytes: usize) -> ResponseStore {
        ResponseStore::new(Limits { count, bytes })
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

    fn has(store: &ResponseStore, id: &str) -> bool {
        store.get(ME, id).is_some()
    }

    #[test]
    fn the_least_recently_used_is_evicted() {
        let store = store(2, 1 << 20);
        store.insert(ME, turns("a", &[], 10));
        store.insert(ME, turns("b", &[], 10));
        assert!(has(&store, "a"));
        store.insert(ME, turns("c", &[], 10));
        assert!(has(&store, "a") && has(&store, "c") && !has(&store, "b"));
        assert_eq!(store.size().0, 2);
    }

    #[test]
    fn bytes_are_limited_and_all_come_back() {
        let store = store(100, 12_000);
        for number in 0..50 {
            store.insert(ME, turns(&number.to_string(), &[], 3000));
            assert!(store.size().1 <= 12_000);
        }
        assert_eq!(store.size().0, 3);
        // What is too large for all the space removes nothing.
        store.insert(ME, turns("large", &[], 12_001));
        assert!(!has(&store, "large") && has(&store, "49"));
        for id in ["47", "48", "49"] {
            assert!(store.remove(ME, id), "{id}");
            assert!(!store.remove(ME, id), "{id}");
        }
        assert_eq!(store.size(), (0, 0));
    }

    #[test]
    fn small_responses_take_more_than_their_text() {
        let store = store(1000, 100 * OVERHEAD);
        for number in 0..100 {
            store.insert(ME, turns(&number.to_string(), &[], 0));
        }
        assert!(store.size().0 < 50, "{:?}", store.size());
    }

    #[test]
    fn a_repeated_id_replaces_its_response() {
        let store = store(100, 10_000);
        let first = turns("", &[], 5000);
        let built = turns("b", &first, 10);
        store.insert(ME, first);
        store.insert(ME, built);
        // Each of them fits, but not together with the first one, which is still a turn of the other.
        for size in [100, 9000, 100, 5000] {
            store.insert(ME, turns("", &[], size));
            assert_eq!(store.get(ME, "").unwrap()[0].response.len(), size);
            assert!(store.size().1 <= 10_000);
        }
        assert!(!has(&store, "b"));
        store.insert(Owner(1), turns("", &[], 10));
        assert!(!has(&store, "") && store.remove(Owner(1), ""));
        assert_eq!(store.size(), (0, 0));
        assert!(store.contents().shares.is_empty());
    }

    #[test]
    fn the_key_that_holds_most_makes_room() {
        let other = Owner(1);
        // By number.
        let few = store(4, 1 << 20);
        few.insert(ME, turns("mine", &[], 5000));
        for number in 0..9 {
            few.insert(other, turns(&number.to_string(), &[], 10));
        }
        assert!(has(&few, "mine") && few.get(other, "8").is_some());
        assert_eq!(few.size().0, 4);
        // By size.
        let small = store(100, 12_000);
        for id in ["a", "b", "c"] {
            small.insert(ME, turns(id, &[], 100));
        }
        for number in 0..9 {
            small.insert(other, turns(&number.to_string(), &[], 4000));
        }
        assert!(["a", "b", "c"].iter().all(|id| has(&small, id)));
        assert!(small.get(other, "8").is_some());
        // Of two that hold as much, the least recently used response is evicted.
        let two = store(1, 1 << 20);
        for (owner, id) in [(ME, "a"), (other, "b"), (ME, "c")] {
            two.insert(owner, turns(id, &[], 10));
            assert!(two.get(owner, id).is_some(), "{id}");
        }
    }

    #[test]
    fn a_turn_that_several_have_counts_once() {
        let store = store(100, 1 << 20);
        let first = turns("a", &[], 5000);
        let second = turns("b", &first, 10);
        let third = turns("c", &second, 10);
        for turns in [&first, &second, &third] {
            store.insert(ME, Arc::clone(turns));
        }
        assert!(store.size().1 < 7000, "{:?}", store.size());
        // A conversation survives its earlier responses.
        assert!(store.remove(ME, "a") && store.remove(ME, "b"));
        assert_eq!(store.get(ME, "c"), Some(third));
        assert!(store.size().1 > 5000);
        assert!(store.remove(ME, "c"));
        assert_eq!(store.size(), (0, 0));
    }

    #[test]
    fn others_see_nothing() {
        let store = Arc::new(store(100, 1 << 20));
        store.insert(ME, turns("a", &[], 10));
        let other = Owner(1);
        assert!(store.get(other, "a").is_none() && !store.remove(other, "a"));
        assert!(store.of(other).unwrap().turns("a").is_none());
        assert!(store.of(ME).unwrap().turns("a").is_some());
    }

    #[test]
    fn nothing_is_stored_where_there_is_no_room() {
        for (count, bytes) in [(0, 100), (100, 0)] {
            let store = Arc::new(store(count, bytes));
            assert!(!store.is_on() && store.of(ME).is_none());
            store.insert(ME, turns("a", &[], 10));
            assert_eq!(store.size(), (0, 0));
        }
    }

    #[test]
    fn many_threads() {
        let store = store(8, 1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    let mut before = Turns::default();
                    for number in 0..200 {
                        let id = format!("{thread}-{number}");
                        before = turns(&id, &before[before.len().saturating_sub(3)..], 10);
                        store.insert(ME, Arc::clone(&before));
                        store.get(ME, &id);
                        if number % 3 == 0 {
                            store.remove(ME, &id);
                        }
                    }
                });
            }
        });
        let ids: Vec<String> = store.contents().entries.keys().cloned().collect();
        assert!(ids.len() <= 8);
        for id in ids {
            assert!(store.remove(ME, &id));
        }
        assert_eq!(store.size(), (0, 0));
        assert!(store.contents().shares.is_empty());
    }
}
