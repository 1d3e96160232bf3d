//! How many threads compute, and that they wait for each other without keeping cores busy. Alone in
//! its process, because it counts threads and narrows the affinity mask.
#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llama_diffusion::{EndTokens, Model, ModelParams, Result, Session, SessionParams};

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let path = Path::new(llama_diffusion_demo_model::PATH);
    let go_on = &mut |_| ControlFlow::Continue(());
    Arc::new(Model::load(path, &ModelParams::default(), go_on).unwrap())
});

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn session(threads: usize, prefill_threads: Option<usize>) -> Result<Session> {
    let params = SessionParams {
        threads: Some(threads),
        prefill_threads,
        ..SessionParams::default()
    };
    Session::new(&*MODEL, EndTokens::default(), &params)
}

fn encode(session: &mut Session, tokens: usize) {
    session.reset().unwrap();
    session.prefill(&vec![5; tokens]).unwrap();
}

fn cores() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// The threads that the current one has started: they have its name, unlike those of other tests. The
/// system may list one for a while after it has ended, longest on a busy machine; its flags say so.
fn tasks(own: &str) -> HashSet<OsString> {
    const EXITING: u32 = 4; // PF_EXITING
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let counts = |task: &fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("stat"));
        // It has ended since.
        let Ok(status) = status else { return false };
        let (start, fields) = status.rsplit_once(')').unwrap();
        let (_, name) = start.split_once('(').unwrap();
        let flags: u32 = fields.split_whitespace().nth(6).unwrap().parse().unwrap();
        name == own && flags & EXITING == 0
    };
    let tasks: Vec<_> = tasks.map(Result::unwrap).collect();
    let counted = tasks.into_iter().filter(counts);
    counted.map(|task| task.file_name()).collect()
}

/// The maximum number of threads that compute at the same time in a number of passes; fewer passes
/// if it reaches `enough`.
fn most(threads: usize, prefill_threads: Option<usize>, passes: usize, enough: usize) -> usize {
    let mut session = session(threads, prefill_threads).unwrap();
    let (peak, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
    let name = name.trim_end();
    let before = tasks(name);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                peak.fetch_max(tasks(name).difference(&before).count(), Relaxed);
            }
        });
        // ggml starts the threads of a pass again each time; another thread counts them.
        for _ in 0..passes {
            encode(&mut session, 512); // long enough to be seen on a busy machine
            if peak.load(Relaxed) >= enough {
                break;
            }
        }
        done.store(true, Relaxed);
    });
    // Of the new threads, one watched, and the one of this test computed as well.
    peak.into_inner()
}

#[test]
fn the_prefill_has_its_own_number_of_threads() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let message = session(1, Some(0)).err().unwrap().to_string();
    assert!(message.starts_with("prefill_threads: "), "{message}");

    let many = cores().min(3);
    assert!(most(1, Some(many), 100, many) >= many);
    assert!(most(many, None, 100, many) >= many);
    assert_eq!(most(many, Some(1), 5, usize::MAX), 1);
    assert_eq!(most(1, None, 5, usize::MAX), 1);
}

#[test]
fn no_more_threads_compute_than_there_are_cores() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let peak = most(2 * cores(), Some(3 * cores()), 20, 2 * cores());
    assert!(peak <= cores(), "{peak}");
}

/// The shortest time of a pass of several. It is so short that threads wait for each other most of
/// the time.
fn time(session: &mut Session) -> Duration {
    let times = (0..5).map(|_| {
        let start = Instant::now();
        encode(session, 8);
        start.elapsed()
    });
    times.min().unwrap()
}

/// Leaves the calling thread and those that it will start only the first of its cores.
fn keep_one_core() {
    // SAFETY: zeroes are an empty set, and the calls touch nothing but the sets.
    unsafe {
        let (mut all, mut one) = std::mem::zeroed::<(libc::cpu_set_t, libc::cpu_set_t)>();
        let size = size_of_val(&all);
        assert_eq!(libc::sched_getaffinity(0, size, &mut all), 0);
        let first = (0..).find(|core| libc::CPU_ISSET(*core, &all)).unwrap();
        libc::CPU_SET(first, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size, &one), 0);
    }
}

/// As when other programs use the cores.
#[test]
fn threads_that_have_to_share_a_core_do_not_keep_it_busy_with_waiting() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let [mut one, mut several] = [1, cores().min(4)].map(|n| session(n, None).unwrap());
    keep_one_core();
    let [one, several] = [&mut one, &mut several].map(time);
    // With two threads about 6 on a busy machine, and 2,600 with a barrier that only spins.
    let ratio = several.as_secs_f64() / one.as_secs_f64();
    assert!(ratio < 30.0, "{ratio}: {several:?} instead of {one:?}");
}
