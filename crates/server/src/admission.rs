//! How many requests the server takes at once: counted before any work is done for one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the answers that wait or run.
#[derive(Clone)]
pub struct Admission {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// The places of a request. Dropping it gives them back.
pub struct Ticket {
    taken: Arc<AtomicUsize>,
    places: usize,
}

impl Admission {
    /// At most `limit` answers at once.
    pub fn new(limit: usize) -> Self {
        Self {
            taken: Arc::default(),
            limit,
        }
    }

    /// A place, unless all are taken.
    pub fn take(&self) -> Option<Ticket> {
        self.reserve(1)
    }

    fn reserve(&self, places: usize) -> Option<Ticket> {
        let room = |taken: usize| {
            let after = taken.checked_add(places)?;
            (after <= self.limit).then_some(after)
        };
        // Nothing else depends on the count.
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        taken.ok()?;
        Some(Ticket {
            taken: Arc::clone(&self.taken),
            places,
        })
    }

    /// The further places of a request with several answers, one ticket each; the first is `ticket`.
    pub fn extend(&self, ticket: Ticket, answers: usize) -> Option<Vec<Ticket>> {
        let mut more = self.reserve(answers.saturating_sub(1))?;
        let mut tickets = vec![ticket];
        for _ in 1..answers {
            more.places -= 1;
            tickets.push(Ticket {
                taken: Arc::clone(&self.taken),
                places: 1,
            });
        }
        Some(tickets)
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.places, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let admission = Admission::new(3);
        let first = admission.take().unwrap();
        let tickets = admission.extend(first, 3).unwrap();
        assert_eq!((tickets.len(), admission.taken()), (3, 3));
        assert!(admission.take().is_none());
        drop(tickets);
        assert_eq!(admission.taken(), 0);
    }

    #[test]
    fn a_request_that_needs_too_many_places_leaves_none_behind() {
        let admission = Admission::new(2);
        let first = admission.take().unwrap();
        assert!(admission.extend(first, usize::MAX).is_none());
        assert_eq!(admission.taken(), 0);
        assert!(admission.take().is_some());
    }
}
