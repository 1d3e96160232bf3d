//! How many requests the server takes at once: counted before any work is done for one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the server takes at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers that run at once.
    pub slots: usize,
    /// Answers that wait.
    pub queue: usize,
    /// Tokens in the prompts that wait.
    pub tokens: usize,
    /// Answers of one owner that wait or run.
    pub each: usize,
}

/// Which limit a request is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// [`Limits::queue`].
    Queue,
    /// [`Limits::tokens`].
    Tokens,
    /// [`Limits::each`].
    Owner,
}

/// Counts the answers that wait or run.
#[derive(Clone)]
pub struct Admission {
    limits: Limits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    taken: usize,
    /// By owner; none has zero.
    owners: HashMap<u64, usize>,
    /// Tokens in the prompts that wait.
    tokens: usize,
}

/// The place of an answer. Dropping it gives it back.
pub struct Ticket {
    /// `None` after it was given back.
    counts: Option<Arc<Mutex<Counts>>>,
    owner: u64,
    /// Tokens of its prompt, while it waits.
    tokens: usize,
}

/// A panic while it was locked leaves the counts usable.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// Admission within limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Arc::default(),
        }
    }

    /// A place for an answer to an owner.
    ///
    /// # Errors
    /// All places are taken, or all of this owner.
    pub fn take(&self, owner: u64) -> Result<Ticket, Full> {
        self.reserve(owner, 1)?;
        Ok(self.ticket(owner))
    }

    fn reserve(&self, owner: u64, places: usize) -> Result<(), Full> {
        let mut counts = lock(&self.counts);
        let after = |taken: usize, limit: usize| {
            let after = taken.checked_add(places)?;
            (after <= limit).then_some(after)
        };
        let all = self.limits.slots.saturating_add(self.limits.queue);
        let taken = after(counts.taken, all).ok_or(Full::Queue)?;
        let of_owner = counts.owners.get(&owner).copied().unwrap_or_default();
        let of_owner = after(of_owner, self.limits.each).ok_or(Full::Owner)?;
        counts.taken = taken;
        if places > 0 {
            counts.owners.insert(owner, of_owner);
        }
        Ok(())
    }

    fn ticket(&self, owner: u64) -> Ticket {
        Ticket {
            counts: Some(Arc::clone(&self.counts)),
            owner,
            tokens: 0,
        }
    }

    /// The places of a request whose prompts have so many tokens, one ticket each; `ticket` is the first.
    ///
    /// # Errors
    /// There are not enough places, or too many tokens wait already.
    pub fn extend(&self, ticket: Ticket, prompts: &[usize]) -> Result<Vec<Ticket>, Full> {
        let (owner, more) = (ticket.owner, prompts.len().saturating_sub(1));
        self.reserve(owner, more)?;
        let mut tickets = vec![ticket];
        tickets.extend((0..more).map(|_| self.ticket(owner)));
        let mut counts = lock(&self.counts);
        let tokens = counts.tokens.saturating_add(prompts.iter().sum());
        // A prompt that nothing waits before is always read, however long it is.
        let waits = counts.taken > self.limits.slots && counts.tokens > 0;
        if waits && tokens > self.limits.tokens {
            drop(counts); // tickets need it
            return Err(Full::Tokens);
        }
        counts.tokens = tokens;
        for (ticket, tokens) in tickets.iter_mut().zip(prompts) {
            ticket.tokens = *tokens;
        }
        Ok(tickets)
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        lock(&self.counts).taken
    }
}

impl Ticket {
    /// The answer waits no longer.
    pub fn begin(&mut self) {
        if let Some(counts) = &self.counts {
            lock(counts).tokens -= std::mem::take(&mut self.tokens);
        }
    }

    /// Gives the place back.
    pub fn release(&mut self) {
        let Some(counts) = self.counts.take() else {
            return;
        };
        let mut counts = lock(&counts);
        counts.taken -= 1;
        counts.tokens -= self.tokens;
        if let Some(of_owner) = counts.owners.get_mut(&self.owner) {
            *of_owner -= 1;
            if *of_owner == 0 {
                counts.owners.remove(&self.owner);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Limits = Limits {
        slots: 1,
        queue: 2,
        tokens: usize::MAX,
        each: usize::MAX,
    };

    fn waiting(admission: &Admission) -> usize {
        lock(&admission.counts).tokens
    }

    #[test]
    fn places_come_back() {
        let admission = Admission::new(OPEN);
        let first = admission.take(0).unwrap();
        let tickets = admission.extend(first, &[5, 5, 5]).unwrap();
        assert_eq!((tickets.len(), admission.taken()), (3, 3));
        assert_eq!(admission.take(0).err(), Some(Full::Queue));
        drop(tickets);
        assert_eq!((admission.taken(), waiting(&admission)), (0, 0));
        assert!(lock(&admission.counts).owners.is_empty());
    }

    #[test]
    fn a_request_that_needs_too_many_places_leaves_none_behind() {
        let admission = Admission::new(OPEN);
        let first = admission.take(0).unwrap();
        let full = admission.extend(first, &[1; 4]).err();
        assert_eq!((full, admission.taken()), (Some(Full::Queue), 0));
        assert!(admission.take(0).is_ok());
    }

    #[test]
    fn an_owner_has_a_share() {
        let admission = Admission::new(Limits { each: 1, ..OPEN });
        let one = admission.take(1).unwrap();
        assert_eq!(admission.take(1).err(), Some(Full::Owner));
        let two = admission.take(2).unwrap();
        assert_eq!(admission.extend(two, &[1, 1]).err(), Some(Full::Owner));
        drop(one);
        assert!(admission.take(1).is_ok());
    }

    #[test]
    fn tokens_wait_until_their_answer_begins() {
        let admission = Admission::new(Limits { tokens: 10, ..OPEN });
        let place = |tokens: usize| {
            let ticket = admission.take(0)?;
            admission
                .extend(ticket, &[tokens])
                .map(|mut all| all.remove(0))
        };
        // Nothing waits before it.
        let mut first = place(100).unwrap();
        assert_eq!(place(1).err(), Some(Full::Tokens));
        first.begin();
        let second = place(10).unwrap();
        assert_eq!(place(1).err(), Some(Full::Tokens));
        assert_eq!((admission.taken(), waiting(&admission)), (2, 10));
        drop(second);
        assert!(place(1).is_ok());
        assert_eq!(waiting(&admission), 0);
    }
}
