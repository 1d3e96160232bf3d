//! Thoughts separate from answers: a model that thinks.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use llama_diffusion_testing::thinker::{QUESTION, expected, thinker};
use tempfile::TempDir;

use crate::*;

/// The text of a string of the library, which is freed.
fn owned(string: *mut std::ffi::c_char) -> String {
    // SAFETY: a terminated string of the library, freed once.
    unsafe {
        let text = CStr::from_ptr(string).to_str().unwrap().to_owned();
        diffusion_string_free(string);
        text
    }
}

#[test]
fn in_c() {
    let dir = TempDir::new().unwrap();
    let path = CString::new(thinker(&dir).to_str().unwrap()).unwrap();
    let (mut model, mut context) = (null_mut(), null_mut());
    let (mut answer, mut thoughts, mut alone) = (null_mut(), null_mut(), null_mut());
    let question = QUESTION.as_ptr().cast();
    let none = std::ptr::null::<u8>();
    // SAFETY: valid pointers, lengths as they are, and each object freed once.
    unsafe {
        let loaded = diffusion_model_load(path.as_ptr(), none.cast(), &mut model, null_mut());
        assert_eq!(loaded, diffusion_status::Ok);
        let params = diffusion_context_params {
            threads: 1,
            ..diffusion_context_params::default()
        };
        let made = diffusion_context_new(model, &params, &mut context, null_mut());
        assert_eq!(made, diffusion_status::Ok);
        let replied = diffusion_generate_reply(
            context,
            question,
            QUESTION.len(),
            none.cast(),
            &mut answer,
            &mut thoughts,
            null_mut(),
            null_mut(),
        );
        assert_eq!(replied, diffusion_status::Ok);
        let answered = diffusion_generate_text(
            context,
            question,
            QUESTION.len(),
            none.cast(),
            &mut alone,
            null_mut(),
            null_mut(),
        );
        assert_eq!(answered, diffusion_status::Ok);
        assert_eq!(
            (owned(answer), owned(thoughts)),
            (expected().text, expected().thoughts)
        );
        assert_eq!(owned(alone), expected().text);
        diffusion_context_free(context);
        diffusion_model_free(model);
    }
}
