//! What C programs cannot show: older and newer callers, panics, and every kind of error. The
//! functions themselves are tested from outside, in `ffi-tests/`.

mod canvas;
mod masked;
mod scores;
mod thinking;

use std::ffi::CStr;
use std::ptr::{NonNull, null, null_mut};

use super::border::{Failure, StructOutput, Versioned, fill_text, guard, read};
use super::*;
use llama_diffusion::{Error, Parameter};

/// The second version of a struct whose first one ended before `added`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grown {
    struct_size: usize,
    first: u64,
    added: u64,
}

// SAFETY: integers in C's layout, the size first.
unsafe impl Versioned for Grown {
    const NAME: &'static str = "grown";
    const FIRST_SIZE: usize = 16;
}

const DEFAULT: Grown = Grown {
    struct_size: 24,
    first: 1,
    added: 2,
};

#[test]
fn an_older_caller_gets_defaults_for_what_it_does_not_know() {
    let given = Grown {
        struct_size: 16,
        first: 10,
        added: 666,
    };
    // SAFETY: a live struct, larger than it says.
    let known = unsafe { read(&given, DEFAULT) }.unwrap();
    assert_eq!((known.first, known.added), (10, 2));
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { read(null(), DEFAULT) }.unwrap(), DEFAULT);
}

#[test]
fn nothing_is_written_after_the_struct_of_an_older_caller() {
    let mut given = Grown {
        struct_size: 16,
        first: 0,
        added: 666,
    };
    // SAFETY: a live struct, larger than it says.
    unsafe { StructOutput::new(&mut given, "grown") }
        .unwrap()
        .write(&DEFAULT);
    let expected = Grown {
        struct_size: 16,
        first: 1,
        added: 666,
    };
    assert_eq!(given, expected);
}

#[test]
fn sizes_of_no_version_are_refused() {
    for size in [0, 8, 15, 25, usize::MAX] {
        let failure = Grown::check_size(size).unwrap_err();
        assert_eq!(failure.status, diffusion_status::StructSize);
        let expected = format!("grown.struct_size: is {size}, but must be from 16 to 24");
        assert!(failure.message.starts_with(&expected), "{failure:?}");
    }
    for size in [16, 24] {
        Grown::check_size(size).unwrap();
    }
}

/// Programs that were compiled with the first header pass these sizes forever.
#[test]
#[cfg(target_pointer_width = "64")]
fn the_first_versions_stay() {
    assert_eq!(diffusion_model_params::FIRST_SIZE, 72);
    assert_eq!(diffusion_context_params::FIRST_SIZE, 40);
    assert_eq!(diffusion_params::FIRST_SIZE, 80);
    assert_eq!(diffusion_result::FIRST_SIZE, 72);
    assert_eq!(diffusion_device::FIRST_SIZE, 352);
    assert_eq!(diffusion_template::FIRST_SIZE, 64);
}

#[test]
fn text_needs_room_for_its_end() {
    let mut size = 0;
    let mut buffer = [7; 4];
    for capacity in 0..4 {
        let out = NonNull::from(&mut size);
        // SAFETY: the buffer has more room than it says.
        let result = unsafe { fill_text(b"abc".to_vec(), buffer.as_mut_ptr(), capacity, out) };
        assert_eq!(result.unwrap_err().status, diffusion_status::BufferTooSmall);
        assert_eq!((size, buffer), (4, [7; 4]));
    }
    // SAFETY: as it says.
    unsafe {
        fill_text(
            b"abc".to_vec(),
            buffer.as_mut_ptr(),
            4,
            NonNull::from(&mut size),
        )
    }
    .unwrap();
    assert_eq!(
        (size, buffer),
        (4, [b'a', b'b', b'c', 0].map(|byte| byte as _))
    );
}

/// Status and message of the error object that `body` creates.
fn outcome(body: impl FnOnce() -> Result<(), Failure>) -> (diffusion_status, String) {
    let mut error = null_mut();
    let status = guard(&mut error, body);
    // SAFETY: guard's own object, ended once.
    let message = unsafe {
        assert_eq!(diffusion_error_status(error), status);
        let message = CStr::from_ptr(diffusion_error_message(error));
        let message = message.to_str().unwrap().to_owned();
        diffusion_error_free(error);
        message
    };
    (status, message)
}

#[test]
fn panics_become_a_status() {
    let expected = |message: &str| {
        (
            diffusion_status::Panic,
            format!("bug in llama-diffusion: {message}"),
        )
    };
    assert_eq!(outcome(|| panic!("plain")), expected("plain"));
    assert_eq!(outcome(|| panic!("number {}", 5)), expected("number 5"));
    let neither = outcome(|| std::panic::panic_any(5));
    assert_eq!(neither, expected("no message"));
    let unwanted = guard(null_mut(), || panic!("nobody asks"));
    assert_eq!(unwanted, diffusion_status::Panic);
}

#[test]
fn errors_keep_their_message() {
    let cases = [
        (Error::Ggml("a".into()), diffusion_status::Backend),
        (
            Error::Rpc {
                server: "a:1".into(),
                problem: "b".into(),
            },
            diffusion_status::Backend,
        ),
        (Error::Tokenizer("a\0b".into()), diffusion_status::Tokenizer),
        (
            Error::ChatTemplate("a".into()),
            diffusion_status::ChatTemplate,
        ),
        (Error::Cancelled, diffusion_status::Cancelled),
        (
            Error::InvalidParameter {
                parameter: Parameter::MaxSteps,
                problem: "b".into(),
            },
            diffusion_status::InvalidArgument,
        ),
    ];
    for (error, status) in cases {
        let message = error.to_string().replace('\0', "\u{fffd}");
        assert_eq!(outcome(|| Err(error.into())), (status, message));
    }
}

#[test]
fn every_status_has_a_name_of_its_own() {
    let name = |status| {
        // SAFETY: the names are static.
        unsafe { CStr::from_ptr(diffusion_status_name(status)) }
    };
    let last = diffusion_status::Panic as i32;
    let mut names: Vec<&CStr> = (-1..=last).map(name).collect();
    assert_eq!(name(last + 1), name(-1));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), last as usize + 2);
}
