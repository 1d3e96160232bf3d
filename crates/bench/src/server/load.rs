//! Streams that ask at once.

use std::io::BufReader;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use llama_diffusion::Result;
use serde_json::{Value, json};
use ureq::Body;
use ureq::http::Response;

use super::answer::{Answer, Cut};
use super::args::{DraftLevel, ServerArgs};
use super::client::Client;

/// The endpoint.
pub const CHAT: &str = "/v1/chat/completions";
/// How often a request is sent again that the server has no place for.
const RETRIES: usize = 100;

/// One combination of what may be given several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub streams: usize,
    pub drafts: DraftLevel,
    /// Maximum number of tokens in an answer.
    pub tokens: Option<usize>,
}

/// What requests to one server have in common.
pub struct Load<'a> {
    pub client: &'a Client,
    pub args: &'a ServerArgs,
    pub prompts: Vec<String>,
    /// Requests of each test in each repetition: the same for all tests, or their rates would not
    /// compare.
    pub requests: usize,
    /// Steps of each canvas, if that is fixed.
    pub steps: Option<usize>,
}

/// All requests of a test, once.
#[derive(Debug, Default)]
pub struct Round {
    pub wall: Duration,
    pub answers: Vec<Answered>,
    /// How long each refusal took.
    pub refusals: Vec<Duration>,
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// The request: it fixes the prompt and the seed.
    pub request: usize,
    pub stream: usize,
    pub answer: Answer,
}

impl Load<'_> {
    /// The key of a stream.
    pub fn key(&self, stream: usize) -> Option<&str> {
        let keys = &self.args.api_key;
        let index = stream.checked_rem(keys.len())?;
        keys.get(index).map(String::as_str)
    }

    /// The body of a request.
    pub fn body(&self, test: Test, request: usize) -> Value {
        let prompt = &self.prompts[request % self.prompts.len()];
        let mut body = json!({
            "messages": [{"role": "user", "content": prompt}],
            "seed": request,
            "stream": true,
            "stream_options": {"include_usage": true},
            "cache_prompt": self.args.cache_prompt,
        });
        if let Some(tokens) = test.tokens {
            body["max_tokens"] = tokens.into();
        }
        if let Some(steps) = self.steps {
            // No canvas counts as finished before.
            body["diffusion"]["max_steps"] = steps.into();
            body["diffusion"]["confidence_threshold"] = 0.into();
        }
        if test.drafts != DraftLevel::Off {
            body["diffusion"]["drafts"] = test.drafts.name().into();
            if let Some(interval) = self.args.drafts_interval {
                body["diffusion"]["min_interval_ms"] = interval.into();
            }
        }
        body
    }

    /// Sends a number of requests in the streams of a test.
    ///
    /// # Errors
    /// One failed for another reason than that the server had no place for it.
    pub fn round(&self, test: Test, requests: usize) -> Result<Round> {
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let streams = thread::scope(|scope| {
            let begin = |stream| {
                let next = &next;
                scope.spawn(move || self.stream(test, stream, next, requests))
            };
            let streams: Vec<_> = (0..test.streams).map(begin).collect();
            let ends = streams.into_iter().map(thread::ScopedJoinHandle::join);
            ends.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<Round>>>()
        })?;
        let mut round = Round {
            wall: start.elapsed(),
            ..Round::default()
        };
        for stream in streams {
            round.answers.extend(stream.answers);
            round.refusals.extend(stream.refusals);
        }
        Ok(round)
    }

    /// Takes requests until there are none left.
    fn stream(
        &self,
        test: Test,
        stream: usize,
        next: &AtomicUsize,
        requests: usize,
    ) -> Result<Round> {
        let mut done = Round::default();
        loop {
            // Nothing else depends on the count.
            let request = next.fetch_add(1, Ordering::Relaxed);
            if request >= requests {
                return Ok(done);
            }
            let answer = self.ask(test, stream, request, &mut done.refusals);
            let answer = answer.inspect_err(|_| next.store(requests, Ordering::Relaxed))?;
            done.answers.push(Answered {
                request,
                stream,
                answer,
            });
        }
    }

    /// An answer; if the server has no place, after the time that it asks for.
    fn ask(
        &self,
        test: Test,
        stream: usize,
        request: usize,
        refusals: &mut Vec<Duration>,
    ) -> Result<Answer> {
        let body = self.body(test, request);
        let mut retries = 0;
        loop {
            let start = Instant::now();
            let sent = self.client.post(CHAT, self.key(stream), &body, None);
            let response = sent.map_err(|error| self.client.unreachable(&error))?;
            match response.status().as_u16() {
                200 => return self.read(response, start),
                429 | 503 if retries < RETRIES => {
                    refusals.push(start.elapsed());
                    retries += 1;
                    let wait = retry_after(&response);
                    // The connection is used again once the body is read.
                    let _ = response.into_body().read_to_string();
                    thread::sleep(wait);
                }
                _ => return Err(self.client.refusal(CHAT, response)),
            }
        }
    }

    fn read(&self, response: Response<Body>, start: Instant) -> Result<Answer> {
        let events = BufReader::new(response.into_body().into_reader());
        Answer::read(events, start).map_err(|cut| match cut {
            Cut::Io(error) => self.client.interrupted(&error),
            Cut::Said(said) => self.client.error(CHAT, &said),
        })
    }
}

/// When a request may be sent again.
fn retry_after(response: &Response<Body>) -> Duration {
    let header = response.headers().get("retry-after");
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}
