//! Editing: a text, changed as an instruction asks for.

use std::ffi::c_char;

use super::border::{Failure, guard, output, read, reference, slice, text};
use super::context::diffusion_context;
use super::error::{c_text, diffusion_error, diffusion_status};
use super::params::diffusion_params;
use super::reply::single_turn;
use super::result::{Finished, diffusion_result, optional_result};
use llama_diffusion::{Event, edit_message};

/// Lines of a text, counted from 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_lines {
    /// The first line.
    pub first: usize,
    /// The last line, at least `first`.
    pub last: usize,
}

/// Edits a text: the canvases begin as the text, a share of which is noise. The model reads the
/// instruction, a colon and the text, in the chat template if it has one.
///
/// `text`, `text_length`: UTF-8, not empty, and its length in bytes; line ends at its end stay.
/// `instruction`, `instruction_length`: UTF-8, what to change. `strength`: share of the positions that
/// begin as noise, from 0 to 1; 0 shows the model all of the text, 1 nothing. `line_ranges`, `range_count`:
/// lines that stay byte for byte. `params`: NULL for the model's defaults; a constraint is about the whole
/// edited text, without line ends at its end; `templates` and `ahead` do not apply. `edited`: receives the
/// text in UTF-8, terminated by a zero byte; free it with `diffusion_string_free`. `result`: receives the
/// statistics; may be NULL.
///
/// Errors: as `diffusion_generate_reply`; `INVALID_ARGUMENT` for masked models, too, and if the
/// constraint allows no text with the lines that stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_edit_text(
    context: *mut diffusion_context,
    text: *const c_char,
    text_length: usize,
    instruction: *const c_char,
    instruction_length: usize,
    strength: f32,
    line_ranges: *const diffusion_lines,
    range_count: usize,
    params: *const diffusion_params,
    edited: *mut *mut c_char,
    result: *mut diffusion_result,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    guard(error, || {
        // SAFETY: by the rules of the header.
        unsafe {
            let context = reference(context, "context")?;
            let whole = self::text(text, text_length, "text")?;
            let instruction = self::text(instruction, instruction_length, "instruction")?;
            if instruction.trim().is_empty() {
                return Err(Failure::argument(
                    "instruction",
                    "it is empty: say what to change",
                ));
            }
            let lines = slice(line_ranges, range_count, "line_ranges")?;
            let edited = output(edited, "edited")?;
            let result = optional_result(result)?;
            let callbacks = read(params, diffusion_params::of_model(&context.model)?)?;
            let mut session = context.lock()?;
            context.cancel.reset();
            let model = context.model.text()?;
            // An answer does not end with a line end, as a file does.
            let body = whole.trim_end_matches(['\r', '\n']);
            let lines: Vec<_> = lines.iter().map(|l| l.first..=l.last).collect();
            let original = model.original(body, &lines, strength)?;
            let prompt = single_turn(model, &edit_message(instruction, body))?;
            let own = callbacks.for_edit(&context.model, &prompt)?;
            let on_event = &mut |event: Event<'_>| callbacks.report(event);
            let answer = session.edit(&prompt, &original, &own, &context.cancel, on_event)?;
            let finished = Finished::new(answer)?;
            let reply = model.edited_text(&prompt, &original, &finished.tokens)?;
            let line_ends = &whole[body.len()..];
            edited.write(c_text(&format!("{}{line_ends}", reply.text)).into_raw());
            if let Some(result) = result {
                result.write(&finished.result);
            }
            Ok(())
        }
    })
}
