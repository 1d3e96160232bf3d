//! What all handlers share.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::access::Access;
use crate::admission::Admission;
use crate::config::Config;
use crate::engine::board::Board;
use crate::engine::thread::Handle;
use crate::followed::Register;
use crate::metrics::Metrics;
use crate::protocol::error::{ApiError, ErrorKind};
use crate::response_store::ResponseStore;
use crate::served::Served;

/// What all handlers share.
pub struct State {
    /// The settings of HTTP.
    pub config: Config,
    /// Who may use the server.
    pub access: Access,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the slots do.
    pub board: Arc<Board>,
    /// The thread of the engine.
    pub engine: Handle,
    /// The requests in progress.
    pub register: Arc<Register>,
    /// The stored responses.
    pub responses: Arc<ResponseStore>,
    ready: OnceLock<Ready>,
    phase: AtomicU8,
    jobs: AtomicU64,
    /// Seconds since 1970 at the start.
    pub started: u64,
}

/// What exists once the model is loaded.
pub struct Ready {
    /// The model, and what answers it.
    pub served: Arc<Served>,
    /// Who is let in.
    pub admission: Admission,
}

/// The life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The model is being loaded.
    Loading,
    /// Requests are answered.
    Ready,
    /// The server is about to end.
    Draining,
    /// The engine is broken.
    Failed,
}

impl State {
    /// The state of a server whose model is not loaded yet.
    pub fn new(
        config: Config,
        access: Access,
        metrics: Arc<Metrics>,
        board: Arc<Board>,
        engine: Handle,
        responses: ResponseStore,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            config,
            access,
            metrics,
            board,
            engine,
            register: Arc::default(),
            responses: Arc::new(responses),
            ready: OnceLock::new(),
            phase: AtomicU8::new(Phase::Loading as u8),
            jobs: AtomicU64::new(0),
            started: now.map_or(0, |now| now.as_secs()),
        }
    }

    /// The model is loaded.
    pub fn set_ready(&self, ready: Ready) {
        if self.ready.set(ready).is_ok() {
            let loading = Phase::Loading as u8;
            // A server that ends already stays so.
            let _ = self.phase.compare_exchange(
                loading,
                Phase::Ready as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }

    /// Enters a later phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Failed,
        }
    }

    /// What exists once the model is loaded.
    ///
    /// # Errors
    /// 503: it is not, or the server is about to end.
    pub fn ready(&self) -> Result<&Ready, ApiError> {
        let unavailable = |message: &str| ApiError::new(ErrorKind::Unavailable, message);
        match (self.phase(), self.ready.get()) {
            (Phase::Ready, Some(ready)) => Ok(ready),
            (Phase::Loading | Phase::Ready, _) => Err(unavailable("Loading model").retry_after(1)),
            (Phase::Draining, _) => Err(unavailable("the server is about to end").retry_after(5)),
            (Phase::Failed, _) => Err(unavailable("the engine failed")),
        }
    }

    /// The same also while the server is about to end, for those who watch.
    ///
    /// # Errors
    /// 503: the model is not loaded.
    pub fn ready_or_draining(&self) -> Result<&Ready, ApiError> {
        match self.phase() {
            Phase::Draining => self.ready.get().map_or_else(|| self.ready(), Ok),
            _ => self.ready(),
        }
    }

    /// Answers that wait or run.
    pub fn answers(&self) -> usize {
        self.ready.get().map_or(0, |ready| ready.admission.taken())
    }

    /// A number for the next job.
    pub fn next_job(&self) -> u64 {
        self.jobs.fetch_add(1, Ordering::Relaxed)
    }
}
