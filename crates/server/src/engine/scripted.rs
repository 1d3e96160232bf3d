//! An engine without a model: answers by the prompt, failures on order.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use llama_diffusion::diffusion::{
    CanvasStatus, Draft, FinishedCanvas, NewCanvas, PromptProgress, Recipe, Stage, Timing,
};
use llama_diffusion::form::FilledForm;
use llama_diffusion::{
    Answer, CancelFlag, EndTokens, Error, Event, FinishReason, Generation, Result, Token,
};

use super::job::{Found, Task};
use super::library::common_prefix;
use super::{Engine, Handler};

/// Tokens of a pass over a prompt, and of a canvas.
pub(super) const PASS: usize = 4;

/// Answers a prompt with as many canvases as its last token says, each after two steps. A canvas has
/// the sum of the prompt in it, so that answers to different prompts differ.
pub(super) struct Scripted {
    slots: Vec<Slot>,
    end: EndTokens,
    /// Steps, and passes of tasks, that fail, by their number from here on.
    failures: VecDeque<bool>,
    /// Answers that cannot begin, by their number from here on.
    refusals: VecDeque<bool>,
    /// Tokens that were encoded.
    pub(super) encoded: usize,
}

#[derive(Default)]
struct Slot {
    cached: Vec<Token>,
    member: Option<Member>,
    task: Option<FilledForm>,
    /// Passes of the task that are done.
    passes: usize,
}

struct Member {
    prompt: Vec<Token>,
    reused: usize,
    cancel: CancelFlag,
    step: u32,
    canvases: Vec<FinishedCanvas>,
    is_stopped: bool,
}

impl Member {
    fn canvas(&self) -> FinishedCanvas {
        let wanted = self.prompt.last().copied().unwrap_or(0);
        let block = self.canvases.len() as u32;
        let tokens = vec![self.prompt.iter().sum::<Token>() + block as Token; PASS];
        FinishedCanvas {
            block,
            steps: 2,
            converged: true,
            answer: tokens.clone(),
            generated: PASS,
            ended: block as Token + 1 >= wanted,
            tokens,
        }
    }
}

impl Scripted {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            end: EndTokens::default(),
            failures: VecDeque::new(),
            refusals: VecDeque::new(),
            encoded: 0,
        }
    }

    /// Which of the next steps fail.
    pub(super) fn fail(mut self, steps: impl IntoIterator<Item = bool>) -> Self {
        self.failures = steps.into_iter().collect();
        self
    }
}

impl Scripted {
    /// Which of the next answers find no memory.
    pub(super) fn refuse(mut self, answers: impl IntoIterator<Item = bool>) -> Self {
        self.refusals = answers.into_iter().collect();
        self
    }
}

impl super::Saved for (Vec<Token>, ()) {
    fn tokens(&self) -> &[Token] {
        &self.0
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Engine for Scripted {
    type Saved = (Vec<Token>, ());

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn end_tokens(&self) -> &EndTokens {
        &self.end
    }

    fn cached(&self, slot: usize) -> usize {
        self.slots[slot].cached.len()
    }

    fn usable_prefix(&self, slot: usize, prompt: &[Token]) -> usize {
        common_prefix(&self.slots[slot].cached, prompt)
    }

    fn save(&self, slot: usize) -> Result<Self::Saved> {
        Ok((self.slots[slot].cached.clone(), ()))
    }

    fn restore(&mut self, slot: usize, saved: &Self::Saved) -> Result<()> {
        self.slots[slot].cached.clone_from(&saved.0);
        Ok(())
    }

    fn clear(&mut self, slot: usize) -> Result<()> {
        self.slots[slot].cached.clear();
        Ok(())
    }

    fn begin(
        &mut self,
        slot: usize,
        prompt: &[Token],
        _: &dyn Recipe,
        cancel: &CancelFlag,
    ) -> Result<()> {
        if self.refusals.pop_front() == Some(true) {
            return Err(Error::OutOfMemory {
                what: "the batch".into(),
                device: "CUDA0".into(),
                bytes: 1,
                advice: "lower the number of slots".into(),
            });
        }
        let reused = self.usable_prefix(slot, prompt);
        let slot = &mut self.slots[slot];
        assert!(slot.member.is_none() && slot.task.is_none(), "it is in use");
        slot.cached.truncate(reused);
        slot.member = Some(Member {
            prompt: prompt.to_vec(),
            reused,
            cancel: cancel.clone(),
            step: 0,
            canvases: Vec::new(),
            is_stopped: false,
        });
        Ok(())
    }

    fn stage(&self, slot: usize) -> Option<Stage> {
        let slot = &self.slots[slot];
        let member = slot.member.as_ref()?;
        Some(match slot.cached.len() < member.prompt.len() {
            true => Stage::Prefilling,
            false => Stage::Denoising,
        })
    }

    fn step(&mut self, on_event: &mut Handler<'_>) -> Result<Vec<(usize, Result<Answer>)>> {
        if self.failures.pop_front() == Some(true) {
            return Err(lost());
        }
        let mut finished = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(member) = &mut slot.member else {
                continue;
            };
            let mut on_event = |event: Event<'_>| on_event(index, event);
            let is_cancelled = member.cancel.is_cancelled();
            let flow = match is_cancelled {
                true => ControlFlow::Break(()),
                false if slot.cached.len() < member.prompt.len() => {
                    let from = slot.cached.len();
                    let to = (from + PASS).min(member.prompt.len());
                    slot.cached.extend(&member.prompt[from..to]);
                    self.encoded += to - from;
                    on_event(Event::PromptEncoded(PromptProgress {
                        reused: member.reused,
                        encoded: to,
                        total: member.prompt.len(),
                    }))
                }
                false => member.denoise(&mut on_event),
            };
            member.is_stopped |= flow.is_break();
            let is_done = member.canvases.last().is_some_and(|canvas| canvas.ended);
            if !is_done && !member.is_stopped {
                continue;
            }
            if let Some(member) = slot.member.take() {
                finished.push((index, Ok(member.answer(is_done))));
            }
        }
        Ok(finished)
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot].member = None;
        self.slots[slot].task = None;
    }

    /// The tokens of the prompt stand in the form, and its seed says how many passes that takes; 0 is an error.
    fn begin_task(&mut self, slot: usize, prompt: &[Token], task: &Task) -> Result<()> {
        let Task::Form(task) = task else {
            unreachable!("tests read no canvas")
        };
        let slot = &mut self.slots[slot];
        assert!(slot.member.is_none() && slot.task.is_none(), "it is in use");
        assert_eq!(slot.cached, prompt);
        if task.params.seed == 0 {
            return Err(Error::ContextFull {
                prompt: prompt.len(),
                canvas: PASS,
                context: PASS,
            });
        }
        slot.task = Some(FilledForm {
            tokens: prompt.to_vec(),
            blanks: Vec::new(),
            canvas: PASS,
            rows: task.params.samples,
            passes: task.params.seed as usize,
            reused: prompt.len(),
        });
        slot.passes = 0;
        Ok(())
    }

    fn advance_task(&mut self, slot: usize, cancel: &CancelFlag) -> Result<Option<Found>> {
        let fails = self.failures.pop_front() == Some(true);
        let slot = &mut self.slots[slot];
        let form = slot.task.take().unwrap();
        if fails {
            return Err(lost());
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        slot.passes += 1;
        if slot.passes == form.passes {
            return Ok(Some(Found::Form(form)));
        }
        slot.task = Some(form);
        Ok(None)
    }
}

fn lost() -> Error {
    Error::Input {
        name: "device".into(),
        problem: "lost".into(),
    }
}

impl Member {
    fn denoise(
        &mut self,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let canvas = self.canvas();
        if self.step == 0 {
            let tokens = &canvas.tokens;
            let begun = NewCanvas {
                block: canvas.block,
                max_steps: 2,
                tokens,
            };
            on_event(Event::CanvasBegun(begun))?;
        }
        let is_last = self.step == 1;
        let floats = [0.0; PASS];
        on_event(Event::Draft(Draft {
            block: canvas.block,
            step: self.step,
            max_steps: 2,
            temperature: 0.5,
            argmax: &canvas.tokens,
            sampled: &canvas.tokens,
            entropy: &floats,
            probability: &floats,
            accepted: &[true; PASS],
            canvas: &canvas.tokens,
            mean_entropy: 0.0,
            stable: is_last,
            status: match is_last {
                true => CanvasStatus::Converged,
                false => CanvasStatus::Running,
            },
        }))?;
        self.step = (self.step + 1) % 2;
        if is_last {
            on_event(Event::CanvasDone(&canvas))?;
            self.canvases.push(canvas);
        }
        ControlFlow::Continue(())
    }

    fn answer(self, is_done: bool) -> Answer {
        Answer {
            reused: self.reused,
            generation: Generation {
                tokens: self
                    .canvases
                    .iter()
                    .flat_map(|c| c.answer.clone())
                    .collect(),
                steps: 2 * self.canvases.len() as u64,
                passes: 2 * self.canvases.len() as u64,
                canvases: self.canvases,
                scores: Vec::new(),
                corrections: Default::default(),
                finish: match is_done {
                    true => FinishReason::EndOfText,
                    false => FinishReason::Cancelled,
                },
                timing: Timing::default(),
            },
        }
    }
}
