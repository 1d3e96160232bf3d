//! Scores of finished canvases, and repairs.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::slice;

use llama_diffusion_testing::thinker::{QUESTION, thinker};
use tempfile::TempDir;

use crate::*;

/// What the callback saw.
#[derive(Default)]
struct Seen {
    calls: usize,
    rounds: Vec<u32>,
    doubted: usize,
}

unsafe extern "C" fn on_scores(scores: *const diffusion_scores, user_data: *mut c_void) -> bool {
    // SAFETY: what the test passes, and arrays of the lengths that the struct states.
    unsafe {
        let (scores, seen) = (&*scores, &mut *user_data.cast::<Seen>());
        assert_eq!(scores.struct_size, size_of::<diffusion_scores>());
        seen.calls += 1;
        seen.rounds.push(scores.round);
        let tokens = slice::from_raw_parts(scores.tokens, scores.length);
        let logprob = slice::from_raw_parts(scores.logprob, scores.length);
        let entropy = slice::from_raw_parts(scores.entropy, scores.length);
        let doubted = slice::from_raw_parts(scores.doubted, scores.length);
        seen.doubted += doubted.iter().filter(|is_doubted| **is_doubted).count();
        assert_eq!(scores.top_count, 2);
        let top = slice::from_raw_parts(scores.top_tokens, 2 * scores.length);
        let top_logprobs = slice::from_raw_parts(scores.top_logprobs, 2 * scores.length);
        for position in 0..scores.length {
            assert!(logprob[position] <= 0.0 && entropy[position] >= 0.0);
            let best = top_logprobs[2 * position];
            assert!(best >= top_logprobs[2 * position + 1] && best >= logprob[position]);
            if top[2 * position] == tokens[position] {
                assert_eq!(best, logprob[position]);
            }
        }
    }
    true
}

#[test]
fn canvases_are_scored_and_what_is_doubted_is_repaired() {
    let dir = TempDir::new().unwrap();
    let path = CString::new(thinker(&dir).to_str().unwrap()).unwrap();
    let (mut model, mut context) = (null_mut(), null_mut());
    // SAFETY: valid pointers, lengths as they are, and each object freed once.
    unsafe {
        let none = std::ptr::null();
        let loaded = diffusion_model_load(path.as_ptr(), none, &mut model, null_mut());
        assert_eq!(loaded, diffusion_status::Ok);
        let settings = diffusion_context_params {
            threads: 1,
            ..diffusion_context_params::default()
        };
        let made = diffusion_context_new(model, &settings, &mut context, null_mut());
        assert_eq!(made, diffusion_status::Ok);
        let ask = |min_logprob, scored: bool| {
            let mut seen = Seen::default();
            let mut params = diffusion_params::of_model(&*model).unwrap();
            params.min_logprob = min_logprob;
            params.top_logprobs = 2;
            params.on_scores = scored.then_some(on_scores);
            params.user_data = (&raw mut seen).cast();
            let (mut text, mut result) = (
                null_mut(),
                diffusion_result {
                    struct_size: size_of::<diffusion_result>(),
                    ..std::mem::zeroed()
                },
            );
            let status = diffusion_generate_text(
                context,
                QUESTION.as_ptr().cast(),
                QUESTION.len(),
                &params,
                &mut text,
                &mut result,
                null_mut(),
            );
            diffusion_string_free(text);
            (status, result, seen)
        };
        let (status, plain, seen) = ask(0.0, false);
        assert_eq!((status, seen.calls), (diffusion_status::Ok, 0));
        let (status, scored, seen) = ask(0.0, true);
        assert_eq!(status, diffusion_status::Ok);
        assert_eq!((seen.calls, seen.doubted), (plain.blocks, 0));
        assert_eq!(scored.steps, plain.steps + plain.blocks as u64);
        // Nothing is certain.
        let (status, _, seen) = ask(-1e-30, true);
        assert_eq!(status, diffusion_status::Ok);
        assert!(seen.doubted > 0 && seen.rounds.contains(&1));
        let (status, ..) = ask(0.5, true);
        assert_eq!(status, diffusion_status::InvalidArgument);
        diffusion_context_free(context);
        diffusion_model_free(model);
    }
}
