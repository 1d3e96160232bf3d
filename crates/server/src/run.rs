//! The life of the server: it listens, loads the model, answers, and ends.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_server::Control;
use llama_diffusion::{Error, Result, internal};
use tokio::sync::oneshot;

use crate::access::Access;
use crate::admission::{Admission, Limits};
use crate::args::Args;
use crate::config::Config;
use crate::engine::board::Board;
use crate::engine::scheduler::Scheduler;
use crate::engine::thread::{self, Handle};
use crate::listen;
use crate::load::load;
use crate::metrics::Metrics;
use crate::response_store::ResponseStore;
use crate::routes::router;
use crate::slot_files::SlotFiles;
use crate::state::{Phase, Ready, State};

/// Stacks of threads that read what clients send: some tokenizers and templates call themselves for
/// each letter of a hostile text.
pub const STACK: usize = 64 << 20;
/// Threads for what would keep other requests waiting: long and constrained requests, the counting of
/// tokens, stored responses, files.
const READERS: usize = 2;
/// What is left of the connections when the answers have ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often the end looks for answers in progress.
const POLL: Duration = Duration::from_millis(10);

/// Serves until a signal ends it.
///
/// # Errors
/// The flags, the listener or the model cannot be used, or the engine broke.
pub fn run(args: Args) -> Result<()> {
    for warning in &args.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.http.threads())
        .max_blocking_threads(READERS)
        .thread_stack_size(STACK)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failed("the threads for HTTP", &error))?;
    let ended = runtime.block_on(serve(args));
    // A request that is still being read must not keep the process, nor may a file be left half written.
    runtime.shutdown_background();
    internal::remove_all();
    ended
}

fn failed(name: &str, error: &io::Error) -> Error {
    Error::Input {
        name: name.into(),
        problem: error.to_string(),
    }
}

async fn serve(args: Args) -> Result<()> {
    let tls = args.tls.config()?;
    let listener = listen::open(&args.http)?;
    tracing::info!("listening on {}", listener.name(tls.as_ref()));
    let access = Access::new(
        &args.http.keys()?,
        args.http.origins(),
        listen::is_local(&args.http.host),
    );
    let metrics = Metrics::new().map_err(|error| Error::Input {
        name: "metrics".into(),
        problem: error.to_string(),
    })?;
    let (engine, commands) = Handle::new();
    let state = Arc::new(State::new(
        config(&args)?,
        access,
        Arc::new(metrics),
        Arc::new(Board::default()),
        engine,
        ResponseStore::new(args.http.responses()),
    ));
    let control = Control::new();
    let router = router(&state);
    let limits = listen::Limits {
        connections: args.http.max_connections,
        stall: args.http.timeout(),
    };
    let drain = args.http.drain_timeout();
    tokio::spawn(end_on_signal(Arc::clone(&state), control.clone(), drain));
    let (report, report_of_engine) = oneshot::channel();
    let of_engine = Arc::clone(&state);
    let engine = std::thread::Builder::new().name("engine".into());
    let spawned = engine.stack_size(STACK).spawn(move || {
        let _ = report.send(run_engine(&args, &of_engine, &commands)); // nobody waits after a signal
    });
    spawned.map_err(|error| failed("the thread of the engine", &error))?;
    let serving = listen::serve(listener, router, tls, &control, limits);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served.map_err(|error| failed("the listener", &error)),
        Some(error) = failure(report_of_engine) => {
            state.enter(Phase::Failed);
            control.graceful_shutdown(Some(LAST_WORDS));
            let _ = serving.await; // the first error counts
            Err(error)
        }
    }
}

/// Why the engine ended before it was asked to, if it did. A panic of its thread drops the report.
async fn failure(report: oneshot::Receiver<Result<()>>) -> Option<Error> {
    match report.await {
        Ok(ended) => ended.err(),
        Err(_) => Some(Error::Input {
            name: "the engine".into(),
            problem: "its thread panicked, which is a bug".into(),
        }),
    }
}

fn config(args: &Args) -> Result<Config> {
    let slot_files = args.slots.save_path.clone();
    Ok(Config {
        prefix: args.http.prefix(),
        slots: args.http.has_slots(),
        slot_files: slot_files.map(SlotFiles::new).transpose()?,
        page: args.http.has_page(),
        folder: args.http.folder()?,
        metrics: args.http.metrics,
        tags: args.http.tags.clone(),
        max_body: args.http.max_body(),
        ping: args.http.ping(),
        caches_prompts: args.slots.caches_prompts(),
    })
}

/// Loads the model and answers jobs, on a thread of its own.
fn run_engine(
    args: &Args,
    state: &Arc<State>,
    commands: &std::sync::mpsc::Receiver<thread::Command>,
) -> Result<()> {
    let start = Instant::now();
    let (served, engine) = load(args)?;
    let slots = served.slots;
    tracing::info!(
        "{} is loaded after {:.1} s: {slots} slot{} with a context of {} tokens",
        served.names.first().map(String::as_str).unwrap_or_default(),
        start.elapsed().as_secs_f64(),
        if slots == 1 { "" } else { "s" },
        served.limits.context,
    );
    let scheduler = Scheduler::new(
        engine,
        args.slots.cache_ram(),
        Box::new(Instant::now),
        Arc::clone(&state.board),
        Arc::clone(&state.metrics),
    );
    state.set_ready(Ready {
        served: Arc::new(served),
        admission: Admission::new(Limits {
            slots,
            queue: args.slots.queue(slots),
            tokens: args.slots.queue_tokens(),
            each: args.http.max_per_key(),
        }),
    });
    thread::run(scheduler, commands).map_err(|broken| Error::Input {
        name: "the engine".into(),
        problem: format!("{broken}"),
    })
}

/// Ends the server on the first signal, and the process on the second one.
async fn end_on_signal(state: Arc<State>, control: Control, drain: Duration) {
    if let Err(error) = signal().await {
        tracing::warn!("signals end the server at once: {error}");
        return;
    }
    tracing::info!("ending: answers in progress have {} s", drain.as_secs());
    let deadline = Instant::now() + drain;
    state.enter(Phase::Draining);
    state.engine.drain();
    // New clients receive 503: the listener closes only after the last answer.
    tokio::select! {
        () = answered(&state) => {}
        () = tokio::time::sleep(drain) => state.engine.stop(),
        _ = signal() => end_now(),
    }
    let rest = deadline.saturating_duration_since(Instant::now());
    control.graceful_shutdown(Some(rest + LAST_WORDS));
    let _ = signal().await;
    end_now();
}

/// Waits until no answer waits or runs.
async fn answered(state: &State) {
    while state.answers() > 0 {
        tokio::time::sleep(POLL).await;
    }
}

fn end_now() -> ! {
    internal::remove_all();
    std::process::exit(1);
}

/// Waits for a signal that asks the process to end.
#[cfg(unix)]
async fn signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
