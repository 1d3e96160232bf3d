//! Requests for edits: a text, and what to change in it.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::assemble::ThoughtFormat;
use super::error::ApiError;
use super::fields::EDIT;
use super::ranges;
use super::reply::{Protocol, Work};
use super::request::{Capabilities, Edit, Family, Input, TokenLimit};
use super::text::work;
use super::value::{Field, Object};

/// Share of the text that begins as noise, unless the request says it.
const STRENGTH: f32 = 0.3;

/// Reads a request to `/diffusion/edit`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let edit = edit(&body)?;
    if capabilities.family == Family::Masked {
        let problem = "the model is of a masked family, which cannot edit: use a canvas model";
        return Err(body.error("text", problem));
    }
    let protocol = Protocol::Edit(edit.text.as_str().into());
    let mut work = work(&body, EDIT, vec![Input::Edit(edit)], protocol, capabilities)?;
    // The text is what has become of the original, without thoughts.
    work.reply.assembly.thoughts = ThoughtFormat::Separate;
    let limits = ["max_completion_tokens", "max_tokens", "n_predict"];
    match (work.request.tokens, body.any(&limits)) {
        (TokenLimit::Tokens(1..), Some(limit)) => {
            Err(limit
                .error("an edit is as long as its text: remove it, or give 0 to read the text"))
        }
        _ if work.request.sampler.max_canvases.is_some() => Err(ApiError::field(
            "diffusion.max_canvases",
            "an edit has as many canvases as its text: remove it",
        )),
        _ => Ok(work),
    }
}

fn edit(body: &Object<'_>) -> Result<Edit, ApiError> {
    let text = body.require("text")?;
    let instruction = body.require("instruction")?;
    let edit = Edit {
        text: text.string()?.to_owned(),
        instruction: instruction.string()?.trim().to_owned(),
        strength: body.number("strength", ranges::SHARE)?.unwrap_or(STRENGTH),
        protected: Vec::new(),
    };
    if edit.text.trim().is_empty() {
        return Err(text.error("it is empty: give a text to edit"));
    }
    if edit.instruction.is_empty() {
        return Err(instruction.error("it is empty: say what to change"));
    }
    let lines = edit.body().split_inclusive('\n').count();
    let protected = body.list("protected")?;
    let protected = protected.iter().map(|range| protects(range, lines));
    Ok(Edit {
        protected: protected.collect::<Result<_, _>>()?,
        ..edit
    })
}

/// The first and the last of some lines.
fn protects(range: &Field<'_>, lines: usize) -> Result<RangeInclusive<usize>, ApiError> {
    let [first, last] = &range.list()?[..] else {
        return Err(range.error("it is not a pair of lines: give the first and the last one"));
    };
    let line = |field: &Field<'_>| {
        let line = field.count(ranges::COUNT)?;
        match line <= lines {
            true => Ok(line),
            false => Err(field.error(format!("is {line}, but the text has lines 1 to {lines}"))),
        }
    };
    let (from, to) = (line(first)?, line(last)?);
    match from <= to {
        true => Ok(from..=to),
        false => Err(last.error(format!("is {to}, but the first line is {from}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::capabilities;
    use super::*;
    use serde_json::json;

    fn body() -> Value {
        json!({"text": "a\nb\nc\n\n", "instruction": "Shout", "protected": [[1, 1], [3, 3]], "strength": 0.5})
    }

    fn parsed(body: &Value) -> Result<Work, ApiError> {
        let Value::Object(map) = body else { panic!() };
        read(map, &capabilities())
    }

    #[test]
    fn an_edit_is_read() {
        let work = parsed(&body()).unwrap();
        let [Input::Edit(edit)] = &work.request.inputs[..] else {
            panic!("{work:?}")
        };
        assert_eq!((edit.body(), edit.strength), ("a\nb\nc", 0.5));
        assert_eq!(edit.protected, [1..=1, 3..=3]);
        assert_eq!(work.reply.protocol, Protocol::Edit("a\nb\nc\n\n".into()));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (name, value, param) in [
            ("text", json!(" \n"), "text"),
            ("text", json!(5), "text"),
            ("instruction", json!(" "), "instruction"),
            ("strength", json!(1.1), "strength"),
            ("protected", json!("1-2"), "protected"),
            ("protected", json!([5]), "protected[0]"),
            ("protected", json!([[1, 1], [1]]), "protected[1]"),
            ("protected", json!([[0, 1]]), "protected[0][0]"),
            ("protected", json!([[1, 4]]), "protected[0][1]"),
            ("protected", json!([[3, 2]]), "protected[0][1]"),
            ("max_tokens", json!(5), "max_tokens"),
            ("json_schema", json!(5), "json_schema"),
            ("response_format", json!({}), "response_format.type"),
            (
                "diffusion",
                json!({"max_canvases": 5}),
                "diffusion.max_canvases",
            ),
        ] {
            let mut body = body();
            body[name] = value;
            let error = parsed(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error:?}");
        }
        let mut warm = body();
        warm["n_predict"] = json!(0);
        assert_eq!(parsed(&warm).unwrap().request.tokens, TokenLimit::Tokens(0));
    }
}
