//! How the answers to a request end, as `/metrics` counts it.

use std::sync::Arc;

use crate::metrics::Metrics;
use crate::protocol::assemble::Finish;
use crate::protocol::format::Finished;

/// Counts each answer once. Those that have not ended when it is dropped are cancelled: their client is gone.
pub struct Outcomes {
    metrics: Arc<Metrics>,
    endpoint: &'static str,
    /// Answers that have not ended.
    left: usize,
}

impl Outcomes {
    /// Of so many answers of an endpoint.
    pub fn new(metrics: &Arc<Metrics>, endpoint: &'static str, answers: usize) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            endpoint,
            left: answers,
        }
    }

    /// One of them is complete.
    pub fn finished(&mut self, finished: &Finished) {
        self.left -= 1;
        let finish = match finished.finish {
            Finish::EndOfText | Finish::StopString(_) => "stop",
            Finish::ToolCalls => "tool_calls",
            Finish::Length => "length",
        };
        self.metrics.answered(self.endpoint, finish);
    }

    /// The request failed.
    pub fn failed(&mut self) {
        self.left = 0;
        self.metrics.answered(self.endpoint, "error");
    }

    /// The client is gone. Called before the answers are dropped: they are counted before their slots are free.
    pub fn cancelled(&mut self) {
        for _ in 0..std::mem::take(&mut self.left) {
            self.metrics.answered(self.endpoint, "cancelled");
        }
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.cancelled();
    }
}
