//! Drafts on their way to a client: a place for the latest one of each canvas, not a queue of all. A slow
//! reader loses drafts, never text, and never the last draft of a canvas.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llama_diffusion::chat::thinking::Splitter;
use llama_diffusion::diffusion::{CanvasStatus, FinishedCanvas, OwnedDraft, OwnedNewCanvas};
use llama_diffusion::{Event, Result, Token};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::protocol::request::{DraftLevel, Drafts};
use crate::served::Served;

/// What of each answer of a request has not been sent yet.
pub struct DraftSlot {
    wanted: Drafts,
    /// By answer, in order.
    waiting: Mutex<Vec<Vec<Shown>>>,
    published: Notify,
    metrics: Arc<Metrics>,
}

/// What of an answer is sent next. Several viewers share it.
#[derive(Clone)]
pub enum Shown {
    /// A canvas before its first step.
    Begun(Arc<OwnedNewCanvas>),
    /// A step.
    Draft(Arc<OwnedDraft>),
}

impl Shown {
    /// The number of its canvas in the answer.
    pub fn block(&self) -> u32 {
        match self {
            Self::Begun(canvas) => canvas.block,
            Self::Draft(draft) => draft.block,
        }
    }

    /// Whether it says nothing once something follows it.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Draft(draft) if draft.status == CanvasStatus::Running)
    }
}

impl DraftSlot {
    /// Places for a number of answers.
    pub fn new(wanted: Drafts, answers: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            wanted,
            waiting: Mutex::new((0..answers).map(|_| Vec::new()).collect()),
            published: Notify::new(),
            metrics,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Vec<Shown>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, in the place of the draft before it. `copy` is that of the event, once there is one.
    pub fn publish(&self, answer: usize, event: &Event<'_>, copy: &mut Option<Shown>) {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.get_mut(answer) else {
            return;
        };
        let shown = match event {
            Event::CanvasBegun(canvas) if self.wanted.level == DraftLevel::Full => {
                copy.get_or_insert_with(|| Shown::Begun(Arc::new((*canvas).into())))
            }
            Event::Draft(draft) => {
                let is_last = draft.status != CanvasStatus::Running;
                if !is_last && !(draft.step + 1).is_multiple_of(self.wanted.every) {
                    return;
                }
                copy.get_or_insert_with(|| Shown::Draft(Arc::new((*draft).into())))
            }
            _ => return,
        };
        if waiting.pop_if(|last| last.is_passing()).is_some() {
            self.metrics.drafts_coalesced(1);
        }
        waiting.push(shown.clone());
        self.published.notify_one();
    }

    /// What an answer has not sent yet of canvases up to `block`, in order; what is of later ones stays.
    pub fn take_until(&self, answer: usize, block: u32) -> Vec<Shown> {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.get_mut(answer) else {
            return Vec::new();
        };
        let later = waiting.partition_point(|shown| shown.block() <= block);
        waiting.drain(..later).collect()
    }

    /// Waits until an answer has something to send, and returns which one.
    pub async fn any(&self) -> usize {
        loop {
            let published = self.published.notified();
            let found = self.waiting().iter().position(|all| !all.is_empty());
            if let Some(answer) = found {
                return answer;
            }
            published.await;
        }
    }

    /// What the client asked for.
    pub fn wanted(&self) -> Drafts {
        self.wanted
    }
}

/// Writes the payloads of one answer: the lines of a recording.
pub struct Payloads {
    served: Arc<Served>,
    level: DraftLevel,
    /// The tokens whose bytes were sent.
    known: HashSet<Token>,
}

impl Payloads {
    /// Payloads of a level.
    pub fn new(served: &Arc<Served>, level: DraftLevel) -> Self {
        Self {
            served: Arc::clone(served),
            level,
            known: HashSet::new(),
        }
    }

    /// The first ones.
    pub fn start(&self, splitter: &Splitter, seed: u64) -> Vec<Value> {
        let start = json!({
            "event": "start",
            "format": 1,
            "channel": splitter.channel(),
            "canvas_length": self.served.model.model().canvas_length(),
            "seed": seed,
            "model": self.served.names.first(),
        });
        let thinking = splitter.is_thinking().then(|| json!({"event": "thinking"}));
        [start].into_iter().chain(thinking).collect()
    }

    /// A canvas that begins, or a step. `splitter` is where the canvas begins.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn show(&mut self, shown: &Shown, splitter: &Splitter) -> Result<Vec<Value>> {
        match shown {
            Shown::Begun(canvas) => {
                let line = json!({
                    "event": "begin",
                    "block": canvas.block,
                    "max_steps": canvas.max_steps,
                    "tokens": canvas.tokens,
                });
                self.with_pieces(&canvas.tokens, line)
            }
            Shown::Draft(draft) => self.draft(draft, splitter),
        }
    }

    fn draft(&mut self, draft: &OwnedDraft, splitter: &Splitter) -> Result<Vec<Value>> {
        let mut line = json!({
            "event": "draft",
            "block": draft.block,
            "step": draft.step,
            "max_steps": draft.max_steps,
            "temperature": draft.temperature,
            "mean_entropy": rounded(draft.mean_entropy),
            "stable": draft.stable,
            "progress": draft.status,
        });
        if self.level == DraftLevel::Text {
            // What renderers of frames look for.
            line["type"] = "diffusion_frame".into();
            line["text"] = self.text(&draft.argmax, splitter.clone())?.into();
            return Ok(vec![line]);
        }
        let numbers = |values: &[f32]| -> Value { values.iter().copied().map(rounded).collect() };
        line["argmax"] = draft.argmax.clone().into();
        line["entropy"] = numbers(&draft.entropy);
        line["accepted"] = draft.accepted.clone().into();
        let mut used = draft.argmax.clone();
        if self.level == DraftLevel::Full {
            line["canvas"] = draft.canvas.clone().into();
            line["sampled"] = draft.sampled.clone().into();
            line["probability"] = numbers(&draft.probability);
            used.extend(draft.canvas.iter().chain(&draft.sampled));
        }
        self.with_pieces(&used, line)
    }

    /// A finished canvas.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn canvas(&mut self, canvas: &FinishedCanvas) -> Result<Vec<Value>> {
        let mut line = json!({"event": "canvas"});
        if let (Value::Object(line), Ok(Value::Object(fields))) =
            (&mut line, serde_json::to_value(canvas))
        {
            line.extend(fields);
        }
        match self.level {
            DraftLevel::Text => Ok(vec![line]),
            DraftLevel::Tokens | DraftLevel::Full => self.with_pieces(&canvas.tokens, line),
        }
    }

    /// A line, after the bytes of the tokens that it uses first.
    fn with_pieces(&mut self, used: &[Token], line: Value) -> Result<Vec<Value>> {
        let mut pieces = Vec::new();
        for &token in used {
            if self.known.insert(token) {
                pieces.push((token, self.served.model.vocab().piece(token, false)?));
            }
        }
        let pieces = (!pieces.is_empty()).then(|| json!({"event": "pieces", "pieces": pieces}));
        Ok(pieces.into_iter().chain([line]).collect())
    }

    /// The text of a draft, without thoughts, up to its end.
    fn text(&self, tokens: &[Token], mut splitter: Splitter) -> Result<String> {
        let vocab = self.served.model.vocab();
        let mut bytes = Vec::new();
        for &token in tokens {
            if vocab.end_tokens().contains(&token) {
                break;
            }
            if splitter.push(token) == llama_diffusion::chat::thinking::Section::Answer {
                bytes.extend(vocab.piece(token, false)?);
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A number with as many digits as a view can show.
fn rounded(number: f32) -> Value {
    let number = f64::from(number);
    ((number * 1e5).round() / 1e5).into()
}
