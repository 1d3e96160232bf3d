//! Jobs that wait for a slot: classes and owners take turns.

use std::collections::VecDeque;

use super::job::{Class, Job};

/// Editors' jobs that go before one of the others, if both wait.
const EDITORS: u32 = 4;

/// Jobs that wait for a slot. Those of one owner are taken in order, owners take turns, and so do the
/// two classes, so that nobody waits for ever.
#[derive(Default)]
pub struct Queue {
    editors: Owners,
    others: Owners,
    /// Editors' jobs since the last of the others.
    streak: u32,
}

/// The jobs of each owner.
#[derive(Default)]
struct Owners {
    /// Whose turn it is comes first.
    waiting: VecDeque<(u64, VecDeque<Job>)>,
    /// Who had the last turn.
    served: Option<u64>,
}

impl Owners {
    fn push(&mut self, job: Job) {
        let mut owners = self.waiting.iter_mut();
        if let Some((_, jobs)) = owners.find(|(owner, _)| *owner == job.owner) {
            return jobs.push_back(job);
        }
        // Who has just had a turn goes after those who come before the next one.
        let is_served = |(owner, _): &(u64, VecDeque<Job>)| Some(*owner) == self.served;
        let had_turn = usize::from(self.waiting.back().is_some_and(is_served));
        let turn = self.waiting.len() - had_turn;
        self.waiting
            .insert(turn, (job.owner, VecDeque::from([job])));
    }

    /// The first job that may begin, of the first owner who has one.
    fn pop(&mut self) -> Option<Job> {
        let may_begin = |job: &Job| job.group.may_begin();
        let mut owners = self.waiting.iter();
        let turn = owners.position(|(_, jobs)| jobs.iter().any(may_begin))?;
        let (owner, mut jobs) = self.waiting.remove(turn)?;
        self.served = Some(owner);
        let job = jobs
            .iter()
            .position(may_begin)
            .and_then(|index| jobs.remove(index));
        if !jobs.is_empty() {
            self.waiting.push_back((owner, jobs));
        }
        job
    }

    fn retain(&mut self, keep: impl Fn(&Job) -> bool) {
        for (_, jobs) in &mut self.waiting {
            jobs.retain(&keep);
        }
        self.waiting.retain(|(_, jobs)| !jobs.is_empty());
    }

    fn len(&self) -> usize {
        self.waiting.iter().map(|(_, jobs)| jobs.len()).sum()
    }
}

impl Queue {
    /// Appends a job.
    pub fn push(&mut self, job: Job) {
        match job.class {
            Class::Editor => self.editors.push(job),
            Class::Other => self.others.push(job),
        }
    }

    /// The job whose turn it is.
    pub fn pop(&mut self) -> Option<Job> {
        let editors = (self.streak < EDITORS).then(|| self.editors.pop());
        if let Some(job) = editors.flatten() {
            self.streak += 1;
            return Some(job);
        }
        self.streak = 0;
        self.others.pop().or_else(|| self.editors.pop())
    }

    /// Removes the jobs of clients that are gone. Returns how many there were.
    pub fn drop_cancelled(&mut self) -> usize {
        let before = self.len();
        self.editors.retain(|job| !job.cancel.is_cancelled());
        self.others.retain(|job| !job.cancel.is_cancelled());
        before - self.len()
    }

    /// Removes all jobs.
    pub fn drain(&mut self) -> impl Iterator<Item = Job> {
        let all = [&mut self.editors, &mut self.others];
        let all = all.map(|owners| std::mem::take(&mut owners.waiting));
        all.into_iter().flatten().flat_map(|(_, jobs)| jobs)
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.editors.len() + self.others.len()
    }
}
