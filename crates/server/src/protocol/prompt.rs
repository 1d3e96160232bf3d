//! Prompts without a conversation: texts, tokens, mixtures and lists of them, and gaps to fill.

use std::collections::BTreeMap;

use llama_diffusion::{InfillRequest, Token};
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::OF_INFILL_REQUEST;
use super::request::{Input, Piece};
use super::value::{Field, Object};

/// Prompts of a request.
const MAX_PROMPTS: usize = 128;

/// Reads `prompt`: a string, a list of tokens, a list with both, `{"prompt_string": …}`, or a list of
/// these. A text with the marks of a fill-in-the-middle model is a gap to fill.
///
/// # Errors
/// 400 with the element that is wrong. `vocabulary` is the number of tokens.
pub fn read(field: &Field<'_>, vocabulary: usize) -> Result<Vec<Input>, ApiError> {
    let is_one = match field.value {
        Value::Array(list) => list.iter().any(Value::is_number),
        _ => true,
    };
    if is_one {
        return Ok(vec![one(field, vocabulary)?]);
    }
    let list = field.list()?;
    match list.len() {
        0 => Err(field.error("is empty: give at least one prompt")),
        1..=MAX_PROMPTS => list.iter().map(|prompt| one(prompt, vocabulary)).collect(),
        more => Err(field.error(format!("has {more} prompts: give at most {MAX_PROMPTS}"))),
    }
}

fn one(field: &Field<'_>, vocabulary: usize) -> Result<Input, ApiError> {
    match field.value {
        Value::String(text) => Ok(match between_marks(text) {
            Some(infill) => Input::Infill(infill),
            None => Input::Prompt(vec![Piece::Text(text.clone())]),
        }),
        Value::Object(_) => {
            let object = field.object()?;
            if let Some(media) = object.get("multimodal_data") {
                return Err(media.error("this model reads only text: remove it"));
            }
            let text = object.require("prompt_string")?.string()?;
            Ok(Input::Prompt(vec![Piece::Text(text.to_owned())]))
        }
        Value::Array(_) => pieces(field, vocabulary).map(Input::Prompt),
        _ => Err(field.wrong("a string, a list of tokens, or a list of these")),
    }
}

/// A string, or a list of strings and tokens.
///
/// # Errors
/// 400 with the element that is wrong.
pub fn pieces(field: &Field<'_>, vocabulary: usize) -> Result<Vec<Piece>, ApiError> {
    if let Value::String(text) = field.value {
        return Ok(vec![Piece::Text(text.clone())]);
    }
    if !field.value.is_array() {
        return Err(field.wrong("a string, or a list of strings and tokens"));
    }
    let mut pieces = Vec::new();
    for element in field.list()? {
        match (element.value, pieces.last_mut()) {
            (Value::String(text), _) => pieces.push(Piece::Text(text.clone())),
            (_, Some(Piece::Tokens(tokens))) => tokens.push(token(&element, vocabulary)?),
            _ => pieces.push(Piece::Tokens(vec![token(&element, vocabulary)?])),
        }
    }
    match pieces.is_empty() {
        true => Err(field.error("is empty: give at least one token")),
        false => Ok(pieces),
    }
}

/// A token of the vocabulary.
///
/// # Errors
/// 400: it is something else.
pub fn token(field: &Field<'_>, vocabulary: usize) -> Result<Token, ApiError> {
    if !field.value.is_number() {
        return Err(field.wrong("a token, or a string"));
    }
    let last = i64::try_from(vocabulary)
        .unwrap_or(i64::MAX)
        .saturating_sub(1);
    let id = field.integer(0..=last)?;
    Token::try_from(id).map_err(|_| field.wrong("a token"))
}

/// Marks of fill-in-the-middle models: before the prefix, the suffix and the middle.
const MARKS: [[&str; 3]; 5] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
];

/// The gap of a prompt that a client wrote for a fill-in-the-middle model: with canvases any model
/// fills gaps, and no model here knows these marks.
fn between_marks(prompt: &str) -> Option<InfillRequest> {
    MARKS.iter().find_map(|[prefix, suffix, middle]| {
        let rest = prompt.trim().strip_prefix(prefix)?.strip_suffix(middle)?;
        let (before, after) = rest.split_once(suffix)?;
        // CodeLlama has spaces around its marks.
        let spaced = *prefix == "<PRE>";
        let trim = |text: &str| match spaced {
            true => {
                let text = text.strip_prefix(' ').unwrap_or(text);
                text.strip_suffix(' ').unwrap_or(text).to_owned()
            }
            false => text.to_owned(),
        };
        Some(InfillRequest {
            input_prefix: trim(before),
            input_suffix: trim(after),
            ..InfillRequest::default()
        })
    })
}

/// Reads the gap of `/infill`.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn infill(body: &Object<'_>) -> Result<InfillRequest, ApiError> {
    // llama-server demands more than the library: without these a client has made a mistake.
    for name in ["input_prefix", "input_suffix"] {
        body.require(name)?;
    }
    for extra in body.list("input_extra")? {
        let extra = extra.object()?;
        extra.require("text")?.string()?;
        extra.string("filename")?;
    }
    let fields = OF_INFILL_REQUEST
        .iter()
        .filter_map(|name| Some((name, body.get(name)?.value)));
    let mut gap = json!(fields.collect::<BTreeMap<_, _>>());
    // The length is checked once the limit is known, which may be the server's.
    gap["n_predict"] = (-1).into();
    InfillRequest::from_json(&gap.to_string()).map_err(|error| ApiError::input(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llama_diffusion::GapTokens;

    fn prompts(prompt: Value) -> Result<Vec<Input>, ApiError> {
        let field = Field {
            path: "prompt".into(),
            value: &prompt,
        };
        read(&field, 100)
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn the_forms_of_a_prompt() {
        let one = |pieces| Ok(vec![Input::Prompt(pieces)]);
        assert_eq!(prompts(json!("a")), one(vec![text("a")]));
        assert_eq!(
            prompts(json!([1, 99])),
            one(vec![Piece::Tokens(vec![1, 99])])
        );
        let mixed = vec![Piece::Tokens(vec![1]), text("a"), Piece::Tokens(vec![2, 3])];
        assert_eq!(prompts(json!([1, "a", 2, 3])), one(mixed));
        assert_eq!(prompts(json!({"prompt_string": "a"})), one(vec![text("a")]));
        let list = prompts(json!(["a", [1, "b"], {"prompt_string": "c"}])).unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(
            list[1],
            Input::Prompt(vec![Piece::Tokens(vec![1]), text("b")])
        );
    }

    #[test]
    fn wrong_prompts_name_the_element() {
        for (prompt, param) in [
            (json!(5), "prompt"),
            (json!([]), "prompt"),
            (json!([100]), "prompt[0]"),
            (json!([1, -1]), "prompt[1]"),
            (json!([1, null]), "prompt[1]"),
            (json!(["a", []]), "prompt[1]"),
            (json!(["a", true]), "prompt[1]"),
            (json!({}), "prompt.prompt_string"),
            (
                json!({"prompt_string": "a", "multimodal_data": ["x"]}),
                "prompt.multimodal_data",
            ),
            (json!(vec!["a"; 129]), "prompt"),
        ] {
            assert_eq!(prompts(prompt).unwrap_err().param.as_deref(), Some(param));
        }
    }

    #[test]
    fn marks_of_other_models_are_gaps() {
        for prompt in [
            "<|fim_prefix|>a(<|fim_suffix|>)\n<|fim_middle|>",
            "<fim_prefix>a(<fim_suffix>)\n<fim_middle>",
            "<PRE> a( <SUF>)\n <MID>",
            "<｜fim▁begin｜>a(<｜fim▁hole｜>)\n<｜fim▁end｜>",
        ] {
            let inputs = prompts(json!(prompt)).unwrap();
            let [Input::Infill(gap)] = &inputs[..] else {
                panic!("{prompt}");
            };
            assert_eq!((&*gap.before(), &*gap.input_suffix), ("a(", ")\n"));
        }
        for prompt in [
            "see <|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
            "<|fim_prefix|>a<|fim_suffix|>b",
        ] {
            assert_eq!(
                prompts(json!(prompt)),
                Ok(vec![Input::Prompt(vec![text(prompt)])])
            );
        }
    }

    #[test]
    fn the_gap_of_an_editor() {
        let body = json!({
            "input_prefix": "fn main() {\n", "prompt": "    let x", "input_suffix": "\n}\n", "n_indent": 4,
            "input_extra": [{"text": "use a;", "filename": "a.rs", "time": 5}, {"text": "b"}],
        });
        let Value::Object(map) = &body else { panic!() };
        let gap = infill(&Object::root(map)).unwrap();
        assert_eq!(gap.before(), "fn main() {\n    let x");
        assert_eq!(gap.input_suffix, "\n}\n");
        let names: Vec<&str> = gap.input_extra.iter().map(|it| &*it.filename).collect();
        assert_eq!(names, ["a.rs", ""]);
        assert_eq!(gap.infill_tokens, GapTokens::Auto);
        assert!(!gap.infill_lengths);
        for (name, value, param) in [
            ("input_prefix", json!(null), "input_prefix"),
            ("input_suffix", json!(5), "input_suffix"),
            ("prompt", json!(["a"]), "prompt"),
            ("infill_tokens", json!("x"), "infill_tokens"),
            ("infill_tokens", json!(-1), "infill_tokens"),
            ("infill_lengths", json!(1), "infill_lengths"),
            ("input_extra", json!("a"), "input_extra"),
            ("input_extra", json!([{}]), "input_extra[0].text"),
            (
                "input_extra",
                json!([{"text": "a", "filename": 5}]),
                "input_extra[0].filename",
            ),
        ] {
            let mut wrong = map.clone();
            wrong.insert(name.into(), value);
            let error = infill(&Object::root(&wrong)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param));
            assert!(error.message.starts_with(&format!("{param}: ")));
        }
    }

    #[test]
    fn the_length_of_a_gap_is_read_as_the_library_reads_it() {
        for (tokens, expected) in [
            (json!(null), GapTokens::Auto),
            (json!("auto"), GapTokens::Auto),
            (json!(700), GapTokens::Given(700)),
        ] {
            let body = json!({"input_prefix": "a", "input_suffix": "b", "infill_tokens": tokens,
                "infill_lengths": true, "n_predict": -1});
            let Value::Object(map) = &body else { panic!() };
            let gap = infill(&Object::root(map)).unwrap();
            assert_eq!(gap, InfillRequest::from_json(&body.to_string()).unwrap());
            assert_eq!((gap.infill_tokens, gap.infill_lengths), (expected, true));
        }
    }
}
