//! The prefill has its own number of threads. Alone in its process, because it counts them.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use llama_diffusion::{EndTokens, Model, ModelParams, Session, SessionParams};

/// More than the machine needs to have: the system starts them anyway.
const MANY: usize = 3;

#[test]
fn the_prefill_has_its_own_number_of_threads() {
    let path = Path::new(llama_diffusion_demo_model::PATH);
    let model = Model::load(path, &ModelParams::default(), &mut |_| {
        ControlFlow::Continue(())
    });
    let model = Arc::new(model.unwrap());
    let session = |threads, prefill_threads| {
        let params = SessionParams {
            threads: Some(threads),
            prefill_threads,
            ..SessionParams::default()
        };
        Session::new(&model, EndTokens::default(), &params)
    };
    let message = session(1, Some(0)).err().unwrap().to_string();
    assert!(message.starts_with("prefill_threads: "), "{message}");

    // ggml starts the threads of a pass again each time; another thread counts them.
    let tasks = || -> HashSet<OsString> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        tasks.map(|task| task.unwrap().file_name()).collect()
    };
    let most = |threads, prefill_threads, passes| -> usize {
        let mut session = session(threads, prefill_threads).unwrap();
        let (peak, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        // The system may list a thread for a while after it has ended, so a count alone would be
        // wrong.
        let before = tasks();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    peak.fetch_max(tasks().difference(&before).count(), Relaxed);
                }
            });
            for _ in 0..passes {
                session.reset().unwrap();
                session.prefill(&[5; 512]).unwrap(); // long enough to be seen on a busy machine
                if peak.load(Relaxed) >= MANY {
                    break;
                }
            }
            done.store(true, Relaxed);
        });
        // Of the new threads, one watched, and the one of this test computed as well.
        peak.into_inner()
    };
    assert!(most(1, Some(MANY), 100) >= MANY);
    assert!(most(MANY, None, 100) >= MANY);
    assert_eq!(most(MANY, Some(1), 5), 1);
    assert_eq!(most(1, None, 5), 1);
}
