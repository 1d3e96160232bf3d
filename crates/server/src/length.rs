//! Prompts that are too long for a slot whatever their tokens are: they are refused before they are
//! tokenized.

use std::sync::OnceLock;

use llama_diffusion::{Token, Vocab};

use crate::protocol::error::ApiError;
use crate::protocol::request::Piece;
use crate::served::Served;

/// Bytes of text that a token stands for at most. They are counted when the first long text comes.
#[derive(Default)]
pub struct LongestToken(OnceLock<usize>);

impl LongestToken {
    fn bytes(&self, vocab: &Vocab) -> usize {
        let bytes = |token: usize| match vocab.piece(token as Token, true) {
            // Some tokenizers read a mark of three bytes as a space.
            Ok(piece) => piece
                .iter()
                .map(|byte| if *byte == b' ' { 3 } else { 1 })
                .sum(),
            Err(_) => usize::MAX, // unknown: nothing is too long
        };
        let longest = || (0..vocab.len()).map(bytes).max();
        *self
            .0
            .get_or_init(|| longest().unwrap_or(usize::MAX).max(1))
    }
}

impl Served {
    /// Refuses pieces of a prompt that cannot fit.
    ///
    /// # Errors
    /// 400: they have more tokens than a slot has positions.
    pub fn check_pieces(&self, pieces: &[Piece]) -> Result<(), ApiError> {
        let texts = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Tokens(_) => 0,
        });
        self.check_bytes(texts.sum())
    }

    /// Refuses a text that cannot fit.
    ///
    /// # Errors
    /// As [`check_pieces`](Self::check_pieces).
    pub fn check_bytes(&self, bytes: usize) -> Result<(), ApiError> {
        // Below that, even tokens of one byte fit, but for a canvas.
        if bytes <= self.limits.context {
            return Ok(());
        }
        let longest = self.longest_token.bytes(self.model.vocab());
        let least = bytes.div_ceil(longest);
        match least + self.canvas_room() > self.limits.context {
            true => Err(ApiError::context_size_of_bytes(
                bytes,
                least,
                self.limits.context,
            )),
            false => Ok(()),
        }
    }
}
