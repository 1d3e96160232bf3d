//! A streamed answer, as its client receives it.

use std::io::{self, BufRead};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// What a client knows at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Thoughts and answer.
    pub text: String,
    /// From the request to the first finished canvas that has text.
    pub first: Option<Duration>,
    /// From the request to the end.
    pub total: Duration,
    pub usage: Usage,
    pub drafts: usize,
    /// What only llama-diffusion-server reports.
    pub end: Option<End>,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u64,
    /// Of these, the ones that were cached.
    pub cached: u64,
    pub completion: u64,
}

/// How the engine spent its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct End {
    pub steps: u64,
    pub prefill_ms: f64,
    pub denoise_ms: f64,
    pub commit_ms: f64,
    pub queue_ms: f64,
    /// Mean number of canvases in the steps.
    pub batch_mean: f64,
}

/// Why an answer has no end.
#[derive(Debug)]
pub enum Cut {
    /// The connection.
    Io(io::Error),
    /// What the server said, or what it should not have said.
    Said(String),
}

impl Answer {
    /// Reads the events of an answer that was asked for at `start`.
    ///
    /// # Errors
    /// It does not reach its end.
    pub fn read(events: impl BufRead, start: Instant) -> Result<Self, Cut> {
        let mut answer = Self::default();
        let mut is_done = false;
        for line in events.lines() {
            let line = line.map_err(Cut::Io)?;
            let Some(data) = line.strip_prefix("data:") else {
                continue; // a comment, or the empty line between events
            };
            match data.trim_start() {
                "[DONE]" => is_done = true,
                data => answer.take(data, start)?,
            }
        }
        answer.total = start.elapsed();
        match is_done {
            true => Ok(answer),
            false => Err(Cut::Said(
                "the stream has no end: is this an OpenAI-compatible server?".into(),
            )),
        }
    }

    fn take(&mut self, data: &str, start: Instant) -> Result<(), Cut> {
        let event: Value = serde_json::from_str(data)
            .map_err(|error| Cut::Said(format!("an event is not JSON: {error}")))?;
        if let Some(error) = event.get("error") {
            let message = error["message"].as_str();
            return Err(Cut::Said(
                message.map_or_else(|| error.to_string(), str::to_owned),
            ));
        }
        let delta = &event["choices"][0]["delta"];
        for key in ["reasoning_content", "content"] {
            let Some(text) = delta[key].as_str().filter(|text| !text.is_empty()) else {
                continue;
            };
            self.first.get_or_insert_with(|| start.elapsed());
            self.text += text;
        }
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            self.usage = Usage {
                prompt: count(&usage["prompt_tokens"]),
                cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
                completion: count(&usage["completion_tokens"]),
            };
        }
        match event["diffusion"]["event"].as_str() {
            Some("draft") => self.drafts += 1,
            Some("end") => self.end = End::deserialize(&event["diffusion"]).ok(),
            _ => {}
        }
        Ok(())
    }
}

impl End {
    /// Milliseconds between the arrival of the job at the engine and its end.
    pub fn engine_ms(&self) -> f64 {
        self.queue_ms + self.prefill_ms + self.denoise_ms + self.commit_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &str) -> Result<Answer, Cut> {
        Answer::read(events.as_bytes(), Instant::now())
    }

    #[test]
    fn texts_drafts_and_counts() {
        let events = concat!(
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n",
            ": ping\n\n",
            "data: {\"choices\":[{\"delta\":{}}],\"diffusion\":{\"event\":\"draft\",\"step\":0}}\n\n",
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm. \"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Oslo\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{}}],\"diffusion\":{\"event\":\"end\",\"steps\":3,\"prefill_ms\":1,",
            "\"denoise_ms\":2.5,\"commit_ms\":0,\"queue_ms\":4,\"batch_mean\":1.5,\"canvases\":1}}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,",
            "\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n",
            "data: [DONE]\n\n",
        );
        let answer = read(events).unwrap();
        assert_eq!((answer.text.as_str(), answer.drafts), ("Hm. Oslo", 1));
        assert!(answer.first.unwrap() <= answer.total);
        let usage = Usage {
            prompt: 9,
            cached: 8,
            completion: 2,
        };
        assert_eq!(answer.usage, usage);
        let end = answer.end.unwrap();
        assert_eq!((end.steps, end.batch_mean, end.engine_ms()), (3, 1.5, 7.5));
    }

    #[test]
    fn other_servers_report_less() {
        let answer =
            read("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n");
        let answer = answer.unwrap();
        assert_eq!((answer.end, answer.usage), (None, Usage::default()));
    }

    #[test]
    fn an_answer_without_an_end_is_an_error() {
        for (events, expected) in [
            ("", "no end"),
            ("{\"choices\":[]}", "no end"),
            ("data: {\"choices\":[]}\n\n", "no end"),
            (
                "data: {\"error\":{\"message\":\"a step failed\"}}\n\n",
                "a step failed",
            ),
            ("data: {\n\n", "not JSON"),
        ] {
            match read(events) {
                Err(Cut::Said(said)) => assert!(said.contains(expected), "{events}: {said}"),
                other => panic!("{events}: {other:?}"),
            }
        }
    }
}
