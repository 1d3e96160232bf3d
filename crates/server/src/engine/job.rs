//! A job for the engine, and what the engine reports about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::{
    DiffusionParams, FinishedCanvas, PromptProgress, Recipe, Template, TokenScore,
};
use llama_diffusion::form::{FilledForm, Form, FormParams};
use llama_diffusion::{CancelFlag, Error, Event, Parameter, Token};
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::Ticket;
use crate::followed::Followed;
use crate::protocol::answer::{EndReason, Statistics, Timings};

/// An answer to compute.
pub struct Job {
    /// Unique number, for logs and `/slots`.
    pub id: u64,
    /// The prompt, at least one token.
    pub prompt: Vec<Token>,
    /// How the answer is generated.
    pub recipe: Box<dyn Recipe>,
    /// Ends the job wherever it is: queued, prefilling or denoising.
    pub cancel: CancelFlag,
    /// Where updates go.
    pub outlet: Outlet,
    /// The slot that the client prefers.
    pub slot: Option<usize>,
    /// Whether the beginning of the prompt may come from a cache.
    pub reuses: bool,
    /// Whether the prompt is encoded and nothing else happens.
    pub encodes_only: bool,
    /// What is done after its prompt instead of an answer.
    pub task: Option<Task>,
    /// Time for the answer after the prompt is encoded.
    pub time: Option<Duration>,
    /// Which jobs it waits beside.
    pub class: Class,
    /// Whose job it is: jobs of different owners take turns.
    pub owner: u64,
    /// The other answers to the same prompt.
    pub group: Group,
    /// When it was submitted.
    pub submitted: Instant,
    /// Its place among the requests that the server takes at once.
    pub ticket: Ticket,
}

impl Job {
    /// Whether it has no steps after its prompt is encoded.
    pub fn stops_after_prompt(&self) -> bool {
        self.encodes_only || self.task.is_some()
    }
}

/// Work on canvases that share the cache of a prompt, instead of an answer: a forward pass
/// at a time, between the steps of answers.
#[derive(Clone)]
pub enum Task {
    /// A form is filled.
    Form(FormTask),
    /// A canvas is read.
    Read(ReadTask),
}

/// What a task has found.
#[derive(Debug)]
pub enum Found {
    /// A filled form.
    Form(FilledForm),
    /// The positions of a canvas.
    Read(CanvasReport),
}

/// A canvas to read: its most likely tokens after the last step, with log-probabilities.
#[derive(Clone)]
pub struct ReadTask {
    /// What is known about it.
    pub template: Template,
    /// Its steps, its length, and the seed of its noise.
    pub params: DiffusionParams,
    /// How many of its positions are read.
    pub positions: usize,
    /// How many of the most likely tokens come with each position.
    pub top: usize,
    /// Tokens that come with each position as well.
    pub tokens: Vec<Token>,
    /// Whether the distributions are over these tokens alone.
    pub constrained: bool,
}

impl ReadTask {
    /// The recipe of its canvas.
    pub fn recipe(&self) -> DiffusionParams {
        DiffusionParams {
            templates: vec![self.template.clone()],
            scoring: None,
            ..self.params.clone()
        }
    }
}

/// What is read of a canvas.
#[derive(Clone, Debug, PartialEq)]
pub struct CanvasReport {
    /// Its positions.
    pub scores: Vec<TokenScore>,
    /// Forward passes that it took.
    pub passes: usize,
}

/// A form to fill: see [`Session::fill`](llama_diffusion::Session::fill).
#[derive(Clone)]
pub struct FormTask {
    /// What the model may write before it.
    pub before: Vec<Vec<Token>>,
    /// The form.
    pub form: Form,
    /// How it is filled.
    pub params: FormParams,
}

/// Jobs of one class take turns with those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody waits for it while typing.
    Editor,
    /// All others.
    Other,
}

/// Answers to the same prompt: one of them encodes it, the others wait and copy it.
#[derive(Clone, Default)]
pub struct Group {
    is_encoded: Arc<AtomicBool>,
    follows: bool,
}

impl Group {
    /// The group of an answer that copies the prompt.
    pub fn follower(&self) -> Self {
        Self {
            is_encoded: Arc::clone(&self.is_encoded),
            follows: true,
        }
    }

    /// Whether a job may begin.
    pub fn may_begin(&self) -> bool {
        !self.follows || self.is_encoded.load(Ordering::Relaxed)
    }

    /// The prompt is encoded, or never will be: the others need not wait any more.
    pub fn release(&self) {
        if !self.follows {
            self.is_encoded.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.group.release();
    }
}

/// What happens to a job.
#[derive(Debug)]
pub enum Update {
    /// It has a slot. Only if the client wants to know how its prompt is read.
    Begun {
        /// Cached tokens of the prompt.
        reused: usize,
    },
    /// A pass over a part of the prompt is complete. Only if the client wants to know.
    Encoded(PromptProgress),
    /// A canvas is finished, or the time is up and this is its draft.
    Canvas {
        /// The canvas.
        canvas: FinishedCanvas,
        /// The scores of its answer, if the recipe asks for them.
        scores: Vec<TokenScore>,
        /// How long the answer has taken so far.
        timings: Timings,
    },
    /// Its task is done.
    Found {
        /// What it has found.
        found: Found,
        /// How long it has taken so far.
        timings: Timings,
    },
    /// It is complete.
    Ended(Ended),
    /// It failed.
    Failed(Failure),
}

/// The end of a job.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// Tokens of the prompt that were cached.
    pub reused: usize,
    /// Tokens of the answer, including its end token.
    pub completion: usize,
    /// What it took.
    pub statistics: Statistics,
    /// How long it took.
    pub timings: Timings,
    /// The slot.
    pub slot: usize,
}

/// Why a job has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The prompt or the parameters cannot work.
    Refused {
        /// The parameter, if one is at fault.
        parameter: Option<Parameter>,
        /// What is wrong with it.
        problem: String,
    },
    /// The engine failed.
    Engine(String),
    /// The server is about to end.
    Draining,
}

impl Failure {
    /// What an error about this job alone means for its client.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidParameter { parameter, problem } => Self::Refused {
                parameter: Some(*parameter),
                problem: problem.clone(),
            },
            Error::ContextFull { .. } => Self::Refused {
                parameter: None,
                problem: error.to_string(),
            },
            // Nobody but a server that drains cancels a job whose client waits.
            Error::Cancelled => Self::Draining,
            _ => Self::Engine(error.to_string()),
        }
    }
}

/// Where the updates of a job go. Several jobs of a request may share the channel.
#[derive(Clone)]
pub struct Outlet {
    /// The number of the answer in its request.
    pub index: usize,
    /// The channel. It holds at most an update for each pass and each canvas.
    pub updates: UnboundedSender<(usize, Update)>,
    /// Whether the client wants to know how its prompt is read. Otherwise nothing wakes its task before
    /// there is something to show.
    pub reports_prompt: bool,
    /// Where drafts go, and what others than the client follow.
    pub followed: Arc<Followed>,
}

impl Outlet {
    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.updates.is_closed()
    }

    /// Sends an update. If nobody receives it, the job is cancelled anyway.
    pub fn send(&self, update: Update) {
        self.followed.record(self.index, &update);
        let _ = self.updates.send((self.index, update));
    }

    /// Publishes what a viewer of drafts wants to see.
    pub fn show(&self, event: &Event<'_>) {
        self.followed.show(self.index, event);
    }
}
