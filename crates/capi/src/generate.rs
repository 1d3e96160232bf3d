//! Generation: a prompt into an answer.

use super::border::{Failure, Result, fill, guard, output, read, reference, require, slice};
use super::context::diffusion_context;
use super::error::{diffusion_error, diffusion_status};
use super::params::diffusion_params;
use super::result::{Finished, diffusion_result, optional_result};
use llama_diffusion::diffusion::{Limits, Recipe};
use llama_diffusion::{AnyModel, DiffusionParams, Event, Session, Token};

impl diffusion_context {
    /// Answers a prompt as `params` say, by the recipe that was made of them.
    ///
    /// # Safety
    /// The callbacks of `params` are as documented.
    pub(super) unsafe fn generate(
        &self,
        session: &mut Session,
        prompt: &[Token],
        params: &diffusion_params,
        recipe: &dyn Recipe,
    ) -> Result<Finished> {
        // SAFETY: as the caller promises.
        let on_event = &mut |event: Event<'_>| unsafe { params.report(event) };
        let answer = match params.ahead {
            0 => session.generate(prompt, recipe, &self.cancel, on_event)?,
            count => {
                let own = self.params_ahead(params)?;
                session.generate_after(count, prompt, &own, &self.cancel, on_event)?
            }
        };
        Finished::new(answer)
    }

    /// The parameters of an answer that the encoder begins.
    fn params_ahead(&self, params: &diffusion_params) -> Result<DiffusionParams> {
        let refuse = |problem: &str| Err(Failure::argument("ahead", problem));
        if let AnyModel::Masked(_) = self.model.model {
            return refuse("a masked model has no encoder: set it to 0");
        }
        if params.is_constrained() || params.template_count > 0 {
            return refuse("the encoder follows neither constraints nor templates: set it to 0");
        }
        params.diffusion()
    }
}

/// The maximum number of tokens in an answer to a prompt of `prompt` tokens; 0 if there is no room
/// for any.
fn most_tokens(limits: &Limits, prompt: usize, recipe: &dyn Recipe) -> usize {
    let Ok(canvas) = recipe.canvas_len(prompt, limits) else {
        // The generation reports why.
        return 0;
    };
    let room = limits.context.saturating_sub(prompt) / canvas.max(1);
    let canvases = recipe
        .canvas_limit(canvas)
        .map_or(room, |limit| limit.min(room));
    let tokens = canvases.saturating_mul(canvas);
    recipe.max_tokens().map_or(tokens, |max| max.min(tokens))
}

/// Generates an answer to a prompt, canvas by canvas.
///
/// The context caches the prompt and the answer (except the last canvas): a prompt that begins with
/// the tokens of the previous call costs only its new tokens.
///
/// `prompt`, `prompt_length`: tokens, at least one. `params`: NULL for the model's defaults.
/// `tokens`, `capacity`, `count`: receive the answer, without the token that ended it. The
/// capacity must suffice for the longest possible answer, which `max_tokens` bounds; if it does
/// not, that length is written to `count`, and nothing is computed. `result`: receives the
/// statistics; may be NULL.
///
/// Errors: `INVALID_ARGUMENT` for parameters out of range, an empty prompt or tokens that are not
/// in the vocabulary, `CONTEXT_FULL` if no canvas fits after the prompt, `BUFFER_TOO_SMALL`,
/// `CANCELLED` (the canvas callback has received the finished canvases), `OUT_OF_MEMORY`,
/// `BACKEND`, `BUSY`, `POISONED`. After all of these except `POISONED`, the context can be used
/// again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_generate(
    context: *mut diffusion_context,
    prompt: *const i32,
    prompt_length: usize,
    params: *const diffusion_params,
    tokens: *mut i32,
    capacity: usize,
    count: *mut usize,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let prompt = slice(prompt, prompt_length, "prompt")?;
            let count = output(count, "count")?;
            let result = optional_result(result)?;
            let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
            let recipe = callbacks.recipe(&context.model, prompt)?;
            let session = &mut *context.lock()?;
            context.cancel.reset();
            let needed = most_tokens(&session.limits(), prompt.len(), &*recipe);
            require(needed, capacity, count)?;
            if needed > 0 {
                output(tokens, "tokens")?;
            }
            let finished = context.generate(session, prompt, &callbacks, &*recipe)?;
            fill(&finished.tokens, tokens, capacity, count)?;
            if let Some(result) = result {
                result.write(&finished.result);
            }
            Ok(())
        }
    })
}

/// Scores a text as an answer to a prompt, and repairs it as `params` ask for: the result is that of
/// `diffusion_generate`, if the model had written `text`.
///
/// `prompt`, `prompt_length`: tokens, at least one. `text`, `text_length`: tokens, at least one, with the
/// end token if the text ends. `params`: `on_scores` receives the scores, and `min_logprob` asks for
/// repairs; one of them must be set. `templates` and `ahead` do not apply. `tokens`, `capacity`, `count`:
/// receive the text as the checks leave it, without its end token; the capacity must suffice for
/// `text_length` tokens, rounded up to whole canvases. `result`: receives the statistics; may be NULL.
///
/// Errors: as `diffusion_generate`; `INVALID_ARGUMENT` for masked models, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_check(
    context: *mut diffusion_context,
    prompt: *const i32,
    prompt_length: usize,
    text: *const i32,
    text_length: usize,
    params: *const diffusion_params,
    tokens: *mut i32,
    capacity: usize,
    count: *mut usize,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let prompt = slice(prompt, prompt_length, "prompt")?;
            let text = slice(text, text_length, "text")?;
            let count = output(count, "count")?;
            let result = optional_result(result)?;
            let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
            let own = callbacks.for_text("a text that is already there")?;
            let session = &mut *context.lock()?;
            context.cancel.reset();
            let canvas = own.canvas.or(session.limits().canvas).unwrap_or(1);
            let needed = text.len().next_multiple_of(canvas.max(1));
            require(needed, capacity, count)?;
            if needed > 0 {
                output(tokens, "tokens")?;
            }
            let on_event = &mut |event: Event<'_>| callbacks.report(event);
            let answer = session.check(prompt, text, &own, &context.cancel, on_event)?;
            let finished = Finished::new(answer)?;
            fill(&finished.tokens, tokens, capacity, count)?;
            if let Some(result) = result {
                result.write(&finished.result);
            }
            Ok(())
        }
    })
}
