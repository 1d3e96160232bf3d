//! Tokens.

/// A token id, as ggml's I32 tensors and libllama's vocabulary hold it.
pub type Token = i32;
