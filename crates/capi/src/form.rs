//! Forms: a text with blanks, filled in one or few steps.

use std::ffi::c_char;

use super::border::{Failure, guard, output, reference, slice, text};
use super::constraint::diffusion_thoughts;
use super::context::diffusion_context;
use super::error::{c_text, diffusion_error, diffusion_status};
use llama_diffusion::FormRequest;

/// Fills a form as the answer to a prompt: what stands in each blank, with probabilities.
///
/// `prompt`, `prompt_length`: tokens, at least one. `form`, `form_length`: JSON in UTF-8 and its length in
/// bytes, such as {"form": "{\"label\": \"▢\", \"reason\": \"▢▢▢\"}", "blanks": [{"name": "label", "choices":
/// ["yes", "no"]}, {"name": "reason"}], "steps": 1, "samples": 4, "seed": 0, "canvas": 32}. Each ▢ (U+25A2) of
/// `form` is an unknown token, and several in a row are one blank; a blank with choices is a single ▢. In place
/// of choices a blank may have a "regex": what stands there it matches as a whole, and has at most as many
/// tokens as there are ▢. All other fields may be omitted. `thoughts`: a `diffusion_thoughts` other than `ON`.
/// `answer`: receives JSON in UTF-8, terminated by a zero byte; free it with `diffusion_string_free`. It has
/// the whole `text`; for each of its `blanks` `name`, `text`, `choice` (its index), `logprob`, `probability`
/// and `entropy` (in nats) among what may stand there, `allowed_mass` (the probability of all that may stand
/// there), `standard_error` of the probability over the samples, and the same for each of `choices`; and
/// `canvas`, `rows`, `passes`, `prompt_tokens` and `cached_tokens`.
///
/// Errors: as `diffusion_generate_reply`; `INVALID_ARGUMENT` for malformed JSON, unknown fields, a form that
/// is longer than a canvas, a "regex" that is malformed or whose texts need more tokens, and masked models.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_fill(
    context: *mut diffusion_context,
    prompt: *const i32,
    prompt_length: usize,
    form: *const c_char,
    form_length: usize,
    thoughts: i32,
    answer: *mut *mut c_char,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let prompt = slice(prompt, prompt_length, "prompt")?;
            let request = FormRequest::from_json(text(form, form_length, "form")?)?;
            let thoughts = diffusion_thoughts::of(thoughts)?;
            let answer = output(answer, "answer")?;
            let mut session = context.lock()?;
            context.cancel.reset();
            let model = context.model.text()?;
            let filled = model.fill(&mut session, prompt, &request, thoughts, &context.cancel)?;
            let json = serde_json::to_string(&filled)
                .map_err(|error| Failure::new(diffusion_status::Panic, error.to_string()))?;
            answer.write(c_text(&json).into_raw());
            Ok(())
        }
    })
}
