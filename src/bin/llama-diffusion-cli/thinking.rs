//! The channel that a model thinks in, apart from the answer.

use llama_diffusion::{Result, Token, Vocab};
use serde::{Deserialize, Serialize};

/// The tokens that begin and end a thought.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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
        let (open, close) = (token("<|channel>")?, token("<channel|>")?);
        Ok(open.zip(close).map(|(open, close)| Self { open, close }))
    }
}

/// What a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Answer,
    Thought,
    /// It only begins or ends a thought.
    Mark,
}

/// Tells thoughts from the answer, token by token.
#[derive(Clone, Debug)]
pub struct Splitter {
    channel: Option<Channel>,
    thinking: bool,
}

impl Splitter {
    pub fn new(channel: Option<Channel>) -> Self {
        Self {
            channel,
            thinking: false,
        }
    }

    pub fn is_thinking(&self) -> bool {
        self.thinking
    }

    pub fn push(&mut self, token: Token) -> Part {
        match self.channel {
            Some(channel) if token == channel.open || token == channel.close => {
                self.thinking = token == channel.open;
                Part::Mark
            }
            _ if self.thinking => Part::Thought,
            _ => Part::Answer,
        }
    }

    /// What an unfinished token would belong to: noise neither begins nor ends a thought.
    pub fn part_of_noise(&self) -> Part {
        match self.thinking {
            true => Part::Thought,
            false => Part::Answer,
        }
    }
}

/// The tokens of the answer without its thoughts: what later turns of a conversation see.
pub fn without_thoughts(tokens: &[Token], channel: Option<Channel>) -> Vec<Token> {
    let mut splitter = Splitter::new(channel);
    let mut answer = tokens.to_vec();
    answer.retain(|token| splitter.push(*token) == Part::Answer);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: Option<Channel> = Some(Channel {
        open: 100,
        close: 101,
    });

    #[test]
    fn thoughts_are_told_from_the_answer() {
        let mut splitter = Splitter::new(CHANNEL);
        let parts: Vec<Part> = [1, 100, 2, 3, 101, 4]
            .map(|token| splitter.push(token))
            .into();
        use Part::{Answer, Mark, Thought};
        assert_eq!(parts, [Answer, Mark, Thought, Thought, Mark, Answer]);
        assert_eq!(without_thoughts(&[1, 100, 2, 101, 4], CHANNEL), [1, 4]);
    }

    #[test]
    fn a_thought_that_does_not_end_is_no_answer() {
        assert_eq!(without_thoughts(&[1, 100, 2, 3], CHANNEL), [1]);
    }

    #[test]
    fn a_model_without_the_channel_only_answers() {
        assert_eq!(without_thoughts(&[1, 100, 101], None), [1, 100, 101]);
    }
}
