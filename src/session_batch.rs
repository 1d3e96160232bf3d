//! Several sessions that answer at once: their canvases share every forward pass.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::diffusion::scheduler::AnswerRun;
use crate::diffusion::{
    CancelFlag, CanvasRun, CounterNoise, Denoiser as _, DiffusionParams, Event, Progress, Run as _,
    Token,
};
use crate::error::{Error, Result};
use crate::model::{BatchMember, CanvasBatch};
use crate::session::{Answer, Session};

/// Names a session in a [`SessionBatch`]; none is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(u64);

/// A session whose answer is complete.
pub struct FinishedMember {
    /// As [`SessionBatch::join`] gave it.
    pub id: MemberId,
    /// The session, for the next prompt.
    pub session: Session,
    /// The answer, or what ended it. Its denoising time is that of the steps it took part in,
    /// which others shared.
    pub answer: Result<Answer>,
}

struct Member {
    id: MemberId,
    session: Session,
    params: DiffusionParams,
    noise: CounterNoise,
    cancel: CancelFlag,
    canvas: CanvasRun,
    answer: AnswerRun,
    reused: usize,
    prefill: Duration,
}

/// What becomes of a member after a step.
enum Fate {
    GoesOn,
    Ends,
}

/// Sessions of one model that denoise together. They join and finish at any time, and each answers
/// what it would answer alone: canvases, steps and temperatures need not be in step with each
/// other. A step of several canvases reads the weights once.
pub struct SessionBatch {
    batch: CanvasBatch,
    members: Vec<Member>,
    /// Done, and not yet handed out.
    finished: Vec<FinishedMember>,
    next: u64,
}

impl SessionBatch {
    /// For at most `capacity` sessions of the model of `like` that run as it does (flash
    /// attention); steps use its threads.
    ///
    /// # Errors
    /// The capacity is 0 or above 256, or memory is not there.
    pub fn new(like: &mut Session, capacity: usize) -> Result<Self> {
        Ok(Self {
            batch: CanvasBatch::new(like.denoiser(), capacity)?,
            members: Vec::new(),
            finished: Vec::new(),
            next: 0,
        })
    }

    /// Sessions at work.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no session is at work.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Encodes a prompt and begins its answer with the next [`step`](Self::step).
    ///
    /// # Errors
    /// With the session given back: the batch is full, and those of
    /// [`Session::generate`] before its first step.
    pub fn join(
        &mut self,
        mut session: Session,
        prompt: &[Token],
        params: &DiffusionParams,
        cancel: &CancelFlag,
    ) -> Result<MemberId, Box<(Error, Session)>> {
        match self.begin(&mut session, prompt, params, cancel) {
            Ok((canvas, noise, answer, reused, prefill)) => {
                let id = MemberId(self.next);
                self.next += 1;
                self.members.push(Member {
                    id,
                    session,
                    params: params.clone(),
                    noise,
                    cancel: cancel.clone(),
                    canvas,
                    answer,
                    reused,
                    prefill,
                });
                Ok(id)
            }
            Err(error) => Err(Box::new((error, session))),
        }
    }

    fn begin(
        &self,
        session: &mut Session,
        prompt: &[Token],
        params: &DiffusionParams,
        cancel: &CancelFlag,
    ) -> Result<(CanvasRun, CounterNoise, AnswerRun, usize, Duration)> {
        if self.members.len() == self.batch.capacity() {
            let problem = format!("it is full with {} sessions", self.members.len());
            return Err(Error::parameter("batch of sessions", problem));
        }
        self.batch.check(session.denoiser())?;
        params.validate()?;
        let start = Instant::now();
        let reused = session.prefill_unless(prompt, cancel)?;
        let prefill = start.elapsed();
        let noise = CounterNoise::new(params.seed, session.model().hparams().vocab_size)?;
        let denoiser = session.denoiser();
        let answer = AnswerRun::begin(params, denoiser)?;
        denoiser.begin_canvas()?;
        let canvas = CanvasRun::new(params, 0, denoiser.canvas_len(), &noise)?;
        Ok((canvas, noise, answer, reused, prefill))
    }

    /// Takes a session out, its answer unfinished.
    pub fn leave(&mut self, id: MemberId) -> Option<Session> {
        if let Some(index) = self.members.iter().position(|m| m.id == id) {
            self.batch.unload();
            return Some(self.members.remove(index).session);
        }
        let index = self.finished.iter().position(|m| m.id == id)?;
        Some(self.finished.remove(index).session)
    }

    /// One denoising step of all sessions, and the commit of those canvases that it finished.
    /// Returns the sessions whose answer is complete or cancelled; without members, nothing.
    /// `on_event` receives the events of [`Session::generate`].
    ///
    /// # Errors
    /// The forward pass fails. The members stay, but without their canvases: take them out by
    /// [`leave`](Self::leave). Those that were cancelled come with the next call.
    pub fn step(
        &mut self,
        on_event: &mut dyn FnMut(MemberId, Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<FinishedMember>> {
        let mut stepping = Vec::new();
        for mut member in self.members.drain(..) {
            let stops = member.announce_canvas(on_event).is_break();
            // Uniforms are drawn before the pass, so that a failure is the member's own.
            match stops || member.cancel.is_cancelled() {
                true => self.finished.push(member.finish(Ok(()))),
                false => match member.canvas.begin_step(&member.noise) {
                    Ok(_) => stepping.push(member),
                    Err(error) => self.finished.push(member.finish(Err(error))),
                },
            }
        }
        self.members = stepping;
        if self.members.is_empty() {
            return Ok(self.hand_out());
        }
        let start = Instant::now();
        let mut batch: Vec<BatchMember<'_, '_>> = self
            .members
            .iter_mut()
            .map(|member| {
                let (input, output) = member.canvas.step_io();
                BatchMember {
                    denoiser: member.session.denoiser(),
                    input,
                    output,
                }
            })
            .collect();
        self.batch.step(&mut batch)?;
        let time = start.elapsed();

        for mut member in std::mem::take(&mut self.members) {
            match member.end_step(time, on_event) {
                Ok(Fate::GoesOn) => self.members.push(member),
                Ok(Fate::Ends) => self.finished.push(member.finish(Ok(()))),
                Err(error) => self.finished.push(member.finish(Err(error))),
            }
        }
        Ok(self.hand_out())
    }

    /// The sessions that are done. The graph would keep their caches alive.
    fn hand_out(&mut self) -> Vec<FinishedMember> {
        if !self.finished.is_empty() {
            self.batch.unload();
        }
        std::mem::take(&mut self.finished)
    }
}

impl Member {
    /// Reports a canvas that no step has read yet.
    fn announce_canvas(
        &self,
        on_event: &mut dyn FnMut(MemberId, Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self.canvas.steps() {
            0 => on_event(self.id, Event::CanvasBegun(self.canvas.new_canvas())),
            _ => ControlFlow::Continue(()),
        }
    }

    fn end_step(
        &mut self,
        time: Duration,
        on_event: &mut dyn FnMut(MemberId, Event<'_>) -> ControlFlow<()>,
    ) -> Result<Fate> {
        let id = self.id;
        let on_event = &mut |event: Event<'_>| on_event(id, event);
        self.canvas
            .end_step(&self.noise)
            .map_err(|error| self.session.model().file().explain(error))?;
        self.answer.count_step(time);
        if on_event(Event::Draft(self.canvas.draft())).is_break() {
            return Ok(Fate::Ends);
        }
        if self.canvas.progress() == Progress::Running {
            return Ok(Fate::GoesOn);
        }
        let end = self.session.end_tokens().clone();
        let denoiser = self.session.denoiser();
        let done = self.canvas.finish(&end);
        let block = done.block + 1;
        if !self
            .answer
            .end_canvas(done, denoiser, &self.cancel, on_event)?
        {
            return Ok(Fate::Ends);
        }
        denoiser.begin_canvas()?;
        self.canvas = CanvasRun::new(&self.params, block, denoiser.canvas_len(), &self.noise)?;
        Ok(Fate::GoesOn)
    }

    fn finish(self, result: Result<()>) -> FinishedMember {
        FinishedMember {
            id: self.id,
            session: self.session,
            answer: result.map(|()| Answer {
                generation: self.answer.generation,
                reused: self.reused,
                prefill: self.prefill,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diffusion::FinishReason;
    use crate::gguf::TensorType;
    use crate::synthetic::{Geometry, WeightTypes, write_synthetic};
    use crate::{EndTokens, Model, SessionParams};

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

    fn join(
        batch: &mut SessionBatch,
        session: Session,
        params: &DiffusionParams,
        cancel: &CancelFlag,
    ) -> MemberId {
        let joined = batch.join(session, &[5], params, cancel);
        joined.map_err(|refused| refused.0).unwrap()
    }

    fn go_on(_: MemberId, _: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_pass_that_fails_loses_no_session() {
        let model = model();
        let mut batch = SessionBatch::new(&mut session(&model), 3).unwrap();
        let cancel = CancelFlag::default();
        let [a, b, c] = [&CancelFlag::default(), &cancel, &cancel].map(|flag| {
            join(
                &mut batch,
                session(&model),
                &DiffusionParams::default(),
                flag,
            )
        });
        cancel.cancel();
        batch.members[0].session.reset(); // without a canvas, the pass is refused
        assert!(batch.step(&mut go_on).is_err());
        assert_eq!(batch.len(), 1);
        assert!(batch.leave(c).is_some(), "done, and not handed out yet");
        assert!(batch.leave(a).is_some());
        let finished = batch.step(&mut go_on).unwrap();
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].id, b);
        let answer = finished[0].answer.as_ref().unwrap();
        assert_eq!(answer.generation.finish, FinishReason::Cancelled);
    }

    #[test]
    fn the_memory_of_sessions_that_are_done_is_freed() {
        let model = model();
        let mut batch = SessionBatch::new(&mut session(&model), 3).unwrap();
        let steps = |max_steps| DiffusionParams {
            max_steps,
            max_canvases: Some(1),
            max_tokens: None,
            ..DiffusionParams::default()
        };
        let mut caches = Vec::new();
        let ids = [1, 9, 9].map(|max_steps| {
            let mut session = session(&model);
            caches.push(session.denoiser().cache_memory());
            join(
                &mut batch,
                session,
                &steps(max_steps),
                &CancelFlag::default(),
            )
        });
        let alive = || -> Vec<bool> { caches.iter().map(|c| c.strong_count() > 0).collect() };
        let finished = batch.step(&mut go_on).unwrap();
        assert_eq!(finished[0].id, ids[0]);
        assert_eq!(alive(), [true; 3]);
        drop(finished);
        assert_eq!(alive(), [false, true, true]);
        batch.step(&mut go_on).unwrap();
        drop(batch.leave(ids[1]));
        assert_eq!(alive(), [false, false, true]);
        batch.step(&mut go_on).unwrap();
        drop(batch);
        assert_eq!(alive(), [false; 3]);
    }
}
