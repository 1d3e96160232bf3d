//! Infill: what belongs between two texts.

use std::ffi::c_char;

use serde_json::Map;

use super::border::{Failure, Result, guard, output, read, reference, text};
use super::constraint::diffusion_thoughts;
use super::context::diffusion_context;
use super::error::{c_text, diffusion_error, diffusion_status};
use super::params::diffusion_params;
use llama_diffusion::chat::ChatTemplate;
use llama_diffusion::{Event, GapPrompt, InfillAnswer, InfillRequest, InfillStop, Thoughts};

/// How the texts around a gap are put to the model: in a chat, if it has a template.
fn gap_prompt(template: Option<&ChatTemplate>, thoughts: Thoughts) -> Result<GapPrompt<'_>> {
    match (thoughts, template) {
        (Thoughts::Off, Some(template)) => Ok(GapPrompt::Chat {
            template,
            opening: Vec::new(),
            variables: Map::new(),
        }),
        (Thoughts::Off, None) | (Thoughts::None, _) => Ok(GapPrompt::Document),
        (Thoughts::On, _) => {
            let problem = "a gap cannot be filled after a thought: set it to OFF or NONE";
            Err(Failure::argument("thoughts", problem))
        }
    }
}

/// Rejects answers of which one was cancelled.
fn check_complete(answers: &[InfillAnswer], request: &InfillRequest) -> Result {
    let is_cancelled = |answer: &InfillAnswer| answer.stop == InfillStop::Cancelled;
    match answers.iter().position(is_cancelled) {
        None => Ok(()),
        Some(complete) => {
            let message = format!(
                "cancelled, {complete} of {} answers complete",
                request.n_cmpl
            );
            Err(Failure::new(diffusion_status::Cancelled, message))
        }
    }
}

/// Fills a gap in a text: with what comes before and after it, byte for byte, the answer is the whole text.
///
/// `request`, `request_length`: JSON in UTF-8 and its length in bytes, such as {"input_prefix": "Mia has a ",
/// "input_suffix": " hat.", "prompt": "", "input_extra": [{"filename": "a.txt", "text": "x"}], "infill_tokens":
/// "auto", "n_predict": 256, "t_max_predict_ms": 0, "n_cmpl": 1, "seed": -1, "infill_lengths": false}. All
/// fields may be omitted; unknown ones are ignored. `prompt` continues `input_prefix`, and the model reads the
/// texts of `input_extra` first. `infill_tokens` is the number of tokens of the gap: "auto" finds it by what
/// comes after the gap. `n_predict` is the maximum number; -1 means unlimited, and 0 only encodes the texts, so
/// that a later call has them cached. `t_max_predict_ms`, if it is not 0: milliseconds after which the best
/// draft so far is the answer. `n_cmpl` answers have consecutive seeds, from `seed` on, or from that of
/// `params` if it is -1. `infill_lengths`: whether to report the lengths that were compared.
/// `params`: NULL for the model's defaults; `on_step` receives the drafts. With `thoughts` `OFF` the texts are
/// put into the chat template, if the model has one, with `NONE` they are a document. Constraints, scores,
/// `templates`, `ahead` and `max_tokens` do not apply. `answer`: receives JSON in UTF-8, terminated by a zero
/// byte; free it with `diffusion_string_free`. It has `content`, `tokens_predicted`, `stop` ("complete",
/// "limit" or "time"), `truncated` (whether the context had no room for all of the texts), `seed`, `timings`
/// and, on request, `lengths`; if `n_cmpl` is above 1, it is an array of such objects.
///
/// Errors: as `diffusion_generate_reply`; `INVALID_ARGUMENT` for malformed JSON, fields out of range, and
/// masked models, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_infill(
    context: *mut diffusion_context,
    request: *const c_char,
    request_length: usize,
    params: *const diffusion_params,
    answer: *mut *mut c_char,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let request = InfillRequest::from_json(text(request, request_length, "request")?)?;
            let answer = output(answer, "answer")?;
            let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
            let own = callbacks.for_text("a gap")?;
            let thoughts = diffusion_thoughts::of(callbacks.thoughts)?;
            let mut session = context.lock()?;
            context.cancel.reset();
            let model = context.model.text()?;
            let template = model.chat_template()?;
            let prompt = gap_prompt(template.as_ref(), thoughts)?;
            let on_event = &mut |event: Event<'_>| callbacks.report(event);
            let cancel = &context.cancel;
            let answers = model.infill(&mut session, &request, &prompt, &own, cancel, on_event)?;
            check_complete(&answers, &request)?;
            answer.write(c_text(&request.answer_json(&answers).to_string()).into_raw());
            Ok(())
        }
    })
}
