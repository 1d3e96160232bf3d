//! A model together with its text side: vocabulary, chat template, end tokens.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::chat::control::{ControlTexts, Marked, Piece};
use crate::chat::thinking::{AnswerText, Channel, Splitter};
use crate::chat::{ChatTemplate, Message, RenderOptions, Role};
use crate::constraint::Vocabulary;
use crate::diffusion::{EndTokens, Token};
use crate::error::{Error, Result};
use crate::gguf::keys::CHAT_TEMPLATE;
use crate::llama::Vocab;
use crate::model::keys::EOS_TOKEN_IDS;
use crate::model::{AnyModel, ModelParams, SessionParams};
use crate::session::Session;

/// A model of any family and its vocabulary: immutable, shared by the sessions that run on it.
#[derive(Debug)]
pub struct TextModel {
    model: AnyModel,
    vocab: Vocab,
    channel: Option<Channel>,
    control: ControlTexts,
    /// For constraints; made for the first one.
    text_tokens: OnceLock<Vocabulary>,
}

impl TextModel {
    /// Loads the weights and the vocabulary of a GGUF file, see [`AnyModel::load`].
    ///
    /// # Errors
    /// As [`AnyModel::load`] and [`Vocab::load`].
    pub fn load(
        path: &Path,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::new(AnyModel::load(path, params, progress)?)
    }

    /// A session that ends its answers at [`end_tokens`](Self::end_tokens).
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session(&self, params: &SessionParams) -> Result<Session> {
        Session::new(&self.model, self.end_tokens()?, params)
    }

    /// Loads the vocabulary of a model.
    ///
    /// # Errors
    /// As [`Vocab::load`].
    pub fn new(model: AnyModel) -> Result<Self> {
        let file = model.file();
        let vocab = Vocab::load(file.metadata(), file.metadata_overrides())?;
        let channel = Channel::of(&vocab)?;
        let control = ControlTexts::new(vocab.parsed_tokens());
        Ok(Self {
            model,
            vocab,
            channel,
            control,
            text_tokens: OnceLock::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &AnyModel {
        &self.model
    }

    /// The vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The chat template of the file, if it has one.
    ///
    /// # Errors
    /// The template cannot be parsed.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.chat_template_source()?
            .map(ChatTemplate::new)
            .transpose()
    }

    /// The source of the chat template of the file, if it has one.
    ///
    /// # Errors
    /// The metadata is not text.
    pub fn chat_template_source(&self) -> Result<Option<&str>> {
        self.model.file().metadata().get(CHAT_TEMPLATE)
    }

    /// What templates of this model are rendered with. `variables` go to the template, such as
    /// `enable_thinking`; `opens` is whether the text ends with the opening of the model's next turn.
    ///
    /// # Errors
    /// The token that begins or ends a sequence has no text.
    pub fn render_options(
        &self,
        variables: Map<String, Value>,
        opens: bool,
    ) -> Result<RenderOptions> {
        Ok(RenderOptions {
            bos_token: self.token_text(self.vocab.bos())?,
            eos_token: self.token_text(self.vocab.eos())?,
            add_generation_prompt: opens,
            extra: variables,
        })
    }

    /// The tokens of a conversation up to the opening of the model's next turn. `variables` go to
    /// the template, such as `enable_thinking`.
    ///
    /// Only the template can produce control tokens: where messages or variables spell one out,
    /// such as `<turn|>`, it stays text, so that nobody can close a turn from within a message.
    ///
    /// # Errors
    /// The template rejects the messages or returns no text, or the prompt cannot be tokenized.
    pub fn chat_prompt(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        variables: Map<String, Value>,
    ) -> Result<Vec<Token>> {
        let options = self.render_options(variables, true)?;
        let text = template.render(messages, &options)?;
        self.rendered_prompt(template, messages, options, &text)
    }

    /// The same for a caller who looks at the `text` first: it is what the template makes of these
    /// messages with these options.
    ///
    /// # Errors
    /// As [`chat_prompt`](Self::chat_prompt).
    pub fn rendered_prompt(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        mut options: RenderOptions,
        text: &str,
    ) -> Result<Vec<Token>> {
        // The template has written the special tokens out, including the first one.
        let tokens = self.vocab.tokenize(text, false, true)?;
        if tokens.is_empty() {
            return Err(Error::ChatTemplate(
                "it makes no text of these messages: use another template".into(),
            ));
        }
        let Some(marked) = self.control.mark(messages, &options.extra, text)? else {
            return Ok(tokens);
        };
        options.extra.clone_from(&marked.variables);
        let literal = self.literal(&marked, &template.render(&marked.messages, &options)?)?;
        // A template may have removed what it found in a message, such as thoughts of earlier
        // turns.
        match self.control.are_alike(&tokens, &literal) {
            true => Ok(tokens),
            false => Ok(literal),
        }
    }

    /// The tokens of a conversation: by the template, or, without one, its only message unchanged.
    ///
    /// # Errors
    /// As [`chat_prompt`](Self::chat_prompt), or there are several messages and no template.
    pub fn prompt(
        &self,
        template: Option<&ChatTemplate>,
        messages: &[Message],
        variables: Map<String, Value>,
    ) -> Result<Vec<Token>> {
        match (template, messages) {
            (Some(template), _) => self.chat_prompt(template, messages, variables),
            (None, [message]) => self.raw_prompt(&message.content),
            (None, _) => Err(Error::ChatTemplate(
                "without one, a prompt is a single message".into(),
            )),
        }
    }

    /// The tokens of a prompt in which messages are plain text.
    fn literal(&self, marked: &Marked<'_>, rendered: &str) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        for piece in marked.pieces(rendered) {
            match piece {
                Piece::Text(text) => tokens.extend(self.vocab.tokenize(&text, false, false)?),
                Piece::Control(token) => tokens.push(token),
            }
        }
        Ok(tokens)
    }

    /// The tokens of a text without a template, after the token that begins a sequence. Special
    /// tokens that are written out are parsed.
    ///
    /// # Errors
    /// The text cannot be tokenized.
    pub fn raw_prompt(&self, text: &str) -> Result<Vec<Token>> {
        self.vocab.tokenize(text, true, true)
    }

    /// Separates the thoughts in an answer to `prompt` from the answer itself, token by token.
    pub fn splitter(&self, prompt: &[Token]) -> Splitter {
        Splitter::after(self.channel, prompt, self.vocab.end_tokens())
    }

    /// The text of an answer to `prompt`, such as
    /// [`Generation::tokens`](crate::Generation::tokens), separate from its thoughts.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn answer_text(&self, prompt: &[Token], answer: &[Token]) -> Result<AnswerText> {
        AnswerText::new(&self.vocab, self.splitter(prompt), answer)
    }

    /// The bytes of the tokens that texts may contain.
    pub(crate) fn constraint_vocabulary(&self) -> Result<&Vocabulary> {
        if let Some(made) = self.text_tokens.get() {
            return Ok(made);
        }
        let made = self.vocab.text_tokens()?;
        Ok(self.text_tokens.get_or_init(|| made))
    }

    fn token_text(&self, token: Option<Token>) -> Result<String> {
        token.map_or(Ok(String::new()), |token| {
            self.vocab.detokenize(&[token], true)
        })
    }

    /// The tokens that end an answer: those that the file lists. A file without a list knows only
    /// one of a checkpoint's several end tokens, so those that the vocabulary knows by name count
    /// as well, and so does its padding.
    ///
    /// # Errors
    /// As [`AnyModel::end_tokens`].
    pub fn end_tokens(&self) -> Result<EndTokens> {
        let mut end = self.model.end_tokens()?;
        if self.model.file().metadata().value(EOS_TOKEN_IDS).is_none() {
            end.ids.extend_from_slice(self.vocab.end_tokens());
            end.ids.sort_unstable();
            end.ids.dedup();
        }
        if end.pad.is_none() {
            end.pad = self.vocab.pad()?;
        }
        Ok(end)
    }

    /// The token that ends an answer: the one that `template` writes after it, or without a template the
    /// vocabulary's end of a text.
    ///
    /// # Errors
    /// As [`end_tokens`](Self::end_tokens), or the template rejects a chat of two messages.
    pub fn answer_end(
        &self,
        template: Option<&ChatTemplate>,
        variables: Map<String, Value>,
    ) -> Result<Option<Token>> {
        let end = self.end_tokens()?;
        let found = match template {
            Some(template) => {
                let turn = |role| Message::new(role, "a");
                let question = [turn(Role::User)];
                let both = [turn(Role::User), turn(Role::Assistant)];
                let asked = self.chat_prompt(template, &question, variables.clone())?;
                let answered = self.chat_prompt(template, &both, variables)?;
                let same = asked.iter().zip(&answered).take_while(|(a, b)| a == b);
                let mut written = answered[same.count()..].iter().copied();
                written.find(|token| end.is_end(*token))
            }
            None => self.vocab().eos().filter(|token| end.is_end(*token)),
        };
        Ok(found.or(end.ids.first().copied()))
    }
}
