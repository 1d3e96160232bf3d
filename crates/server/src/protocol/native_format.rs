//! Answers of llama-server's own completions, whole and as a stream.

use llama_diffusion::{InfillAnswer, InfillStop, InfillTimings};
use serde_json::{Map, Value, json};

use super::answer::{AnswerToken, EndReason, GapEnd};
use super::assemble::{Delta, Finish};
use super::chat_format::prompt_progress;
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, chat_logprobs, milliseconds, statistics,
    timings,
};
use super::native::Echo;
use super::reply::Options;

/// Writes a stream of parts.
pub struct NativeStream {
    meta: Meta,
    options: Options,
    echo: Echo,
    /// For each answer, whether it has a line end.
    lines: Vec<bool>,
}

impl NativeStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options, echo: Echo) -> Self {
        Self {
            meta,
            lines: vec![false; options.answers],
            options,
            echo,
        }
    }
}

/// A part of a stream.
pub fn part(choice: usize, content: &str, tokens: &[AnswerToken]) -> Value {
    let ids: Vec<_> = tokens.iter().map(|token| token.id).collect();
    json!({"index": choice, "content": content, "tokens": ids, "stop": false})
}

/// A part without text, with something else.
pub fn event(choice: usize, name: &str, value: Value) -> Vec<StreamEvent> {
    let mut part = part(choice, "", &[]);
    part[name] = value;
    vec![StreamEvent::unnamed(part)]
}

impl Stream for NativeStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn progress(&mut self, choice: usize, progress: &Progress) -> Vec<StreamEvent> {
        event(choice, "prompt_progress", prompt_progress(progress))
    }

    fn draft(&mut self, choice: usize, payload: &Value) -> Vec<StreamEvent> {
        event(choice, "diffusion", payload.clone())
    }

    fn deltas(&mut self, choice: usize, deltas: Vec<Delta>) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        for delta in deltas {
            // Plain text has no other deltas.
            if let Delta::Text { text, tokens } = delta {
                let mut part = part(choice, &text, &tokens);
                if self.options.logprobs {
                    part["completion_probabilities"] = probabilities(&tokens);
                }
                self.lines[choice] |= text.contains('\n');
                events.push(StreamEvent::unnamed(part));
            }
        }
        events
    }

    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent> {
        let last = Last {
            content: "",
            tokens: Vec::new(),
            has_new_line: self.lines[choice],
            finished,
        };
        let body = last.body(&self.meta, &self.options, &self.echo, choice);
        vec![StreamEvent::unnamed(body)]
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }
}

/// Writes whole answers: one object, or a list if there are several.
pub fn answer(meta: &Meta, options: &Options, echo: &Echo, answers: &[Choice]) -> Value {
    let mut bodies: Vec<Value> = answers
        .iter()
        .enumerate()
        .map(|(index, answer)| whole(meta, options, echo, index, answer))
        .collect();
    match bodies.len() {
        1 => bodies.remove(0),
        _ => bodies.into(),
    }
}

fn whole(meta: &Meta, options: &Options, echo: &Echo, index: usize, answer: &Choice) -> Value {
    let last = Last {
        content: &answer.text,
        tokens: match options.tokens {
            true => answer.tokens.iter().map(|token| token.id.into()).collect(),
            false => Vec::new(),
        },
        has_new_line: answer.text.contains('\n'),
        finished: &answer.finished,
    };
    let mut body = last.body(meta, options, echo, index);
    if options.logprobs && echo.fields.is_none() {
        body["completion_probabilities"] = probabilities(&answer.tokens);
    }
    body
}

/// The object that ends an answer.
struct Last<'a> {
    content: &'a str,
    tokens: Vec<Value>,
    has_new_line: bool,
    finished: &'a Finished,
}

impl Last<'_> {
    fn body(self, meta: &Meta, options: &Options, echo: &Echo, index: usize) -> Value {
        let end = &self.finished.end;
        let mut settings = echo.settings.clone();
        settings.insert("seed".into(), end.seed.into());
        let (stop_type, word) = stop_type(self.finished);
        let mut body = json!({
            "content": self.content,
            "index": index,
            "tokens": self.tokens,
            "id_slot": end.slot,
            "stop": true,
            "model": meta.model,
            "tokens_predicted": end.usage.completion,
            "tokens_evaluated": end.usage.prompt,
            "tokens_cached": end.usage.prompt + end.usage.completion,
            "generation_settings": settings,
            "prompt": echo.prompt,
            "has_new_line": self.has_new_line,
            "truncated": end.gap.as_ref().is_some_and(|gap| gap.truncated),
            "stop_type": stop_type,
            "stopping_word": word,
            "timings": timings(end),
            "diffusion": statistics(end, &options.ignored),
        });
        if let Some(gap) = &end.gap {
            complete(&mut body, json!(self.filled(gap)));
        }
        match &echo.fields {
            Some(fields) => chosen(&body, fields),
            None => body,
        }
    }

    /// The answer as the library has it.
    fn filled(&self, gap: &GapEnd) -> InfillAnswer {
        let end = &self.finished.end;
        let usage = &end.usage;
        InfillAnswer {
            content: self.content.to_owned(),
            tokens_predicted: usage.completion,
            stop: match end.reason {
                EndReason::EndOfText => InfillStop::Complete,
                EndReason::Length => InfillStop::Limit,
                EndReason::Time => InfillStop::Time,
                EndReason::Stopped => InfillStop::Cancelled,
            },
            truncated: gap.truncated,
            seed: end.seed,
            timings: InfillTimings {
                cache_n: usage.cached,
                prompt_n: usage.prompt.saturating_sub(usage.cached),
                prompt_ms: milliseconds(end.timings.prompt),
                predicted_n: usage.completion,
                predicted_ms: milliseconds(end.timings.predicted),
                steps: end.statistics.steps,
            },
            lengths: gap.lengths.clone(),
        }
    }
}

/// Adds what an answer of the library has and llama-server's has not.
fn complete(body: &mut Value, mut answer: Value) {
    // llama-server's `stop` says whether a part of a stream is the last one.
    answer["infill_stop"] = answer["stop"].take();
    add_missing(body, answer);
}

/// Adds members that an object has not, also to the objects in it.
fn add_missing(object: &mut Value, more: Value) {
    if let (Value::Object(members), Value::Object(more)) = (object, more) {
        for (name, value) in more {
            match members.get_mut(&name) {
                Some(own) => add_missing(own, value),
                None => drop(members.insert(name, value)),
            }
        }
    }
}

/// Why an answer ended, and the stop string that ended it.
pub fn stop_type(finished: &Finished) -> (&'static str, &str) {
    match (&finished.finish, finished.end.reason) {
        (Finish::StopString(word), _) => ("word", word.as_str()),
        (Finish::Length, EndReason::Stopped) => ("none", ""),
        (Finish::Length, _) => ("limit", ""),
        _ => ("eos", ""),
    }
}

/// The fields with these paths, such as `timings/prompt_n`, under their paths.
fn chosen(body: &Value, fields: &[String]) -> Value {
    let found = fields.iter().filter_map(|path| {
        let value = path
            .split('/')
            .try_fold(body, |value, name| value.get(name))?;
        Some((path.clone(), value.clone()))
    });
    Value::Object(found.collect::<Map<_, _>>())
}

/// `completion_probabilities`.
fn probabilities(tokens: &[AnswerToken]) -> Value {
    let mut content = chat_logprobs(tokens, false)["content"].take();
    let scored = tokens
        .iter()
        .filter_map(|token| Some((token.id, token.score.as_ref()?)));
    for (entry, (id, score)) in content.as_array_mut().into_iter().flatten().zip(scored) {
        entry["id"] = id.into();
        let top = entry["top_logprobs"].as_array_mut().into_iter().flatten();
        for (entry, (id, _, _)) in top.zip(&score.top) {
            entry["id"] = (*id).into();
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::{finished, meta, text};
    use super::*;
    use llama_diffusion::diffusion::LengthScore;

    fn options() -> Options {
        Options {
            choices: 1,
            answers: 1,
            ..Options::default()
        }
    }

    fn echo(fields: Option<&[&str]>) -> Echo {
        Echo {
            prompt: "p".into(),
            settings: Map::new(),
            fields: fields.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    fn choice(finish: Finish) -> Choice {
        Choice::new([text("a\nb")], finished(finish))
    }

    #[test]
    fn a_whole_answer() {
        let body = answer(
            &meta(),
            &options(),
            &echo(None),
            &[choice(Finish::StopString("x".into()))],
        );
        assert!(body.to_string().starts_with("{\"content\":\"a\\nb\""));
        for (name, value) in [
            ("stop_type", json!("word")),
            ("stopping_word", json!("x")),
            ("tokens_predicted", json!(10)),
            ("tokens_evaluated", json!(30)),
            ("tokens", json!([])),
            ("has_new_line", json!(true)),
            ("truncated", json!(false)),
            ("prompt", json!("p")),
        ] {
            assert_eq!(body[name], value, "{name}");
        }
        assert_eq!(body["generation_settings"]["seed"], 42);
        let types = [(Finish::EndOfText, "eos"), (Finish::Length, "limit")];
        for (finish, name) in types {
            let body = answer(&meta(), &options(), &echo(None), &[choice(finish)]);
            assert_eq!(body["stop_type"], name);
        }
    }

    #[test]
    fn the_answer_of_a_gap_is_that_of_the_library_as_well() {
        let mut finished = finished(Finish::EndOfText);
        let lengths = vec![LengthScore {
            tokens: 10,
            logprob: -0.5,
        }];
        finished.end.gap = Some(GapEnd {
            truncated: true,
            lengths: lengths.clone(),
        });
        let choice = Choice::new([text("a\nb")], finished);
        let mut body = answer(&meta(), &options(), &echo(None), &[choice]);
        assert_eq!(
            (&body["stop"], &body["stop_type"]),
            (&json!(true), &json!("eos"))
        );
        assert_eq!(body["timings"]["predicted_per_token_ms"], 2.0);
        body["stop"] = body["infill_stop"].take();
        let expected = InfillAnswer {
            content: "a\nb".into(),
            tokens_predicted: 10,
            stop: InfillStop::Complete,
            truncated: true,
            seed: 42,
            timings: InfillTimings {
                cache_n: 20,
                prompt_n: 10,
                prompt_ms: 5.0,
                predicted_n: 10,
                predicted_ms: 20.0,
                steps: 5,
            },
            lengths,
        };
        assert_eq!(
            serde_json::from_value::<InfillAnswer>(body).unwrap(),
            expected
        );
        // Other answers have nothing of it.
        let other = [self::choice(Finish::EndOfText)];
        let other = answer(&meta(), &options(), &echo(None), &other);
        assert!(other.get("infill_stop").is_none() && other.get("seed").is_none());
    }

    #[test]
    fn chosen_fields_are_flat() {
        let fields = ["content", "timings/prompt_n", "nothing", "content/x"];
        let body = answer(
            &meta(),
            &options(),
            &echo(Some(&fields)),
            &[choice(Finish::EndOfText)],
        );
        assert_eq!(
            body.to_string(),
            r#"{"content":"a\nb","timings/prompt_n":10}"#
        );
        let none = answer(
            &meta(),
            &options(),
            &echo(Some(&[""])),
            &[choice(Finish::EndOfText)],
        );
        assert_eq!(none.to_string(), "{}");
    }

    #[test]
    fn several_answers_are_a_list() {
        let answers = [choice(Finish::EndOfText), choice(Finish::EndOfText)];
        let body = answer(&meta(), &options(), &echo(None), &answers);
        assert_eq!(body.as_array().unwrap().len(), 2);
        assert_eq!(body[1]["index"], 1);
    }

    #[test]
    fn a_stream_has_tokens_and_ends_without_content() {
        let options = Options {
            logprobs: true,
            ..options()
        };
        let mut stream = NativeStream::new(meta(), options, echo(None));
        let mut events = stream.deltas(0, vec![text("a\n")]);
        events.extend(stream.finish(0, &finished(Finish::EndOfText)));
        assert_eq!(events[0].data["tokens"], json!([97, 10]));
        assert_eq!(events[0].data["stop"], false);
        let probability = &events[0].data["completion_probabilities"][0];
        assert_eq!(
            (&probability["id"], &probability["token"]),
            (&json!(97), &json!("a"))
        );
        assert_eq!(probability["top_logprobs"][0]["id"], 1);
        let last = &events[1].data;
        assert_eq!(
            (&last["content"], &last["stop"]),
            (&json!(""), &json!(true))
        );
        assert_eq!(last["has_new_line"], true);
        assert!(!stream.is_marked_done());
    }
}
