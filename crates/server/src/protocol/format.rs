//! What all formats of answers have in common: the events of a stream, whole answers, and the numbers
//! that come with them.

use std::time::Duration;

use llama_diffusion::{FormAnswer, Token};
use serde_json::{Map, Value, json};

use super::answer::{AnswerToken, End, Statistics, Timings, Usage};
use super::assemble::{Delta, Finish};
use super::error::ApiError;

/// What an answer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Random letters and digits, without the prefix of the protocol.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// Build of the server; it begins with `b`.
    pub fingerprint: String,
}

impl Meta {
    /// The id of a response of OpenAI's Responses.
    pub fn response_id(&self) -> String {
        format!("resp_{}", self.id)
    }
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// Its name, for protocols that name them.
    pub name: Option<&'static str>,
    /// The data, written as compact JSON.
    pub data: Value,
}

impl StreamEvent {
    /// An event without a name.
    pub fn unnamed(data: Value) -> Self {
        Self { name: None, data }
    }
}

/// How much of a prompt is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens of the prompt.
    pub total: usize,
    /// Tokens that were cached.
    pub cached: usize,
    /// Tokens that are encoded now, including the cached ones.
    pub processed: usize,
    /// Time so far.
    pub time: Duration,
}

/// The end of an answer, as a format shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub finish: Finish,
    /// What the engine says.
    pub end: End,
    /// The form that is filled, if that is the answer.
    pub form: Option<FormAnswer>,
}

/// Writes a stream in one protocol. `choice` is the number of the answer.
pub trait Stream: Send {
    /// When the request is admitted.
    fn begin(&mut self) -> Vec<StreamEvent>;

    /// After a pass over the prompt, if the request asks for it.
    fn progress(&mut self, choice: usize, progress: &Progress) -> Vec<StreamEvent>;

    /// A draft, or another payload of the extension `diffusion`.
    fn draft(&mut self, choice: usize, payload: &Value) -> Vec<StreamEvent>;

    /// What a finished canvas adds.
    fn deltas(&mut self, choice: usize, deltas: Vec<Delta>) -> Vec<StreamEvent>;

    /// The end of an answer.
    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent>;

    /// After the end of all answers.
    fn close(&mut self) -> Vec<StreamEvent>;

    /// Instead of all that follows.
    fn error(&mut self, error: &ApiError) -> Vec<StreamEvent> {
        vec![StreamEvent::unnamed(error.openai())]
    }

    /// The response as it ended, in protocols whose responses are stored: cancelled, if neither
    /// [`Self::finish`] nor [`Self::error`] was called. To be called once.
    fn take_response(&mut self) -> Option<Value> {
        None
    }

    /// Whether `data: [DONE]` comes last.
    fn is_marked_done(&self) -> bool {
        false
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<AnswerToken>,
    /// The thoughts.
    pub thoughts: String,
    /// The tool calls: name and arguments as JSON.
    pub calls: Vec<(String, String)>,
    /// The end.
    pub finished: Finished,
}

impl Choice {
    /// The sum of the deltas.
    pub fn new(deltas: impl IntoIterator<Item = Delta>, finished: Finished) -> Self {
        let mut choice = Self {
            text: String::new(),
            tokens: Vec::new(),
            thoughts: String::new(),
            calls: Vec::new(),
            finished,
        };
        for delta in deltas {
            match delta {
                Delta::Thought(thought) => choice.thoughts += &thought,
                Delta::Text { text, tokens } => {
                    choice.text += &text;
                    choice.tokens.extend(tokens);
                }
                Delta::Call {
                    name, arguments, ..
                } => choice.calls.push((name, arguments)),
            }
        }
        choice
    }

    /// The whole answer as deltas: thoughts, text, calls.
    pub fn deltas(&self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if !self.thoughts.is_empty() {
            deltas.push(Delta::Thought(self.thoughts.clone()));
        }
        if !self.text.is_empty() {
            let (text, tokens) = (self.text.clone(), self.tokens.clone());
            deltas.push(Delta::Text { text, tokens });
        }
        let calls = self.calls.iter().cloned().enumerate();
        deltas.extend(calls.map(|(index, (name, arguments))| Delta::Call {
            index,
            name,
            arguments,
        }));
        deltas
    }
}

/// The sum of the answers' tokens. `choices` answers share a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalUsage {
    /// Tokens of the prompts.
    pub prompt: usize,
    /// Of these, the ones that were cached.
    pub cached: usize,
    /// Tokens of the answers.
    pub completion: usize,
    /// Of these, the ones of thoughts.
    pub reasoning: usize,
}

impl TotalUsage {
    /// Adds an answer; its prompt counts with the first answer to it.
    pub fn add(&mut self, choice: usize, choices: usize, end: &End) {
        if choice.is_multiple_of(choices.max(1)) {
            self.prompt += end.usage.prompt;
            self.cached += end.usage.cached;
        }
        self.completion += end.usage.completion;
        self.reasoning += end.usage.reasoning;
    }

    /// The sum over whole answers.
    pub fn of(answers: &[Choice], choices: usize) -> Self {
        let mut total = Self::default();
        for (choice, answer) in answers.iter().enumerate() {
            total.add(choice, choices, &answer.finished.end);
        }
        total
    }

    /// As OpenAI's endpoints write it.
    pub fn openai(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
    }
}

/// Milliseconds, to a thousandth.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The object `timings` of llama-server at the end of an answer.
pub fn timings(end: &End) -> Value {
    timings_so_far(&end.usage, &end.timings)
}

/// The same of an answer in progress.
pub fn timings_so_far(usage: &Usage, times: &Timings) -> Value {
    let read = usage.prompt - usage.cached.min(usage.prompt);
    let mut timings = Map::new();
    timings.insert("cache_n".into(), usage.cached.into());
    let parts = [
        ("prompt", read, times.prompt),
        ("predicted", usage.completion, times.predicted),
    ];
    for (name, count, time) in parts {
        let ms = milliseconds(time);
        // Without tokens or without time there is no rate.
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let number = count as f64;
        timings.insert(format!("{name}_n"), count.into());
        timings.insert(format!("{name}_ms"), ms.into());
        timings.insert(format!("{name}_per_token_ms"), ratio(ms, number).into());
        timings.insert(format!("{name}_per_second"), ratio(number * 1e3, ms).into());
    }
    Value::Object(timings)
}

/// The object `diffusion` at the end of an answer: the event `end` of a stream.
pub fn statistics(end: &End, ignored: &[String]) -> Value {
    ending(&end.statistics, end.usage.cached, end.seed, ignored)
}

/// The same of its parts: `reused` tokens of the prompt were cached.
pub fn ending(statistics: &Statistics, reused: usize, seed: u64, ignored: &[String]) -> Value {
    json!({
        "event": "end",
        "canvases": statistics.canvases,
        "steps": statistics.steps,
        "tokens_per_step": statistics.tokens_per_step,
        "prefill_ms": milliseconds(statistics.prefill),
        "denoise_ms": milliseconds(statistics.denoise),
        "commit_ms": milliseconds(statistics.commit),
        "queue_ms": milliseconds(statistics.queue),
        "batch_mean": statistics.batch_mean,
        "reused": reused,
        "seed": seed,
        "ignored": ignored,
    })
}

/// Log-probabilities as chat answers have them. `ids` names tokens by their ids.
pub fn chat_logprobs(tokens: &[AnswerToken], ids: bool) -> Value {
    let entry = |id: Token, bytes: &[u8], logprob: f32| {
        let name = match ids {
            true => format!("token_id:{id}"),
            false => String::from_utf8_lossy(bytes).into_owned(),
        };
        json!({"token": name, "logprob": logprob, "bytes": bytes})
    };
    let content = tokens.iter().filter_map(|token| {
        let score = token.score.as_ref()?;
        let mut content = entry(token.id, &token.bytes, score.logprob);
        let top = score
            .top
            .iter()
            .map(|(id, bytes, logprob)| entry(*id, bytes, *logprob));
        content["top_logprobs"] = top.collect();
        Some(content)
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::answer::{EndReason, Score};
    use super::*;

    /// The end of an answer of 10 tokens to a prompt of 30.
    pub(crate) fn finished(finish: Finish) -> Finished {
        Finished {
            finish,
            end: End {
                reason: EndReason::EndOfText,
                usage: Usage {
                    prompt: 30,
                    cached: 20,
                    completion: 10,
                    reasoning: 4,
                },
                timings: Timings {
                    prompt: Duration::from_millis(5),
                    predicted: Duration::from_millis(20),
                },
                statistics: Statistics {
                    canvases: 1,
                    steps: 5,
                    tokens_per_step: 2.0,
                    batch_mean: 1.0,
                    ..Statistics::default()
                },
                slot: 0,
                seed: 42,
                gap: None,
            },
            form: None,
        }
    }

    pub(crate) fn meta() -> Meta {
        Meta {
            id: "abc123".into(),
            created: 1_700_000_000,
            model: "demo".into(),
            fingerprint: "b1-0.1.0".into(),
        }
    }

    pub(crate) fn text(text: &str) -> Delta {
        let token = |c: char| AnswerToken {
            id: u32::from(c) as _,
            bytes: c.to_string().into_bytes(),
            score: Some(Score {
                logprob: -0.5,
                top: vec![(1, b"x".to_vec(), -0.25)],
            }),
        };
        Delta::Text {
            text: text.to_owned(),
            tokens: text.chars().map(token).collect(),
        }
    }

    pub(crate) fn call(index: usize, name: &str, arguments: &str) -> Delta {
        Delta::Call {
            index,
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    #[test]
    fn timings_are_rates_and_never_infinite() {
        let mut end = finished(Finish::EndOfText).end;
        let found = timings(&end);
        assert_eq!(found["cache_n"], 20);
        assert_eq!(found["prompt_n"], 10);
        assert_eq!(found["prompt_per_second"], 2000.0);
        assert_eq!(found["predicted_per_token_ms"], 2.0);
        end.timings = Timings::default();
        end.usage.completion = 0;
        assert_eq!(timings(&end)["predicted_per_second"], 0.0);
        assert_eq!(timings(&end)["predicted_per_token_ms"], 0.0);
    }

    #[test]
    fn answers_to_the_same_prompt_count_it_once() {
        let answer = Choice::new([], finished(Finish::EndOfText));
        let usage = TotalUsage::of(&vec![answer; 4], 2);
        assert_eq!((usage.prompt, usage.completion), (60, 40));
        assert_eq!(usage.openai()["total_tokens"], 100);
    }
}
