//! What asks for a gap to be filled, and what answers: the same in memory, as a line of JSON, and as the
//! body of an HTTP request.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::diffusion::LengthScore;
use crate::error::{Error, Result};
use crate::json_fields;

/// A gap to fill, in the fields of llama-server's `/infill`. Fields that are not known here are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InfillRequest {
    /// What comes before the line of the gap.
    pub input_prefix: String,
    /// What comes after the gap.
    pub input_suffix: String,
    /// Other texts that the model reads first.
    #[serde(deserialize_with = "json_fields::objects")]
    pub input_extra: Vec<InfillExtra>,
    /// The line of the gap, up to it.
    pub prompt: String,
    /// Maximum number of tokens of the gap. -1 is unlimited; 0 only reads the texts, so that a later request
    /// has them cached. Default 256.
    pub n_predict: i64,
    /// Milliseconds from the first step to the end: what is written by then is the answer. 0, the default,
    /// is unlimited.
    pub t_max_predict_ms: u64,
    /// Number of answers, each with the next seed. Default 1.
    pub n_cmpl: u32,
    /// Key of the randomness; -1, the default, leaves it to the caller of the model.
    pub seed: i64,
    /// Tokens of the gap. Default: found by what comes after it.
    pub infill_tokens: GapTokens,
    /// Whether the answer lists the lengths of the gap that were compared. Default no.
    pub infill_lengths: bool,
}

impl Default for InfillRequest {
    fn default() -> Self {
        Self {
            input_prefix: String::new(),
            input_suffix: String::new(),
            input_extra: Vec::new(),
            prompt: String::new(),
            n_predict: 256,
            t_max_predict_ms: 0,
            n_cmpl: 1,
            seed: -1,
            infill_tokens: GapTokens::Auto,
            infill_lengths: false,
        }
    }
}

/// Another text that the model reads first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InfillExtra {
    /// Its name.
    pub filename: String,
    /// The text.
    pub text: String,
}

impl InfillExtra {
    /// What the model reads: the text after its name.
    pub(crate) fn shown(&self) -> String {
        match self.filename.is_empty() {
            true => format!("{}\n\n", self.text),
            false => format!("{}:\n{}\n\n", self.filename, self.text),
        }
    }
}

/// Number of tokens of a gap; in JSON a number, or "auto".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GapTokens {
    /// Found by what comes after the gap.
    #[default]
    Auto,
    /// Given.
    Given(usize),
}

impl GapTokens {
    /// The number, if it is given.
    pub fn given(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::Given(tokens) => Some(tokens),
        }
    }
}

impl Serialize for GapTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Given(tokens) => tokens.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for GapTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(usize),
            Name(String),
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Number(tokens)) => Ok(Self::Given(tokens)),
            Ok(Form::Name(name)) if name == "auto" => Ok(Self::Auto),
            _ => Err(serde::de::Error::custom(
                "it is neither a number of tokens nor \"auto\"",
            )),
        }
    }
}

impl InfillRequest {
    /// Reads a request in JSON, and checks it.
    ///
    /// # Errors
    /// [`Error::Input`] names the field that is wrong.
    pub fn from_json(text: &str) -> Result<Self> {
        let request: Self = json_fields::read(text, &[]).map_err(|it| match it.field {
            Some(field) => wrong(&field, it.problem),
            None => wrong(
                "request",
                format!("it is not an object in JSON: {}", it.problem),
            ),
        })?;
        request.check()?;
        request.check_length()?;
        Ok(request)
    }

    /// Checks that a given length of the gap is within the limit.
    ///
    /// # Errors
    /// [`Error::Input`] names `infill_tokens`.
    pub fn check_length(&self) -> Result<()> {
        match (self.infill_tokens.given(), self.limit()) {
            (Some(tokens), Some(limit)) if tokens > limit && limit > 0 => Err(wrong(
                "infill_tokens",
                format!("is {tokens}, but n_predict is {limit}: raise it"),
            )),
            _ => Ok(()),
        }
    }

    /// Checks that the numbers are in their ranges.
    ///
    /// # Errors
    /// [`Error::Input`] names the field that is not.
    pub fn check(&self) -> Result<()> {
        if self.n_predict < -1 {
            let problem = format!("is {}, but must be -1 or more", self.n_predict);
            return Err(wrong("n_predict", problem));
        }
        if self.seed < -1 {
            let problem = format!("is {}, but must be -1 or more", self.seed);
            return Err(wrong("seed", problem));
        }
        if !(1..=Self::MAX_ANSWERS).contains(&self.n_cmpl) {
            let problem = format!("is {}, but must be 1 to {}", self.n_cmpl, Self::MAX_ANSWERS);
            return Err(wrong("n_cmpl", problem));
        }
        Ok(())
    }

    /// Maximum number of answers to a request.
    pub const MAX_ANSWERS: u32 = 64;

    /// Maximum number of tokens of the gap; `None` is unlimited.
    pub fn limit(&self) -> Option<usize> {
        usize::try_from(self.n_predict).ok()
    }

    /// Time from the first step to the end; `None` is unlimited.
    pub fn time(&self) -> Option<Duration> {
        (self.t_max_predict_ms > 0).then(|| Duration::from_millis(self.t_max_predict_ms))
    }

    /// The answers to this request in JSON: one object, or an array if the request asks for several.
    pub fn answer_json(&self, answers: &[InfillAnswer]) -> Value {
        match (self.n_cmpl, answers) {
            (1, [answer]) => json!(answer),
            _ => json!(answers),
        }
    }

    /// Everything before the gap.
    pub fn before(&self) -> String {
        format!("{}{}", self.input_prefix, self.prompt)
    }
}

fn wrong(name: &str, problem: String) -> Error {
    Error::Input {
        name: name.to_owned(),
        problem,
    }
}

/// A filled gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InfillAnswer {
    /// The text of the gap. With what comes before and after it is the whole text.
    pub content: String,
    /// Tokens of the gap.
    pub tokens_predicted: usize,
    /// Why it ends.
    pub stop: InfillStop,
    /// Whether the model has not read all of the texts around the gap, for want of room in the context: it
    /// has read what is nearest to the gap.
    #[serde(default)]
    pub truncated: bool,
    /// Key of the randomness.
    pub seed: u64,
    /// What it took.
    pub timings: InfillTimings,
    /// The lengths of the gap that were compared on the last canvas, the likeliest first, if the request
    /// asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lengths: Vec<LengthScore>,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InfillStop {
    /// The gap is filled.
    Complete,
    /// The gap had to end within the limit on tokens, canvases or the context, although the model expects it
    /// to be longer.
    Limit,
    /// The time was up: the content ends with the last whole line of the draft, if it has one.
    Time,
    /// It was cancelled.
    Cancelled,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct InfillTimings {
    /// Tokens of the prompt that were cached.
    pub cache_n: usize,
    /// Tokens of the prompt that were read.
    pub prompt_n: usize,
    /// Milliseconds of reading.
    pub prompt_ms: f64,
    /// Tokens of the gap.
    pub predicted_n: usize,
    /// Milliseconds of denoising.
    pub predicted_ms: f64,
    /// Denoising steps, with those that compared lengths.
    pub steps: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_an_editor_is_read() {
        let request = InfillRequest::from_json(
            r#"{"id_slot":0,"input_prefix":"a\n","input_suffix":"\r\nb","input_extra":[{"text":"t","time":1,"filename":"f"},
               {"text":"u"}],"prompt":"  x","n_predict":128,"n_indent":2,"stop":[],"top_k":40,"samplers":["infill"],
               "stream":false,"cache_prompt":true,"t_max_prompt_ms":500,"t_max_predict_ms":250,"response_fields":[""]}"#,
        )
        .unwrap();
        assert_eq!(request.before(), "a\n  x");
        assert_eq!(request.input_suffix, "\r\nb");
        let names: Vec<&str> = request.input_extra.iter().map(|e| &*e.filename).collect();
        assert_eq!(names, ["f", ""]);
        assert_eq!(request.limit(), Some(128));
        assert_eq!(request.time(), Some(Duration::from_millis(250)));
        assert_eq!(
            InfillRequest::from_json("{}").unwrap(),
            InfillRequest::default()
        );
    }

    #[test]
    fn requests_survive_json() {
        for infill_tokens in [GapTokens::Auto, GapTokens::Given(7)] {
            let request = InfillRequest {
                infill_tokens,
                n_predict: -1,
                ..InfillRequest::default()
            };
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(InfillRequest::from_json(&json).unwrap(), request);
            assert_eq!(request.limit(), None);
            assert_eq!(request.time(), None);
        }
    }

    #[test]
    fn fields_that_are_null_are_absent() {
        let json = r#"{"input_prefix":null,"input_extra":[{"text":"a","filename":null}],"prompt":null,
            "n_predict":null,"t_max_predict_ms":null,"n_cmpl":null,"seed":null,"infill_tokens":null,"x":null}"#;
        let request = InfillRequest::from_json(json).unwrap();
        let extra = InfillExtra {
            filename: String::new(),
            text: "a".into(),
        };
        let expected = InfillRequest {
            input_extra: vec![extra],
            ..InfillRequest::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (json, name) in [
            ("", "request: "),
            ("[1]", "request: "),
            (r#"{"input_prefix":"a"#, "request: "),
            (r#"{"prompt":"a","input_suffix":3}"#, "input_suffix: "),
            (r#"{"input_extra":{"text":"a"}}"#, "input_extra: "),
            (r#"{"input_extra":[{"text":1}]}"#, "/input_extra/0/text: "),
            (r#"{"input_extra":["a"]}"#, "/input_extra/0: "),
            (r#"{"n_predict":"many"}"#, "n_predict: "),
            (r#"{"n_predict":-2}"#, "n_predict: "),
            (r#"{"n_cmpl":0}"#, "n_cmpl: "),
            (r#"{"n_cmpl":65}"#, "n_cmpl: "),
            (r#"{"t_max_predict_ms":-1}"#, "t_max_predict_ms: "),
            (r#"{"infill_tokens":"some"}"#, "infill_tokens: "),
            (r#"{"infill_tokens":-1}"#, "infill_tokens: "),
            (r#"{"infill_tokens":9,"n_predict":8}"#, "infill_tokens: "),
            (r#"{"seed":1.5}"#, "seed: "),
            (r#"{"seed":-2}"#, "seed: is -2, but must be -1 or more"),
            (r#"{"seed":9223372036854775808}"#, "seed: "),
        ] {
            let error = InfillRequest::from_json(json).unwrap_err().to_string();
            assert!(error.starts_with(name), "{json}: {error}");
            let types = ["usize", "u64", "u32", "i64"];
            assert!(!types.iter().any(|ty| error.contains(ty)), "{error}");
        }
    }
}
