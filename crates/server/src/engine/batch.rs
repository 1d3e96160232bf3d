//! The engine on a model: a batch of sessions.

use std::ops::ControlFlow;

use llama_diffusion::diffusion::{Recipe, Stage};
use llama_diffusion::form::FilledForm;
use llama_diffusion::{
    Answer, CancelFlag, EndTokens, Error, MemberId, Result, Session, SessionBatch, Snapshot, Token,
};

use super::job::FormTask;
use super::{Engine, Handler, Saved};

/// A batch of sessions, each of which is a slot.
pub struct BatchEngine {
    batch: SessionBatch,
    end: EndTokens,
    /// The answer on each slot.
    members: Vec<Option<MemberId>>,
}

impl BatchEngine {
    /// An engine on sessions of one model.
    ///
    /// # Errors
    /// As [`SessionBatch::new`].
    pub fn new(sessions: Vec<Session>) -> Result<Self> {
        let end = sessions.first().map(|session| session.end_tokens().clone());
        Ok(Self {
            members: vec![None; sessions.len()],
            end: end.unwrap_or_default(),
            batch: SessionBatch::new(sessions)?,
        })
    }

    fn session(&self, slot: usize) -> Result<&Session> {
        self.batch.session(slot).ok_or_else(|| no_slot(slot))
    }

    fn idle(&mut self, slot: usize) -> Result<&mut Session> {
        self.batch.idle(slot).ok_or_else(|| no_slot(slot))
    }
}

fn no_slot(slot: usize) -> Error {
    Error::Input {
        name: format!("slot {slot}"),
        problem: "it does not exist or is in use".into(),
    }
}

impl Engine for BatchEngine {
    type Saved = Snapshot;

    fn slots(&self) -> usize {
        self.members.len()
    }

    fn end_tokens(&self) -> &EndTokens {
        &self.end
    }

    fn cached(&self, slot: usize) -> usize {
        self.session(slot)
            .map_or(0, |session| session.cached().len())
    }

    fn usable_prefix(&self, slot: usize, prompt: &[Token]) -> usize {
        self.session(slot)
            .map_or(0, |session| session.usable_prefix(prompt))
    }

    fn save(&self, slot: usize) -> Result<Snapshot> {
        self.session(slot)?.snapshot()
    }

    fn restore(&mut self, slot: usize, saved: &Snapshot) -> Result<()> {
        self.idle(slot)?.restore(saved)
    }

    fn clear(&mut self, slot: usize) -> Result<()> {
        self.idle(slot)?.reset()
    }

    fn begin(
        &mut self,
        slot: usize,
        prompt: &[Token],
        recipe: &dyn Recipe,
        cancel: &CancelFlag,
    ) -> Result<()> {
        let member = self.batch.join_on(slot, prompt, recipe, cancel)?;
        self.members[slot] = Some(member);
        Ok(())
    }

    fn stage(&self, slot: usize) -> Option<Stage> {
        self.batch.stage(self.members[slot]?)
    }

    fn step(&mut self, on_event: &mut Handler<'_>) -> Result<Vec<(usize, Result<Answer>)>> {
        let members = &self.members;
        let finished = self.batch.step(&mut |id, event| {
            let slot = members.iter().position(|member| *member == Some(id));
            slot.map_or(ControlFlow::Break(()), |slot| on_event(slot, event))
        })?;
        let of_slots = finished.into_iter().map(|finished| {
            self.members[finished.session] = None;
            (finished.session, finished.answer)
        });
        Ok(of_slots.collect())
    }

    fn remove(&mut self, slot: usize) {
        if let Some(member) = self.members[slot].take() {
            self.batch.leave(member);
        }
    }

    fn fill(
        &mut self,
        slot: usize,
        prompt: &[Token],
        task: &FormTask,
        cancel: &CancelFlag,
    ) -> Result<FilledForm> {
        let FormTask {
            before,
            form,
            params,
        } = task;
        self.idle(slot)?.fill(prompt, before, form, params, cancel)
    }
}

impl Saved for Snapshot {
    fn tokens(&self) -> &[Token] {
        self.tokens()
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}
