//! What `diffusion_generate` costs on top of `Session::generate`: both answer the same prompt in
//! one step, in turn, and the difference of their median times is printed. The budget is 5 µs.
//!
//! `cargo bench --bench capi`

use std::ffi::CString;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capi::*;
use criterion::{Criterion, criterion_group, criterion_main};
use llama_diffusion::{
    CancelFlag, DiffusionParams, ModelParams, SamplerOverrides, Session, SessionParams, Token,
};

// Rust cannot link this form of the C library.
#[path = "../src/lib.rs"]
#[allow(dead_code, unused_imports, reason = "the bench uses its own part")]
pub mod capi;

const PROMPT: [Token; 3] = [5, 6, 7];
const CONTEXT: usize = 64;
const ROUNDS: usize = 2000;
const BUDGET: Duration = Duration::from_micros(5);

/// Calls through the border, with a context of its own.
struct Border {
    model: *mut diffusion_model,
    context: *mut diffusion_context,
    params: diffusion_params,
}

impl Border {
    fn new(path: &Path) -> Self {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let (mut model, mut context) = (null_mut(), null_mut());
        // SAFETY: valid pointers; init sets the whole struct.
        let params = unsafe {
            let params = std::ptr::null();
            let status = diffusion_model_load(path.as_ptr(), params, &mut model, null_mut());
            assert_eq!(status, diffusion_status::Ok);
            let context_params = diffusion_context_params {
                context_length: CONTEXT,
                threads: 1,
                ..diffusion_context_params::default()
            };
            let status = diffusion_context_new(model, &context_params, &mut context, null_mut());
            assert_eq!(status, diffusion_status::Ok);
            let mut params = std::mem::zeroed();
            let size = size_of::<diffusion_params>();
            let status = diffusion_params_init(model, &mut params, size, null_mut());
            assert_eq!(status, diffusion_status::Ok);
            params
        };
        Self {
            model,
            context,
            params: diffusion_params {
                max_steps: 1,
                max_canvases: 1,
                ..params
            },
        }
    }

    fn generate(&mut self) {
        let (mut tokens, mut count) = ([0; CONTEXT], 0);
        // SAFETY: valid pointers, lengths as they are.
        let status = unsafe {
            diffusion_generate(
                self.context,
                PROMPT.as_ptr(),
                PROMPT.len(),
                &self.params,
                tokens.as_mut_ptr(),
                tokens.len(),
                &mut count,
                null_mut(),
                null_mut(),
            )
        };
        assert_eq!(status, diffusion_status::Ok);
        black_box(&tokens[..count]);
    }
}

impl Drop for Border {
    fn drop(&mut self) {
        // SAFETY: made by the library, ended once.
        unsafe {
            diffusion_context_free(self.context);
            diffusion_model_free(self.model);
        }
    }
}

/// The same in Rust.
struct Direct {
    session: Session,
    params: DiffusionParams,
}

impl Direct {
    fn new(path: &Path) -> Self {
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = llama_diffusion::Model::load(path, &ModelParams::default(), go_on).unwrap();
        let params = DiffusionParams {
            max_steps: 1,
            max_canvases: Some(1),
            ..DiffusionParams::resolve(&SamplerOverrides::default(), &model.overrides()).unwrap()
        };
        let end = model.end_tokens().unwrap();
        let session_params = SessionParams {
            context: Some(CONTEXT),
            threads: Some(1),
            ..SessionParams::default()
        };
        let session = Session::new(&Arc::new(model), end, &session_params).unwrap();
        Self { session, params }
    }

    fn generate(&mut self) {
        let cancel = CancelFlag::default();
        let go_on = &mut |_: llama_diffusion::Event<'_>| ControlFlow::Continue(());
        let answer = self.session.generate(&PROMPT, &self.params, &cancel, go_on);
        black_box(answer.unwrap());
    }
}

fn time(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

fn overhead(c: &mut Criterion) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/one-expert/model.gguf");
    let (mut border, mut direct) = (Border::new(&path), Direct::new(&path));

    // Neighbouring calls differ less than two runs of criterion on a shared machine.
    let mut differences: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let through = time(|| border.generate());
            through.as_secs_f64() - time(|| direct.generate()).as_secs_f64()
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let median = differences[ROUNDS / 2];
    println!(
        "diffusion_generate on top of Session::generate: {:.2} µs",
        median * 1e6
    );
    assert!(median < BUDGET.as_secs_f64(), "more than {BUDGET:?}");

    let mut group = c.benchmark_group("generate");
    group.bench_function("diffusion_generate", |b| b.iter(|| border.generate()));
    group.bench_function("Session::generate", |b| b.iter(|| direct.generate()));
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
