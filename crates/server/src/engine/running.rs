//! A job on a slot: what its client receives.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use llama_diffusion::diffusion::{
    CanvasStatus, Draft, FinishReason, FinishedCanvas, PromptProgress, TokenScore,
};
use llama_diffusion::{Answer, EndTokens, Event};

use super::board::SlotView;
use super::job::{Ended, Failure, Found, Job, Update};
use crate::metrics::Metrics;
use crate::protocol::answer::{EndReason, Statistics, Timings};

/// What an event needs to know about its step.
pub struct Step<'a> {
    /// The clock.
    pub clock: &'a dyn Fn() -> Instant,
    /// The tokens that end an answer.
    pub end: &'a EndTokens,
    /// What is counted.
    pub metrics: &'a Metrics,
}

/// What a task took.
#[derive(Clone, Copy, Default)]
struct Effort {
    canvases: usize,
    passes: usize,
    time: Duration,
}

/// A job on a slot.
pub struct Running {
    /// The job.
    pub job: Job,
    /// The slot.
    pub slot: usize,
    /// When it left the queue.
    begun: Instant,
    /// When its prompt was encoded.
    encoded: Option<Instant>,
    reused: usize,
    /// Scores of the canvas that is about to be done.
    scores: Vec<TokenScore>,
    /// Finished tokens of the answer.
    written: usize,
    canvases: usize,
    is_out_of_time: bool,
    /// Steps that it took part in, and the canvases in all of them together.
    steps: u64,
    shared: u64,
    /// What its task has taken.
    effort: Effort,
    /// Turns that its task has had.
    turns: u32,
    /// The encoded prompt, while its task goes on.
    task: Option<Option<Answer>>,
    /// Whether the present step denoises its canvas.
    pub is_stepped: bool,
    /// What `/slots` shows.
    pub view: SlotView,
}

impl Running {
    /// A job that has just got a slot.
    pub fn new(job: Job, slot: usize, reused: usize, now: Instant) -> Self {
        let view = SlotView {
            job: Some(job.id),
            is_busy: true,
            prompt: job.prompt.len(),
            encoded: reused,
            limit: match job.task {
                Some(_) => None,
                None => job.recipe.max_tokens(),
            },
            ..SlotView::default()
        };
        Self {
            job,
            slot,
            begun: now,
            encoded: None,
            reused,
            scores: Vec::new(),
            written: 0,
            canvases: 0,
            is_out_of_time: false,
            steps: 0,
            shared: 0,
            effort: Effort::default(),
            turns: 0,
            task: None,
            is_stepped: false,
            view,
        }
    }

    /// Whether its prompt is in the cache.
    pub fn is_encoded(&self) -> bool {
        self.encoded.is_some()
    }

    /// A step that it took part in is complete; `canvases` shared it.
    pub fn stepped(&mut self, canvases: usize) {
        self.is_stepped = false;
        self.steps += 1;
        self.shared += canvases as u64;
    }

    /// Its task begins, after its prompt was encoded as `prompt` says.
    pub fn begin_task(&mut self, prompt: Option<Answer>) {
        self.task = Some(prompt);
    }

    /// Whether its task has begun.
    pub fn has_task(&self) -> bool {
        self.task.is_some()
    }

    /// A pass of its task took so long.
    pub fn advanced_task(&mut self, time: Duration) {
        self.effort.time += time;
        self.view.step = self.turns;
        self.turns += 1;
    }

    /// Its task is done. Returns how its prompt was encoded.
    pub fn found(&mut self, found: Found, now: Instant) -> Option<Answer> {
        let (canvases, passes, written) = match &found {
            Found::Form(form) => (form.rows, form.passes, form.tokens.len()),
            Found::Read(canvas) => (1, canvas.passes, canvas.scores.len()),
        };
        (self.effort.canvases, self.effort.passes) = (canvases, passes);
        self.written = written;
        let timings = self.timings(now);
        self.job.outlet.send(Update::Found { found, timings });
        self.task.take().flatten()
    }

    /// Its prompt is in the cache.
    pub fn encoded(&mut self, now: Instant) {
        self.encoded.get_or_insert(now);
        self.job.group.release();
    }

    /// Takes an event of a step.
    pub fn take(&mut self, event: &Event<'_>, step: &Step<'_>) -> ControlFlow<()> {
        self.job.outlet.show(event);
        match event {
            Event::PromptEncoded(progress) => self.take_progress(*progress, (step.clock)()),
            Event::CanvasBegun(canvas) => {
                self.encoded((step.clock)());
                (self.view.block, self.view.step) = (canvas.block, 0);
                self.view.max_steps = canvas.max_steps;
                ControlFlow::Continue(())
            }
            Event::Draft(draft) => self.take_draft(draft, step),
            Event::Scored(scored) => {
                self.scores = scored.scores.to_vec();
                ControlFlow::Continue(())
            }
            Event::CanvasDone(canvas) => {
                let now = (step.clock)();
                if self.canvases == 0 {
                    step.metrics.first_canvas(self.total_time(now));
                }
                step.metrics.canvas_done(canvas.steps);
                self.take_canvas((*canvas).clone(), now);
                ControlFlow::Continue(())
            }
        }
    }

    fn take_progress(&mut self, progress: PromptProgress, now: Instant) -> ControlFlow<()> {
        self.view.encoded = progress.encoded;
        if self.job.outlet.reports_prompt {
            self.job.outlet.send(Update::Encoded(progress));
        }
        if progress.encoded < progress.total {
            return ControlFlow::Continue(());
        }
        self.encoded(now);
        match self.job.stops_after_prompt() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn take_draft(&mut self, draft: &Draft<'_>, step: &Step<'_>) -> ControlFlow<()> {
        self.is_stepped = true;
        self.view.step = draft.step;
        self.view.mean_entropy = draft.mean_entropy;
        let now = (step.clock)();
        let since = self
            .encoded
            .map(|encoded| now.saturating_duration_since(encoded));
        let is_over = self
            .job
            .time
            .zip(since)
            .is_some_and(|(time, since)| since >= time);
        if !is_over || draft.status != CanvasStatus::Running {
            return ControlFlow::Continue(());
        }
        self.is_out_of_time = true;
        self.take_canvas(self.cut(draft, step.end), now);
        ControlFlow::Break(())
    }

    /// A draft as if it were finished.
    fn cut(&self, draft: &Draft<'_>, end: &EndTokens) -> FinishedCanvas {
        let tokens = draft.argmax.to_vec();
        let limit = self.job.recipe.max_tokens().unwrap_or(usize::MAX);
        let text = tokens.iter().position(|token| end.is_end(*token));
        let text = text.unwrap_or(tokens.len());
        FinishedCanvas {
            block: draft.block,
            steps: draft.step + 1,
            converged: false,
            answer: tokens[..text.min(limit - self.written)].to_vec(),
            generated: text,
            ended: text < tokens.len(),
            tokens,
        }
    }

    fn take_canvas(&mut self, canvas: FinishedCanvas, now: Instant) {
        self.written += canvas.answer.len();
        self.view.written = self.written;
        self.canvases += 1;
        let mut scores = std::mem::take(&mut self.scores);
        scores.truncate(canvas.answer.len());
        self.job.outlet.send(Update::Canvas {
            canvas,
            scores,
            timings: self.timings(now),
        });
    }

    /// Reports its end.
    pub fn finish(self, answer: Option<&Answer>, now: Instant, metrics: &Metrics) {
        let generation = answer.map(|answer| &answer.generation);
        let finish = generation.map(|generation| generation.finish);
        let reason = match finish {
            Some(FinishReason::EndOfText) => EndReason::EndOfText,
            _ if self.effort.passes > 0 => EndReason::EndOfText,
            _ if self.job.encodes_only => EndReason::Length,
            Some(FinishReason::Cancelled) if self.is_out_of_time => EndReason::Time,
            Some(FinishReason::Cancelled) => EndReason::Stopped,
            Some(FinishReason::Length | FinishReason::ContextFull) | None => EndReason::Length,
        };
        let last = generation.and_then(|generation| generation.canvases.last());
        // It counts as far as the limit on tokens goes.
        let has_room = self.view.limit.is_none_or(|limit| self.written < limit);
        let has_end = has_room
            && last.is_some_and(|canvas| canvas.ended && canvas.generated > canvas.answer.len());
        let completion = match reason {
            EndReason::EndOfText => self.written + usize::from(has_end),
            _ => self.written,
        };
        let timing = generation
            .map(|generation| generation.timing)
            .unwrap_or_default();
        let effort = self.effort;
        let ended = Ended {
            reason,
            reused: self.reused,
            completion,
            statistics: Statistics {
                canvases: self.canvases + effort.canvases,
                steps: generation.map_or(0, |g| g.steps) + effort.passes as u64,
                tokens_per_step: match effort.passes {
                    0 => generation.map_or(0.0, |g| g.tokens_per_forward()),
                    passes => self.written as f64 / passes as f64,
                },
                prefill: timing.prefill,
                denoise: timing.denoise + effort.time,
                commit: timing.commit,
                queue: self.begun.saturating_duration_since(self.job.submitted),
                batch_mean: self.shared as f64 / self.steps.max(1) as f64,
            },
            timings: self.timings(now),
            slot: self.slot,
        };
        metrics.ended(&ended, self.total_time(now));
        self.job.outlet.send(Update::Ended(ended));
    }

    /// From the slot to the encoded prompt, and from there until now, as llama-server counts them.
    fn timings(&self, now: Instant) -> Timings {
        let encoded = self.encoded.unwrap_or(now);
        Timings {
            prompt: encoded.saturating_duration_since(self.begun),
            predicted: now.saturating_duration_since(encoded),
        }
    }

    fn total_time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.job.submitted)
    }

    /// Reports that it failed.
    pub fn fail(self, failure: Failure) {
        self.job.outlet.send(Update::Failed(failure));
    }
}
