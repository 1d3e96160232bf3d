//! Masked models, by the functions that also run the others.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

use crate::*;
use llama_diffusion::internal::synthetic::masked::{MaskedFamily, write_masked};
use llama_diffusion::{AnyModel, CancelFlag, Session, SessionParams};

unsafe extern "C" fn count(draft: *const diffusion_draft, seen: *mut c_void) -> bool {
    // SAFETY: as `diffusion_generate` promises, and `seen` is the variable below.
    let (draft, seen) = unsafe { (&*draft, &mut *seen.cast::<Vec<(usize, f32)>>()) };
    assert_eq!(draft.length, 12);
    // SAFETY: one entry for each of the tokens.
    let probabilities = unsafe { std::slice::from_raw_parts(draft.probability, draft.length) };
    let accepted = unsafe { std::slice::from_raw_parts(draft.accepted, draft.length) };
    let known = accepted.iter().filter(|accepted| **accepted).count();
    seen.push((known, probabilities.iter().copied().fold(0.0, f32::max)));
    true
}

#[test]
fn a_masked_model_answers_as_it_does_in_rust() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dream.gguf");
    write_masked(&path, MaskedFamily::Dream, 3, &|_| {}).unwrap();
    let c_path = CString::new(path.to_str().unwrap()).unwrap();
    let prompt = [5, 6, 7];
    let (mut tokens, mut written) = ([0; 12], 0);
    let mut seen: Vec<(usize, f32)> = Vec::new();
    // SAFETY: valid arguments, each object freed once.
    unsafe {
        let mut model = null_mut();
        let loaded = diffusion_model_load(c_path.as_ptr(), null(), &mut model, null_mut());
        assert_eq!(loaded, diffusion_status::Ok);
        assert_eq!(diffusion_model_canvas_length(model), 0);
        let mut params = std::mem::zeroed::<diffusion_params>();
        let size = size_of::<diffusion_params>();
        let set = diffusion_params_init(model, &mut params, size, null_mut());
        assert_eq!(set, diffusion_status::Ok);
        params.max_tokens = tokens.len();
        params.max_steps = 4;
        params.seed = 9;
        params.on_step = Some(count);
        params.user_data = (&raw mut seen).cast();
        let mut context = null_mut();
        let made = diffusion_context_new(model, null(), &mut context, null_mut());
        assert_eq!(made, diffusion_status::Ok);
        let mut generate = |params: &diffusion_params| {
            diffusion_generate(
                context,
                prompt.as_ptr(),
                prompt.len(),
                params,
                tokens.as_mut_ptr(),
                tokens.len(),
                &mut written,
                null_mut(),
                null_mut(),
            )
        };
        let plain = params;
        params.algorithm = diffusion_algorithm::EntropyBound as i32;
        params.entropy_bound = 1e6;
        assert_eq!(generate(&params), diffusion_status::Ok);
        assert_eq!(seen.len(), 1, "all at once");
        params = plain;
        params.early_stop = 1e-6;
        assert_eq!(generate(&params), diffusion_status::Ok);
        assert_eq!(seen.len(), 2);
        seen.clear();
        params = plain;
        assert_eq!(generate(&params), diffusion_status::Ok);
        params.algorithm = 5;
        assert_eq!(generate(&params), diffusion_status::InvalidArgument);
        params = plain;
        (params.unmask_threshold, params.unmask_factor) = (0.5, 1.0);
        assert_eq!(generate(&params), diffusion_status::InvalidArgument);
        params = plain;
        params.lookahead = 65;
        assert_eq!(generate(&params), diffusion_status::InvalidArgument);
        params = plain;
        params.unmask_threshold = 1.5;
        assert_eq!(generate(&params), diffusion_status::InvalidArgument);
        diffusion_context_free(context);
        diffusion_model_free(model);
    }
    assert!(seen.len() <= 4 && seen.is_sorted_by_key(|(known, _)| *known));
    assert!(seen.iter().all(|(_, p)| *p > 0.0 && *p <= 1.0), "{seen:?}");

    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let model = AnyModel::load(&path, &Default::default(), go_on).unwrap();
    let end = model.end_tokens().unwrap();
    let mut session = Session::new(&model, end, &SessionParams::default()).unwrap();
    let params = llama_diffusion::MaskedParams {
        length: llama_diffusion::AnswerLength::Tokens(12),
        schedule: llama_diffusion::diffusion::TransferSchedule::Timestep {
            eps: 0.001,
            steps: 4,
        },
        seed: 9,
        ..Default::default()
    };
    let go_on = &mut |_: llama_diffusion::Event<'_>| std::ops::ControlFlow::Continue(());
    let answer = session
        .generate(&prompt, &params, &CancelFlag::default(), go_on)
        .unwrap();
    assert_eq!(tokens[..written], answer.generation.tokens);
}
