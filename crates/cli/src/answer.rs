//! One answer after another on the same session, shown and recorded.

use std::ops::ControlFlow;

use llama_diffusion::chat::Message;
use llama_diffusion::diffusion::{CounterNoise, Recipe, Stage};
use llama_diffusion::recording::Recorder;
use llama_diffusion::{Answer, CancelFlag, Event, FinishReason, Result, Session, TextModel, Token};

use crate::corrections::CorrectionLine;
use crate::engine::{Engine, canvas_len};
use crate::logprobs::Logprobs;
use crate::output::Output;
use crate::prompt::Setting;
use crate::prompt_cache::PromptCache;
use crate::report::Report;
use crate::view::View;
use llama_diffusion_flags::streams::say;

/// Answers conversations. What one begins like the one before it stays in the KV
/// cache, if the model has one.
pub struct Answerer<'a> {
    engine: Engine,
    output: &'a Output,
    model: &'a TextModel,
    setting: Setting,
    session: Session,
    cache: Option<PromptCache>,
    recorder: Option<Recorder>,
    logprobs: Option<Logprobs>,
}

/// An answer as later messages see it.
pub struct Reply {
    /// Without thoughts.
    pub text: String,
    pub finish: FinishReason,
}

/// What a draft shows where no token is known yet.
const PLACEHOLDER: &str = "░";

impl<'a> Answerer<'a> {
    /// Reserves a session, and opens the files that answers are written to.
    ///
    /// # Errors
    /// As [`TextModel::session`], or a file cannot be written.
    pub fn new(
        engine: Engine,
        output: &'a Output,
        model: &'a TextModel,
        setting: Setting,
        cache: Option<PromptCache>,
    ) -> Result<Self> {
        let mut session = engine.session(model)?;
        // A masked model has no KV cache, and a warning has said so.
        let mut cache = cache.filter(|_| model.model().mask().is_none());
        if let Some(cache) = &mut cache {
            cache.restore(&mut session)?;
        }
        let recorder = match &output.record {
            Some(path) => Some(Recorder::create(path, model.splitter(&[]).channel())?),
            None => None,
        };
        let logprobs = output.logprobs()?;
        Ok(Self {
            engine,
            output,
            model,
            setting,
            session,
            cache,
            recorder,
            logprobs,
        })
    }

    /// The messages that a conversation begins with.
    pub fn opening(&self) -> Vec<Message> {
        self.setting.opening()
    }

    /// Answers the last message, shows the answer and what it took.
    ///
    /// # Errors
    /// The prompt cannot be made or does not fit, the device fails, or the answer cannot be written.
    pub fn answer(
        &mut self,
        messages: &[Message],
        seed: u64,
        cancel: &CancelFlag,
    ) -> Result<Reply> {
        let tokens = self.setting.tokens(self.model, messages)?;
        let recipe = self.engine.recipe(self.model, &tokens, seed)?;
        let vocab = self.model.vocab();
        let placeholder = self.model.model().mask();
        let piece = |token: Token| match Some(token) == placeholder {
            true => Ok(PLACEHOLDER.into()),
            false => vocab.piece(token, false),
        };
        let splitter = self.model.splitter(&tokens);
        if let Some(recorder) = &mut self.recorder {
            recorder.begin(&splitter)?;
        }
        let mut view = View::new(&self.output.show, &piece, splitter, cancel);
        let recorder = &mut self.recorder;
        let mut shown = Ok(());
        let on_event = &mut |event: Event<'_>| {
            shown = match recorder {
                Some(recorder) => recorder.record(event, &piece),
                None => Ok(()),
            };
            if shown.is_ok() {
                shown = view.show(event);
            }
            match shown {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let cache = self.cache.as_mut();
        let session = &mut self.session;
        let result = match self.engine.ahead(seed) {
            Some((count, params)) => {
                session.generate_after(count, &tokens, &params, cancel, on_event)
            }
            None => generate(session, cache, &tokens, &*recipe, cancel, on_event),
        };
        shown?;
        // The canvases that were finished before a failure are shown, too.
        view.finish()?;
        if let Some(recorder) = &mut self.recorder {
            recorder.end()?;
        }
        let answer = result.map_err(|error| self.engine.with_flags(error))?;
        let generation = &answer.generation;
        let text = self.model.answer_text(&tokens, &generation.tokens)?;
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.write(vocab, &generation.scores)?;
        }
        let model = self.model.model();
        if self.output.shows_summary {
            say(Report {
                answer: &answer,
                canvas: canvas_len(model, &answer),
                prompt: tokens.len(),
                seed,
                sampler: self.engine.sampler(),
                limit: self.engine.limit(),
                text: &text,
                caches: model.mask().is_none(),
            });
        }
        if self.output.shows_corrections {
            let piece = |token| piece(token);
            say(CorrectionLine::new(&generation.corrections, &piece)?);
        }
        if let Some(cache) = &self.cache {
            cache.answered(&mut self.session, &tokens, generation)?;
        }
        Ok(Reply {
            text: text.text,
            finish: generation.finish,
        })
    }
}

/// Answers a prompt, and says when it is encoded.
fn generate(
    session: &mut Session,
    cache: Option<&mut PromptCache>,
    prompt: &[Token],
    recipe: &dyn Recipe,
    cancel: &CancelFlag,
    on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Answer> {
    let noise = CounterNoise::new(recipe.seed(), session.model().vocab_size())?;
    let mut generator = session.begin(prompt, recipe)?;
    let reused = generator.reused();
    while generator.stage() == Stage::Prefilling {
        let _done = session.advance(&mut generator, &noise, cancel, on_event)?;
    }
    if let Some(cache) = cache.filter(|_| generator.stage() != Stage::Done) {
        cache.prompt_encoded(session, reused, prompt.len())?;
    }
    while session
        .advance(&mut generator, &noise, cancel, on_event)?
        .is_continue()
    {}
    Ok(Answer {
        generation: generator.finish(),
        reused,
    })
}
