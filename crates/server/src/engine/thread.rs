//! The thread of the engine, and how others reach it.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use tokio::sync::oneshot;

use super::Engine;
use super::job::{Failure, Job, Update};
use super::scheduler::{Broken, Scheduler};

/// What the thread is asked to do.
pub enum Command {
    /// A job.
    Submit(Box<Job>),
    /// Forget what a slot has cached, and report the number of tokens; `None` if it is in use.
    Erase(usize, oneshot::Sender<Option<usize>>),
    /// Refuse the jobs that wait, and end after those that run.
    Drain,
    /// End the answers that run, with what they have.
    Stop,
}

/// How others reach the thread.
#[derive(Clone)]
pub struct Handle(Sender<Command>);

impl Handle {
    /// A handle, and where its commands come out.
    pub fn new() -> (Self, Receiver<Command>) {
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

    /// Forgets what a slot has cached. `None` if it is in use, or the thread has ended.
    pub async fn erase(&self, slot: usize) -> Option<usize> {
        let (reply, erased) = oneshot::channel();
        self.0.send(Command::Erase(slot, reply)).ok()?;
        erased.await.ok().flatten()
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
    commands: &Receiver<Command>,
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
fn obey<E: Engine>(scheduler: &mut Scheduler<E>, command: Command, is_draining: bool) -> bool {
    match command {
        Command::Submit(job) if is_draining => job.outlet.send(Update::Failed(Failure::Draining)),
        Command::Submit(job) => scheduler.submit(*job),
        Command::Erase(slot, reply) => drop(reply.send(scheduler.erase(slot))),
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
