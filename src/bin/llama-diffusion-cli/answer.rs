//! One answer after another on the same session, shown and recorded.

use std::ops::ControlFlow;

use llama_diffusion::chat::Message;
use llama_diffusion::{CancelFlag, FinishReason, Result, Session, TextModel};

use crate::args::Args;
use crate::prompt::Setting;
use crate::record::Recorder;
use crate::report::Report;
use crate::thinking::{self, Channel};
use crate::view::View;

/// Answers conversations. What one begins like the one before it stays in the KV cache.
pub struct Answerer<'a> {
    args: &'a Args,
    model: &'a TextModel,
    setting: Setting,
    session: Session,
    channel: Option<Channel>,
    recorder: Option<Recorder>,
}

/// An answer as later messages see it.
pub struct Reply {
    /// Without thoughts.
    pub text: String,
    pub finish: FinishReason,
}

impl<'a> Answerer<'a> {
    /// Reserves a session and opens the recording.
    ///
    /// # Errors
    /// As [`TextModel::session`], or the file of the recording cannot be written.
    pub fn new(args: &'a Args, model: &'a TextModel, setting: Setting) -> Result<Self> {
        // What cannot work is said before the memory is reserved.
        args.diffusion(&model.model().overrides(), 0)?;
        let trained_context = model.model().hparams().context_length;
        let channel = Channel::of(model.vocab())?;
        let recorder = match &args.output.record {
            Some(path) => Some(Recorder::create(path, channel)?),
            None => None,
        };
        Ok(Self {
            args,
            model,
            setting,
            session: model.session(&args.common.session(trained_context)?)?,
            channel,
            recorder,
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
        let params = self.args.diffusion(&self.model.model().overrides(), seed)?;
        let vocab = self.model.vocab();
        let piece = |token| vocab.piece(token, false);
        let mut view = View::new(self.args, &piece, self.channel);
        let recorder = &mut self.recorder;
        let mut shown = Ok(());
        let result = self
            .session
            .generate(&tokens, &params, cancel, &mut |event| {
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
            });
        shown?;
        // The canvases that were finished before a failure are shown, too.
        view.finish()?;
        if let Some(recorder) = &mut self.recorder {
            recorder.end()?;
        }
        let answer = result?;
        let report = Report {
            answer: &answer,
            canvas: self.model.model().hparams().canvas_length,
            prompt: tokens.len(),
            seed,
        };
        eprintln!("{report}");
        let generation = &answer.generation;
        let spoken = thinking::without_thoughts(&generation.tokens, self.channel);
        Ok(Reply {
            text: vocab.detokenize(&spoken, false)?,
            finish: generation.finish,
        })
    }
}
