//! Constraints for the answers of a model: languages over its vocabulary.

use serde_json::Value;

use crate::chat::thinking::{CHANNEL_NAME, Channel};
use crate::constraint::{
    ByteAutomaton, Constraint, Limits, Scaffold, SchemaOptions, TokenAutomaton, json_schema,
};
use crate::diffusion::{Token, refused};
use crate::error::Result;
use crate::llama::Vocab;
use crate::model::AnyModel;
use crate::text_model::TextModel;

/// What the model writes before an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Thoughts {
    /// What it writes in a chat when it does not think: nothing, or an empty thought.
    #[default]
    Off,
    /// A thought, or nothing.
    On,
    /// Nothing: the prompt is not a chat.
    None,
}

impl TextModel {
    /// Constrains answers to `prompt` to the texts that a regular expression matches as a whole, in
    /// the syntax of the `regex` crate.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`](crate::Error::InvalidParameter): the expression is malformed, it needs too large an automaton, or
    /// no tokens of this model can write such a text.
    pub fn regex(&self, pattern: &str, prompt: &[Token], thoughts: Thoughts) -> Result<Constraint> {
        let limits = Limits::default();
        let language = ByteAutomaton::from_regex(pattern, &limits).map_err(refused)?;
        self.constraint(&language, prompt, thoughts)
    }

    /// Constrains answers to `prompt` to the JSON texts that a JSON Schema allows. What `options` cut is
    /// logged.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`](crate::Error::InvalidParameter): the schema is malformed, has a keyword
    /// whose meaning cannot be kept, or needs too large an automaton, or no tokens of this model can write
    /// such a text.
    pub fn json_schema(
        &self,
        schema: &Value,
        options: &SchemaOptions,
        prompt: &[Token],
        thoughts: Thoughts,
    ) -> Result<Constraint> {
        let language = json_schema(schema, options).map_err(refused)?;
        for cut in &language.cuts {
            tracing::warn!("{cut}: a larger depth allows more");
        }
        let automaton = language.automaton(&Limits::default()).map_err(refused)?;
        self.constraint(&automaton, prompt, thoughts)
    }

    /// Constrains answers to `prompt` to a language.
    ///
    /// # Errors
    /// As [`regex`](Self::regex).
    pub fn constraint(
        &self,
        language: &ByteAutomaton,
        prompt: &[Token],
        thoughts: Thoughts,
    ) -> Result<Constraint> {
        let vocabulary = self.constraint_vocabulary()?;
        let scaffold = self.scaffold(prompt, thoughts)?;
        let end = self.end_tokens()?;
        let limits = Limits::default();
        TokenAutomaton::new(language, vocabulary, &scaffold, &end.ids, &limits)
            .map(Constraint::new)
            .map_err(refused)
    }

    /// What comes before the text of an answer to `prompt`.
    pub(crate) fn scaffold(&self, prompt: &[Token], thoughts: Thoughts) -> Result<Scaffold> {
        let Some(channel) = self.splitter(prompt).channel() else {
            return Ok(Scaffold::None);
        };
        if self.splitter(prompt).is_thinking() {
            return Ok(Scaffold::Until(channel.close()));
        }
        Ok(match (thoughts, self.model()) {
            // Asked for thoughts, a model may answer without one: then the text begins at once.
            (Thoughts::On, _) => Scaffold::Between {
                open: channel.open(),
                close: channel.close(),
            },
            // Masked models do not mark that they do not think.
            // The template has closed the thought.
            (Thoughts::Off, _) if prompt.last() == Some(&channel.close()) => Scaffold::None,
            // Not every model writes an empty thought.
            (Thoughts::Off, AnyModel::Canvas(_)) => {
                Scaffold::Optional(empty_thought(channel, self.vocab())?)
            }
            (Thoughts::Off | Thoughts::None, _) => Scaffold::None,
        })
    }
}

/// The tokens of a thought without content.
pub(crate) fn empty_thought(channel: Channel, vocab: &Vocab) -> Result<Vec<Token>> {
    let mut tokens = vec![channel.open()];
    tokens.extend(vocab.tokenize(CHANNEL_NAME, false, false)?);
    tokens.push(channel.close());
    Ok(tokens)
}
