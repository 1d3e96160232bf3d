//! Errors as clients see them: a status, a type, a message, and the field that is wrong.

use llama_diffusion::Error;
use serde_json::{Value, json};

/// What kind of error a client sees; it decides the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request cannot be honoured as it is.
    InvalidRequest,
    /// The prompt leaves no room for a canvas.
    ContextSize {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of a slot.
        context: usize,
    },
    /// No key, or not one of the server's.
    Authentication,
    /// The origin or the host is not allowed.
    Permission,
    /// There is no such path or object.
    NotFound,
    /// The path has other methods.
    MethodNotAllowed,
    /// The body is larger than the server reads.
    TooLarge,
    /// One key has too many requests in flight.
    RateLimit,
    /// The engine failed.
    Server,
    /// The endpoint or the feature is turned off, or does not exist for this model.
    NotSupported,
    /// The server is loading, draining, or its queue is full.
    Unavailable,
}

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ContextSize { .. } => 400,
            Self::Authentication => 401,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooLarge => 413,
            Self::RateLimit => 429,
            Self::Server => 500,
            Self::NotSupported => 501,
            Self::Unavailable => 503,
        }
    }

    /// The name in bodies of OpenAI's style, as llama-server has it.
    fn openai(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::MethodNotAllowed | Self::TooLarge => {
                "invalid_request_error"
            }
            Self::ContextSize { .. } => "exceed_context_size_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::RateLimit => "rate_limit_error",
            Self::Server => "server_error",
            Self::NotSupported => "not_supported_error",
            Self::Unavailable => "unavailable_error",
        }
    }

    /// The name in bodies of Anthropic's style, which has a closed list of them.
    fn anthropic(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::ContextSize { .. } | Self::MethodNotAllowed => {
                "invalid_request_error"
            }
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::RateLimit => "rate_limit_error",
            Self::Server | Self::NotSupported => "api_error",
            Self::Unavailable => "overloaded_error",
        }
    }
}

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What kind it is.
    pub kind: ErrorKind,
    /// What is wrong and what to do.
    pub message: String,
    /// Path of the field that is wrong, such as `messages[2].content`.
    pub param: Option<String>,
    /// The code of bodies of OpenAI's style, if clients look for another one than the status.
    pub code: Option<&'static str>,
    /// After how many seconds to try again.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// An error that no field causes.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// A field that cannot be honoured. The message begins with its path.
    pub fn field(path: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let path = path.into();
        Self {
            message: format!("{path}: {}", problem.as_ref()),
            param: Some(path),
            ..Self::new(ErrorKind::InvalidRequest, "")
        }
    }

    /// An error of the library about a request that it reads by itself.
    pub fn input(error: &Error) -> Self {
        match error {
            Error::Input { name, problem } => Self::field(name, problem),
            other => Self::new(ErrorKind::InvalidRequest, other.to_string()),
        }
    }

    /// A prompt of `prompt` tokens that leaves no room for a canvas in a slot of `context` positions.
    pub fn context_size(prompt: usize, context: usize) -> Self {
        Self::too_long(&format!("of {prompt} tokens"), prompt, context)
    }

    /// The same for a prompt of so many bytes that it has at least `prompt` tokens.
    pub fn context_size_of_bytes(bytes: usize, prompt: usize, context: usize) -> Self {
        let size = format!("of {bytes} bytes, which are at least {prompt} tokens,");
        Self::too_long(&size, prompt, context)
    }

    fn too_long(size: &str, prompt: usize, context: usize) -> Self {
        Self::new(
            ErrorKind::ContextSize { prompt, context },
            format!(
                "the prompt {size} and one canvas need more than the {context} positions of a slot: the \
                 request exceeds the available context size, shorten it or start the server with a larger \
                 --ctx-size"
            ),
        )
    }

    /// With the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With the code that clients look for.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.kind.status()
    }

    /// The body of OpenAI's endpoints, and of the server's own.
    pub fn openai(&self) -> Value {
        let mut error = json!({
            "code": self.code.map_or_else(|| self.status().into(), Value::from),
            "message": self.message,
            "type": self.kind.openai(),
            "param": self.param,
        });
        if let ErrorKind::ContextSize { prompt, context } = self.kind {
            error["n_prompt_tokens"] = prompt.into();
            error["n_ctx"] = context.into();
        }
        json!({ "error": error })
    }

    /// The body of Anthropic's endpoints.
    pub fn anthropic(&self) -> Value {
        json!({
            "type": "error",
            "error": {"type": self.kind.anthropic(), "message": self.message},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_in_the_message_and_as_the_parameter() {
        let error = ApiError::field("messages[2].role", "is missing");
        assert_eq!(error.status(), 400);
        assert_eq!(
            error.openai(),
            json!({"error": {
                "code": 400,
                "message": "messages[2].role: is missing",
                "type": "invalid_request_error",
                "param": "messages[2].role",
            }})
        );
        assert_eq!(
            error.anthropic(),
            json!({"type": "error", "error": {
                "type": "invalid_request_error",
                "message": "messages[2].role: is missing",
            }})
        );
    }

    #[test]
    fn errors_without_a_field_have_a_null_parameter() {
        let busy = ApiError::new(ErrorKind::Unavailable, "the queue is full").retry_after(3);
        assert_eq!((busy.status(), busy.retry_after), (503, Some(3)));
        assert_eq!(busy.openai()["error"]["param"], Value::Null);
        assert_eq!(busy.anthropic()["error"]["type"], "overloaded_error");
    }

    #[test]
    fn a_prompt_that_is_too_long_comes_with_the_numbers() {
        let error = ApiError::context_size(5000, 4096);
        let body = &error.openai()["error"];
        assert_eq!(body["type"], "exceed_context_size_error");
        assert_eq!(
            (&body["n_prompt_tokens"], &body["n_ctx"]),
            (&json!(5000), &json!(4096))
        );
        assert!(error.message.contains("exceeds the available context size"));
    }
}
