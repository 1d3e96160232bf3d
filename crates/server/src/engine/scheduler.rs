//! Which job runs on which slot, and what its client receives.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use llama_diffusion::diffusion::Stage;
use llama_diffusion::{Answer, EndTokens, Error};

use super::board::{Board, SlotView};
use super::job::{Failure, Job, Update};
use super::library::Library;
use super::queue::Queue;
use super::running::{Running, Step};
use super::{Engine, Saved as _};
use crate::metrics::{Abandoned, Metrics};

/// Steps that may fail in a row before the engine counts as broken.
const FAILURES: u32 = 3;
/// Copying a cache saves time from this number of tokens on: about a pass over a short prompt.
const WORTH_A_COPY: usize = 64;

/// The engine failed too often: the process had better end, so that a supervisor starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FAILURES} steps failed in a row")
    }
}

/// Why something is not done with a slot.
#[derive(Debug)]
pub enum Refusal {
    /// It is in use.
    InUse,
    /// What is restored does not fit, or the device fails.
    Failed(Error),
    /// The engine has ended.
    Ended,
}

/// How a job on a slot ends.
enum End {
    /// With this answer; `None` is nothing that has steps.
    Finished(Option<Answer>),
    Failed(Failure),
}

/// The time, which tests invent.
pub type Clock = Box<dyn Fn() -> Instant + Send>;

/// Distributes jobs to the slots of an engine.
pub struct Scheduler<E: Engine> {
    engine: E,
    queue: Queue,
    /// By slot.
    running: Vec<Option<Running>>,
    /// By slot: when it was used last, as a count of jobs.
    used: Vec<u64>,
    begun: u64,
    library: Library<E::Saved>,
    clock: Clock,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    failures: u32,
    /// The slot whose task had the last turn.
    turn: usize,
    end: EndTokens,
}

impl<E: Engine> Scheduler<E> {
    /// A scheduler without jobs, which keeps `library` bytes of caches on the host.
    pub fn new(
        engine: E,
        library: usize,
        clock: Clock,
        board: Arc<Board>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let slots = engine.slots();
        board.write(|shown| shown.slots = vec![SlotView::default(); slots]);
        Self {
            end: engine.end_tokens().clone(),
            engine,
            queue: Queue::default(),
            running: (0..slots).map(|_| None).collect(),
            used: vec![0; slots],
            begun: 0,
            library: Library::new(library),
            clock,
            board,
            metrics,
            failures: 0,
            turn: 0,
        }
    }

    /// The engine.
    #[cfg(test)]
    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    /// Takes a job.
    pub fn submit(&mut self, job: Job) {
        self.queue.push(job);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.queue.len() == 0 && self.running.iter().all(Option::is_none)
    }

    /// Refuses all jobs that wait.
    pub fn refuse_queue(&mut self) {
        self.refuse_all(&Failure::Draining);
    }

    fn refuse_all(&mut self, failure: &Failure) {
        for job in self.queue.drain() {
            refuse(job, failure.clone());
        }
    }

    /// Ends all answers at the next step, with what they have.
    pub fn stop_running(&mut self) {
        for running in self.running.iter().flatten() {
            running.job.cancel.cancel();
        }
    }

    fn check_idle(&self, slot: usize) -> Result<(), Refusal> {
        match self.running.get(slot) {
            Some(None) => Ok(()),
            _ => Err(Refusal::InUse),
        }
    }

    /// Forgets what an idle slot has cached. Returns how many tokens that were.
    ///
    /// # Errors
    /// The slot is in use, or the device fails.
    pub fn erase(&mut self, slot: usize) -> Result<usize, Refusal> {
        self.check_idle(slot)?;
        let cached = self.engine.cached(slot);
        self.engine.clear(slot).map_err(Refusal::Failed)?;
        Ok(cached)
    }

    /// Copies what an idle slot has cached.
    ///
    /// # Errors
    /// The slot is in use, or the device fails.
    pub fn save(&self, slot: usize) -> Result<E::Saved, Refusal> {
        self.check_idle(slot)?;
        self.engine.save(slot).map_err(Refusal::Failed)
    }

    /// Replaces what an idle slot has cached.
    ///
    /// # Errors
    /// The slot is in use, what is restored does not fit, or the device fails. The cache is empty in
    /// the last two cases.
    pub fn restore(&mut self, slot: usize, saved: &E::Saved) -> Result<(), Refusal> {
        self.check_idle(slot)?;
        self.engine.restore(slot, saved).map_err(Refusal::Failed)
    }

    /// Gives slots to jobs that wait, and advances all answers by a step.
    ///
    /// # Errors
    /// Too many steps failed in a row. All clients have been told.
    pub fn tick(&mut self) -> Result<(), Broken> {
        let gone = self.queue.drop_cancelled();
        self.metrics.cancelled(Abandoned::Queued, gone);
        self.end_cancelled_tasks();
        self.admit();
        let now = (self.clock)();
        let running = &mut self.running;
        let step = Step {
            clock: self.clock.as_ref(),
            end: &self.end,
            metrics: &self.metrics,
        };
        let steps = |running: &Option<Running>| running.as_ref().is_some_and(|it| !it.has_task());
        let stepped = match running.iter().any(steps) {
            true => self
                .engine
                .step(&mut |slot, event| {
                    let running = running.get_mut(slot).and_then(Option::as_mut);
                    let flow = running.map(|running| running.take(&event, &step));
                    flow.unwrap_or(ControlFlow::Break(()))
                })
                .map(Some),
            false => Ok(None),
        };
        let outcome = match stepped {
            Ok(None) => Ok(()),
            Ok(Some(finished)) => {
                self.count_step(now);
                self.failures = 0;
                for (slot, answer) in finished {
                    self.end(slot, answer);
                }
                Ok(())
            }
            Err(error) => self.fail_step(&error),
        };
        let outcome = outcome.and_then(|()| self.advance_task());
        self.show();
        outcome
    }

    /// Counts the canvases that shared the step that began at `start`.
    fn count_step(&mut self, start: Instant) {
        let running = self.running.iter_mut().flatten();
        let shared: Vec<&mut Running> = running.filter(|running| running.is_stepped).collect();
        let canvases = shared.len();
        if canvases > 0 {
            let time = (self.clock)().saturating_duration_since(start);
            self.metrics.stepped(canvases, time);
        }
        for running in shared {
            running.stepped(canvases);
        }
    }

    fn admit(&mut self) {
        while self.running.iter().any(Option::is_none) {
            let Some(job) = self.queue.pop() else {
                return;
            };
            self.begin(job);
        }
    }

    fn begin(&mut self, mut job: Job) {
        let Some(slot) = self.choose(&job) else {
            return self.queue.push(job); // cannot be: a slot is free
        };
        job.ticket.begin();
        let now = (self.clock)();
        let reused = match self.prepare(slot, &job) {
            Ok(reused) => reused,
            Err(error) => {
                let failure = Failure::Engine(error.to_string());
                return refuse(job, failure);
            }
        };
        let begun = self
            .engine
            .begin(slot, &job.prompt, job.recipe.as_ref(), &job.cancel);
        if let Err(error) = begun {
            return refuse(job, Failure::of(&error));
        }
        self.begun += 1;
        self.used[slot] = self.begun;
        self.metrics.begun(
            job.prompt.len(),
            reused,
            now.saturating_duration_since(job.submitted),
        );
        if job.outlet.reports_prompt {
            job.outlet.send(Update::Begun { reused });
        }
        let mut running = Running::new(job, slot, reused, now);
        if self.engine.stage(slot) != Some(Stage::Prefilling) {
            running.encoded(now);
        }
        if running.job.stops_after_prompt() && running.is_encoded() {
            self.engine.remove(slot);
            return self.conclude(running, None);
        }
        self.running[slot] = Some(running);
    }

    /// The free slot for a job: the one that it asks for; else the one that has most of its prompt;
    /// of equals the one that loses least; of these the one that was used longest ago.
    fn choose(&self, job: &Job) -> Option<usize> {
        let is_free = |slot: &usize| self.running.get(*slot).is_some_and(Option::is_none);
        if let Some(slot) = job.slot.filter(is_free) {
            return Some(slot);
        }
        let free = (0..self.running.len()).filter(is_free);
        free.max_by_key(|&slot| {
            let usable = match job.reuses {
                true => self.engine.usable_prefix(slot, &job.prompt),
                false => 0,
            };
            let lost = self.engine.cached(slot) - usable;
            (usable, usize::MAX - lost, u64::MAX - self.used[slot])
        })
    }

    /// Brings as much of a prompt as possible into the cache of a slot, from wherever it is, and keeps
    /// what the slot would lose. Returns how many tokens need not be encoded.
    fn prepare(&mut self, slot: usize, job: &Job) -> llama_diffusion::Result<usize> {
        if !job.reuses {
            self.keep(slot, 0)?;
            self.engine.clear(slot)?;
            return Ok(0);
        }
        let prompt = &job.prompt;
        let own = self.engine.usable_prefix(slot, prompt);
        self.keep(slot, own)?;
        let worth = own + WORTH_A_COPY;
        let others = (0..self.running.len()).filter(|other| *other != slot);
        let other = others
            .map(|other| (self.engine.usable_prefix(other, prompt), other))
            .max()
            .filter(|(usable, _)| *usable >= worth);
        let saved = self.library.longest(prompt);
        let saved = saved.filter(|(_, usable)| *usable >= worth);
        match (other, saved) {
            (Some((usable, other)), saved) if saved.is_none_or(|(_, saved)| saved <= usable) => {
                let copy = self.engine.save(other)?;
                self.engine.restore(slot, &copy)?;
            }
            (_, Some((index, _))) => {
                if let Some(copy) = self.library.get(index) {
                    self.engine.restore(slot, copy)?;
                }
            }
            _ => {}
        }
        Ok(self.engine.usable_prefix(slot, prompt))
    }

    /// Puts what a slot has cached into the library if most of it would be lost.
    fn keep(&mut self, slot: usize, usable: usize) -> llama_diffusion::Result<()> {
        let lost = self.engine.cached(slot) - usable;
        if self.library.is_open() && lost >= WORTH_A_COPY && lost > usable {
            let copy = self.engine.save(slot)?;
            tracing::debug!(slot, tokens = copy.tokens().len(), "cache kept on the host");
            self.library.put(copy);
        }
        Ok(())
    }

    /// Takes the end of an answer, or of the prompt of a task.
    fn end(&mut self, slot: usize, answer: llama_diffusion::Result<Answer>) {
        let Some(running) = self.running[slot].take() else {
            return;
        };
        match answer {
            Ok(answer) => self.conclude(running, Some(answer)),
            Err(error) => self.fail(running, &error),
        }
    }

    /// Ends an answer that has no more steps, or begins the task that comes after its prompt.
    fn conclude(&mut self, mut running: Running, answer: Option<Answer>) {
        let (slot, job) = (running.slot, &running.job);
        let Some(task) = &job.task else {
            return self.leave(running, End::Finished(answer));
        };
        if !running.is_encoded() {
            return self.fail(running, &Error::Cancelled);
        }
        match self.engine.begin_task(slot, &job.prompt, task) {
            Ok(()) => {
                running.begin_task(answer);
                self.running[slot] = Some(running);
            }
            Err(error) => self.fail(running, &error),
        }
    }

    /// Ends the tasks that are cancelled, which would keep their slots until their next turn.
    fn end_cancelled_tasks(&mut self) {
        let is_cancelled =
            |running: &mut Running| running.has_task() && running.job.cancel.is_cancelled();
        for slot in 0..self.running.len() {
            if let Some(running) = self.running[slot].take_if(is_cancelled) {
                self.engine.remove(slot);
                self.fail(running, &Error::Cancelled);
            }
        }
    }

    /// Advances one of the tasks by a pass: they take turns, so that a step of the others takes at most one
    /// pass longer.
    fn advance_task(&mut self) -> Result<(), Broken> {
        let slots = self.running.len();
        let turns = (1..=slots).map(|turn| (self.turn + turn) % slots);
        let has_task = |slot: &usize| self.running[*slot].as_ref().is_some_and(Running::has_task);
        let Some(slot) = { turns }.find(has_task) else {
            return Ok(());
        };
        self.turn = slot;
        let Some(mut running) = self.running[slot].take() else {
            return Ok(());
        };
        let start = (self.clock)();
        let advanced = self.engine.advance_task(slot, &running.job.cancel);
        let now = (self.clock)();
        running.advanced_task(now.saturating_duration_since(start));
        match advanced {
            Ok(None) => self.running[slot] = Some(running),
            Ok(Some(found)) => {
                let answer = running.found(found, now);
                self.leave(running, End::Finished(answer));
            }
            Err(error) => {
                // Logits that are not finite are a fault of this prompt, or of the model.
                let is_of_device = !matches!(error, Error::NotFinite { .. })
                    && matches!(Failure::of(&error), Failure::Engine(_));
                self.fail(running, &error);
                return match is_of_device {
                    true => self.count_failure(&error),
                    false => Ok(()),
                };
            }
        }
        self.failures = 0;
        Ok(())
    }

    /// Ends an answer or a task that fails alone, or is cancelled.
    fn fail(&mut self, running: Running, error: &Error) {
        let failure = Failure::of(error);
        if matches!(failure, Failure::Engine(_)) {
            tracing::error!("an answer failed: {error}");
        }
        self.leave(running, End::Failed(failure));
    }

    /// Takes an answer from its slot before its client has the end: it may ask again, or look at the slots, as
    /// soon as it has it.
    fn leave(&mut self, mut running: Running, end: End) {
        let is_abandoned = running.job.outlet.is_abandoned();
        if is_abandoned {
            let stage = match running.is_encoded() {
                true => Abandoned::Running,
                false => Abandoned::Prefilling,
            };
            self.metrics.cancelled(stage, 1);
        }
        running.job.ticket.release();
        self.board.write(|shown| {
            let view = shown.slots.get_mut(running.slot);
            view.into_iter().for_each(|view| view.is_busy = false);
        });
        let now = (self.clock)();
        match end {
            End::Finished(answer) => running.finish(answer.as_ref(), now, &self.metrics),
            // Nobody reads the end of what is abandoned, but it is counted as any other one.
            End::Failed(_) if is_abandoned => running.finish(None, now, &self.metrics),
            End::Failed(failure) => running.fail(failure),
        }
    }

    /// Tells the clients of a failed step. Prompts that are being encoded go on, and so do tasks.
    fn fail_step(&mut self, error: &Error) -> Result<(), Broken> {
        tracing::error!("a step failed: {error}");
        for slot in 0..self.running.len() {
            let has_task = self.running[slot].as_ref().is_some_and(Running::has_task);
            if has_task || self.engine.stage(slot) == Some(Stage::Prefilling) {
                continue;
            }
            if let Some(running) = self.running[slot].take() {
                self.engine.remove(slot);
                // A device that fails again is noticed by the next step.
                let _ = self.engine.clear(slot);
                self.leave(running, End::Failed(Failure::Engine(error.to_string())));
            }
        }
        self.count_failure(error)
    }

    /// Counts a step, or a pass of a task, that failed. The last one in a row ends everything.
    fn count_failure(&mut self, error: &Error) -> Result<(), Broken> {
        self.failures += 1;
        if self.failures < FAILURES {
            return Ok(());
        }
        let failure = Failure::Engine(error.to_string());
        for slot in 0..self.running.len() {
            if let Some(running) = self.running[slot].take() {
                self.leave(running, End::Failed(failure.clone()));
            }
        }
        self.refuse_all(&failure);
        Err(Broken)
    }

    fn show(&self) {
        self.board.write(|shown| {
            for (view, running) in shown.slots.iter_mut().zip(&self.running) {
                match running {
                    Some(running) => view.clone_from(&running.view),
                    None => view.is_busy = false,
                }
            }
            shown.queued = self.queue.len();
            shown.library = self.library.bytes();
        });
    }
}

/// Ends a job that has no slot. Its place is free before its client knows.
fn refuse(mut job: Job, failure: Failure) {
    job.ticket.release();
    job.outlet.send(Update::Failed(failure));
}
