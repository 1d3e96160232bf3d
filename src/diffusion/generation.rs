//! One answer, without a model in it: a [`Generator`] says what comes next (encode this, denoise
//! that, commit it, done) and takes the result. [`generate`](super::generate) is a short loop over
//! one of them, a batch is a loop over several.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Token;
use super::corrections::{CorrectionCounter, Corrections};
use super::event::{
    CancelFlag, CanvasStatus, Event, FinishReason, FinishedCanvas, PromptProgress, ScoredCanvas,
};
use super::guesses::Guesses;
use super::random::NoiseSource;
use super::run::{Blank, Budget, BudgetLimit, EndTokens, Recipe, Run};
use super::score::{Scoring, TokenScore, total_logprob};
use super::step::{Denoiser, Draws, Limits, Lookahead, StepInput};
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// Where the time of a generation went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Encoding the part of the prompt that was not cached.
    pub prefill: Duration,
    /// All denoising steps, without the event handler. In a batch each step counts for every answer
    /// that took part.
    pub denoise: Duration,
    /// Committing canvases to the prefix, and tokens that were written one by one.
    pub commit: Duration,
}

/// The result of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer: what the canvases' [`answer`](FinishedCanvas::answer)s make together.
    pub tokens: Vec<Token>,
    /// The finished canvases in order. All but the last one are committed to the prefix.
    pub canvases: Vec<FinishedCanvas>,
    /// The score of each of `tokens`, if the canvases are scored.
    pub scores: Vec<TokenScore>,
    /// Denoising steps, including those of a canvas that was cancelled, of scores and of repairs.
    pub steps: u64,
    /// The steps whose canvas no earlier pass had read: fewer than `steps` if passes read
    /// [ahead](Lookahead).
    pub passes: u64,
    /// Accepted tokens that later steps replaced.
    pub corrections: Corrections,
    /// Why it ended.
    pub finish: FinishReason,
    /// Where the time went.
    pub timing: Timing,
}

impl Generation {
    /// Nothing yet. Its reason to end is [`FinishReason::Cancelled`] until another one is known.
    pub(crate) fn empty() -> Self {
        Self {
            tokens: Vec::new(),
            canvases: Vec::new(),
            scores: Vec::new(),
            steps: 0,
            passes: 0,
            corrections: Corrections::default(),
            finish: FinishReason::Cancelled,
            timing: Timing::default(),
        }
    }

    /// Generated tokens per denoising step, as the reference counts: end tokens are generated,
    /// padding is not. 0 if no step ran.
    pub fn tokens_per_forward(&self) -> f64 {
        let generated: usize = self.canvases.iter().map(|canvas| canvas.generated).sum();
        match self.steps {
            0 => 0.0,
            steps => generated as f64 / steps as f64,
        }
    }
}

/// What a generation needs next.
pub enum Next<'a> {
    /// Encode some of these tokens, starting with the first: they are what remains of the prompt.
    /// Then [`Generator::prefilled`].
    Prefill(&'a [Token]),
    /// Begin canvases that the next step reads at once. Then [`Generator::begun`].
    Begin {
        /// Tokens of each.
        len: usize,
        /// How many.
        count: usize,
    },
    /// Denoise. Then [`Generator::stepped`].
    Step(StepInput<'a>, &'a mut Draws),
    /// Score a finished canvas. Then [`Generator::scored`].
    Score(&'a [Token], Scoring),
    /// Append a finished canvas to the prefix. Then [`Generator::committed`].
    Commit(&'a [Token]),
    /// Nothing: take the result with [`Generator::finish`].
    Done(FinishReason),
}

/// The state of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The prompt is not fully encoded.
    Prefilling,
    /// A canvas is about to begin.
    Beginning,
    /// A canvas is being denoised.
    Denoising,
    /// A canvas whose steps are done is about to be scored.
    Scoring,
    /// A finished canvas is about to be committed.
    Committing,
    /// The answer is complete, or cancelled.
    Done,
}

/// One answer in progress: its prompt, its canvases, and why it ends.
pub struct Generator {
    recipe: Box<dyn Recipe>,
    end: EndTokens,
    limits: Limits,
    /// The rest of the prompt, from `encoded` on, is still to be encoded.
    prompt: Vec<Token>,
    encoded: usize,
    reused: usize,
    /// Tokens of the prefix, including the whole prompt.
    prefix: usize,
    canvas_len: usize,
    max_canvases: Option<usize>,
    run: Option<Box<dyn Run>>,
    /// The canvas that is scored, or repaired by the run.
    check: Option<Check>,
    stage: Stage,
    /// Whether the canvas of the next step is read already.
    is_read: bool,
    /// Finds the corrections of the result.
    corrections: CorrectionCounter,
    /// The result so far. Its reason to end is `Cancelled` until another one is known.
    generation: Generation,
}

/// Rejects a prompt that is empty, or after which there is no room for a canvas.
pub(crate) fn check_prompt(prompt: usize, canvas: usize, limits: &Limits) -> Result<()> {
    if prompt == 0 {
        return Err(Error::parameter(
            Parameter::Prompt,
            "it is empty: give at least one token",
        ));
    }
    if prompt.saturating_add(canvas) > limits.context {
        return Err(Error::ContextFull {
            prompt,
            canvas,
            context: limits.context,
        });
    }
    Ok(())
}

/// What may be written with these limits on tokens and on canvases of `canvas_len` tokens, and this number of
/// free positions.
fn budget(
    tokens: Option<usize>,
    canvases: Option<usize>,
    canvas_len: usize,
    positions: usize,
) -> Budget {
    let fitting = positions / canvas_len * canvas_len;
    let tokens = tokens.unwrap_or(usize::MAX);
    let canvases = canvases.map_or(usize::MAX, |most| most.saturating_mul(canvas_len));
    let (tokens, limit) = if tokens <= canvases.min(fitting) {
        (tokens, BudgetLimit::Tokens)
    } else if canvases <= fitting {
        (canvases, BudgetLimit::Canvases)
    } else {
        (fitting, BudgetLimit::Context)
    };
    Budget { tokens, limit }
}

/// A canvas whose steps are done, and its scores.
struct Check {
    canvas: FinishedCanvas,
    /// Of the canvas; empty before the first.
    scores: Vec<TokenScore>,
    /// What a repair made of the canvas.
    repaired: Option<FinishedCanvas>,
    /// Repairs so far.
    round: u32,
}

impl Check {
    /// The canvas to score.
    fn candidate(&self) -> &FinishedCanvas {
        self.repaired.as_ref().unwrap_or(&self.canvas)
    }

    /// Takes the scores of the candidate. A repair that makes the canvas less likely is dropped:
    /// returns whether it was.
    fn take(&mut self, scores: Vec<TokenScore>) -> bool {
        let steps = self.candidate().steps + 1;
        let converged = self.canvas.converged;
        let repaired = self.repaired.take();
        let is_worse = repaired.is_some() && total_logprob(&scores) <= total_logprob(&self.scores);
        if !is_worse {
            self.scores = scores;
            self.canvas = repaired.unwrap_or_else(|| self.canvas.clone());
        }
        self.canvas.steps = steps;
        self.canvas.converged = converged;
        is_worse
    }
}

type Handler<'a> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'a;

impl Generator {
    /// An answer to `prompt`, whose first `reused` tokens are already cached in the model. `end`
    /// are the tokens that end it.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for an empty prompt, parameters out of range or beyond the
    /// limits, and [`Error::ContextFull`] if not even one canvas fits after the prompt.
    pub fn new(
        recipe: Box<dyn Recipe>,
        prompt: &[Token],
        reused: usize,
        end: &EndTokens,
        limits: Limits,
    ) -> Result<Self> {
        let canvas_len = Self::check_answer(recipe.as_ref(), prompt.len(), &limits)?;
        Ok(Self {
            max_canvases: recipe.canvas_limit(canvas_len),
            recipe,
            end: end.clone(),
            limits,
            prompt: prompt.to_vec(),
            encoded: reused,
            reused,
            prefix: prompt.len(),
            canvas_len,
            run: None,
            check: None,
            stage: match reused < prompt.len() {
                true => Stage::Prefilling,
                false => Stage::Beginning,
            },
            is_read: false,
            corrections: CorrectionCounter::default(),
            generation: Generation::empty(),
        })
    }

    /// Checks that an answer to a prompt of `prompt` tokens can begin, as [`new`](Self::new) does. Returns the
    /// number of tokens of each canvas.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn check_answer(recipe: &dyn Recipe, prompt: usize, limits: &Limits) -> Result<usize> {
        recipe.validate(limits)?;
        let canvas_len = recipe.canvas_len(prompt, limits)?;
        check_prompt(prompt, canvas_len, limits)?;
        recipe.check_budget(budget(
            recipe.max_tokens(),
            recipe.canvas_limit(canvas_len),
            canvas_len,
            limits.context - prompt,
        ))?;
        Ok(canvas_len)
    }

    /// What may be written from the next canvas on: what is left of the limits on tokens and canvases,
    /// and of the context.
    fn budget(&self) -> Budget {
        let (tokens, done) = (self.generation.tokens.len(), self.generation.canvases.len());
        budget(
            self.recipe.max_tokens().map(|max| max - tokens),
            self.max_canvases.map(|max| max - done),
            self.canvas_len,
            self.limits.context - self.prefix,
        )
    }

    /// Its state.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Tokens of a canvas of this answer.
    pub fn canvas_len(&self) -> usize {
        self.canvas_len
    }

    /// Tokens of the prompt that were already cached.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// What it needs next. Returns the same request until its result is handed in.
    ///
    /// # Errors
    /// The errors of `noise`.
    pub fn next<'a>(&'a mut self, noise: &'a dyn NoiseSource) -> Result<Next<'a>> {
        Ok(match (self.stage, &mut self.run) {
            (Stage::Prefilling, _) => Next::Prefill(&self.prompt[self.encoded..]),
            (Stage::Beginning, run) => Next::Begin {
                len: self.canvas_len,
                count: run.as_ref().map_or(1, |run| run.rows()),
            },
            (Stage::Denoising, Some(run)) => {
                let (input, draws) = run.begin_step(noise)?;
                Next::Step(input, draws)
            }
            (Stage::Scoring, _) => match (&self.check, self.recipe.scoring()) {
                (Some(check), Some(scoring)) => Next::Score(&check.candidate().tokens, scoring),
                _ => Next::Done(self.generation.finish),
            },
            (Stage::Committing, _) => match self.generation.canvases.last() {
                Some(canvas) => Next::Commit(self.recipe.committed(canvas)),
                None => Next::Done(self.generation.finish),
            },
            (Stage::Denoising | Stage::Done, _) => Next::Done(self.generation.finish),
        })
    }

    /// Ends the answer as it is, unless it is already done.
    pub fn cancel(&mut self) {
        self.stage = Stage::Done;
    }

    /// The next `count` tokens of the prompt are encoded, in the time since `start`.
    pub fn prefilled(&mut self, count: usize, start: Instant, on_event: &mut Handler<'_>) {
        self.generation.timing.prefill += start.elapsed();
        self.encoded += count;
        let progress = PromptProgress {
            reused: self.reused,
            encoded: self.encoded,
            total: self.prompt.len(),
        };
        if on_event(Event::PromptEncoded(progress)).is_break() {
            self.stage = Stage::Done;
        } else if self.encoded >= self.prompt.len() {
            self.stage = Stage::Beginning;
        }
    }

    /// What the canvas begins from that the answer so far leads to.
    fn blank(&self) -> Blank<'_> {
        Blank {
            len: self.canvas_len,
            room: self.limits.context - self.prefix,
            limits: &self.limits,
            end: &self.end,
            answer: &self.generation.tokens,
            canvases: &self.generation.canvases,
            budget: self.budget().tokens,
        }
    }

    /// A canvas has begun.
    ///
    /// # Errors
    /// The errors of `noise`.
    pub fn begun(&mut self, noise: &dyn NoiseSource, on_event: &mut Handler<'_>) -> Result<()> {
        if self.run.is_some() {
            // A repair has its canvas already, and so has a run that begins again.
            self.stage = Stage::Denoising;
            return Ok(());
        }
        // Does not exceed the 2³² canvases of a source of noise: a context has fewer positions.
        let block = self.generation.canvases.len() as u32;
        let run = self.recipe.begin(block, &self.blank(), noise)?;
        let run = self.run.insert(run);
        self.stage = Stage::Denoising;
        if on_event(Event::CanvasBegun(run.new_canvas())).is_break() {
            self.stage = Stage::Done;
        } else if run.status() != CanvasStatus::Running {
            // No step would change the canvas.
            self.end_canvas(on_event);
        } else if run.rows() > 1 {
            // One canvas has begun.
            self.stage = Stage::Beginning;
        }
        Ok(())
    }

    /// The denoising step is computed, in the time since `start`.
    ///
    /// # Errors
    /// The draws are not finite, or `noise` fails.
    pub fn stepped(
        &mut self,
        noise: &dyn NoiseSource,
        start: Instant,
        on_event: &mut Handler<'_>,
    ) -> Result<()> {
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        run.end_step(noise)?;
        self.generation.timing.denoise += start.elapsed();
        self.generation.steps += 1;
        self.generation.passes += u64::from(!std::mem::take(&mut self.is_read));
        self.corrections.observe(&run.draft());
        if on_event(Event::Draft(run.draft())).is_break() {
            self.stage = Stage::Done;
        } else if run.status() != CanvasStatus::Running {
            self.end_canvas(on_event);
        } else if run.begins_again() {
            self.stage = Stage::Beginning;
        }
        Ok(())
    }

    /// Lets a model read what the next steps may need, if the next action is a step and the parameters
    /// ask for it.
    ///
    /// # Errors
    /// The errors of `denoiser` and `noise`.
    pub fn read_ahead(
        &mut self,
        denoiser: &mut dyn Denoiser,
        noise: &dyn NoiseSource,
    ) -> Result<()> {
        self.is_read = match (self.stage, &self.run) {
            (Stage::Denoising, Some(run)) if run.lookahead() != Lookahead::Canvases(1) => {
                denoiser.read_ahead(&mut Guesses::new(&**run, noise))?
            }
            _ => false,
        };
        Ok(())
    }

    /// The canvas is scored, in the time since `start`: it is repaired, or done.
    ///
    /// # Errors
    /// The scores are not finite, or `noise` fails.
    pub fn scored(
        &mut self,
        scores: Vec<TokenScore>,
        noise: &dyn NoiseSource,
        start: Instant,
        on_event: &mut Handler<'_>,
    ) -> Result<()> {
        let (Some(mut check), Some(scoring)) = (self.check.take(), self.recipe.scoring()) else {
            return Ok(());
        };
        let is_finite = |score: &TokenScore| score.logprob.is_finite() && score.entropy.is_finite();
        if let Some(position) = scores.iter().position(|score| !is_finite(score)) {
            let (block, step) = (check.canvas.block, check.candidate().steps);
            return Err(Error::NotFinite {
                block,
                step,
                position,
            });
        }
        self.generation.timing.denoise += start.elapsed();
        self.generation.steps += 1;
        self.generation.passes += 1;
        let was_worse = check.take(scores);
        let end = end_of(&check.canvas.tokens, &self.end);
        let doubted = scoring.doubted(&check.scores, end);
        let event = ScoredCanvas {
            block: check.canvas.block,
            round: check.round,
            tokens: &check.canvas.tokens,
            scores: &check.scores,
            doubted: &doubted,
        };
        if on_event(Event::Scored(event)).is_break() {
            self.stage = Stage::Done;
            return Ok(());
        }
        if !was_worse && check.round < Scoring::ROUNDS && doubted.contains(&true) {
            check.round += 1;
            let (canvas, blank) = (&check.canvas, self.blank());
            let repair = self
                .recipe
                .repair(canvas, &doubted, check.round, &blank, noise)?;
            self.run = repair;
        }
        match self.run {
            Some(_) => {
                self.check = Some(check);
                self.stage = Stage::Beginning;
            }
            None => self.conclude(check.canvas, check.scores, on_event),
        }
        Ok(())
    }

    /// The canvas is in the prefix, in the time since `start`.
    pub fn committed(&mut self, start: Instant) {
        self.generation.timing.commit += start.elapsed();
        self.prefix += self.to_commit();
        self.stage = Stage::Beginning;
    }

    /// Number of tokens of the latest canvas that precede the next one.
    fn to_commit(&self) -> usize {
        let latest = self.generation.canvases.last();
        latest.map_or(0, |canvas| self.recipe.committed(canvas).len())
    }

    /// The answer so far.
    pub fn finish(self) -> Generation {
        Generation {
            corrections: self.corrections.finish(),
            ..self.generation
        }
    }

    /// Takes the canvas whose steps are done.
    fn end_canvas(&mut self, on_event: &mut Handler<'_>) {
        let Some(mut run) = self.run.take() else {
            return;
        };
        let canvas = run.finish(&self.end);
        if let Some(check) = &mut self.check {
            check.repaired = Some(canvas);
            self.stage = Stage::Scoring;
        } else if self.recipe.scoring().is_some() {
            self.check = Some(Check {
                canvas,
                scores: Vec::new(),
                repaired: None,
                round: 0,
            });
            self.stage = Stage::Scoring;
        } else {
            self.conclude(canvas, Vec::new(), on_event);
        }
    }

    /// Takes a finished canvas, and decides whether the answer continues after it.
    fn conclude(
        &mut self,
        mut canvas: FinishedCanvas,
        scores: Vec<TokenScore>,
        on_event: &mut Handler<'_>,
    ) {
        tracing::debug!(
            block = canvas.block,
            steps = canvas.steps,
            converged = canvas.converged,
            "canvas done"
        );
        let generation = &mut self.generation;
        let max_tokens = self.recipe.max_tokens();
        let room = max_tokens.map_or(usize::MAX, |max| max - generation.tokens.len());
        let cut = canvas.answer.len() > room;
        canvas.answer.truncate(room);
        generation.tokens.extend_from_slice(&canvas.answer);
        // The answer is what is not padding, up to the end token.
        let shown = scores.into_iter().filter(|s| Some(s.token) != self.end.pad);
        generation.scores.extend(shown.take(canvas.answer.len()));
        let flow = on_event(Event::CanvasDone(&canvas));
        generation.canvases.push(canvas);

        let committed = self.to_commit();
        let generation = &mut self.generation;
        let used = self
            .prefix
            .saturating_add(committed)
            .saturating_add(self.canvas_len);
        // Padding up to the limit: the text had ended before.
        let is_padded = self
            .end
            .pad
            .is_some_and(|pad| generation.tokens.last() == Some(&pad));
        let at_the_limit = match is_padded {
            true => FinishReason::EndOfText,
            false => FinishReason::Length,
        };
        let finish = if cut {
            at_the_limit
        } else if !self.recipe.goes_on_after(&generation.canvases) {
            FinishReason::EndOfText
        } else if Some(generation.canvases.len()) == self.max_canvases {
            at_the_limit
        } else if used > self.limits.context {
            FinishReason::ContextFull
        } else if flow.is_break() {
            FinishReason::Cancelled
        } else {
            self.stage = match committed {
                0 => Stage::Beginning,
                _ => Stage::Committing,
            };
            return;
        };
        generation.finish = finish;
        self.stage = Stage::Done;
    }

    /// Ends the answer if it is cancelled: before a pass, and between a canvas and its commit.
    pub fn check(&mut self, cancel: &CancelFlag) {
        if cancel.is_cancelled() {
            self.cancel();
        }
    }
}

/// The position after the first end token, from where a canvas is padding.
fn end_of(tokens: &[Token], end: &EndTokens) -> usize {
    let first = tokens.iter().position(|token| end.is_end(*token));
    first.map_or(tokens.len(), |position| position + 1)
}
