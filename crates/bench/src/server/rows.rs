//! Results of a server, from the requests of a test.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::answer::End;
use super::args::DraftLevel;
use super::load::{Answered, Round, Test};
use crate::stats::{Spread, median, percentile};

/// What a server does under a load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadRow {
    pub server: String,
    pub model: String,
    pub n_streams: usize,
    pub drafts: String,
    /// Maximum number of tokens in an answer.
    pub n_gen: Option<usize>,
    pub n_requests: usize,
    /// Refusals because all places were taken. The requests were sent again.
    pub n_refused: usize,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub answer_tokens: u64,
    /// Tokens of answers per second, of all streams together.
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub answers_per_s: f64,
    /// Tokens per second over those of the first test: the median over repetitions.
    pub ratio: f64,
    /// Canvases that share a step.
    pub canvases_per_step: Option<f64>,
    pub tokens_per_step: Option<f64>,
    pub step_ms: Option<f64>,
    /// The engine's share of a client's waiting time, from 0 to 1: the median of the answers.
    pub engine_share: Option<f64>,
    /// Jain's index of the answers of each stream: 1 if all streams have the same number.
    pub fairness: f64,
    pub drafts_received: usize,
    /// Steps without a draft.
    pub drafts_dropped: Option<u64>,
    /// Answers that are not those of the same prompt and seed in an earlier test or repetition.
    pub n_differing: usize,
}

/// How long something takes.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyRow {
    pub server: String,
    pub model: String,
    pub n_streams: usize,
    pub drafts: String,
    pub n_gen: Option<usize>,
    pub what: String,
    pub count: usize,
    /// Milliseconds, as the others.
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// The answers so far, to compare later ones with them.
#[derive(Default)]
pub struct Texts(HashMap<(Option<usize>, usize), String>);

impl Texts {
    /// How many answers of a round differ from the first one to the same request.
    pub fn differing(&mut self, test: Test, round: &Round) -> usize {
        let differs = |answered: &&Answered| {
            let key = (test.tokens, answered.request);
            let text = &answered.answer.text;
            *self.0.entry(key).or_insert_with(|| text.clone()) != *text
        };
        round.answers.iter().filter(differs).count()
    }
}

/// A test with its repetitions.
pub struct Measured {
    pub test: Test,
    pub rounds: Vec<Round>,
    pub differing: usize,
    /// Milliseconds until all slots are free.
    pub cancels: Vec<f64>,
}

impl Measured {
    /// A test that has not run.
    pub fn new(test: Test) -> Self {
        Self {
            test,
            rounds: Vec::new(),
            differing: 0,
            cancels: Vec::new(),
        }
    }

    fn answers(&self) -> impl Iterator<Item = &Answered> {
        self.rounds.iter().flat_map(|round| &round.answers)
    }

    fn ends(&self) -> impl Iterator<Item = End> {
        self.answers().filter_map(|answered| answered.answer.end)
    }

    /// Tokens per second of each repetition.
    fn speeds(&self) -> Vec<f64> {
        let speed = |round: &Round| {
            let tokens = round.answers.iter().map(|a| a.answer.usage.completion);
            tokens.sum::<u64>() as f64 / round.wall.as_secs_f64()
        };
        self.rounds.iter().map(speed).collect()
    }

    /// The result of the load. `first` is the first test of the run.
    pub fn load(&self, server: &str, model: &str, first: &Self) -> LoadRow {
        let speeds = self.speeds();
        let ratios = speeds.iter().zip(first.speeds());
        let ratios: Vec<f64> = ratios.map(|(speed, first)| speed / first).collect();
        let steps: u64 = self.ends().map(|end| end.steps).sum();
        // Of the answers that say so, for each step.
        let per_step = |sum: f64| (steps > 0).then(|| sum / steps as f64);
        let count = |of: fn(&Answered) -> u64| self.answers().map(of).sum::<u64>();
        let tokens = count(|a| a.answer.usage.completion);
        let received = self.answers().map(|a| a.answer.drafts).sum::<usize>();
        let wall: f64 = self.rounds.iter().map(|r| r.wall.as_secs_f64()).sum();
        let shares = self.answers().filter_map(|answered| {
            let Answered { answer, .. } = answered;
            let waited = answer.total.as_secs_f64() * 1e3;
            answer
                .end
                .map(|end| (end.engine_ms() - end.queue_ms) / (waited - end.queue_ms))
        });
        let shares: Vec<f64> = shares.collect();
        LoadRow {
            server: server.to_owned(),
            model: model.to_owned(),
            n_streams: self.test.streams,
            drafts: self.test.drafts.name().to_owned(),
            n_gen: self.test.tokens,
            n_requests: self.answers().count(),
            n_refused: self.rounds.iter().map(|round| round.refusals.len()).sum(),
            prompt_tokens: count(|a| a.answer.usage.prompt),
            cached_tokens: count(|a| a.answer.usage.cached),
            answer_tokens: tokens,
            avg_ts: Spread::of(&speeds).mean,
            stddev_ts: Spread::of(&speeds).stddev,
            answers_per_s: self.answers().count() as f64 / wall,
            ratio: median(&ratios),
            canvases_per_step: per_step(self.ends().map(|e| e.batch_mean * e.steps as f64).sum()),
            tokens_per_step: per_step(tokens as f64),
            step_ms: per_step(self.ends().map(|end| end.denoise_ms).sum()),
            engine_share: (!shares.is_empty()).then(|| median(&shares)),
            fairness: self.fairness(),
            drafts_received: received,
            drafts_dropped: (self.test.drafts != DraftLevel::Off && steps > 0)
                .then(|| steps.saturating_sub(received as u64)),
            n_differing: self.differing,
        }
    }

    fn fairness(&self) -> f64 {
        let mut counts = vec![0.0; self.test.streams];
        for answered in self.answers() {
            counts[answered.stream] += 1.0;
        }
        jain(&counts)
    }

    /// The results of all that takes time.
    pub fn latencies(&self, server: &str, model: &str) -> Vec<LatencyRow> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let answers = || self.answers().map(|answered| &answered.answer);
        let outside = |(total, end): (Duration, End)| ms(total) - end.engine_ms();
        let ended = answers().filter_map(|answer| Some((answer.total, answer.end?)));
        let refusals = self.rounds.iter().flat_map(|round| &round.refusals);
        let all: [(&str, Vec<f64>); 6] = [
            (
                "first canvas",
                answers().filter_map(|a| a.first).map(ms).collect(),
            ),
            ("answer", answers().map(|answer| ms(answer.total)).collect()),
            ("queue", self.ends().map(|end| end.queue_ms).collect()),
            ("outside the engine", ended.map(outside).collect()),
            ("refusal", refusals.copied().map(ms).collect()),
            ("slots free", self.cancels.clone()),
        ];
        let measured = all.into_iter().filter(|(_, times)| !times.is_empty());
        let row = |(what, times): (&str, Vec<f64>)| LatencyRow {
            server: server.to_owned(),
            model: model.to_owned(),
            n_streams: self.test.streams,
            drafts: self.test.drafts.name().to_owned(),
            n_gen: self.test.tokens,
            what: what.to_owned(),
            count: times.len(),
            p50: percentile(&times, 50),
            p95: percentile(&times, 95),
            p99: percentile(&times, 99),
            max: percentile(&times, 100),
        };
        measured.map(row).collect()
    }
}

/// Jain's index of fairness: 1 if all have the same, 1/n if one of n has all.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answer, Usage};
    use super::*;

    fn answered(request: usize, stream: usize, text: &str, ms: u64) -> Answered {
        let answer = Answer {
            text: text.to_owned(),
            first: Some(Duration::from_millis(ms / 2)),
            total: Duration::from_millis(ms),
            usage: Usage {
                prompt: 8,
                cached: 0,
                completion: 10,
            },
            drafts: 3,
            end: Some(End {
                steps: 5,
                prefill_ms: 1.0,
                denoise_ms: 40.0,
                commit_ms: 3.0,
                queue_ms: 2.0,
                batch_mean: 2.0,
            }),
        };
        Answered {
            request,
            stream,
            answer,
        }
    }

    fn measured(drafts: DraftLevel, wall: u64) -> Measured {
        let test = Test {
            streams: 2,
            drafts,
            tokens: None,
        };
        let round = Round {
            wall: Duration::from_millis(wall),
            answers: vec![answered(0, 0, "a", 50), answered(1, 0, "b", 100)],
            refusals: vec![Duration::from_millis(4)],
        };
        let mut measured = Measured::new(test);
        measured.rounds = vec![round];
        measured.cancels = vec![7.0, 9.0];
        measured
    }

    #[test]
    fn a_row_of_a_load() {
        let first = measured(DraftLevel::Off, 200);
        let row = measured(DraftLevel::Tokens, 400).load("s", "m", &first);
        assert_eq!((row.avg_ts, row.ratio, row.answers_per_s), (50.0, 0.5, 5.0));
        assert_eq!(
            (row.n_requests, row.n_refused, row.answer_tokens),
            (2, 1, 20)
        );
        assert_eq!((row.drafts_received, row.drafts_dropped), (6, Some(4)));
        assert_eq!((row.step_ms, row.tokens_per_step), (Some(8.0), Some(2.0)));
        assert_eq!(row.canvases_per_step, Some(2.0));
        // 44 of 48 ms and of 98 ms after the queue.
        let shares = [44.0 / 48.0, 44.0 / 98.0];
        assert_eq!(row.engine_share, Some((shares[0] + shares[1]) / 2.0));
        assert_eq!(row.fairness, 0.5, "one stream has both answers");
        assert_eq!(first.load("s", "m", &first).drafts_dropped, None);
    }

    #[test]
    fn rows_of_times() {
        let rows = measured(DraftLevel::Off, 200).latencies("s", "m");
        let times = |what: &str| {
            let row = rows.iter().find(|row| row.what == what).unwrap();
            (row.count, row.p50, row.p95, row.max)
        };
        assert_eq!(times("answer"), (2, 50.0, 100.0, 100.0));
        assert_eq!(times("first canvas"), (2, 25.0, 50.0, 50.0));
        assert_eq!(times("outside the engine"), (2, 4.0, 54.0, 54.0));
        assert_eq!(times("refusal"), (1, 4.0, 4.0, 4.0));
        assert_eq!(times("slots free"), (2, 7.0, 9.0, 9.0));
    }

    #[test]
    fn other_answers_to_the_same_request_are_counted() {
        let mut texts = Texts::default();
        let mut measured = measured(DraftLevel::Off, 200);
        assert_eq!(texts.differing(measured.test, &measured.rounds[0]), 0);
        measured.rounds[0].answers[1].answer.text = "c".into();
        assert_eq!(texts.differing(measured.test, &measured.rounds[0]), 1);
        // Shorter answers are other requests.
        measured.test.tokens = Some(4);
        assert_eq!(texts.differing(measured.test, &measured.rounds[0]), 0);
    }
}
