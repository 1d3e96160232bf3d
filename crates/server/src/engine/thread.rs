//! The thread of the engine, and how others reach it.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use llama_diffusion::Snapshot;
use tokio::sync::oneshot;

use super::Engine;
use super::job::{Failure, Job, Update};
use super::scheduler::{Broken, Refusal, Scheduler};

/// Where a result goes.
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the thread is asked to do.
pub enum Command<S = Snapshot> {
    /// A job.
    Submit(Box<Job>),
    /// Forget what a slot has cached, and report the number of tokens.
    Erase(usize, Reply<usize>),
    /// Copy what a slot has cached.
    Save(usize, Reply<S>),
    /// Replace what a slot has cached.
    Restore(usize, S, Reply<()>),
    /// Refuse the jobs that wait, and end after those that run.
    Drain,
    /// End the answers that run, with what they have.
    Stop,
}

/// How others reach the thread.
pub struct Handle<S = Snapshot>(Sender<Command<S>>);

impl<S> Handle<S> {
    /// A handle, and where its commands come out.
    pub fn new() -> (Self, Receiver<Command<S>>) {
        let (sender, receiver) = channel();
        (Self(sender), receiver)
    }

    /// Hands in a job.
    pub fn submit(&self, job: Job) {
        let refused = self.0.send(Command::Submit(Box::new(job))).err();
        if let Some(Command::Submit(job)) = refused.map(|refused| refused.0) {
            job.outlet.send(Update::Failed(Failure::Draining));
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command<S>) -> Result<T, Refusal> {
        let (reply, result) = oneshot::channel();
        let _ = self.0.send(command(reply)); // an error: it has ended, and drops the reply
        result.await.unwrap_or(Err(Refusal::Ended))
    }

    /// Forgets what an idle slot has cached. Returns how many tokens that were.
    ///
    /// # Errors
    /// The slot is in use, or the engine fails or has ended.
    pub async fn erase(&self, slot: usize) -> Result<usize, Refusal> {
        self.ask(|reply| Command::Erase(slot, reply)).await
    }

    /// Copies what an idle slot has cached.
    ///
    /// # Errors
    /// As [`erase`](Self::erase).
    pub async fn save(&self, slot: usize) -> Result<S, Refusal> {
        self.ask(|reply| Command::Save(slot, reply)).await
    }

    /// Replaces what an idle slot has cached.
    ///
    /// # Errors
    /// As [`erase`](Self::erase), or `saved` does not fit: the cache is empty then.
    pub async fn restore(&self, slot: usize, saved: S) -> Result<(), Refusal> {
        self.ask(|reply| Command::Restore(slot, saved, reply)).await
    }

    /// Refuses the jobs that wait; the thread ends after those that run.
    pub fn drain(&self) {
        let _ = self.0.send(Command::Drain); // an error: it has ended
    }

    /// Ends the answers that run.
    pub fn stop(&self) {
        let _ = self.0.send(Command::Stop);
    }
}

/// Runs jobs until nobody can send more, or it is drained.
///
/// # Errors
/// The engine is broken.
pub fn run<E: Engine>(
    mut scheduler: Scheduler<E>,
    commands: &Receiver<Command<E::Saved>>,
) -> Result<(), Broken> {
    let mut is_draining = false;
    loop {
        if scheduler.is_idle() {
            if is_draining {
                return Ok(());
            }
            match commands.recv() {
                Ok(command) => is_draining |= obey(&mut scheduler, command, is_draining),
                Err(_) => return Ok(()),
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => is_draining |= obey(&mut scheduler, command, is_draining),
                Err(TryRecvError::Empty) => break,
                // Nobody waits for the answers either.
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        scheduler.tick()?;
    }
}

/// Obeys a command. Returns whether no more jobs are taken from now on.
fn obey<E: Engine>(
    scheduler: &mut Scheduler<E>,
    command: Command<E::Saved>,
    is_draining: bool,
) -> bool {
    match command {
        Command::Submit(job) if is_draining => job.outlet.send(Update::Failed(Failure::Draining)),
        Command::Submit(job) => scheduler.submit(*job),
        // Who asked may have gone.
        Command::Erase(slot, reply) => drop(reply.send(scheduler.erase(slot))),
        Command::Save(slot, reply) => drop(reply.send(scheduler.save(slot))),
        Command::Restore(slot, saved, reply) => {
            drop(reply.send(scheduler.restore(slot, &saved)));
        }
        Command::Drain => {
            scheduler.refuse_queue();
            return true;
        }
        Command::Stop => {
            scheduler.refuse_queue();
            scheduler.stop_running();
            return true;
        }
    }
    false
}
