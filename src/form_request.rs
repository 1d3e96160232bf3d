//! Forms and their answers as JSON: what requests ask for, and what stands in the blanks in the end.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::form::FormParams;
use crate::json_fields;
use crate::parameter::Parameter;

/// Stands for one unknown token in a text.
pub const BLANK: char = '▢';

/// A form to fill, as JSON has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormRequest {
    /// The text. Each ▢ (U+25A2) is an unknown token, and several in a row are one blank; a blank with
    /// choices is a single ▢.
    pub form: String,
    /// The blanks, in order. Those that are not listed have no choices, and their numbers, from 1, as
    /// names.
    #[serde(
        default,
        deserialize_with = "json_fields::objects",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub blanks: Vec<BlankRequest>,
    /// As [`FormParams::steps`].
    #[serde(default = "default_steps")]
    pub steps: u32,
    /// As [`FormParams::samples`].
    #[serde(default = "default_samples")]
    pub samples: usize,
    /// As [`FormParams::seed`].
    #[serde(default)]
    pub seed: u64,
    /// As [`FormParams::canvas`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canvas: Option<usize>,
}

fn default_steps() -> u32 {
    FormParams::default().steps
}

fn default_samples() -> usize {
    FormParams::default().samples
}

/// A blank of a form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlankRequest {
    /// What errors and the answer call it.
    pub name: String,
    /// The texts that may stand there; without them it is as many tokens as the text has ▢ there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// A regular expression in the syntax of the `regex` crate, instead of choices: what stands there it
    /// matches as a whole, and has at most as many tokens as the text has ▢ there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// A filled form, as JSON has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormAnswer {
    /// The whole text.
    pub text: String,
    /// Its blanks, in order.
    pub blanks: Vec<BlankAnswer>,
    /// Tokens of a canvas.
    pub canvas: usize,
    /// Number of canvases that were denoised.
    pub rows: usize,
    /// Number of forward passes over canvases.
    pub passes: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were cached.
    pub cached_tokens: usize,
}

/// A filled blank: see [`FilledBlank`](crate::form::FilledBlank) for the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlankAnswer {
    /// The blank.
    pub name: String,
    /// What stands there.
    pub text: String,
    /// The index of the choice; `None` for a blank without choices.
    pub choice: Option<usize>,
    /// In nats.
    pub logprob: f64,
    /// Among what may stand there.
    pub probability: f64,
    /// In nats.
    pub entropy: f64,
    /// The probability of all that may stand there, before it was restricted to that.
    pub allowed_mass: f64,
    /// Of the probability; `None` for a single sample.
    pub standard_error: Option<f64>,
    /// Each choice, in the order of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<ChoiceAnswer>,
}

/// A choice of a filled blank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceAnswer {
    /// The choice.
    pub text: String,
    /// In nats.
    pub logprob: f64,
    /// Among the choices.
    pub probability: f64,
    /// Of the probability; `None` for a single sample.
    pub standard_error: Option<f64>,
}

impl FormRequest {
    /// Reads it from JSON.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`]: it is malformed, or has a field that does not exist.
    pub fn from_json(json: &str) -> Result<Self> {
        let required = [("form", BLANK.to_string().into())];
        json_fields::read(json, &required).map_err(|it| match it.field {
            // The message has the name of an unknown field, but not its place in a list.
            Some(field) if field.starts_with('/') || !it.problem.starts_with("unknown field") => {
                refusal(format!("\"{field}\": {}", it.problem))
            }
            _ => refusal(it.problem),
        })
    }

    pub(crate) fn params(&self) -> FormParams {
        FormParams {
            steps: self.steps,
            samples: self.samples,
            canvas: self.canvas,
            seed: self.seed,
        }
    }
}

pub(crate) fn refusal(problem: String) -> Error {
    Error::parameter(Parameter::Form, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_json_with_defaults_and_without_unknown_fields() {
        let request =
            FormRequest::from_json(r#"{"form": "▢", "blanks": [{"name": "a"}]}"#).unwrap();
        assert_eq!(request.params(), FormParams::default());
        assert_eq!(request.blanks[0].choices, None);
        for bad in [
            "{}",
            r#"{"form": 5}"#,
            r#"{"form": "▢", "step": 1}"#,
            r#"{"form": "▢", "blanks": [{"name": "a", "choice": []}]}"#,
            r#"{"form": "▢", "samples": -1}"#,
        ] {
            let error = FormRequest::from_json(bad).unwrap_err().to_string();
            assert!(error.starts_with("form: "), "{error}");
        }
        let blanks = r#"[{"name": "a"}, {"name": "b", "choice": []}]"#;
        let request = format!(r#"{{"form": "▢ ▢", "blanks": {blanks}}}"#);
        let error = FormRequest::from_json(&request).unwrap_err().to_string();
        let expected =
            "form: \"/blanks/1/choice\": unknown field \"choice\", expected one of \"name\"";
        assert!(error.starts_with(expected), "{error}");
    }
}
