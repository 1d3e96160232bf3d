//! What the server counts: `/metrics`, in the names of llama-server and in its own.

use std::time::Duration;

use prometheus::{
    Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::engine::board::Shown;
use crate::engine::job::Ended;

/// Bounds of times in seconds, from a fast step to a long answer.
const SECONDS: [f64; 14] = [
    0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];
/// Bounds of small counts.
const COUNTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0];

/// The stage of an answer that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It waits for a slot.
    Queued,
    /// Its prompt is being encoded.
    Prefilling,
    /// Its canvases are being denoised.
    Running,
}

/// All counters.
pub struct Metrics {
    registry: Registry,
    prompt_tokens: IntCounter,
    prompt_seconds: Counter,
    predicted_tokens: IntCounter,
    predicted_seconds: Counter,
    decodes: IntCounter,
    busy: IntCounter,
    longest: prometheus::IntGauge,
    step_seconds: Histogram,
    steps_per_canvas: Histogram,
    canvases_per_step: Histogram,
    queue_seconds: Histogram,
    first_canvas_seconds: Histogram,
    request_seconds: Histogram,
    tokens_per_step: Histogram,
    cache_queries: IntCounter,
    cache_hits: IntCounter,
    rejections: IntCounterVec,
    requests: IntCounterVec,
    cancelled: IntCounterVec,
    drafts_sent: IntCounter,
    drafts_coalesced: IntCounter,
}

/// Makes and registers collectors. The names are constants, so an error would be one of the code,
/// which the tests of this module find: the collector is then not exported.
struct Maker(Registry);

impl Maker {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, collector: &C) {
        if let Err(error) = self.0.register(Box::new(collector.clone())) {
            tracing::error!("metrics: {error}");
        }
    }
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// A name is malformed or stands twice.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let maker = Maker(registry.clone());
        let integer = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            maker.register(&counter);
            Ok(counter)
        };
        let real = |name: &str, help: &str| -> prometheus::Result<Counter> {
            let counter = Counter::new(name, help)?;
            maker.register(&counter);
            Ok(counter)
        };
        let labelled =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
                let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
                maker.register(&counter);
                Ok(counter)
            };
        let histogram = |name: &str, help: &str, bounds: &[f64]| -> prometheus::Result<Histogram> {
            let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            let histogram = Histogram::with_opts(options)?;
            maker.register(&histogram);
            Ok(histogram)
        };
        let longest = prometheus::IntGauge::new(
            "llamacpp:n_tokens_max",
            "Largest number of tokens of a prompt with its answer.",
        )?;
        maker.register(&longest);
        Ok(Self {
            prompt_tokens: integer(
                "llamacpp:prompt_tokens_total",
                "Tokens of prompts that were encoded.",
            )?,
            prompt_seconds: real("llamacpp:prompt_seconds_total", "Time of encoding prompts.")?,
            predicted_tokens: integer("llamacpp:tokens_predicted_total", "Tokens of answers.")?,
            predicted_seconds: real(
                "llamacpp:tokens_predicted_seconds_total",
                "Time of answers after their prompts.",
            )?,
            decodes: integer("llamacpp:n_decode_total", "Denoising steps.")?,
            busy: integer(
                "llama_diffusion_canvas_steps_total",
                "Canvases in all denoising steps together.",
            )?,
            longest,
            step_seconds: histogram(
                "llama_diffusion_step_seconds",
                "Time of a denoising step, with the prompts encoded beside it.",
                &SECONDS,
            )?,
            steps_per_canvas: histogram(
                "llama_diffusion_steps_per_canvas",
                "Denoising steps of a canvas.",
                &COUNTS,
            )?,
            canvases_per_step: histogram(
                "llama_diffusion_canvases_per_step",
                "Canvases that share a denoising step.",
                &COUNTS,
            )?,
            queue_seconds: histogram(
                "llama_diffusion_queue_seconds",
                "Time that a request waits for a slot.",
                &SECONDS,
            )?,
            first_canvas_seconds: histogram(
                "llama_diffusion_first_canvas_seconds",
                "Time from a request to its first finished canvas.",
                &SECONDS,
            )?,
            request_seconds: histogram(
                "llama_diffusion_request_seconds",
                "Time from a request to the end of its answer.",
                &SECONDS,
            )?,
            tokens_per_step: histogram(
                "llama_diffusion_tokens_per_step",
                "Generated tokens for each denoising step of an answer.",
                &COUNTS,
            )?,
            cache_queries: integer(
                "llama_diffusion_prefix_cache_queries_total",
                "Tokens of prompts that were looked for in the caches.",
            )?,
            cache_hits: integer(
                "llama_diffusion_prefix_cache_hits_total",
                "Tokens of prompts that were found in the caches.",
            )?,
            rejections: labelled(
                "llama_diffusion_admission_rejections_total",
                "Requests that were not taken.",
                &["reason"],
            )?,
            requests: labelled(
                "llama_diffusion_requests_total",
                "Answers by endpoint and by how they ended.",
                &["endpoint", "finish"],
            )?,
            cancelled: labelled(
                "llama_diffusion_cancelled_total",
                "Answers that nobody waited for any more.",
                &["while"],
            )?,
            drafts_sent: integer(
                "llama_diffusion_drafts_sent_total",
                "Drafts that were sent.",
            )?,
            drafts_coalesced: integer(
                "llama_diffusion_drafts_coalesced_total",
                "Drafts that a later one replaced before they were sent.",
            )?,
            registry,
        })
    }

    /// A step is done.
    pub fn stepped(&self, canvases: usize, time: Duration) {
        self.decodes.inc();
        self.busy.inc_by(canvases as u64);
        self.step_seconds.observe(time.as_secs_f64());
        self.canvases_per_step.observe(canvases as f64);
    }

    /// An answer has a slot.
    pub fn begun(&self, prompt: usize, reused: usize, queued: Duration) {
        self.cache_queries.inc_by(prompt as u64);
        self.cache_hits.inc_by(reused as u64);
        self.prompt_tokens.inc_by((prompt - reused) as u64);
        self.queue_seconds.observe(queued.as_secs_f64());
        self.longest.set(self.longest.get().max(prompt as i64));
    }

    /// The first canvas of an answer is done.
    pub fn first_canvas(&self, time: Duration) {
        self.first_canvas_seconds.observe(time.as_secs_f64());
    }

    /// A canvas is done.
    pub fn canvas_done(&self, steps: u32) {
        self.steps_per_canvas.observe(f64::from(steps));
    }

    /// An answer is complete.
    pub fn ended(&self, ended: &Ended, time: Duration) {
        self.predicted_tokens.inc_by(ended.completion as u64);
        self.predicted_seconds
            .inc_by(ended.timings.predicted.as_secs_f64());
        self.prompt_seconds
            .inc_by(ended.statistics.prefill.as_secs_f64());
        self.request_seconds.observe(time.as_secs_f64());
        if ended.statistics.steps > 0 {
            self.tokens_per_step
                .observe(ended.statistics.tokens_per_step);
        }
    }

    /// Clients went away while so many answers were in this stage.
    pub fn cancelled(&self, stage: Abandoned, answers: usize) {
        let name = match stage {
            Abandoned::Queued => "queued",
            Abandoned::Prefilling => "prefilling",
            Abandoned::Running => "running",
        };
        let counter = self.cancelled.with_label_values(&[name]);
        counter.inc_by(answers as u64);
    }

    /// A request was not taken.
    pub fn rejected(&self, reason: &str) {
        self.rejections.with_label_values(&[reason]).inc();
    }

    /// A request has its answer.
    pub fn answered(&self, endpoint: &str, finish: &str) {
        self.requests.with_label_values(&[endpoint, finish]).inc();
    }

    /// A draft was sent.
    pub fn draft_sent(&self) {
        self.drafts_sent.inc();
    }

    /// Drafts were replaced before they were sent.
    pub fn drafts_coalesced(&self, count: u64) {
        self.drafts_coalesced.inc_by(count);
    }

    /// Mean time of an answer so far, in seconds.
    pub fn mean_request_seconds(&self) -> f64 {
        let count = self.request_seconds.get_sample_count();
        self.request_seconds.get_sample_sum() / count.max(1) as f64
    }

    /// The text of `/metrics`, with the gauges of the present state.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn text(
        &self,
        shown: &Shown,
        kv_bytes: usize,
        (kept, kept_bytes): (usize, usize),
    ) -> prometheus::Result<String> {
        let processing = shown.slots.iter().filter(|slot| slot.is_busy).count();
        let rate = |tokens: &IntCounter, seconds: &Counter| match seconds.get() {
            0.0 => 0.0,
            seconds => tokens.get() as f64 / seconds,
        };
        let gauges = [
            (
                "llamacpp:prompt_tokens_seconds",
                "Mean rate of encoding prompts, in tokens a second.",
                rate(&self.prompt_tokens, &self.prompt_seconds),
            ),
            (
                "llamacpp:predicted_tokens_seconds",
                "Mean rate of answers, in tokens a second.",
                rate(&self.predicted_tokens, &self.predicted_seconds),
            ),
            (
                "llamacpp:requests_processing",
                "Requests that have a slot.",
                processing as f64,
            ),
            (
                "llamacpp:requests_deferred",
                "Requests that wait for a slot.",
                shown.queued as f64,
            ),
            (
                "llamacpp:n_busy_slots_per_decode",
                "Mean number of canvases in a denoising step.",
                self.busy.get() as f64 / self.decodes.get().max(1) as f64,
            ),
            (
                "llama_diffusion_kv_bytes",
                "Bytes of the KV caches of all slots.",
                kv_bytes as f64,
            ),
            (
                "llama_diffusion_cache_ram_bytes",
                "Bytes of the caches of earlier prompts.",
                shown.library as f64,
            ),
            (
                "llama_diffusion_responses_kept",
                "Responses that requests can build on.",
                kept as f64,
            ),
            (
                "llama_diffusion_responses_kept_bytes",
                "Bytes of these responses and their conversations.",
                kept_bytes as f64,
            ),
        ];
        let mut text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        for (name, help, value) in gauges {
            text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_exported() {
        let metrics = Metrics::new().unwrap();
        metrics.stepped(2, Duration::from_millis(5));
        metrics.rejected("queue");
        metrics.answered("chat", "stop");
        metrics.cancelled(Abandoned::Prefilling, 1);
        let text = metrics.text(&Shown::default(), 7, (3, 500)).unwrap();
        for line in [
            "llamacpp:n_decode_total 1",
            "llamacpp:n_busy_slots_per_decode 2",
            "llama_diffusion_kv_bytes 7",
            "llama_diffusion_responses_kept 3",
            "llama_diffusion_responses_kept_bytes 500",
            "llama_diffusion_admission_rejections_total{reason=\"queue\"} 1",
            "llama_diffusion_requests_total{endpoint=\"chat\",finish=\"stop\"} 1",
            "llama_diffusion_cancelled_total{while=\"prefilling\"} 1",
            "llama_diffusion_step_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
    }
}
