//! The metadata keys of files of any architecture, and the name of DiffusionGemma's.

/// The architecture, the prefix of the keys that belong to it.
pub const GENERAL_ARCHITECTURE: &str = "general.architecture";
/// The architecture of DiffusionGemma.
pub const DIFFUSION_GEMMA: &str = "diffusion-gemma";

pub(crate) const NAME: &str = "general.name";
pub(crate) const ALIGNMENT: &str = "general.alignment";
pub(crate) const FILE_TYPE: &str = "general.file_type";
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";

// The importance matrix that a file was quantized with.
pub(crate) const IMATRIX_FILE: &str = "quantize.imatrix.file";
pub(crate) const IMATRIX_DATASET: &str = "quantize.imatrix.dataset";
pub(crate) const IMATRIX_ENTRIES: &str = "quantize.imatrix.entries_count";
pub(crate) const IMATRIX_CHUNKS: &str = "quantize.imatrix.chunks_count";

/// The prefix of the keys of split models.
pub(crate) const SPLIT: &str = "split.";
pub(crate) const SPLIT_COUNT: &str = "split.count";
pub(crate) const SPLIT_NO: &str = "split.no";
pub(crate) const SPLIT_TENSORS: &str = "split.tensors.count";

pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The kind of the tokenizer; files without a tokenizer do not have this key.
pub const TOKENIZER: &str = "tokenizer.ggml.model";
pub(crate) const PRE_TOKENIZER: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(crate) const TOKEN_TYPE_COUNT: &str = "tokenizer.ggml.token_type_count";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const SUPPRESS_TOKENS: &str = "tokenizer.ggml.suppress_tokens";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(crate) const ADD_SEP: &str = "tokenizer.ggml.add_sep_token";
pub(crate) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(crate) const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// The id of a special token, such as `bos`, `eos`, `padding` or `mask`.
pub(crate) fn token_id(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}
