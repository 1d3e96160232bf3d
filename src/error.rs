//! The one error type of the crate. Every message names the culprit (file, key, tensor, parameter)
//! and says what to do about it; the C ABI and the command-line tool print the same text.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, from opening a file to the last denoising step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error for a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not a readable GGUF: wrong magic, unknown version, truncated, malformed.
    #[error("{}: {problem}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// A file is damaged, or not of the expected kind (a saved session, a recording).
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A metadata key is missing, or its value has the wrong type or is impossible.
    #[error("{}: metadata key '{key}': {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key, as written in the file.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing, or its shape or type is wrong.
    #[error("{}: tensor '{tensor}': {problem}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name, as written in the file.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter of a call or a command-line flag has a value that cannot work.
    #[error("{parameter}: {problem}")]
    InvalidParameter {
        /// The parameter or flag.
        parameter: String,
        /// What is wrong and which values work.
        problem: String,
    },
    /// Prompt and canvases do not fit the context.
    #[error(
        "the prompt has {prompt} tokens and {canvas} more are needed for a canvas, but the context holds {context}: \
         raise the context size (-c) or shorten the prompt"
    )]
    ContextFull {
        /// Tokens of the prompt (or of prompt and finished canvases).
        prompt: usize,
        /// Tokens of one canvas.
        canvas: usize,
        /// Positions of the KV cache.
        context: usize,
    },
    /// A prompt and an answer of a chosen length do not fit the context.
    #[error(
        "the prompt has {prompt} tokens and the answer {answer}, but the context holds {context}: \
         ask for a shorter answer, shorten the prompt or raise the context size"
    )]
    AnswerTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the answer.
        answer: usize,
        /// Maximum number of tokens in prompt and answer together.
        context: usize,
    },
    /// A step's logits are not finite. Sessions report the damaged tensor instead, if there is one.
    #[error(
        "block {block}, step {step}: the logits at position {position} are not finite: the weights \
         are damaged, or their type overflows on this device"
    )]
    NotFinite {
        /// The canvas of the answer, counted from 0.
        block: u32,
        /// The step of the canvas, counted from 0.
        step: u32,
        /// The position in the canvas, counted from 0.
        position: usize,
    },
    /// A buffer could not be allocated.
    #[error("out of memory: {what} needs {} MiB on {device}: {advice}", bytes.div_ceil(1 << 20))]
    OutOfMemory {
        /// The purpose of the buffer.
        what: String,
        /// The device that was asked.
        device: String,
        /// The requested size, in bytes.
        bytes: usize,
        /// What would make it smaller.
        advice: String,
    },
    /// An RPC server cannot be used, or not any more.
    #[error("RPC server {server}: {problem}")]
    Rpc {
        /// The server, by the name under which it was added.
        server: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// ggml failed: shapes that do not fit an operation, or a graph that failed on a device.
    #[error("ggml: {0}")]
    Ggml(String),
    /// The tokenizer of the file cannot be used, or a text cannot be tokenized.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template cannot be parsed, or rejected the messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// Loading was cancelled by the progress callback.
    #[error("cancelled")]
    Cancelled,
}

/// What callers distinguish: the C library has a status for each. It can grow with [`Error`], where
/// nobody outside this repository would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system reported an error.
    Io,
    /// A file is not a model that runs here.
    BadModel,
    /// A parameter is invalid.
    InvalidParameter,
    /// Prompt and answer do not fit the context.
    ContextFull,
    /// A buffer could not be allocated.
    OutOfMemory,
    /// A device failed.
    Backend,
    /// Text and tokens cannot be converted.
    Tokenizer,
    /// The chat template cannot be used.
    ChatTemplate,
    /// A callback stopped it.
    Cancelled,
}

impl Error {
    /// What kind of error it is.
    #[doc(hidden)]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::Gguf { .. } | Self::Metadata { .. } | Self::Tensor { .. } => ErrorKind::BadModel,
            Self::InvalidParameter { .. } | Self::File { .. } => ErrorKind::InvalidParameter,
            Self::ContextFull { .. } | Self::AnswerTooLong { .. } => ErrorKind::ContextFull,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Rpc { .. } | Self::Ggml(_) | Self::NotFinite { .. } => ErrorKind::Backend,
            Self::Tokenizer(_) => ErrorKind::Tokenizer,
            Self::ChatTemplate(_) => ErrorKind::ChatTemplate,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// An [`Error::Io`] about `path`, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// An [`Error::InvalidParameter`].
    pub(crate) fn parameter(parameter: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidParameter {
            parameter: parameter.into(),
            problem: problem.into(),
        }
    }
}
