//! Answers of text completions, whole and as a stream.

use serde_json::{Map, Value, json};

use super::answer::AnswerToken;
use super::assemble::Delta;
use super::chat_format::{finish_reason, head, prompt_progress};
use super::format::{
    Choice, Finished, Meta, Progress, Stream, StreamEvent, TotalUsage, statistics, timings,
};
use super::reply::Options;

/// Whether the text also comes where chats have it, as Mistral's clients for gaps expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Also {
    /// `text` alone.
    Nothing,
    /// `message`, or `delta` in a stream.
    Message,
}

/// Writes a stream of chunks.
pub struct TextStream {
    meta: Meta,
    options: Options,
    also: Also,
    usage: TotalUsage,
    /// Characters of each answer so far.
    offsets: Vec<usize>,
    timings: Value,
}

impl TextStream {
    /// The beginning of a stream.
    pub fn new(meta: Meta, options: Options, also: Also) -> Self {
        Self {
            meta,
            also,
            usage: TotalUsage::default(),
            offsets: vec![0; options.answers],
            timings: Value::Null,
            options,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = head(&self.meta, "cmpl-", "text_completion");
        chunk["choices"] = choices;
        if self.options.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn text(&self, choice: usize, text: &str) -> Value {
        let mut entry =
            json!({"text": text, "index": choice, "logprobs": null, "finish_reason": null});
        if self.also == Also::Message {
            entry["delta"] = match text {
                "" => json!({}),
                text => json!({"role": "assistant", "content": text}),
            };
        }
        self.chunk(json!([entry]))
    }
}

impl Stream for TextStream {
    fn begin(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }

    fn progress(&mut self, choice: usize, progress: &Progress) -> Vec<StreamEvent> {
        let mut chunk = self.text(choice, "");
        chunk["prompt_progress"] = prompt_progress(progress);
        vec![StreamEvent::unnamed(chunk)]
    }

    fn draft(&mut self, choice: usize, payload: &Value) -> Vec<StreamEvent> {
        let mut chunk = self.text(choice, "");
        chunk["diffusion"] = payload.clone();
        vec![StreamEvent::unnamed(chunk)]
    }

    fn deltas(&mut self, choice: usize, deltas: Vec<Delta>) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        for delta in deltas {
            // Plain text has no other deltas.
            if let Delta::Text { text, tokens } = delta {
                let mut chunk = self.text(choice, &text);
                if self.options.logprobs {
                    chunk["choices"][0]["logprobs"] = logprobs(&tokens, self.offsets[choice]);
                }
                self.offsets[choice] += text.chars().count();
                events.push(StreamEvent::unnamed(chunk));
            }
        }
        events
    }

    fn finish(&mut self, choice: usize, finished: &Finished) -> Vec<StreamEvent> {
        self.usage.add(choice, self.options.choices, &finished.end);
        self.timings = timings(&finished.end);
        let mut chunk = self.text(choice, "");
        chunk["choices"][0]["finish_reason"] = finish_reason(&finished.finish).into();
        chunk["diffusion"] = statistics(&finished.end, &self.options.ignored);
        if !self.options.include_usage {
            chunk["timings"] = self.timings.clone();
        }
        vec![StreamEvent::unnamed(chunk)]
    }

    fn close(&mut self) -> Vec<StreamEvent> {
        if !self.options.include_usage {
            return Vec::new();
        }
        let mut chunk = self.chunk(json!([]));
        chunk["usage"] = self.usage.openai();
        chunk["timings"] = self.timings.clone();
        vec![StreamEvent::unnamed(chunk)]
    }

    fn is_marked_done(&self) -> bool {
        true
    }
}

/// Writes whole answers.
pub fn answer(meta: &Meta, options: &Options, answers: &[Choice], also: Also) -> Value {
    let mut body = head(meta, "cmpl-", "text_completion");
    let choice = |(index, answer): (usize, &Choice)| {
        let mut choice = json!({
            "text": answer.text,
            "index": index,
            "logprobs": options.logprobs.then(|| logprobs(&answer.tokens, 0)),
            "finish_reason": finish_reason(&answer.finished.finish),
        });
        if also == Also::Message {
            choice["message"] = json!({"role": "assistant", "content": answer.text});
        }
        if options.answers > 1 {
            choice["diffusion"] = statistics(&answer.finished.end, &options.ignored);
        }
        choice
    };
    body["choices"] = answers.iter().enumerate().map(choice).collect();
    body["usage"] = TotalUsage::of(answers, options.choices).openai();
    if let (Some(first), Some(last)) = (answers.first(), answers.last()) {
        body["timings"] = timings(&last.finished.end);
        body["diffusion"] = statistics(&first.finished.end, &options.ignored);
    }
    body
}

/// Log-probabilities as text completions have them; `offset` is the number of characters before.
fn logprobs(tokens: &[AnswerToken], mut offset: usize) -> Value {
    let [mut texts, mut values, mut tops, mut offsets] = [const { Vec::<Value>::new() }; 4];
    for token in tokens {
        let Some(score) = &token.score else {
            continue;
        };
        let text = String::from_utf8_lossy(&token.bytes);
        let entry = |(_, bytes, logprob): &(_, Vec<u8>, f32)| {
            (
                String::from_utf8_lossy(bytes).into_owned(),
                Value::from(*logprob),
            )
        };
        offsets.push(offset.into());
        offset += text.chars().count();
        texts.push(text.into());
        values.push(score.logprob.into());
        tops.push(score.top.iter().map(entry).collect::<Map<_, _>>().into());
    }
    json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
}

#[cfg(test)]
mod tests {
    use async_openai::types::completions::CreateCompletionResponse;

    use super::super::assemble::Finish;
    use super::super::format::tests::{finished, meta, text};
    use super::*;

    fn options() -> Options {
        Options {
            choices: 1,
            answers: 1,
            logprobs: true,
            ..Options::default()
        }
    }

    #[test]
    fn whole_answers_are_what_others_expect() {
        let choice = Choice::new([text("Hé")], finished(Finish::Length));
        let body = answer(&meta(), &options(), &[choice], Also::Nothing);
        let read: CreateCompletionResponse = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(
            (read.id.as_str(), read.choices[0].text.as_str()),
            ("cmpl-abc123", "Hé")
        );
        let logprobs = read.choices[0].logprobs.as_ref().unwrap();
        assert_eq!(logprobs.text_offset, [0, 1]);
        assert_eq!(
            body["choices"][0]["logprobs"]["top_logprobs"][0],
            json!({"x": -0.25})
        );
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert!(body["choices"][0].get("message").is_none());
    }

    #[test]
    fn streams_are_what_others_expect() {
        let mut stream = TextStream::new(meta(), options(), Also::Nothing);
        let mut events = stream.begin();
        events.extend(stream.deltas(0, vec![text("ab")]));
        events.extend(stream.deltas(0, vec![text("c")]));
        events.extend(stream.finish(0, &finished(Finish::EndOfText)));
        events.extend(stream.close());
        for event in &events {
            serde_json::from_value::<CreateCompletionResponse>(event.data.clone()).unwrap();
        }
        let choices: Vec<_> = events
            .iter()
            .map(|event| &event.data["choices"][0])
            .collect();
        assert_eq!(
            (&choices[0]["text"], &choices[1]["text"]),
            (&json!("ab"), &json!("c"))
        );
        assert_eq!(choices[1]["logprobs"]["text_offset"], json!([2]));
        assert_eq!(
            (&choices[2]["text"], &choices[2]["finish_reason"]),
            (&json!(""), &json!("stop"))
        );
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn gaps_come_as_messages_as_well() {
        let choice = Choice::new([text("x")], finished(Finish::EndOfText));
        let body = answer(&meta(), &options(), &[choice], Also::Message);
        assert_eq!(body["choices"][0]["message"]["content"], "x");
        let mut stream = TextStream::new(meta(), options(), Also::Message);
        let events = stream.deltas(0, vec![text("x")]);
        assert_eq!(events[0].data["choices"][0]["delta"]["content"], "x");
    }
}
