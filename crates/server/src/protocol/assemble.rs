//! From finished canvases to what the formats show: thoughts, text before a stop string, tool calls.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::answer::{AnswerToken, Canvas, Channel, EndReason};
use super::stop::StopFilter;
use super::tool_calls::{Call, CallParser, Segment};

/// What becomes of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assembly {
    /// Stop strings.
    pub stop: Vec<String>,
    /// Where thoughts go.
    pub thoughts: ThoughtFormat,
    /// Where tool calls come from.
    pub calls: Calls,
}

/// Where thoughts go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThoughtFormat {
    /// Into a field of their own.
    #[default]
    Separate,
    /// Into the text, between `<think>` and `</think>`.
    Inline,
}

/// Where tool calls come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// There are none.
    #[default]
    None,
    /// The text, where the model marks them; if not `parallel`, the first one ends the answer.
    Marked {
        /// Whether there may be several.
        parallel: bool,
    },
    /// The answer is constrained to the arguments of this function.
    Arguments(String),
    /// The answer is constrained to an object of `name` and `arguments`.
    Object,
}

/// What is new in an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Thoughts.
    Thought(String),
    /// Text, which is never empty, and the tokens that it consists of.
    Text {
        /// The text.
        text: String,
        /// Its tokens.
        tokens: Vec<AnswerToken>,
    },
    /// A whole tool call.
    Call {
        /// Number of the call in the answer, from 0.
        index: usize,
        /// The function.
        name: String,
        /// Its arguments as JSON.
        arguments: String,
    },
}

/// Why an answer ended, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndOfText,
    /// This stop string.
    StopString(String),
    /// It calls tools.
    ToolCalls,
    /// A limit.
    Length,
}

/// Assembles one answer.
#[derive(Clone, Debug)]
pub struct Assembler {
    thoughts: ThoughtFormat,
    calls: Calls,
    stop: StopFilter,
    parser: CallParser,
    /// Of a constrained call.
    json: String,
    /// Whether inline thoughts are open.
    thinking: bool,
    /// Tokens of text that is not decided yet, each with where it begins.
    tokens: VecDeque<(usize, AnswerToken)>,
    /// Bytes of the text that has arrived, and of the text that is decided.
    arrived: usize,
    decided: usize,
    count: usize,
}

impl Assembler {
    /// The beginning of an answer.
    pub fn new(assembly: &Assembly) -> Self {
        Self {
            thoughts: assembly.thoughts,
            calls: assembly.calls.clone(),
            stop: StopFilter::new(&assembly.stop),
            parser: CallParser::default(),
            json: String::new(),
            thinking: false,
            tokens: VecDeque::new(),
            arrived: 0,
            decided: 0,
            count: 0,
        }
    }

    /// Whether nothing that follows would be shown: the engine can stop.
    pub fn is_done(&self) -> bool {
        let one_call = self.calls == Calls::Marked { parallel: false };
        self.stop.found().is_some() || (one_call && self.count > 0)
    }

    /// Takes a finished canvas.
    pub fn push(&mut self, canvas: Canvas) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for span in canvas
            .spans
            .into_iter()
            .filter(|span| !span.text.is_empty())
        {
            if self.is_done() {
                break;
            }
            match (span.channel, self.thoughts) {
                (Channel::Thought, ThoughtFormat::Separate) => {
                    deltas.push(Delta::Thought(span.text));
                }
                (Channel::Thought, ThoughtFormat::Inline) => {
                    let text = self.mark_thoughts(true) + &span.text;
                    let tokens = span.tokens;
                    deltas.push(Delta::Text { text, tokens });
                }
                (Channel::Answer, _) => {
                    let text = self.mark_thoughts(false);
                    let tokens = Vec::new();
                    deltas.extend((!text.is_empty()).then_some(Delta::Text { text, tokens }));
                    self.answer(&span.text, span.tokens, &mut deltas);
                }
            }
        }
        deltas
    }

    /// The mark between thoughts in the text and the answer, if one is needed.
    fn mark_thoughts(&mut self, thinking: bool) -> String {
        let mark = match (self.thinking, thinking) {
            (false, true) => "<think>",
            (true, false) => "</think>",
            _ => "",
        };
        self.thinking = thinking;
        mark.to_owned()
    }

    fn answer(&mut self, text: &str, tokens: Vec<AnswerToken>, deltas: &mut Vec<Delta>) {
        let mut begin = self.arrived;
        for token in tokens {
            let len = token.bytes.len();
            self.tokens.push_back((begin, token));
            begin += len;
        }
        self.arrived += text.len();
        match &self.calls {
            Calls::None => self.text(text, deltas),
            Calls::Marked { .. } => {
                let segments = self.parser.push(text);
                self.segments(segments, deltas);
            }
            Calls::Arguments(_) | Calls::Object => self.json.push_str(text),
        }
    }

    fn segments(&mut self, segments: Vec<Segment>, deltas: &mut Vec<Delta>) {
        for segment in segments {
            if self.is_done() {
                return;
            }
            match segment {
                Segment::Text(text) => self.text(&text, deltas),
                Segment::Call(call) => {
                    // A stop string does not go on after a call.
                    let rest = self.stop.finish();
                    self.show(rest, deltas);
                    if self.stop.found().is_none() {
                        deltas.push(self.call(call));
                    }
                }
                Segment::Dropped(bytes) => {
                    self.tokens_of(bytes);
                }
            }
        }
    }

    fn text(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        let text = self.stop.push(text);
        self.show(text, deltas);
    }

    fn show(&mut self, text: String, deltas: &mut Vec<Delta>) {
        let tokens = self.tokens_of(text.len());
        if !text.is_empty() {
            deltas.push(Delta::Text { text, tokens });
        }
    }

    /// The tokens that begin in the next bytes.
    fn tokens_of(&mut self, bytes: usize) -> Vec<AnswerToken> {
        self.decided += bytes;
        let count = self
            .tokens
            .partition_point(|(begin, _)| *begin < self.decided);
        self.tokens.drain(..count).map(|(_, token)| token).collect()
    }

    fn call(&mut self, Call { name, arguments }: Call) -> Delta {
        let index = self.count;
        self.count += 1;
        Delta::Call {
            index,
            name,
            arguments: Value::Object(arguments).to_string(),
        }
    }

    /// Ends the answer: what was held back, and why it ended.
    pub fn finish(&mut self, reason: EndReason) -> (Vec<Delta>, Finish) {
        let mut deltas = Vec::new();
        match &self.calls {
            Calls::None => {}
            Calls::Marked { .. } => {
                let segments = self.parser.finish();
                self.segments(segments, &mut deltas);
            }
            Calls::Arguments(_) | Calls::Object => match self.constrained_call() {
                Some(call) => deltas.push(self.call(call)),
                None => {
                    let json = std::mem::take(&mut self.json);
                    self.text(&json, &mut deltas);
                }
            },
        }
        let was_done = self.is_done();
        let rest = self.stop.finish();
        self.show(rest, &mut deltas);
        let finish = match (self.stop.found(), reason) {
            (Some(word), _) => Finish::StopString(word.to_owned()),
            (_, EndReason::Length | EndReason::Time) => Finish::Length,
            _ if self.count > 0 => Finish::ToolCalls,
            (_, EndReason::Stopped) if !was_done => Finish::Length,
            _ => Finish::EndOfText,
        };
        (deltas, finish)
    }

    /// The call that the answer was constrained to, if it is complete.
    fn constrained_call(&self) -> Option<Call> {
        let object: Map<String, Value> = serde_json::from_str(&self.json).ok()?;
        match &self.calls {
            Calls::Arguments(name) => Some(Call {
                name: name.clone(),
                arguments: object,
            }),
            _ => Some(Call {
                name: object.get("name")?.as_str()?.to_owned(),
                arguments: object.get("arguments")?.as_object()?.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Span;
    use super::*;

    fn span(channel: Channel, text: &str) -> Span {
        let token = |c: char| AnswerToken {
            id: u32::from(c) as _,
            bytes: c.to_string().into_bytes(),
            score: None,
        };
        Span {
            channel,
            text: text.to_owned(),
            tokens: text.chars().map(token).collect(),
        }
    }

    fn canvas(spans: &[(Channel, &str)]) -> Canvas {
        Canvas {
            spans: spans
                .iter()
                .map(|(channel, text)| span(*channel, text))
                .collect(),
        }
    }

    fn answer(text: &str) -> Canvas {
        canvas(&[(Channel::Answer, text)])
    }

    fn assembler(stop: &[&str], calls: Calls) -> Assembler {
        Assembler::new(&Assembly {
            stop: stop.iter().map(|word| (*word).to_owned()).collect(),
            calls,
            ..Assembly::default()
        })
    }

    fn text(deltas: &[Delta]) -> String {
        let texts = deltas.iter().map(|delta| match delta {
            Delta::Text { text, tokens } => {
                let spelled: Vec<u8> = tokens
                    .iter()
                    .flat_map(|token| token.bytes.clone())
                    .collect();
                assert_eq!(String::from_utf8(spelled).unwrap(), *text);
                text.as_str()
            }
            _ => "",
        });
        texts.collect()
    }

    #[test]
    fn text_comes_with_its_tokens_however_it_is_held_back() {
        let mut assembler = assembler(&["STOP"], Calls::None);
        assert_eq!(text(&assembler.push(answer("éa ST"))), "éa ");
        assert_eq!(text(&assembler.push(answer("x ST"))), "STx ");
        assert!(!assembler.is_done());
        assert_eq!(assembler.push(answer("OP more")), []);
        assert!(assembler.is_done());
        let (rest, finish) = assembler.finish(EndReason::Stopped);
        assert_eq!(
            (rest, finish),
            (Vec::new(), Finish::StopString("STOP".into()))
        );
    }

    #[test]
    fn calls_are_deltas_and_their_tokens_belong_to_no_text() {
        let mut assembler = assembler(&[], Calls::Marked { parallel: true });
        let deltas = assembler.push(answer("Hm.<|tool_call>call:f{a:1}<tool_call|> ok"));
        assert_eq!(text(&deltas), "Hm.ok");
        assert_eq!(
            deltas[1],
            Delta::Call {
                index: 0,
                name: "f".into(),
                arguments: "{\"a\":1}".into()
            }
        );
        assert_eq!(assembler.finish(EndReason::EndOfText).1, Finish::ToolCalls);
    }

    #[test]
    fn one_call_ends_an_answer_without_parallel_calls() {
        let mut assembler = assembler(&[], Calls::Marked { parallel: false });
        let two = "<|tool_call>call:f{}<tool_call|><|tool_call>call:g{}<tool_call|>";
        assert_eq!(assembler.push(answer(two)).len(), 1);
        assert!(assembler.is_done());
        assert_eq!(
            assembler.finish(EndReason::Stopped),
            (Vec::new(), Finish::ToolCalls)
        );
    }

    #[test]
    fn constrained_calls_need_no_marks() {
        let mut named = assembler(&[], Calls::Arguments("f".into()));
        assert_eq!(named.push(answer("{\"a\":")), []);
        assert_eq!(named.push(answer("1}")), []);
        let (deltas, finish) = named.finish(EndReason::EndOfText);
        assert!(matches!(&deltas[..], [Delta::Call { name, .. }] if name == "f"));
        assert_eq!(finish, Finish::ToolCalls);
        // Cut off: nothing is lost.
        let mut cut = assembler(&[], Calls::Object);
        cut.push(answer("{\"name\": \"f\", \"argum"));
        let (deltas, finish) = cut.finish(EndReason::Length);
        assert_eq!(
            (text(&deltas).as_str(), finish),
            ("{\"name\": \"f\", \"argum", Finish::Length)
        );
    }

    #[test]
    fn thoughts_are_separate_or_marked() {
        let spans = [(Channel::Thought, "hm"), (Channel::Answer, "yes")];
        let mut separate = assembler(&[], Calls::None);
        let deltas = separate.push(canvas(&spans));
        assert_eq!(deltas[0], Delta::Thought("hm".into()));
        let mut inline = Assembler::new(&Assembly {
            thoughts: ThoughtFormat::Inline,
            ..Assembly::default()
        });
        let mut deltas = inline.push(canvas(&spans[..1]));
        deltas.extend(inline.push(canvas(&spans)));
        let shown = deltas.iter().map(|delta| match delta {
            Delta::Text { text, .. } => text.as_str(),
            _ => panic!("{delta:?}"),
        });
        assert_eq!(shown.collect::<String>(), "<think>hmhm</think>yes");
    }

    #[test]
    fn reasons() {
        for (reason, finish) in [
            (EndReason::EndOfText, Finish::EndOfText),
            (EndReason::Length, Finish::Length),
            (EndReason::Time, Finish::Length),
            (EndReason::Stopped, Finish::Length),
        ] {
            assert_eq!(assembler(&[], Calls::None).finish(reason).1, finish);
        }
    }
}
