//! Where the time of a graph goes, by the labels of its nodes.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::time::{Duration, Instant};

use crate::sys;

/// Time spent on the nodes of each label.
#[derive(Debug, Default)]
pub(crate) struct Times(HashMap<String, Duration>);

impl Times {
    /// Adds time under a label.
    pub(super) fn add(&mut self, label: &CStr, time: Duration) {
        *self
            .0
            .entry(label.to_string_lossy().into_owned())
            .or_default() += time;
    }

    /// Time spent on the nodes of this label so far.
    pub(crate) fn of(&self, label: &CStr) -> Duration {
        self.0
            .get(&*label.to_string_lossy())
            .copied()
            .unwrap_or_default()
    }
}

/// Watches one computation: the scheduler stops after the last node of each run of nodes with the
/// same label.
pub(super) struct Watch<'a> {
    /// The last node of each run, by address, with its label.
    stops: HashMap<usize, String>,
    since: Instant,
    times: &'a mut Times,
}

impl<'a> Watch<'a> {
    /// Over the nodes of a graph: their addresses, operations and labels.
    pub(super) fn new(
        nodes: impl Iterator<Item = (usize, sys::ggml_op, String)>,
        times: &'a mut Times,
    ) -> Self {
        let mut stops = HashMap::new();
        let mut previous: Option<(usize, String)> = None;
        for (node, op, label) in nodes {
            // Views compute nothing, and no wait is needed for them.
            if matches!(
                op,
                sys::GGML_OP_NONE
                    | sys::GGML_OP_VIEW
                    | sys::GGML_OP_RESHAPE
                    | sys::GGML_OP_PERMUTE
                    | sys::GGML_OP_TRANSPOSE
            ) {
                continue;
            }
            if let Some((last, row)) = previous.replace((node, label.clone()))
                && row != label
            {
                stops.insert(last, row);
            }
        }
        stops.extend(previous);
        Self {
            stops,
            since: Instant::now(),
            times,
        }
    }

    /// Sets `scheduler` to report to this watch while `compute` runs.
    pub(super) fn over<T>(
        &mut self,
        scheduler: *mut sys::ggml_backend_sched,
        compute: impl FnOnce() -> T,
    ) -> T {
        let state = std::ptr::from_mut(self).cast();
        // SAFETY: the callback is unset again before the watch can move.
        unsafe { sys::ggml_backend_sched_set_eval_callback(scheduler, Some(on_node), state) };
        self.since = Instant::now();
        let result = compute();
        // SAFETY: a live scheduler.
        unsafe {
            sys::ggml_backend_sched_set_eval_callback(scheduler, None, std::ptr::null_mut());
        }
        result
    }
}

/// # Safety
/// Called by ggml's scheduler with the state that [`Watch::over`] gave it.
unsafe extern "C" fn on_node(node: *mut sys::ggml_tensor, ask: bool, state: *mut c_void) -> bool {
    // SAFETY: the watch is alive and used by the computing thread alone.
    let watch = unsafe { &mut *state.cast::<Watch<'_>>() };
    let Some(label) = watch.stops.get(&(node as usize)) else {
        return !ask;
    };
    if !ask {
        let now = Instant::now();
        *watch.times.0.entry(label.clone()).or_default() += now - watch.since;
        watch.since = now;
    }
    true
}
