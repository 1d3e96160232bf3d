//! The tokens of one pass.

use crate::diffusion::Token;
use crate::sys;

/// Which positions of a batch have logits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outputs {
    /// Every one.
    All,
    /// The last one.
    Last,
}

/// Tokens of sequences, each at consecutive positions.
pub(super) struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequence_counts: Vec<i32>,
    sequences: Vec<i32>,
    sequence_lists: Vec<*mut i32>,
    outputs: Vec<i8>,
}

impl Batch {
    /// `tokens` at the positions from `first` on.
    pub(super) fn new(tokens: &[Token], first: usize, outputs: Outputs) -> Self {
        let count = tokens.len();
        let has_output = |i| outputs == Outputs::All || i + 1 == count;
        Self {
            tokens: tokens.to_vec(),
            positions: (first..first + count).map(|p| p as i32).collect(),
            sequence_counts: vec![1; count],
            sequences: vec![0; count],
            sequence_lists: Vec::new(),
            outputs: (0..count).map(|i| i8::from(has_output(i))).collect(),
        }
    }

    /// Texts that do not see each other. Each of them takes `stride` tokens: those after its own are of
    /// a further sequence.
    pub(super) fn rows(texts: &[&[Token]], stride: usize) -> Self {
        let mut batch = Self::new(&[], 0, Outputs::All);
        let mut padding = 0;
        for (row, text) in texts.iter().enumerate() {
            for (position, token) in text.iter().enumerate() {
                batch.push(*token, position, row);
            }
            for _ in text.len()..stride {
                batch.push(text[0], padding, texts.len());
                padding += 1;
            }
        }
        batch
    }

    fn push(&mut self, token: Token, position: usize, sequence: usize) {
        self.tokens.push(token);
        self.positions.push(position as i32);
        self.sequence_counts.push(1);
        self.sequences.push(sequence as i32);
        self.outputs.push(1);
    }

    /// As libllama needs it: every array has an entry per token and lives as long as `self`.
    pub(super) fn raw(&mut self) -> sys::llama_batch {
        let lists = self.sequences.iter_mut().map(std::ptr::from_mut);
        self.sequence_lists = lists.collect();
        sys::llama_batch {
            n_tokens: self.tokens.len() as i32,
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequence_lists.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}
