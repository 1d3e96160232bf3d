//! The answers to a request while they are computed, as others than their client follow them.
//!
//! The engine publishes and never waits: a viewer has a place for the latest draft, and reads finished
//! canvases from a list that all share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_diffusion::Event;
use llama_diffusion::chat::thinking::Splitter;
use llama_diffusion::diffusion::FinishedCanvas;
use tokio::sync::watch;

use crate::drafts::DraftSlot;
use crate::engine::job::{Ended, Update};

/// The answers to a request.
#[derive(Default)]
pub struct Followed {
    /// How each of them begins.
    pub begins: Vec<Begin>,
    /// Fields of the request without effect.
    pub ignored: Vec<String>,
    viewers: Mutex<Vec<Arc<DraftSlot>>>,
    story: watch::Sender<Story>,
}

/// How an answer begins.
pub struct Begin {
    /// Where thoughts are separated from the answer.
    pub splitter: Splitter,
    /// Its seed.
    pub seed: u64,
}

/// What has happened so far.
#[derive(Default)]
pub struct Story {
    /// In each answer.
    pub answers: Vec<Chapter>,
    /// Whether the client is gone or has everything.
    pub is_closed: bool,
}

/// What has happened in an answer.
#[derive(Default)]
pub struct Chapter {
    /// The finished canvases.
    pub canvases: Vec<Arc<FinishedCanvas>>,
    /// Its end, once it is complete.
    pub ended: Option<Arc<Ended>>,
}

impl Followed {
    /// Answers that nobody follows yet.
    pub fn new(begins: Vec<Begin>, ignored: Vec<String>) -> Self {
        let story = Story {
            answers: begins.iter().map(|_| Chapter::default()).collect(),
            is_closed: false,
        };
        Self {
            begins,
            ignored,
            viewers: Mutex::default(),
            story: watch::Sender::new(story),
        }
    }

    fn viewers(&self) -> MutexGuard<'_, Vec<Arc<DraftSlot>>> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes drafts in one more place.
    pub fn add(&self, viewer: &Arc<DraftSlot>) {
        self.viewers().push(Arc::clone(viewer));
    }

    /// The same no longer.
    pub fn remove(&self, viewer: &Arc<DraftSlot>) {
        self.viewers().retain(|other| !Arc::ptr_eq(other, viewer));
    }

    /// Publishes an event. It is copied once, if anybody wants it.
    pub fn show(&self, answer: usize, event: &Event<'_>) {
        let mut copy = None;
        for viewer in self.viewers().iter() {
            viewer.publish(answer, event, &mut copy);
        }
    }

    /// Records what a viewer has to know.
    pub fn record(&self, answer: usize, update: &Update) {
        let change = |change: &dyn Fn(&mut Chapter)| {
            self.story.send_if_modified(|story| {
                // An answer whose client is gone is cancelled, and does not end.
                let chapter = story.answers.get_mut(answer).filter(|_| !story.is_closed);
                chapter.map(change).is_some()
            });
        };
        match update {
            Update::Canvas { canvas, .. } => {
                let canvas = Arc::new(canvas.clone());
                change(&|chapter| chapter.canvases.push(Arc::clone(&canvas)));
            }
            Update::Ended(ended) => {
                let ended = Arc::new(ended.clone());
                change(&|chapter| chapter.ended = Some(Arc::clone(&ended)));
            }
            _ => {}
        }
    }

    /// What happens from now on.
    pub fn story(&self) -> watch::Receiver<Story> {
        self.story.subscribe()
    }

    fn close(&self) {
        self.story.send_modify(|story| story.is_closed = true);
    }
}

/// The requests in progress, by their ids.
#[derive(Default)]
pub struct Register(Mutex<HashMap<String, Arc<Followed>>>);

impl Register {
    fn requests(&self) -> MutexGuard<'_, HashMap<String, Arc<Followed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a request as long as the returned value lives. The id has no prefix.
    pub fn list(self: &Arc<Self>, id: &str, followed: &Arc<Followed>) -> Listed {
        self.requests().insert(id.to_owned(), Arc::clone(followed));
        Listed {
            register: Arc::clone(self),
            id: id.to_owned(),
        }
    }

    /// The request with an id, with or without the prefix of its protocol.
    pub fn get(&self, id: &str) -> Option<Arc<Followed>> {
        let id = id.rsplit(['-', '_']).next()?;
        self.requests().get(id).map(Arc::clone)
    }
}

/// A request that is listed.
pub struct Listed {
    register: Arc<Register>,
    id: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let followed = self.register.requests().remove(&self.id);
        if let Some(followed) = followed {
            followed.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use llama_diffusion::diffusion::{CanvasStatus, Draft};

    use super::*;
    use crate::drafts::Shown;
    use crate::metrics::Metrics;
    use crate::protocol::request::{DraftLevel, Drafts};

    fn viewer(every: u32) -> Arc<DraftSlot> {
        let wanted = Drafts {
            level: DraftLevel::Full,
            min_interval: Duration::ZERO,
            every,
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        Arc::new(DraftSlot::new(wanted, 1, metrics))
    }

    fn draft(step: u32) -> Draft<'static> {
        Draft {
            block: 0,
            step,
            max_steps: 100,
            temperature: 1.0,
            argmax: &[1],
            sampled: &[1],
            entropy: &[0.0],
            probability: &[1.0],
            accepted: &[true],
            canvas: &[1],
            mean_entropy: 0.0,
            stable: false,
            status: CanvasStatus::Running,
        }
    }

    /// One viewer never reads: it holds the latest draft alone, and nobody waits for it.
    #[test]
    fn viewers_share_the_latest_draft() {
        let followed = Followed::default();
        let (deaf, reader, rare) = (viewer(1), viewer(1), viewer(10));
        for viewer in [&deaf, &reader, &rare] {
            followed.add(viewer);
        }
        // The step of a draft, and how many places hold it.
        let step = |shown: &[Shown]| match shown {
            [Shown::Draft(draft)] => Some((draft.step, Arc::strong_count(draft))),
            _ => None,
        };
        for number in 0..100 {
            followed.show(0, &Event::Draft(draft(number)));
            let is_tenth = number % 10 == 9;
            let places = 2 + usize::from(is_tenth);
            assert_eq!(step(&reader.take_until(0, 0)), Some((number, places)));
            let tenth = is_tenth.then_some((number, 2));
            assert_eq!(step(&rare.take_until(0, 0)), tenth);
        }
        followed.remove(&reader);
        followed.show(0, &Event::Draft(draft(100)));
        assert_eq!(step(&reader.take_until(0, 0)), None);
        assert_eq!(step(&deaf.take_until(0, 0)), Some((100, 1)));
    }

    /// A canvas may end between two looks of a viewer, who then has to show its end first.
    #[test]
    fn the_last_draft_of_each_canvas_waits() {
        let slot = viewer(1);
        let publish = |block, step, status| {
            let draft = Draft {
                block,
                status,
                ..draft(step)
            };
            slot.publish(0, &Event::Draft(draft), &mut None);
        };
        let steps = |shown: Vec<Shown>| -> Vec<(u32, u32)> {
            let step = |shown| match shown {
                Shown::Draft(draft) => (draft.block, draft.step),
                Shown::Begun(canvas) => (canvas.block, u32::MAX),
            };
            shown.into_iter().map(step).collect()
        };
        publish(0, 7, CanvasStatus::Running);
        assert!(slot.take_until(1, 0).is_empty());
        assert_eq!(steps(slot.take_until(0, 0)), [(0, 7)]);
        publish(0, 8, CanvasStatus::Running);
        publish(0, 9, CanvasStatus::OutOfSteps);
        publish(1, 0, CanvasStatus::Running);
        publish(1, 1, CanvasStatus::Converged);
        publish(2, 0, CanvasStatus::Running);
        publish(2, 1, CanvasStatus::Running);
        assert_eq!(steps(slot.take_until(0, 0)), [(0, 9)]);
        assert_eq!(steps(slot.take_until(0, 2)), [(1, 1), (2, 1)]);
        assert!(slot.take_until(0, 2).is_empty());
    }

    #[test]
    fn a_request_is_listed_as_long_as_it_lives() {
        let register = Arc::new(Register::default());
        let followed = Arc::new(Followed::default());
        let mut story = followed.story();
        let listed = register.list("0123", &followed);
        for id in ["0123", "chatcmpl-0123", "resp_0123"] {
            assert!(register.get(id).is_some(), "{id}");
        }
        for id in ["", "chatcmpl-", "12", "0123-"] {
            assert!(register.get(id).is_none(), "{id}");
        }
        drop(listed);
        assert!(register.get("0123").is_none());
        assert!(story.borrow_and_update().is_closed);
    }
}
