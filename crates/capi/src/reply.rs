//! Generation from text to text: the answer of a model, separate from its thoughts.

use std::ffi::c_char;
use std::ptr::{NonNull, null_mut};

use super::border::{Result, guard, output, read, reference, release, slice, text};
use super::context::diffusion_context;
use super::error::{c_text, diffusion_error, diffusion_status};
use super::model::diffusion_model;
use super::params::diffusion_params;
use super::result::{diffusion_result, optional_result};
use llama_diffusion::chat::thinking::AnswerText;
use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{TextModel, Token};

/// Writes the text of an answer to the outputs that are given.
///
/// # Safety
/// `answer` can be written, `thoughts` too unless it is NULL.
unsafe fn write(reply: &AnswerText, answer: NonNull<*mut c_char>, thoughts: *mut *mut c_char) {
    // SAFETY: as the caller promises.
    unsafe {
        answer.write(c_text(&reply.text).into_raw());
        if !thoughts.is_null() {
            thoughts.write(c_text(&reply.thoughts).into_raw());
        }
    }
}

/// The tokens of a prompt that is the user's only message.
pub(super) fn single_turn(model: &TextModel, prompt: &str) -> Result<Vec<Token>> {
    Ok(match model.chat_template()? {
        Some(template) => {
            let message = Message::new(Role::User, prompt);
            model.chat_prompt(&template, &[message], Default::default())?
        }
        None => model.raw_prompt(prompt)?,
    })
}

/// # Safety
/// The arguments are as the rules of the header say of [`diffusion_generate_reply`]'s.
unsafe fn generate_reply(
    context: *mut diffusion_context,
    (prompt, prompt_length): (*const c_char, usize),
    params: *const diffusion_params,
    (answer, name): (*mut *mut c_char, &str),
    thoughts: *mut *mut c_char,
    result: *mut diffusion_result,
) -> Result {
    // SAFETY: as the caller promises.
    unsafe {
        let context = reference(context, "context")?;
        let prompt = text(prompt, prompt_length, "prompt")?;
        let answer = output(answer, name)?;
        let result = optional_result(result)?;
        let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
        let mut session = context.lock()?;
        context.cancel.reset();
        let model = context.model.text()?;
        let prompt = single_turn(model, prompt)?;
        let recipe = callbacks.recipe(&context.model, &prompt)?;
        let finished = context.generate(&mut session, &prompt, &callbacks, &*recipe)?;
        let reply = model.answer_text(&prompt, &finished.tokens)?;
        write(&reply, answer, thoughts);
        if let Some(result) = result {
            result.write(&finished.result);
        }
    }
    Ok(())
}

/// As `diffusion_generate_reply`, without the thoughts.
///
/// `text`: receives the answer, as `answer` there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_generate_text(
    context: *mut diffusion_context,
    prompt: *const c_char,
    prompt_length: usize,
    params: *const diffusion_params,
    text: *mut *mut c_char,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        let (prompt, answer) = ((prompt, prompt_length), (text, "text"));
        // SAFETY: by the rules of the header.
        unsafe { generate_reply(context, prompt, params, answer, null_mut(), result) }
    })
}

/// As `diffusion_generate`, from text to text. The prompt is put into the chat template as the
/// user's only message, if the model has a template; otherwise it is passed to the model unchanged,
/// and control tokens that it spells out, such as "<turn|>", become those tokens.
///
/// `prompt`, `prompt_length`: UTF-8 and its length in bytes. `answer`: receives what the model says
/// in UTF-8, terminated by a zero byte (any other zero byte in it is replaced by U+FFFD); free it
/// with `diffusion_string_free`. `thoughts`: receives what the model thought before, in the same
/// form, empty if it did not think; may be NULL.
///
/// Errors: as `diffusion_generate`, and `TOKENIZER`, `CHAT_TEMPLATE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_generate_reply(
    context: *mut diffusion_context,
    prompt: *const c_char,
    prompt_length: usize,
    params: *const diffusion_params,
    answer: *mut *mut c_char,
    thoughts: *mut *mut c_char,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        let (prompt, answer) = ((prompt, prompt_length), (answer, "answer"));
        // SAFETY: by the rules of the header.
        unsafe { generate_reply(context, prompt, params, answer, thoughts, result) }
    })
}

/// The text of the tokens that `diffusion_generate` wrote, with the model's thoughts separate from
/// the answer. Any thread may call it.
///
/// `prompt`, `prompt_length`: the tokens of the prompt; they may end inside a thought.
/// `tokens`, `count`: the answer, or its beginning. `answer`, `thoughts`: as in
/// `diffusion_generate_reply`.
///
/// Errors: `TOKENIZER` for a token that is not in the vocabulary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_split_answer(
    model: *const diffusion_model,
    prompt: *const i32,
    prompt_length: usize,
    tokens: *const i32,
    count: usize,
    answer: *mut *mut c_char,
    thoughts: *mut *mut c_char,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let shared = reference(model, "model")?;
            let prompt = slice(prompt, prompt_length, "prompt")?;
            let tokens = slice(tokens, count, "tokens")?;
            let answer = output(answer, "answer")?;
            let reply = shared.text()?.answer_text(prompt, tokens)?;
            write(&reply, answer, thoughts);
        }
        Ok(())
    })
}

/// Frees a string that this library allocated. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_string_free(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: made by CString::into_raw, given back once, its length unchanged.
        release(|| drop(unsafe { std::ffi::CString::from_raw(string) }));
    }
}
