//! Several sessions that answer at once: their canvases share every forward pass, and prompts are
//! encoded between the steps of the others.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Sequence, Session};
use crate::diffusion::{
    CancelFlag, CounterNoise, Event, Generator, Next, Recipe, Stage, Token, advance,
};
use crate::error::{Error, Result};
use crate::model::{AnyModel, BatchMember, CanvasBatch, Counters};
use crate::parameter::Parameter;

/// Identifies an answer in a [`SessionBatch`]; unique within the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(u64);

/// An answer that is complete.
pub struct FinishedMember {
    /// The id that [`SessionBatch::join`] returned.
    pub id: MemberId,
    /// The index of the session that answered. It is idle now.
    pub session: usize,
    /// The answer, or the error that ended it. Its denoising time is that of the steps it took part
    /// in, which it shared with others.
    pub answer: Result<Answer>,
}

struct Member {
    id: MemberId,
    generator: Generator,
    noise: CounterNoise,
    cancel: CancelFlag,
    is_paused: bool,
}

/// A session, and its current answer.
struct Slot {
    session: Session,
    member: Option<Member>,
}

impl Slot {
    /// Its member, if it is not paused and at one of these stages.
    fn at_work(&self, takes: impl Fn(Stage) -> bool) -> Option<&Member> {
        let member = self.member.as_ref()?;
        (!member.is_paused && takes(member.generator.stage())).then_some(member)
    }
}

/// When a pass over a prompt is part of a step.
#[derive(Clone, Copy, PartialEq)]
enum Fits {
    /// In any case, so that no prompt waits for ever.
    Always,
    /// If the step has room for the pass.
    Pass,
    /// If the step has room for the rest of the prompt.
    Complete,
}

type Handler<'a> = dyn FnMut(MemberId, Event<'_>) -> ControlFlow<()> + 'a;

/// Sessions of one model that answer together. Answers begin and end at any time, and each is what
/// its session would answer alone: canvases, steps and temperatures may differ. A step of several
/// canvases reads the weights once.
///
/// An answer passes through [`Stage`]s. Each [`step`](Self::step) encodes some of the prompts that
/// wait, then denoises all canvases. The decoder's graph is kept while the same sessions have a
/// canvas: an answer that takes the place of another one before the next step changes nothing.
pub struct SessionBatch {
    slots: Vec<Slot>,
    /// What canvases share; the masked families denoise one after the other.
    shared: Option<CanvasBatch>,
    /// Done, but not returned yet.
    finished: Vec<FinishedMember>,
    next: u64,
}

impl SessionBatch {
    /// For sessions of one model with the same settings (flash attention); steps use the threads of
    /// the first.
    ///
    /// # Errors
    /// There are no sessions or more than 256, they differ, or there is not enough memory.
    pub fn new(sessions: Vec<Session>) -> Result<Self> {
        let shared = match sessions.first().map(|session| &session.sequence) {
            None => {
                return Err(Error::parameter(
                    Parameter::Session,
                    "there are no sessions: give at least one",
                ));
            }
            Some(Sequence::Canvas(first)) => Some(CanvasBatch::new(first, sessions.len())?),
            Some(Sequence::Masked(_)) => None,
        };
        for session in &sessions {
            let fits = match (&session.sequence, &shared) {
                (Sequence::Canvas(denoiser), Some(shared)) => shared.check(denoiser).is_ok(),
                (Sequence::Masked(denoiser), None) => {
                    let first = sessions.first().map(Session::model);
                    matches!(first, Some(AnyModel::Masked(model)) if Arc::ptr_eq(model, denoiser.model()))
                }
                _ => false,
            };
            if !fits {
                return Err(Error::parameter(
                    Parameter::Session,
                    "a session is of another model, or its flash attention is set otherwise",
                ));
            }
        }
        let slots = sessions.into_iter().map(|session| Slot {
            session,
            member: None,
        });
        Ok(Self {
            slots: slots.collect(),
            shared,
            finished: Vec::new(),
            next: 0,
        })
    }

    /// Answers in progress.
    pub fn len(&self) -> usize {
        self.members().count()
    }

    /// Whether no answer is in progress.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of sessions.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// An idle session, by its index.
    pub fn idle(&mut self, session: usize) -> Option<&mut Session> {
        let slot = self.slots.get_mut(session)?;
        slot.member.is_none().then_some(&mut slot.session)
    }

    /// The sessions; answers in progress are dropped.
    pub fn into_sessions(self) -> Vec<Session> {
        self.slots.into_iter().map(|slot| slot.session).collect()
    }

    /// What the shared steps have done so far; the sessions count their own encoding and mixing.
    pub fn counters(&self) -> Counters {
        let shared = self.shared.as_ref();
        shared.map_or_else(Counters::default, CanvasBatch::counters)
    }

    /// Bytes of intermediate results and of inputs of the shared steps.
    pub fn memory(&self) -> usize {
        self.shared.as_ref().map_or(0, CanvasBatch::memory)
    }

    /// A session, also while it answers. Its cache may be copied then, too.
    pub fn session(&self, session: usize) -> Option<&Session> {
        self.slots.get(session).map(|slot| &slot.session)
    }

    /// Begins an answer on the idle session that holds most of the prompt. The prompt is encoded by
    /// the next [`step`](Self::step)s.
    ///
    /// # Errors
    /// All sessions are in use, or the errors of [`Session::begin`].
    pub fn join(
        &mut self,
        prompt: &[Token],
        params: &dyn Recipe,
        cancel: &CancelFlag,
    ) -> Result<MemberId> {
        let usable = |slot: &Slot| slot.session.usable_prefix(prompt);
        let slots = self.slots.iter().enumerate();
        let idle = slots.filter(|(_, slot)| slot.member.is_none());
        // The last of equals; a session that holds nothing else loses the least.
        let best = idle
            .max_by_key(|(_, slot)| (usable(slot), usize::MAX - slot.session.cached().len()))
            .map(|(index, _)| index);
        let Some(best) = best else {
            let problem = format!("it is full with {} answers", self.slots.len());
            return Err(Error::parameter(Parameter::Session, problem));
        };
        self.join_on(best, prompt, params, cancel)
    }

    /// Begins an answer on an idle session, by its index.
    ///
    /// # Errors
    /// There is no such session, or it is in use; or the errors of [`Session::begin`].
    pub fn join_on(
        &mut self,
        session: usize,
        prompt: &[Token],
        params: &dyn Recipe,
        cancel: &CancelFlag,
    ) -> Result<MemberId> {
        let idle = self.slots.get_mut(session);
        let Some(slot) = idle.filter(|slot| slot.member.is_none()) else {
            let problem = format!("number {session} does not exist or is in use");
            return Err(Error::parameter(Parameter::Session, problem));
        };
        let noise = CounterNoise::new(params.seed(), slot.session.model().vocab_size())?;
        let generator = slot.session.begin(prompt, params)?;
        let id = MemberId(self.next);
        self.next += 1;
        slot.member = Some(Member {
            id,
            generator,
            noise,
            cancel: cancel.clone(),
            is_paused: false,
        });
        Ok(id)
    }

    /// The stage of an answer; `None` if it is not in progress.
    pub fn stage(&self, id: MemberId) -> Option<Stage> {
        let member = self.members().find(|member| member.id == id)?;
        Some(member.generator.stage())
    }

    /// Pauses an answer, or resumes it. Returns whether it is in progress.
    pub fn pause(&mut self, id: MemberId, paused: bool) -> bool {
        let members = self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.member.as_mut());
        let member = members.into_iter().find(|member| member.id == id);
        member.map(|member| member.is_paused = paused).is_some()
    }

    /// Removes an unfinished answer.
    pub fn leave(&mut self, id: MemberId) -> Option<Answer> {
        let is_it = |slot: &&mut Slot| slot.member.as_ref().is_some_and(|m| m.id == id);
        if let Some(slot) = self.slots.iter_mut().find(is_it) {
            return slot.member.take().map(Member::answer);
        }
        let index = self.finished.iter().position(|m| m.id == id)?;
        self.finished.remove(index).answer.ok()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.slots.iter().filter_map(|slot| slot.member.as_ref())
    }

    /// Encodes waiting prompts, as many tokens as the canvases at work have; denoises all canvases
    /// once, including those after the prompts; commits those that are finished. Returns the
    /// answers that are complete or cancelled; without members, nothing. `on_event` receives the
    /// events of [`Session::generate`].
    ///
    /// # Errors
    /// The shared forward pass fails. The answers stay, but without their canvases: remove them by
    /// [`leave`](Self::leave). Those that were complete or cancelled are returned by the next call.
    pub fn step(&mut self, on_event: &mut Handler<'_>) -> Result<Vec<FinishedMember>> {
        self.end_cancelled();
        self.prefill(on_event);
        self.advance_each(on_event, |stage| stage == Stage::Beginning);
        self.end_cancelled();
        self.denoise_shared(on_event)?;
        if self.shared.is_none() {
            self.advance_each(on_event, |stage| stage == Stage::Denoising);
        }
        // A score is a pass of its session alone.
        self.advance_each(on_event, |stage| stage == Stage::Scoring);
        self.advance_each(on_event, |stage| stage == Stage::Committing);
        self.end_cancelled();
        self.collect();
        Ok(std::mem::take(&mut self.finished))
    }

    /// Ends the answers that were cancelled, including paused ones.
    fn end_cancelled(&mut self) {
        for member in self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.member.as_mut())
        {
            member.generator.check(&member.cancel);
        }
    }

    /// What the members at these stages need next, in turn.
    fn advance_each(&mut self, on_event: &mut Handler<'_>, takes: impl Fn(Stage) -> bool) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let Some(member) = &mut slot.member else {
                continue;
            };
            if member.is_paused || !takes(member.generator.stage()) {
                continue;
            }
            let id = member.id;
            let result = advance(
                &mut member.generator,
                slot.session.denoiser(),
                &member.noise,
                &member.cancel,
                &mut |event| on_event(id, event),
            );
            if let Err(error) = result {
                self.fail(index, error);
            }
        }
    }

    /// One step of all canvases in one pass.
    fn denoise_shared(&mut self, on_event: &mut Handler<'_>) -> Result<()> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        let start = Instant::now();
        let mut stepping = Vec::new();
        let mut batch: Vec<BatchMember<'_, '_>> = Vec::new();
        let mut failed = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Sequence::Canvas(denoiser) = &mut slot.session.sequence else {
                continue;
            };
            let Some(member) = &mut slot.member else {
                continue;
            };
            if member.is_paused || member.generator.stage() != Stage::Denoising {
                continue;
            }
            match member.generator.next(&member.noise) {
                Ok(Next::Step(input, draws)) => {
                    stepping.push(index);
                    batch.push(BatchMember {
                        denoiser,
                        input,
                        draws,
                    });
                }
                Ok(_) => {}
                Err(error) => failed.push((index, error)),
            }
        }
        if !batch.is_empty() {
            shared.step(&mut batch)?;
        }
        drop(batch);
        for (index, error) in failed {
            self.fail(index, error);
        }
        for &index in &stepping {
            let Some(member) = &mut self.slots[index].member else {
                continue;
            };
            let id = member.id;
            let on_event = &mut |event: Event<'_>| on_event(id, event);
            if let Err(error) = member.generator.stepped(&member.noise, start, on_event) {
                self.fail(index, error);
            }
        }
        Ok(())
    }

    /// Encodes waiting prompts within the [room](Self::prefill_room) of a step: a pass of the one
    /// that has waited longest, then as many of its passes as fit, then others that fit completely.
    fn prefill(&mut self, on_event: &mut Handler<'_>) {
        let mut room = self.prefill_room();
        let mut waiting: Vec<(MemberId, usize)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(member) = slot.at_work(|stage| stage == Stage::Prefilling) {
                waiting.push((member.id, index));
            }
        }
        waiting.sort_unstable();
        for (rank, (_, index)) in waiting.into_iter().enumerate() {
            let mut fits = match rank {
                0 => Fits::Always,
                _ => Fits::Complete,
            };
            while room > 0 {
                match self.prefill_pass(index, room, fits, on_event) {
                    0 => break,
                    cost => room = room.saturating_sub(cost),
                }
                if fits == Fits::Always {
                    fits = Fits::Pass;
                }
            }
        }
    }

    /// Tokens that a step may encode. The canvases at work wait for at most as many as they have, or
    /// for one pass, so that the step takes at most about twice its time where a pass has no more
    /// tokens than a canvas, as by default. If there are none, nobody waits.
    fn prefill_room(&self) -> usize {
        if self.shared.is_none() {
            return usize::MAX; // each step of the masked families reads the whole prompt
        }
        let tokens = |takes: fn(Stage) -> bool| -> usize {
            let at_work = self.slots.iter().filter_map(|slot| slot.at_work(takes));
            at_work.map(|member| member.generator.canvas_len()).sum()
        };
        match tokens(|stage| matches!(stage, Stage::Beginning | Stage::Denoising)) {
            0 => {
                let pass = self.slots.iter().map(|slot| slot.session.limits().pass);
                let waiting = tokens(|stage| stage == Stage::Prefilling);
                pass.max().unwrap_or(0).max(waiting)
            }
            tokens => tokens,
        }
    }

    /// A pass over a member's prompt, if it `fits` into `room` tokens. Returns its cost in tokens; 0
    /// if there was none. What others do never shortens a pass: with other passes the last bits
    /// of the cache differ, and so would an answer in which the model wavers.
    fn prefill_pass(
        &mut self,
        index: usize,
        room: usize,
        fits: Fits,
        on_event: &mut Handler<'_>,
    ) -> usize {
        let slot = &mut self.slots[index];
        let Some(member) = &mut slot.member else {
            return 0;
        };
        // A pass over a few tokens reads nearly as many weights as one over a canvas.
        let least = member.generator.canvas_len() / 2;
        let limit = slot.session.limits().pass;
        let start = Instant::now();
        let encoded = match member.generator.next(&member.noise) {
            Ok(Next::Prefill(rest)) => {
                let pass = &rest[..rest.len().min(limit)];
                let needed = match fits {
                    Fits::Always => 0,
                    Fits::Pass => pass.len().max(least),
                    Fits::Complete => rest.len().max(least),
                };
                if needed > room {
                    return 0;
                }
                let denoiser = slot.session.denoiser();
                denoiser.prefill(pass).map(|()| pass.len())
            }
            Ok(_) => return 0,
            Err(error) => Err(error),
        };
        let id = member.id;
        match encoded {
            Ok(count) => {
                let on_event = &mut |event: Event<'_>| on_event(id, event);
                member.generator.prefilled(count, start, on_event);
                count.max(least)
            }
            Err(error) => {
                self.fail(index, error);
                0
            }
        }
    }

    /// Ends a member with an error.
    fn fail(&mut self, index: usize, error: Error) {
        let slot = &mut self.slots[index];
        if let Some(member) = slot.member.take() {
            self.finished.push(FinishedMember {
                id: member.id,
                session: index,
                answer: Err(slot.session.explain(error)),
            });
        }
    }

    /// Moves the members that are done to the finished ones.
    fn collect(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let is_done = |member: &mut Member| member.generator.stage() == Stage::Done;
            if let Some(member) = slot.member.take_if(is_done) {
                self.finished.push(FinishedMember {
                    id: member.id,
                    session: index,
                    answer: Ok(member.answer()),
                });
            }
        }
    }
}

impl Member {
    /// The answer so far.
    fn answer(self) -> Answer {
        Answer {
            reused: self.generator.reused(),
            generation: self.generator.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::FinishReason;
    use crate::gguf::TensorType;
    use crate::synthetic::{Geometry, WeightTypes, write_synthetic};
    use crate::{DiffusionParams, EndTokens, Model, SessionParams};

    fn model() -> Arc<Model> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let types = WeightTypes::Uniform(TensorType::F32);
        write_synthetic(&path, &Geometry::tiny(), types, 7).unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        Arc::new(Model::load(&path, &Default::default(), go_on).unwrap())
    }

    fn session(model: &Arc<Model>) -> Session {
        let params = SessionParams {
            context: Some(512),
            threads: Some(1),
            ..SessionParams::default()
        };
        Session::new(model, EndTokens::default(), &params).unwrap()
    }

    fn go_on(_: MemberId, _: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_pass_that_fails_loses_no_session() {
        let model = model();
        let sessions = (0..3).map(|_| session(&model)).collect();
        let mut batch = SessionBatch::new(sessions).unwrap();
        let cancel = CancelFlag::default();
        let params = DiffusionParams::default();
        let [a, b, c] = [&CancelFlag::default(), &cancel, &cancel]
            .map(|flag| batch.join(&[5], &params, flag).unwrap());
        for _ in 0..3 {
            assert!(batch.step(&mut go_on).unwrap().is_empty());
        }
        cancel.cancel();
        let of_a = batch.slots.iter_mut().find(|slot| {
            let member = slot.member.as_ref();
            member.is_some_and(|member| member.id == a)
        });
        of_a.unwrap().session.reset().unwrap(); // without a canvas, the pass is refused
        assert!(batch.step(&mut go_on).is_err());
        assert!(batch.leave(c).is_some(), "done, and not handed out yet");
        assert!(batch.leave(a).is_some());
        let finished = batch.step(&mut go_on).unwrap();
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].id, b);
        let answer = finished[0].answer.as_ref().unwrap();
        assert_eq!(answer.generation.finish, FinishReason::Cancelled);
        assert!(batch.is_empty());
        assert_eq!(batch.into_sessions().len(), 3);
    }

    #[test]
    fn an_answer_joins_the_session_that_it_names() {
        let model = model();
        let sessions = (0..2).map(|_| session(&model)).collect();
        let mut batch = SessionBatch::new(sessions).unwrap();
        let (params, cancel) = (DiffusionParams::default(), CancelFlag::default());
        let id = batch.join_on(1, &[5], &params, &cancel).unwrap();
        for bad in [1, 2] {
            let error = batch.join_on(bad, &[5], &params, &cancel).unwrap_err();
            let expected = format!("session: number {bad} does not exist or is in use");
            assert_eq!(error.to_string(), expected);
        }
        batch.step(&mut go_on).unwrap();
        assert_eq!(batch.session(1).unwrap().cached(), [5]);
        assert!(batch.session(0).unwrap().cached().is_empty());
        assert!(batch.session(2).is_none());
        batch.leave(id).unwrap();
        assert!(batch.idle(1).is_some());
    }

    #[test]
    fn the_memory_of_a_batch_is_freed_with_its_sessions() {
        let model = model();
        let mut sessions: Vec<Session> = (0..3).map(|_| session(&model)).collect();
        let caches: Vec<_> = sessions
            .iter_mut()
            .map(|session| session.canvas_denoiser().unwrap().cache_memory())
            .collect();
        let alive = || -> Vec<bool> { caches.iter().map(|c| c.strong_count() > 0).collect() };
        let mut batch = SessionBatch::new(sessions).unwrap();
        for _ in 0..3 {
            let params = DiffusionParams::default();
            batch.join(&[5], &params, &CancelFlag::default()).unwrap();
        }
        for _ in 0..4 {
            batch.step(&mut go_on).unwrap();
        }
        assert_eq!(alive(), [true; 3]);
        let mut sessions = batch.into_sessions();
        assert_eq!(alive(), [true; 3]);
        sessions.remove(1);
        assert_eq!(alive(), [true, false, true]);
        drop(sessions);
        assert_eq!(alive(), [false; 3]);
    }
}
