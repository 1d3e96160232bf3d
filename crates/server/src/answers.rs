//! The answers to one request while the engine computes them: from updates to what formats show.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use llama_diffusion::diffusion::{FinishedCanvas, TokenScore};
use llama_diffusion::{CancelFlag, Error, FormAnswer};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::drafts::{DraftSlot, Payloads};
use crate::engine::job::{Ended, Failure, Found, Update};
use crate::followed::Listed;
use crate::metrics::Metrics;
use crate::protocol::answer::{Canvas, End, Timings, Usage};
use crate::protocol::assemble::{Assembler, Delta};
use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::format::{Finished, Progress, timings_so_far};
use crate::read::Reader;
use crate::refusals::refused_in;

/// What happens next in one of the answers.
pub enum Happening {
    /// A pass over the prompt.
    Progress(Progress),
    /// A payload of the extension `diffusion`.
    Payload(Value),
    /// More of the answer.
    Deltas {
        /// At least one.
        deltas: Vec<Delta>,
        /// The timings so far, if the client wants them.
        timings: Option<Value>,
    },
    /// It is complete.
    Finished(Box<Finished>),
}

/// Cancels the jobs of a request when nobody waits for them any more.
struct Guard(Vec<CancelFlag>);

impl Drop for Guard {
    fn drop(&mut self) {
        for flag in &self.0 {
            flag.cancel();
        }
    }
}

/// The answers to a request.
pub struct Answers {
    answers: Vec<Answer>,
    /// How many of them have not ended.
    left: usize,
    updates: UnboundedReceiver<(usize, Update)>,
    drafts: Option<Arc<DraftSlot>>,
    /// Before which no draft is sent.
    pause: Option<tokio::time::Instant>,
    ready: VecDeque<(usize, Happening)>,
    wishes: Wishes,
    started: Instant,
    metrics: Arc<Metrics>,
    /// While it lives, others can follow the answers.
    _listed: Listed,
    /// Dropped last: what is cancelled by it has nobody who waits, and nobody can follow it.
    _guard: Guard,
}

/// What the client wants to see, and where it wants to stop.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Whether passes over the prompt are reported.
    pub progress: bool,
    /// Whether the timings so far come with each part of an answer.
    pub timings: bool,
    /// Maximum number of tokens in the thoughts of an answer.
    pub thought_budget: Option<usize>,
    /// The field that has the constraint, for errors.
    pub constraint: Option<String>,
}

/// One of them.
pub struct Answer {
    /// Reads its tokens.
    pub reader: Reader,
    /// Finds stop strings and calls.
    pub assembler: Assembler,
    /// Writes drafts, if the client wants them.
    pub payloads: Option<Payloads>,
    /// The number of its current canvas.
    pub block: u32,
    /// Its tokens so far.
    pub usage: Usage,
    /// Its seed.
    pub seed: u64,
    /// Ends its job.
    pub cancel: CancelFlag,
    /// The form, once it is filled.
    pub form: Option<FormAnswer>,
}

impl Answers {
    /// Answers whose updates come from a channel.
    pub fn new(
        answers: Vec<Answer>,
        updates: UnboundedReceiver<(usize, Update)>,
        drafts: Option<Arc<DraftSlot>>,
        wishes: Wishes,
        listed: Listed,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let flags = answers.iter().map(|answer| answer.cancel.clone());
        let guard = Guard(flags.collect());
        let mut ready = VecDeque::new();
        for (index, answer) in answers.iter().enumerate() {
            if let Some(payloads) = &answer.payloads {
                let start = payloads.start(answer.reader.splitter(), answer.seed);
                ready.extend(
                    start
                        .into_iter()
                        .map(|line| (index, Happening::Payload(line))),
                );
            }
        }
        Self {
            left: answers.len(),
            answers,
            updates,
            drafts,
            pause: None,
            ready,
            wishes,
            started: Instant::now(),
            metrics: Arc::clone(metrics),
            _listed: listed,
            _guard: guard,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Tokens of the prompt of the first one.
    pub fn prompt(&self) -> usize {
        self.answers.first().map_or(0, |answer| answer.usage.prompt)
    }

    /// What happens next, with the number of the answer; `None` after the last one is complete.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The engine failed, or refused the request.
    pub async fn next(&mut self) -> Result<Option<(usize, Happening)>, ApiError> {
        loop {
            if let Some(happening) = self.ready.pop_front() {
                return Ok(Some(happening));
            }
            if self.left == 0 {
                return Ok(None);
            }
            let draft = next_draft(self.drafts.as_deref(), self.pause);
            tokio::select! {
                biased;
                update = self.updates.recv() => match update {
                    Some((index, update)) => self.take(index, update)?,
                    None => return Err(engine_ended()),
                },
                index = draft => {
                    let interval = self.drafts.as_ref().map(|drafts| drafts.wanted().min_interval);
                    self.pause = interval.map(|interval| tokio::time::Instant::now() + interval);
                    self.show_drafts(index)?;
                }
            }
        }
    }

    fn take(&mut self, index: usize, update: Update) -> Result<(), ApiError> {
        let usage = &mut self.answers[index].usage;
        match update {
            Update::Begun { reused } => {
                usage.cached = reused;
                let prompt = usage.prompt;
                self.progress(index, prompt, reused, reused);
            }
            Update::Encoded(progress) => {
                self.progress(index, progress.total, progress.reused, progress.encoded);
            }
            Update::Canvas {
                canvas,
                scores,
                timings,
            } => {
                usage.completion += canvas.answer.len();
                self.canvas(index, &canvas, &scores, &timings)?;
            }
            Update::Found { found, timings } => match found {
                Found::Form(filled) => {
                    let answer = &mut self.answers[index];
                    let form = answer.reader.filled(&filled);
                    answer.form = form.map_err(|error| internal(&error))?;
                }
                Found::Read(canvas) => {
                    usage.completion += canvas.scores.len();
                    let (text, tokens) = self.answers[index]
                        .reader
                        .whole(&canvas.scores)
                        .map_err(|error| internal(&error))?;
                    self.show(index, vec![Delta::Text { text, tokens }], &timings);
                }
            },
            Update::Ended(ended) => self.end(index, &ended)?,
            Update::Failed(failure) => {
                self.left -= 1;
                return Err(error_of(failure, self.wishes.constraint.as_deref()));
            }
        }
        Ok(())
    }

    fn progress(&mut self, index: usize, total: usize, cached: usize, processed: usize) {
        if !self.wishes.progress {
            return;
        }
        let progress = Progress {
            total,
            cached,
            processed,
            time: self.started.elapsed(),
        };
        self.ready.push_back((index, Happening::Progress(progress)));
    }

    fn show_drafts(&mut self, index: usize) -> Result<(), ApiError> {
        let answer = &mut self.answers[index];
        let (Some(drafts), Some(payloads)) = (&self.drafts, &mut answer.payloads) else {
            return Ok(());
        };
        // What is of a later canvas waits until this one has been shown.
        for shown in drafts.take_until(index, answer.block) {
            let lines = payloads.show(&shown, answer.reader.splitter());
            let lines = lines.map_err(|error| internal(&error))?;
            self.metrics.draft_sent();
            self.ready.extend(
                lines
                    .into_iter()
                    .map(|line| (index, Happening::Payload(line))),
            );
        }
        Ok(())
    }

    fn canvas(
        &mut self,
        index: usize,
        canvas: &FinishedCanvas,
        scores: &[TokenScore],
        timings: &Timings,
    ) -> Result<(), ApiError> {
        self.show_drafts(index)?;
        let answer = &mut self.answers[index];
        answer.block = canvas.block + 1;
        if let Some(payloads) = &mut answer.payloads {
            let lines = payloads.canvas(canvas).map_err(|error| internal(&error))?;
            self.ready.extend(
                lines
                    .into_iter()
                    .map(|line| (index, Happening::Payload(line))),
            );
        }
        let read = answer.reader.read(&canvas.answer, scores);
        let read = read.map_err(|error| internal(&error))?;
        self.push(index, read, timings);
        let answer = &self.answers[index];
        let thinks_too_long = self
            .wishes
            .thought_budget
            .is_some_and(|budget| answer.reader.is_thinking() && answer.reader.thoughts() > budget);
        if answer.assembler.is_done() || thinks_too_long {
            answer.cancel.cancel();
        }
        Ok(())
    }

    fn push(&mut self, index: usize, canvas: Canvas, timings: &Timings) {
        let deltas = self.answers[index].assembler.push(canvas);
        self.show(index, deltas, timings);
    }

    fn show(&mut self, index: usize, deltas: Vec<Delta>, times: &Timings) {
        if deltas.is_empty() {
            return;
        }
        let usage = &self.answers[index].usage;
        let timings = self.wishes.timings.then(|| timings_so_far(usage, times));
        let deltas = Happening::Deltas { deltas, timings };
        self.ready.push_back((index, deltas));
    }

    fn end(&mut self, index: usize, ended: &Ended) -> Result<(), ApiError> {
        self.left -= 1;
        let answer = &mut self.answers[index];
        let rest = answer.reader.finish();
        let rest = rest.map_err(|error| internal(&error))?;
        answer.usage = Usage {
            cached: ended.reused,
            completion: answer.reader.completion(ended.completion),
            reasoning: answer.reader.thoughts(),
            ..answer.usage
        };
        let reason = answer.reader.reason(ended.reason);
        self.push(index, rest, &ended.timings);
        let (deltas, finish) = self.answers[index].assembler.finish(reason);
        self.show(index, deltas, &ended.timings);
        let answer = &mut self.answers[index];
        let end = End {
            reason,
            usage: answer.usage,
            timings: ended.timings,
            statistics: ended.statistics,
            slot: ended.slot,
            seed: answer.seed,
            gap: answer.reader.gap(),
        };
        let form = answer.form.take();
        let finished = Box::new(Finished { finish, end, form });
        self.ready.push_back((index, Happening::Finished(finished)));
        Ok(())
    }
}

/// Waits for a draft after a pause; for ever if nobody wants one.
pub async fn next_draft(drafts: Option<&DraftSlot>, pause: Option<tokio::time::Instant>) -> usize {
    let Some(drafts) = drafts else {
        return std::future::pending().await;
    };
    if let Some(pause) = pause {
        tokio::time::sleep_until(pause).await;
    }
    drafts.any().await
}

fn error_of(failure: Failure, constraint: Option<&str>) -> ApiError {
    match failure {
        Failure::Refused { parameter, problem } => match parameter {
            Some(parameter) => {
                let error = Error::InvalidParameter { parameter, problem };
                refused_in(&error, constraint)
            }
            None => ApiError::new(ErrorKind::InvalidRequest, problem),
        },
        Failure::Engine(problem) => ApiError::new(ErrorKind::Server, problem),
        Failure::Draining => {
            let message = "the server is about to end";
            ApiError::new(ErrorKind::Unavailable, message).retry_after(5)
        }
    }
}

fn engine_ended() -> ApiError {
    ApiError::new(ErrorKind::Server, "the engine has ended")
}

fn internal(error: &llama_diffusion::Error) -> ApiError {
    ApiError::new(ErrorKind::Server, error.to_string())
}

/// Time that a client may wait before it tries again, in seconds: when a place is likely to be free.
pub fn retry_after(waiting: usize, slots: usize, each: f64) -> u32 {
    const RANGE: (f64, f64) = (1.0, 30.0);
    let estimate = each * waiting as f64 / slots.max(1) as f64;
    estimate.clamp(RANGE.0, RANGE.1).ceil() as u32
}
