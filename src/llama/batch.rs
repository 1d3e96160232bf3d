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

/// Tokens of one sequence at consecutive positions.
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
            sequences: vec![0],
            sequence_lists: Vec::new(),
            outputs: (0..count).map(|i| i8::from(has_output(i))).collect(),
        }
    }

    /// As libllama needs it: every array has an entry per token and lives as long as `self`.
    pub(super) fn raw(&mut self) -> sys::llama_batch {
        // All tokens are in the one sequence.
        self.sequence_lists = vec![self.sequences.as_mut_ptr(); self.tokens.len()];
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
