//! Separates thoughts from the answer: a model that thinks marks its thoughts with special tokens.

use serde::{Deserialize, Serialize};

use crate::diffusion::Token;
use crate::error::Result;
use crate::llama::Vocab;

/// Names of the tokens around a thought: those of Gemma 4, and those of Qwen's family.
const MARKS: [(&str, &str); 2] = [("<|channel>", "<channel|>"), ("<think>", "</think>")];

/// Gemma 4 writes the name of the channel before the thought.
pub const CHANNEL_NAME: &str = "thought\n";

/// The tokens that begin and end a thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    open: Token,
    close: Token,
}

impl Channel {
    /// The channel of a vocabulary, if it has one.
    ///
    /// # Errors
    /// The vocabulary cannot tokenize.
    pub fn of(vocab: &Vocab) -> Result<Option<Self>> {
        let token = |name| {
            let tokens = vocab.tokenize(name, false, true)?;
            Ok(<[Token; 1]>::try_from(tokens).ok().map(|[token]| token))
        };
        for (open, close) in MARKS {
            if let (Some(open), Some(close)) = (token(open)?, token(close)?) {
                return Ok(Some(Self { open, close }));
            }
        }
        Ok(None)
    }
}

impl Channel {
    /// The token that begins a thought.
    pub(crate) fn open(self) -> Token {
        self.open
    }

    /// The token that ends it.
    pub(crate) fn close(self) -> Token {
        self.close
    }
}

/// What a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The answer.
    Answer,
    /// A thought.
    Thought,
    /// It only marks where a thought begins or ends.
    Mark,
}

/// Separates thoughts from the answer, token by token.
#[derive(Clone, Debug)]
pub struct Splitter {
    channel: Option<Channel>,
    thinking: bool,
}

impl Splitter {
    /// A splitter for text that begins outside a thought. Without a channel everything is answer.
    pub fn new(channel: Option<Channel>) -> Self {
        Self {
            channel,
            thinking: false,
        }
    }

    /// A splitter for what follows `prompt`, which may end inside a thought: some templates open
    /// one for the model. `ends` are the tokens that end a turn, and its thoughts with it.
    pub fn after(channel: Option<Channel>, prompt: &[Token], ends: &[Token]) -> Self {
        let opens = |channel: Channel| {
            let mut latest = prompt.iter().rev();
            latest.find_map(|token| match token {
                token if *token == channel.open => Some(true),
                token if *token == channel.close || ends.contains(token) => Some(false),
                _ => None,
            })
        };
        Self {
            channel,
            thinking: channel.and_then(opens).unwrap_or(false),
        }
    }

    /// The same channel, inside a thought.
    #[must_use]
    pub fn in_thought(self) -> Self {
        Self {
            thinking: self.channel.is_some(),
            ..self
        }
    }

    /// The tokens around thoughts.
    pub fn channel(&self) -> Option<Channel> {
        self.channel
    }

    /// Whether the next token belongs to a thought, unless it ends the thought.
    pub fn is_thinking(&self) -> bool {
        self.thinking
    }

    /// What the next token belongs to.
    pub fn push(&mut self, token: Token) -> Section {
        match self.channel {
            Some(channel) if token == channel.open || token == channel.close => {
                self.thinking = token == channel.open;
                Section::Mark
            }
            _ => self.section_of_noise(),
        }
    }

    /// What an unfinished token would belong to: noise neither begins nor ends a thought.
    pub fn section_of_noise(&self) -> Section {
        match self.thinking {
            true => Section::Thought,
            false => Section::Answer,
        }
    }
}

/// An answer as text, separate from its thoughts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerText {
    /// The answer itself: what later turns of the conversation see.
    pub text: String,
    /// The thoughts before it, without their marks; each thought is on lines of its own. Empty if
    /// there are none.
    pub thoughts: String,
    /// Whether it was cut while thinking.
    pub thinking: bool,
}

impl AnswerText {
    /// The text of an answer's tokens, from the present state of `splitter`.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub(crate) fn new(vocab: &Vocab, mut splitter: Splitter, tokens: &[Token]) -> Result<Self> {
        let mut answer = Vec::new();
        let mut thoughts = vec![Vec::new()];
        for &token in tokens {
            match splitter.push(token) {
                Section::Answer => answer.push(token),
                Section::Thought => thoughts.last_mut().into_iter().for_each(|t| t.push(token)),
                Section::Mark => thoughts.push(Vec::new()),
            }
        }
        let mut texts = Vec::new();
        for thought in thoughts {
            let text = vocab.detokenize(&thought, false)?;
            let text = text.strip_prefix(CHANNEL_NAME).unwrap_or(&text).trim();
            if !text.is_empty() {
                texts.push(text.to_owned());
            }
        }
        Ok(Self {
            text: vocab.detokenize(&answer, false)?,
            thoughts: texts.join("\n"),
            thinking: splitter.is_thinking(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Option<Channel> = Some(Channel {
        open: 100,
        close: 101,
    });

    fn parts(mut splitter: Splitter, tokens: &[Token]) -> Vec<Section> {
        tokens.iter().map(|token| splitter.push(*token)).collect()
    }

    #[test]
    fn thoughts_are_separated_from_the_answer() {
        use Section::{Answer, Mark, Thought};
        let found = parts(Splitter::new(CHANNEL), &[1, 100, 2, 3, 101, 4]);
        assert_eq!(found, [Answer, Mark, Thought, Thought, Mark, Answer]);
    }

    #[test]
    fn a_thought_that_does_not_end_is_not_an_answer() {
        let found = parts(Splitter::new(CHANNEL), &[1, 100, 2, 3]);
        assert_eq!(found[2..], [Section::Thought; 2]);
    }

    #[test]
    fn an_end_mark_without_a_thought_opens_none() {
        use Section::{Answer, Mark, Thought};
        assert_eq!(
            parts(Splitter::new(CHANNEL), &[1, 101, 2, 101, 3]),
            [Answer, Mark, Answer, Mark, Answer]
        );
        // A second begin mark does not end the thought.
        assert_eq!(
            parts(Splitter::new(CHANNEL), &[100, 2, 100, 3, 101, 4]),
            [Mark, Thought, Mark, Thought, Mark, Answer]
        );
    }

    #[test]
    fn noise_belongs_to_what_surrounds_it() {
        let outside = Splitter::new(CHANNEL);
        assert_eq!(outside.section_of_noise(), Section::Answer);
        assert_eq!(outside.in_thought().section_of_noise(), Section::Thought);
        let no_channel = Splitter::new(None).in_thought();
        assert_eq!(no_channel.section_of_noise(), Section::Answer);
    }

    #[test]
    fn a_model_without_the_channel_only_answers() {
        assert_eq!(
            parts(Splitter::new(None), &[1, 100, 101]),
            [Section::Answer; 3]
        );
        assert!(!Splitter::new(None).in_thought().is_thinking());
    }

    #[test]
    fn a_prompt_may_end_inside_a_thought() {
        let thinks = |prompt: &[Token]| Splitter::after(CHANNEL, prompt, &[1, 6]).is_thinking();
        assert!(thinks(&[2, 100, 7]));
        assert!(thinks(&[2, 100, 7, 101, 8, 100]));
        assert!(!thinks(&[2, 100, 7, 101]));
        // One that an earlier turn left open ended with that turn.
        assert!(!thinks(&[2, 100, 7, 6, 5]));
        assert!(!thinks(&[]));
        assert!(!Splitter::after(None, &[100], &[]).is_thinking());
    }
}
