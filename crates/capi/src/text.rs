//! Text into tokens and back.

use std::ffi::c_char;

use serde_json::{Map, Value};

use super::border::{
    Failure, Result, c_str, fill, fill_text, guard, optional_c_str, output, reference, slice, text,
};
use super::error::{diffusion_error, diffusion_status};
use super::model::diffusion_model;
use llama_diffusion::TextModel;
use llama_diffusion::chat::{ChatTemplate, Message};
use llama_diffusion::internal::read_json;

/// Splits a text into tokens. Any thread may call it.
///
/// `text`, `length`: UTF-8 and its length in bytes. `add_special`: prepend the token that begins a
/// sequence, if the model uses one. `parse_special`: parse control tokens that are written out,
/// such as `<bos>`; never enable it for untrusted text. `tokens`, `capacity`, `count`: see "Outputs
/// of unknown size".
///
/// Errors: `TOKENIZER`, `BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_tokenize(
    model: *const diffusion_model,
    text: *const c_char,
    length: usize,
    add_special: bool,
    parse_special: bool,
    tokens: *mut i32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, text) = unsafe {
            let shared = reference(model, "model")?;
            (shared, self::text(text, length, "text")?)
        };
        let count = output(count, "count")?;
        let found = shared
            .text()?
            .vocab()
            .tokenize(text, add_special, parse_special)?;
        // SAFETY: by the rules of the header.
        unsafe { fill(&found, tokens, capacity, count) }
    })
}

/// The text of tokens in UTF-8; invalid bytes become U+FFFD. Any thread may call it.
///
/// `special`: write out control tokens, too. `buffer`, `capacity`, `size`: see "Outputs of unknown
/// size".
///
/// Errors: `TOKENIZER` for a token that is not in the vocabulary, `BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_detokenize(
    model: *const diffusion_model,
    tokens: *const i32,
    count: usize,
    special: bool,
    buffer: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, tokens) = unsafe {
            let shared = reference(model, "model")?;
            (shared, slice(tokens, count, "tokens")?)
        };
        let size = output(size, "size")?;
        let text = shared.text()?.vocab().detokenize(tokens, special)?;
        // SAFETY: by the rules of the header.
        unsafe { fill_text(text.into_bytes(), buffer, capacity, size) }
    })
}

/// The prompt of a conversation, up to the opening of the model's next turn, by the chat template
/// of the file. Any thread may call it. `diffusion_detokenize` with `special` shows it as text.
/// Control tokens come from the template alone: messages and variables that spell one out, such as
/// "<turn|>", cannot close a turn.
///
/// `messages`: JSON, such as `[{"role": "user", "content": "Hello!"}]`, terminated by a zero byte.
/// `variables`: a JSON object for the template, such as `{"enable_thinking": true}`, or NULL.
/// `tokens`, `capacity`, `count`: see "Outputs of unknown size".
///
/// Errors: `NOT_FOUND` if the file has no chat template, `CHAT_TEMPLATE` if it rejects the
/// messages, `INVALID_ARGUMENT` for JSON that does not have this form, `TOKENIZER`,
/// `BUFFER_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_apply_chat_template(
    model: *const diffusion_model,
    messages: *const c_char,
    variables: *const c_char,
    tokens: *mut i32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        let (shared, messages, variables) = unsafe {
            (
                reference(model, "model")?,
                c_str(messages, "messages")?,
                optional_c_str(variables, "variables")?,
            )
        };
        let count = output(count, "count")?;
        let messages: Vec<Message> = json("messages", messages)?;
        let variables: Map<String, Value> = json("variables", variables.unwrap_or("{}"))?;
        let text = shared.text()?;
        let template = require_template(text)?;
        let prompt = text.chat_prompt(&template, &messages, variables)?;
        // SAFETY: by the rules of the header.
        unsafe { fill(&prompt, tokens, capacity, count) }
    })
}

fn json<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    read_json(text).map_err(|error| Failure::argument(name, error))
}

fn require_template(text: &TextModel) -> Result<ChatTemplate> {
    text.chat_template()?.ok_or_else(|| {
        let path = text.model().file().metadata().path().display();
        let problem = format!("{path}: the file has no chat template: use diffusion_tokenize");
        Failure::new(diffusion_status::NotFound, problem)
    })
}
