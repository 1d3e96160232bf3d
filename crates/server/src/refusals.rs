//! Errors of the library as answers to the request that caused them.

use llama_diffusion::{Error, Parameter};

use crate::protocol::error::{ApiError, ErrorKind};
use crate::protocol::sampling::field_of;

/// An error of a chat template about a conversation, which the request has in `field`.
pub fn rejected(error: &Error, field: &str) -> ApiError {
    match error {
        Error::ChatTemplate(problem) => {
            ApiError::field(field, format!("the chat template: {problem}"))
        }
        error => refused(error),
    }
}

/// An error of the library about what a request asks for.
pub fn refused(error: &Error) -> ApiError {
    refused_in(error, None)
}

/// The same for a request whose constraint is in this field.
pub fn refused_in(error: &Error, constraint: Option<&str>) -> ApiError {
    refused_by(error, |parameter| match (parameter, constraint) {
        (Parameter::Constraint, Some(field)) => field,
        _ => named(parameter),
    })
}

/// The same for a form, whose canvas has a field of its own.
pub fn refused_form(error: &Error) -> ApiError {
    refused_by(error, |parameter| match parameter {
        Parameter::Canvas => "canvas",
        _ => named(parameter),
    })
}

/// The same for a request in which parameters have these fields.
fn refused_by<'a>(error: &Error, field: impl Fn(Parameter) -> &'a str) -> ApiError {
    let message = error.message_with(&field);
    match error {
        Error::InvalidParameter { parameter, .. } => ApiError {
            param: Some(field(*parameter).to_owned()),
            ..ApiError::new(ErrorKind::InvalidRequest, message)
        },
        Error::AnswerTooLong { .. } => ApiError::field(field(Parameter::Length), message),
        _ => ApiError::new(ErrorKind::InvalidRequest, message),
    }
}

/// The field of a parameter in most requests.
fn named(parameter: Parameter) -> &'static str {
    field_of(parameter).unwrap_or_else(|| parameter.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_is_an_error_of_its_limit() {
        let error = Error::AnswerTooLong {
            prompt: 5,
            answer: 99,
            context: 64,
        };
        let error = refused(&error);
        assert_eq!(error.param.as_deref(), Some("max_tokens"));
        assert!(error.message.starts_with("max_tokens: the prompt has 5"));
        assert!(error.message.contains("lower max_tokens"), "{error:?}");
    }
}
