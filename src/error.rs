//! The one error type of the crate. Every message names the culprit (file, key, tensor, parameter)
//! and says what to do about it. Parameters that it names stand between backticks, so that front
//! ends can call them by their own names.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::parameter::{Parameter, renamed};

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
    /// No model of this architecture runs here, or not by this type.
    #[error("{}: metadata key 'general.architecture': '{architecture}' {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The architecture, as written in the file.
        architecture: String,
        /// What it can be instead.
        problem: String,
    },
    /// A parameter has a value that cannot work.
    #[error("{parameter}: {problem}")]
    InvalidParameter {
        /// The parameter.
        parameter: Parameter,
        /// What is wrong and which values work.
        problem: String,
    },
    /// What a program was given besides the parameters of this crate cannot be used: the contents
    /// of a text file, or a setting of its own.
    #[error("{name}: {problem}")]
    Input {
        /// The file or the setting.
        name: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// Prompt and canvases do not fit the context.
    #[error(
        "the prompt has {prompt} tokens and {canvas} more are needed for a canvas, but the context holds {context}: \
         raise `context` or shorten the prompt"
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
         lower `length`, shorten the prompt or raise `context`"
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
    /// A device failed, or cannot be used.
    #[error("device {device}: {problem}")]
    Device {
        /// The device's name.
        device: String,
        /// What is wrong and what to do.
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
    /// Loading was cancelled by the progress callback, or a form by its flag.
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
    /// The message in the words of a front end: `name` gives what the user calls a parameter, such
    /// as a command-line flag or the field of a C struct.
    ///
    /// ```
    /// # use llama_diffusion::{DiffusionParams, Parameter};
    /// let params = DiffusionParams { max_steps: 0, ..DiffusionParams::default() };
    /// let error = params.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "max_steps: is 0, but must be at least 1");
    /// let name = |parameter| match parameter {
    ///     Parameter::MaxSteps => "maxSteps",
    ///     other => other.name(),
    /// };
    /// assert_eq!(error.message_with(name), "maxSteps: is 0, but must be at least 1");
    /// ```
    pub fn message_with<N: fmt::Display>(&self, name: impl Fn(Parameter) -> N) -> String {
        match self {
            Self::InvalidParameter { parameter, problem } => {
                format!("{}: {}", name(*parameter), renamed(problem, name))
            }
            other => renamed(&other.to_string(), name),
        }
    }

    /// What kind of error it is.
    #[doc(hidden)]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::Gguf { .. }
            | Self::Metadata { .. }
            | Self::Tensor { .. }
            | Self::Unsupported { .. } => ErrorKind::BadModel,
            Self::InvalidParameter { .. } | Self::Input { .. } | Self::File { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::ContextFull { .. } | Self::AnswerTooLong { .. } => ErrorKind::ContextFull,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Rpc { .. } | Self::Device { .. } | Self::Ggml(_) | Self::NotFinite { .. } => {
                ErrorKind::Backend
            }
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
    pub(crate) fn parameter(parameter: Parameter, problem: impl Into<String>) -> Self {
        Self::InvalidParameter {
            parameter,
            problem: problem.into(),
        }
    }

    /// An [`Error::Device`].
    pub(crate) fn device(device: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Device {
            device: device.into(),
            problem: problem.into(),
        }
    }
}
