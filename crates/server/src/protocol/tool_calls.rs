//! Tool calls in the text of an answer: Gemma's
//! `<|tool_call>call:name{key:<|"|>text<|"|>,n:3}<tool_call|>`, and JSON between Qwen's marks.
//!
//! Models deviate from the form, so the parser takes more than the form. What it cannot read stays
//! text: nothing that a model writes is lost.

use serde_json::{Map, Number, Value};

/// Marks around a call.
const MARKS: [[&str; 2]; 2] = [
    ["<|tool_call>", "<tool_call|>"],
    ["<tool_call>", "</tool_call>"],
];

/// The mark around a string.
const QUOTE: &str = "<|\"|>";

/// The special tokens that the text of an answer has to spell out for this parser.
pub const SPELLED_OUT: [&str; 3] = [MARKS[0][0], MARKS[0][1], QUOTE];

/// Lists and objects inside each other.
const DEPTH: usize = 64;

/// A tool call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Text for the reader.
    Text(String),
    /// A call.
    Call(Call),
    /// So many bytes that are not shown: the text of a call, and spaces after it.
    Dropped(usize),
}

/// Finds calls in a text that arrives in parts.
#[derive(Clone, Debug, Default)]
pub struct CallParser {
    held: String,
    /// Whether nothing but spaces followed the last call.
    after_call: bool,
}

impl CallParser {
    /// Takes the next part of the text, and returns what is decided.
    pub fn push(&mut self, part: &str) -> Vec<Segment> {
        self.held.push_str(part);
        let mut segments = Vec::new();
        loop {
            self.drop_spaces(&mut segments);
            let Some((at, marks)) = open_mark(&self.held) else {
                let kept = self.held.len() - begun_mark(&self.held);
                self.text(kept, &mut segments);
                return segments;
            };
            self.text(at, &mut segments);
            match call_length(&self.held, marks) {
                Some((len, end)) => self.call(len, end, &mut segments),
                None => return segments,
            }
        }
    }

    /// The rest of the text, which ends here. A last call needs no end mark.
    pub fn finish(&mut self) -> Vec<Segment> {
        let mut segments = Vec::new();
        if open_mark(&self.held).is_some_and(|(at, _)| at == 0) {
            let len = self.held.len();
            self.call(len, len, &mut segments);
        }
        self.text(self.held.len(), &mut segments);
        segments
    }

    /// Takes a call of `end` bytes with its marks; its body ends at `len`.
    fn call(&mut self, len: usize, end: usize, segments: &mut Vec<Segment>) {
        match open_mark(&self.held).and_then(|(_, [open, _])| call(&self.held[open.len()..len])) {
            Some(call) => {
                segments.push(Segment::Call(call));
                segments.push(Segment::Dropped(end));
                self.held.drain(..end);
                self.after_call = true;
            }
            None => self.text(end, segments),
        }
    }

    /// Shows `len` bytes.
    fn text(&mut self, len: usize, segments: &mut Vec<Segment>) {
        if len > 0 {
            segments.push(Segment::Text(self.held.drain(..len).collect()));
            self.after_call = false;
        }
    }

    fn drop_spaces(&mut self, segments: &mut Vec<Segment>) {
        let spaces = self.held.len() - self.held.trim_start().len();
        if self.after_call && spaces > 0 {
            segments.push(Segment::Dropped(spaces));
            self.held.drain(..spaces);
        }
    }
}

/// The first mark that opens a call, and its pair.
fn open_mark(text: &str) -> Option<(usize, [&'static str; 2])> {
    let found = MARKS
        .iter()
        .filter_map(|marks| Some((text.find(marks[0])?, *marks)));
    found.min_by_key(|(at, _)| *at)
}

/// How many bytes at the end of a text could begin a mark.
fn begun_mark(text: &str) -> usize {
    let begins = |len: &usize| {
        let end = text.get(text.len() - len..);
        end.is_some_and(|end| MARKS.iter().any(|[open, _]| open.starts_with(end)))
    };
    let longest = MARKS.iter().map(|[open, _]| open.len() - 1).max();
    (1..=longest.unwrap_or(0).min(text.len()))
        .rev()
        .find(begins)
        .unwrap_or(0)
}

/// Where the body of the call that a text begins with ends, and the mark after it: at its end mark
/// that is not in a string, or before the next call.
fn call_length(text: &str, [open, close]: [&str; 2]) -> Option<(usize, usize)> {
    let mut quoted = false;
    for (at, _) in text.char_indices().filter(|(at, _)| *at >= open.len()) {
        let rest = &text[at..];
        if rest.starts_with(QUOTE) {
            quoted = !quoted;
        } else if !quoted && rest.starts_with(close) {
            return Some((at, at + close.len()));
        } else if rest.starts_with(open) {
            return Some((at, at));
        }
    }
    None
}

/// Reads a call between its marks.
fn call(body: &str) -> Option<Call> {
    let body = body.trim();
    json_call(body).or_else(|| {
        let mut reader = Reader { rest: body };
        let call = reader.call()?;
        reader.rest.trim().is_empty().then_some(call)
    })
}

/// A call as JSON.
fn json_call(body: &str) -> Option<Call> {
    let Value::Object(mut object) = serde_json::from_str(body).ok()? else {
        return None;
    };
    let Some(Value::String(name)) = object.remove("name") else {
        return None;
    };
    let arguments = object
        .remove("arguments")
        .or_else(|| object.remove("parameters"));
    let arguments = match arguments {
        Some(Value::Object(arguments)) => arguments,
        None => Map::new(),
        Some(_) => return None,
    };
    Some(Call { name, arguments })
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a text, if it is next.
    fn takes(&mut self, text: &str) -> bool {
        self.spaces();
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Takes everything before the first character that ends it.
    fn until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let len = self.rest.find(ends).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken.trim()
    }

    fn call(&mut self) -> Option<Call> {
        self.takes("call:");
        self.spaces();
        let name = self.until(|c| !(c.is_alphanumeric() || "_-.:/".contains(c)));
        if name.is_empty() {
            return None;
        }
        let arguments = if self.takes("{") {
            self.members('}', DEPTH)?
        } else if self.takes("(") {
            self.members(')', DEPTH)?
        } else {
            Map::new()
        };
        Some(Call {
            name: name.to_owned(),
            arguments,
        })
    }

    fn members(&mut self, close: char, depth: usize) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        loop {
            if self.takes(close.encode_utf8(&mut [0; 4])) {
                return Some(members);
            }
            let key = self.key()?;
            let value = self.value(depth)?;
            members.insert(key, value);
            self.separator(close)?;
        }
    }

    fn key(&mut self) -> Option<String> {
        let key = match self.quoted() {
            Some(key) => key?,
            None => self.until(|c| ":={}[]()<>,\"'".contains(c)).to_owned(),
        };
        let separated = self.takes(":") || self.takes("=");
        (separated && !key.is_empty()).then_some(key)
    }

    /// A comma, unless the end is next.
    fn separator(&mut self, close: char) -> Option<()> {
        self.spaces();
        (self.takes(",") || self.rest.starts_with(close)).then_some(())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        if let Some(text) = self.quoted() {
            return text.map(Value::String);
        }
        if self.takes("{") {
            return self.members('}', depth).map(Value::Object);
        }
        if self.takes("[") {
            return self.elements(depth).map(Value::Array);
        }
        let word = self.until(|c| ",{}[]()".contains(c));
        (!word.is_empty()).then(|| bare(word))
    }

    fn elements(&mut self, depth: usize) -> Option<Vec<Value>> {
        let mut elements = Vec::new();
        loop {
            if self.takes("]") {
                return Some(elements);
            }
            elements.push(self.value(depth)?);
            self.separator(']')?;
        }
    }

    /// A string between marks or quotes, if one is next; then `None` in it if it does not end.
    fn quoted(&mut self) -> Option<Option<String>> {
        if self.takes(QUOTE) {
            return Some(self.rest.split_once(QUOTE).map(|(text, rest)| {
                self.rest = rest;
                text.to_owned()
            }));
        }
        let quote = self.rest.chars().next().filter(|c| "\"'".contains(*c))?;
        let body = &self.rest[1..];
        let mut escaped = false;
        let end = body.find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        Some(end.map(|end| {
            self.rest = &body[end + 1..];
            unescaped(&body[..end], quote)
        }))
    }
}

/// The text of a string literal with JSON's escapes; as it is, if these are wrong.
fn unescaped(text: &str, quote: char) -> String {
    let text = match quote {
        '\'' => text.replace("\\'", "'").replace('"', "\\\""),
        _ => text.to_owned(),
    };
    // Models write line ends as they are.
    let json = text
        .replace('\n', "\\n")
        .replace('\t', "\\t")
        .replace('\r', "\\r");
    serde_json::from_str(&format!("\"{json}\"")).unwrap_or(text)
}

/// What a word without quotes stands for.
fn bare(word: &str) -> Value {
    match word {
        "true" | "True" => Value::Bool(true),
        "false" | "False" => Value::Bool(false),
        "null" | "None" => Value::Null,
        _ => match word.parse::<Number>() {
            Ok(number) => Value::Number(number),
            Err(_) => Value::String(word.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn arguments(body: &str) -> Option<Value> {
        call(body).map(|call| Value::Object(call.arguments))
    }

    /// The text and the calls of an answer that arrives in these parts.
    fn parsed(parts: &[&str]) -> (String, Vec<(String, Value)>) {
        let mut parser = CallParser::default();
        let mut segments: Vec<Segment> = parts.iter().flat_map(|part| parser.push(part)).collect();
        segments.extend(parser.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for segment in segments {
            match segment {
                Segment::Text(part) => text += &part,
                Segment::Call(call) => calls.push((call.name, Value::Object(call.arguments))),
                Segment::Dropped(_) => {}
            }
        }
        (text, calls)
    }

    #[test]
    fn the_form_of_gemma() {
        let text = "Let me look.<|tool_call>call:get_weather{city:<|\"|>São \"Paulo\"}<|\"|>,days:3,\
            at:{lat:-23.5,lon:null},tags:[<|\"|>a<|\"|>,true]}<tool_call|>";
        let (text, calls) = parsed(&[text]);
        assert_eq!(text, "Let me look.");
        let arguments = json!({
            "city": "São \"Paulo\"}", "days": 3, "at": {"lat": -23.5, "lon": null}, "tags": ["a", true]
        });
        assert_eq!(calls, [("get_weather".to_owned(), arguments)]);
    }

    #[test]
    fn deviations_that_models_make() {
        for (body, expected) in [
            ("call:f{}", json!({})),
            ("call:f", json!({})),
            ("f{a:1}", json!({"a": 1})),
            ("call:f(a=1, b=\"x\")", json!({"a": 1, "b": "x"})),
            ("call: f { a : 1 , }", json!({"a": 1})),
            ("call:f{\"a\": \"x\\n\\\"y\\\"\"}", json!({"a": "x\n\"y\""})),
            ("call:f{a:'it\\'s \"x\"'}", json!({"a": "it's \"x\""})),
            (
                "call:f{a:two words,b:-1.5e3}",
                json!({"a": "two words", "b": -1500.0}),
            ),
            (
                "call:f{a:True,b:None,c:[ ]}",
                json!({"a": true, "b": null, "c": []}),
            ),
            (
                "call:f{a:\"line 1\nline 2\"}",
                json!({"a": "line 1\nline 2"}),
            ),
            ("call:f{a:\"C:\\dir\"}", json!({"a": "C:\\dir"})),
            (
                "{\"name\": \"f\", \"arguments\": {\"a\": [1]}}",
                json!({"a": [1]}),
            ),
        ] {
            let call = call(body).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(
                (call.name.as_str(), Value::Object(call.arguments)),
                ("f", expected)
            );
        }
    }

    #[test]
    fn what_cannot_be_read_stays_text() {
        for body in [
            "call:",
            "call:f{a}",
            "call:f{a:1",
            "call:f{a:<|\"|>x}",
            "call:f{a:}",
            "call:f{a:1} and more",
            "call:f{:1}",
            "",
        ] {
            assert_eq!(arguments(body), None, "{body}");
            let text = format!("x <|tool_call>{body}<tool_call|> y");
            assert_eq!(parsed(&[&text]), (text.clone(), Vec::new()));
        }
        let deep = format!("call:f{{a:{}1{}}}", "[".repeat(100), "]".repeat(100));
        assert_eq!(arguments(&deep), None);
    }

    #[test]
    fn calls_without_an_end_mark() {
        let text = "<|tool_call>call:f{a:1}<|tool_call>call:g{}";
        let (text, calls) = parsed(&[text]);
        assert_eq!((text.as_str(), calls.len()), ("", 2));
        let cut = "<|tool_call>call:f{a:<|\"|>x";
        assert_eq!(parsed(&[cut]), (cut.to_owned(), Vec::new()));
    }

    #[test]
    fn spaces_between_calls_are_not_shown_and_bytes_add_up() {
        let text = "a\n<|tool_call>call:f{}<tool_call|>\n\n<|tool_call>call:g{}<tool_call|>\nb";
        let mut parser = CallParser::default();
        let mut segments = parser.push(text);
        segments.extend(parser.finish());
        let bytes = segments.iter().map(|segment| match segment {
            Segment::Text(text) => text.len(),
            Segment::Call(_) => 0,
            Segment::Dropped(bytes) => *bytes,
        });
        assert_eq!(bytes.sum::<usize>(), text.len());
        assert_eq!(parsed(&[text]).0, "a\nb");
    }

    #[test]
    fn text_before_a_possible_mark_is_not_held_back() {
        let mut parser = CallParser::default();
        assert_eq!(parser.push("a <|too"), [Segment::Text("a ".into())]);
        assert_eq!(parser.push("th"), [Segment::Text("<|tooth".into())]);
    }

    proptest! {
        #[test]
        fn parts_do_not_matter_and_nothing_panics(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "<|tool_call>", "<tool_call|>", "<tool_call>", "</tool_call>", "call:f", "{", "}", "(",
                ")", "a:", "1", ",", "<|\"|>", "\"", "'", "\\", " ", "é", "[", "]",
            ]), 0..24),
            cuts in prop::collection::vec(0usize..120, 0..5),
        ) {
            let text = pieces.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let whole = parsed(&[&text]);
            prop_assert_eq!(parsed(&parts), whole.clone());
            if whole.1.is_empty() {
                prop_assert_eq!(whole.0, text);
            }
        }
    }
}
