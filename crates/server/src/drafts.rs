//! Drafts on their way to a client: one place for each answer, never a queue. A slow reader loses
//! drafts, never text.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use llama_diffusion::chat::thinking::Splitter;
use llama_diffusion::diffusion::{CanvasStatus, FinishedCanvas, OwnedDraft, OwnedNewCanvas};
use llama_diffusion::{Event, Result, Token};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::protocol::request::{DraftLevel, Drafts};
use crate::served::Served;

/// The latest draft of each answer of a request.
pub struct DraftSlot {
    wanted: Drafts,
    latest: Mutex<Vec<Latest>>,
    published: Notify,
    metrics: Arc<Metrics>,
}

/// What an answer has not sent yet.
#[derive(Default)]
struct Latest {
    begun: Option<Arc<OwnedNewCanvas>>,
    draft: Option<Arc<OwnedDraft>>,
}

/// What of an answer is sent next. Several viewers share it.
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
}

impl DraftSlot {
    /// Places for a number of answers.
    pub fn new(wanted: Drafts, answers: usize, metrics: Arc<Metrics>) -> Self {
        let latest = (0..answers).map(|_| Latest::default()).collect();
        Self {
            wanted,
            latest: Mutex::new(latest),
            published: Notify::new(),
            metrics,
        }
    }

    /// Replaces what the answer has not sent yet. `copy` is that of the event, once there is one.
    pub fn publish(&self, answer: usize, event: &Event<'_>, copy: &mut Option<Shown>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = latest.get_mut(answer) else {
            return;
        };
        match event {
            Event::CanvasBegun(canvas) if self.wanted.level == DraftLevel::Full => {
                let made = || Shown::Begun(Arc::new((*canvas).into()));
                if let Shown::Begun(canvas) = copy.get_or_insert_with(made) {
                    latest.begun = Some(Arc::clone(canvas));
                }
            }
            Event::Draft(draft) => {
                let is_last = draft.status != CanvasStatus::Running;
                if !is_last && !(draft.step + 1).is_multiple_of(self.wanted.every) {
                    return;
                }
                let made = || Shown::Draft(Arc::new((*draft).into()));
                let Shown::Draft(draft) = copy.get_or_insert_with(made) else {
                    return;
                };
                if latest.draft.replace(Arc::clone(draft)).is_some() {
                    self.metrics.drafts_coalesced(1);
                }
            }
            _ => return,
        }
        self.published.notify_one();
    }

    /// What an answer has not sent yet, in order.
    pub fn take(&self, answer: usize) -> Vec<Shown> {
        self.take_until(answer, u32::MAX)
    }

    /// The same of canvases up to `block`; what is of later ones stays.
    pub fn take_until(&self, answer: usize, block: u32) -> Vec<Shown> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = latest.get_mut(answer) else {
            return Vec::new();
        };
        let begun = latest.begun.take_if(|canvas| canvas.block <= block);
        let draft = latest.draft.take_if(|draft| draft.block <= block);
        let begun = begun.map(Shown::Begun);
        begun.into_iter().chain(draft.map(Shown::Draft)).collect()
    }

    /// Waits until an answer has something to send, and returns which one.
    pub async fn any(&self) -> usize {
        loop {
            let published = self.published.notified();
            {
                let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
                let is_full = |latest: &Latest| latest.begun.is_some() || latest.draft.is_some();
                if let Some(answer) = latest.iter().position(is_full) {
                    return answer;
                }
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
