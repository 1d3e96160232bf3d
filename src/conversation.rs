//! A chat with a model: takes messages and returns answers.

use std::ops::ControlFlow;

use serde_json::{Map, Value};

use crate::chat::thinking::AnswerText;
use crate::chat::{ChatTemplate, Message, Role};
use crate::diffusion::{CancelFlag, Event, Recipe, Token};
use crate::error::Result;
use crate::model::SessionParams;
use crate::session::{Answer, Session};
use crate::text_model::TextModel;

/// The conversation so far, and the session that answers. The part of a prompt that equals the
/// beginning of the previous one stays in the KV cache.
pub struct Conversation<'m> {
    model: &'m TextModel,
    session: Session,
    template: Option<ChatTemplate>,
    variables: Map<String, Value>,
    params: Box<dyn Recipe>,
    messages: Vec<Message>,
}

/// An answer of a [`Conversation`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// The answer, with its thoughts separate.
    pub text: AnswerText,
    /// The tokens of the prompt.
    pub prompt: Vec<Token>,
    /// Tokens, canvases, times.
    pub answer: Answer,
}

impl TextModel {
    /// A chat with the defaults: the model's template, the sampler settings that its file
    /// recommends, and a session of its own.
    ///
    /// # Errors
    /// The template cannot be parsed, the settings are invalid, or there is not enough memory.
    pub fn chat(&self) -> Result<Conversation<'_>> {
        self.chat_with(self.session(&SessionParams::default())?)
    }

    /// A chat on a session of this model.
    ///
    /// # Errors
    /// The template cannot be parsed, or the settings of the file are invalid.
    pub fn chat_with(&self, session: Session) -> Result<Conversation<'_>> {
        Ok(Conversation {
            model: self,
            session,
            template: self.chat_template()?,
            variables: Map::new(),
            params: self.model().recipe()?,
            messages: Vec::new(),
        })
    }
}

impl Conversation<'_> {
    /// Sets the parameters of the following answers.
    #[must_use]
    pub fn with_params(mut self, params: &dyn Recipe) -> Self {
        self.params = params.boxed();
        self
    }

    /// Variables of the template, such as `enable_thinking`.
    #[must_use]
    pub fn with_variables(mut self, variables: Map<String, Value>) -> Self {
        self.variables = variables;
        self
    }

    /// The conversation so far; a system message comes first. Without a template only the last
    /// message reaches the model.
    pub fn messages(&mut self) -> &mut Vec<Message> {
        &mut self.messages
    }

    /// The session.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Sends a message, and returns the answer without the thoughts.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn ask(&mut self, text: &str) -> Result<String> {
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let reply = self.say(text, &CancelFlag::default(), go_on)?;
        Ok(reply.text.text)
    }

    /// Sends a message; `on_event` receives every draft and every finished canvas, and may stop the
    /// answer, as `cancel` may from another thread. After an error the conversation is unchanged.
    ///
    /// # Errors
    /// The template rejects the messages, the prompt does not fit the context, or the device fails.
    pub fn say(
        &mut self,
        text: &str,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Reply> {
        self.messages.push(Message::new(Role::User, text));
        let replied = self.reply(cancel, on_event);
        match &replied {
            Ok(reply) => {
                let said = Message::new(Role::Assistant, reply.text.text.as_str());
                self.messages.push(said);
            }
            Err(_) => {
                self.messages.pop();
            }
        }
        replied
    }

    fn reply(
        &mut self,
        cancel: &CancelFlag,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Reply> {
        let messages = match self.template {
            Some(_) => &self.messages[..],
            None => self.messages.last_chunk::<1>().map_or(&[][..], |last| last),
        };
        let (template, variables) = (self.template.as_ref(), self.variables.clone());
        let prompt = self.model.prompt(template, messages, variables)?;
        let answer = self
            .session
            .generate(&prompt, &*self.params, cancel, on_event)?;
        let text = self.model.answer_text(&prompt, &answer.generation.tokens)?;
        Ok(Reply {
            text,
            prompt,
            answer,
        })
    }
}
