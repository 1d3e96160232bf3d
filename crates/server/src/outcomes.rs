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

    /// The request failed, and with it all answers that have not ended.
    pub fn failed(&mut self) {
        self.end_all("error");
    }

    /// The client is gone. Called before the answers are dropped: they are counted before their slots are free.
    pub fn cancelled(&mut self) {
        self.end_all("cancelled");
    }

    fn end_all(&mut self, finish: &str) {
        for _ in 0..std::mem::take(&mut self.left) {
            self.metrics.answered(self.endpoint, finish);
        }
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.cancelled();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::board::Shown;

    #[test]
    fn each_answer_of_a_request_is_counted_once() {
        let metrics = Arc::new(Metrics::new().unwrap());
        Outcomes::new(&metrics, "chat", 3).failed();
        drop(Outcomes::new(&metrics, "chat", 2));
        let text = metrics.text(&Shown::default(), 0, (0, 0)).unwrap();
        let counted = |line: &&str| line.starts_with("llama_diffusion_requests_total{");
        let counted: Vec<&str> = text.lines().filter(counted).collect();
        let expected = [("cancelled", 2), ("error", 3)].map(|(finish, answers)| {
            format!(
                "llama_diffusion_requests_total{{endpoint=\"chat\",finish=\"{finish}\"}} {answers}"
            )
        });
        assert_eq!(counted, expected);
    }
}
