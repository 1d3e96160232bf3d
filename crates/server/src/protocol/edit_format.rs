//! Answers to edits, whole and as a stream.

use std::ops::Range;

use llama_diffusion::changes;
use serde_json::{Value, json};

use super::assemble::Delta;
use super::chat_format::prompt_progress;
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, TotalUsage, statistics, timings,
};
use super::native_format::{event, part, stop_type};
use super::reply::Options;

/// Writes a stream of parts.
pub struct EditStream {
    meta: Meta,
    options: Options,
    /// The text that changes.
    original: Box<str>,
    /// What has become of it, for each answer.
    edited: Vec<String>,
}

impl EditStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options, original: Box<str>) -> Self {
        Self {
            meta,
            edited: vec![String::new(); options.answers],
            options,
            original,
        }
    }
}

impl Stream for EditStream {
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
            match delta {
                Delta::Text { text, tokens } => {
                    self.edited[choice] += &text;
                    events.push(StreamEvent::unnamed(part(choice, &text, &tokens)));
                }
                Delta::Thought(thought) => {
                    events.extend(event(choice, "reasoning_content", thought.into()));
                }
                // An edit calls no tools.
                Delta::Call { .. } => {}
            }
        }
        events
    }

    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent> {
        let rest = line_ends(&self.original);
        let edited = format!("{}{rest}", self.edited[choice]);
        let mut last = end(&self.meta, &self.options, choice, finished);
        last["content"] = rest.into();
        last["changes"] = changed_lines(&self.original, &edited);
        vec![StreamEvent::unnamed(last)]
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }
}

/// Writes whole answers: one object, or a list if there are several.
pub fn answer(meta: &Meta, options: &Options, original: &str, answers: &[Choice]) -> Value {
    let whole = |(index, answer): (usize, &Choice)| {
        let edited = format!("{}{}", answer.text, line_ends(original));
        let mut body = end(meta, options, index, &answer.finished);
        body["changes"] = changed_lines(original, &edited);
        body["content"] = edited.into();
        if !answer.thoughts.is_empty() {
            body["reasoning_content"] = answer.thoughts.clone().into();
        }
        if options.tokens {
            body["tokens"] = answer.tokens.iter().map(|token| token.id).collect();
        }
        body
    };
    let mut bodies: Vec<Value> = answers.iter().enumerate().map(whole).collect();
    match bodies.len() {
        1 => bodies.remove(0),
        _ => bodies.into(),
    }
}

/// The end of an answer, but for its text.
fn end(meta: &Meta, options: &Options, index: usize, finished: &Finished) -> Value {
    let mut usage = TotalUsage::default();
    usage.add(0, 1, &finished.end);
    json!({
        "content": "",
        "changes": [],
        "index": index,
        "id_slot": finished.end.slot,
        "stop": true,
        "stop_type": stop_type(finished).0,
        "model": meta.model,
        "usage": usage.openai(),
        "timings": timings(&finished.end),
        "diffusion": statistics(&finished.end, &options.ignored),
    })
}

/// The line ends after a text: they stay.
fn line_ends(text: &str) -> &str {
    &text[text.trim_end_matches(['\r', '\n']).len()..]
}

/// The lines that differ, counted from 1: the first and the last of them before and after; null where there
/// are none.
fn changed_lines(old: &str, new: &str) -> Value {
    let lines = |text| str::split_inclusive(text, '\n').collect::<Vec<_>>();
    let range = |lines: Range<usize>| match lines.is_empty() {
        true => Value::Null,
        false => json!([lines.start + 1, lines.end]),
    };
    let changes = changes(&lines(old), &lines(new)).into_iter();
    changes
        .map(|change| json!({"before": range(change.old), "after": range(change.new)}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::assemble::Finish;
    use super::super::format::tests::{finished, meta, text};
    use super::*;

    const ORIGINAL: &str = "one\ntwo\nthree\r\n\n";

    fn options(answers: usize) -> Options {
        Options {
            choices: answers,
            answers,
            ..Options::default()
        }
    }

    #[test]
    fn lines_that_changed() {
        let changed = |old, new| changed_lines(old, new);
        assert_eq!(changed("a\nb", "a\nb"), json!([]));
        assert_eq!(
            changed("a\nb\nc", "a\nx\ny\nc"),
            json!([{"before": [2, 2], "after": [2, 3]}])
        );
        assert_eq!(
            changed("a\nb\nc", "b\nc\nd"),
            json!([{"before": [1, 1], "after": null}, {"before": [3, 3], "after": [2, 3]}])
        );
    }

    #[test]
    fn a_whole_answer_keeps_the_line_ends() {
        let choice = Choice::new([text("one\n2\nthree")], finished(Finish::EndOfText));
        let one = std::slice::from_ref(&choice);
        let body = answer(&meta(), &options(1), ORIGINAL, one);
        assert_eq!(body["content"], "one\n2\nthree\r\n\n");
        assert_eq!(
            body["changes"],
            json!([{"before": [2, 2], "after": [2, 2]}])
        );
        assert_eq!(body["usage"]["total_tokens"], 40);
        assert_eq!(body["stop_type"], "eos");
        let bodies = answer(&meta(), &options(2), ORIGINAL, &[choice.clone(), choice]);
        assert_eq!(bodies[1]["index"], 1);
    }

    #[test]
    fn a_stream_is_the_whole_answer_in_parts() {
        let mut stream = EditStream::new(meta(), options(1), ORIGINAL.into());
        let thought = || Delta::Thought("hm".into());
        let mut events = stream.deltas(0, vec![text("one\n"), thought()]);
        events.extend(stream.deltas(0, vec![text("2\nthree")]));
        events.extend(stream.finish(0, &finished(Finish::EndOfText)));
        let contents = events
            .iter()
            .filter_map(|event| event.data["content"].as_str());
        let deltas = [text("one\n2\nthree"), thought()];
        let choice = Choice::new(deltas, finished(Finish::EndOfText));
        let whole = answer(&meta(), &options(1), ORIGINAL, &[choice]);
        assert_eq!(contents.collect::<String>(), whole["content"]);
        assert_eq!(events[1].data["reasoning_content"], "hm");
        assert_eq!(whole["reasoning_content"], "hm");
        let last = &events.last().unwrap().data;
        assert_eq!(last["changes"], whole["changes"]);
        assert_eq!(last["stop"], true);
        assert_eq!(events[0].data["stop"], false);
    }
}
