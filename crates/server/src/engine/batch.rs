//! The engine on a model: a batch of sessions.

use std::ops::ControlFlow;
use std::sync::Arc;

use llama_diffusion::diffusion::{Recipe, Stage, TokenScore};
use llama_diffusion::{
    Answer, CancelFlag, CanvasRow, EndTokens, Error, FormRun, MemberId, Result, RowsRun, Session,
    SessionBatch, Snapshot, Token,
};

use super::job::{CanvasReport, FormTask, Found, ReadTask, Task};
use super::{Engine, Handler, Saved};

/// A batch of sessions, each of which is a slot.
pub struct BatchEngine {
    batch: SessionBatch,
    end: EndTokens,
    /// The answer on each slot.
    members: Vec<Option<MemberId>>,
    /// The task on each slot.
    tasks: Vec<Option<TaskRun>>,
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
            tasks: sessions.iter().map(|_| None).collect(),
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
        self.tasks[slot] = None;
        if let Some(member) = self.members[slot].take() {
            self.batch.leave(member);
        }
    }

    fn begin_task(&mut self, slot: usize, prompt: &[Token], task: &Task) -> Result<()> {
        let session = self.idle(slot)?;
        let begun = match task {
            Task::Form(FormTask {
                before,
                form,
                params,
            }) => session
                .begin_fill(prompt, before, form, params)
                .map(|run| TaskRun::Form(Box::new(run))),
            Task::Read(task) => TaskRun::read(session, prompt, task),
        };
        self.tasks[slot] = Some(begun?);
        Ok(())
    }

    fn advance_task(&mut self, slot: usize, cancel: &CancelFlag) -> Result<Option<Found>> {
        let Some(mut task) = self.tasks[slot].take() else {
            return Err(no_slot(slot));
        };
        let found = task.advance(self.idle(slot)?, cancel)?;
        if found.is_none() {
            self.tasks[slot] = Some(task);
        }
        Ok(found)
    }
}

/// A task in progress.
enum TaskRun {
    /// A form is filled.
    Form(Box<FormRun>),
    /// A canvas is read.
    Read {
        task: Box<ReadTask>,
        canvas: Box<RowsRun>,
        scores: Vec<TokenScore>,
    },
}

impl TaskRun {
    /// Reads a canvas after a prompt.
    fn read(session: &Session, prompt: &[Token], task: &ReadTask) -> Result<Self> {
        let row = CanvasRow {
            template: Arc::new(task.template.clone()),
            noise: 0,
            read: (0..task.positions).collect(),
        };
        Ok(Self::Read {
            canvas: Box::new(session.begin_rows(prompt, vec![row], &task.params)?),
            task: Box::new(task.clone()),
            scores: Vec::new(),
        })
    }

    /// Does a forward pass.
    fn advance(&mut self, session: &mut Session, cancel: &CancelFlag) -> Result<Option<Found>> {
        match self {
            Self::Form(run) => Ok(run.advance(session, cancel)?.map(Found::Form)),
            Self::Read {
                task,
                canvas,
                scores,
            } => {
                let is_done = canvas.advance(session, cancel, &mut |_, position, logits| {
                    let score = task.score(logits).ok_or(Error::NotFinite {
                        block: 0,
                        step: task.params.max_steps - 1,
                        position,
                    });
                    scores.push(score?);
                    Ok(())
                })?;
                Ok(is_done.then(|| {
                    Found::Read(CanvasReport {
                        scores: std::mem::take(scores),
                        passes: canvas.report().passes,
                    })
                }))
            }
        }
    }
}

impl ReadTask {
    /// What is read of a position; `None` if its logits are not finite.
    fn score(&self, logits: &[f32]) -> Option<TokenScore> {
        let logit = |token: Token| f64::from(logits[token as usize]);
        let mut best = match self.constrained {
            true => self.tokens.clone(),
            false => {
                let greatest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                vec![greatest? as Token]
            }
        };
        // Of equally likely ones the lowest id.
        best.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
        let mut score = TokenScore::new(logits, *best.first()?, self.top);
        if self.constrained {
            let total: f64 = best
                .iter()
                .map(|id| (logit(*id) - logit(score.token)).exp())
                .sum();
            score.logprob = -total.ln() as f32;
            score.top.clear();
        }
        let own = f64::from(score.logprob) - logit(score.token);
        for &token in &self.tokens {
            if score.top.iter().all(|(other, _)| *other != token) {
                score.top.push((token, (logit(token) + own) as f32));
            }
        }
        score.logprob.is_finite().then_some(score)
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
