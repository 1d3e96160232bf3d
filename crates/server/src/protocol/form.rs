//! Requests for forms: a text with blanks, as the answer to a conversation or a prompt.

use llama_diffusion::form::FormParams;
use llama_diffusion::{BlankRequest, FormRequest};
use serde_json::{Map, Value};

use super::chat::conversation;
use super::error::ApiError;
use super::fields::{FORM, says_nothing};
use super::reply::{Protocol, Work};
use super::request::{Capabilities, Family, Form, Input, TokenLimit};
use super::text::work;
use super::tools::Tools;
use super::value::{Field, Object};
use super::{prompt, ranges};

/// Fields that say how canvases follow each other, which a form does not have.
const OF_ANSWERS: [&str; 4] = ["stop", "t_max_predict_ms", "diffusion", "diffusing"];

/// Reads a request to `/diffusion/fill`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let (of, thoughts) = answered(&body, capabilities)?;
    let form = Form {
        of: Box::new(of),
        request: request(&body)?,
    };
    if capabilities.family == Family::Masked {
        let problem =
            "the model is of a masked family, which cannot fill a form: use a canvas model";
        return Err(body.error("form", problem));
    }
    let mut others = OF_ANSWERS.iter().filter_map(|name| body.get(name));
    if let Some(other) = others.find(|field| !says_nothing(field.value)) {
        return Err(other.error("a form is filled in a few passes: remove it"));
    }
    let inputs = vec![Input::Form(form)];
    let mut work = work(&body, FORM, inputs, Protocol::Form, capabilities)?;
    work.request.thoughts = Some(thoughts);
    let limits = ["max_completion_tokens", "max_tokens", "n_predict"];
    match (work.request.tokens, body.any(&limits)) {
        (TokenLimit::Tokens(_), Some(limit)) => {
            Err(limit.error("a form is as long as its text: remove it"))
        }
        _ => Ok(work),
    }
}

/// What the form answers, and whether a thought comes first.
fn answered(body: &Object<'_>, capabilities: &Capabilities) -> Result<(Input, bool), ApiError> {
    match (body.get("messages"), body.get("prompt")) {
        (Some(_), Some(prompt)) => Err(prompt.error("there are messages as well: remove one")),
        (None, Some(prompt)) => {
            let pieces = prompt::pieces(&prompt, capabilities.vocabulary)?;
            Ok((Input::Prompt(pieces), false))
        }
        (None, None) => Err(body.error("messages", "is missing: give a conversation, or a prompt")),
        (Some(_), None) => {
            let (chat, thoughts) = conversation(body, &Tools::default())?;
            Ok((Input::Chat(chat), thoughts.unwrap_or(false)))
        }
    }
}

fn request(body: &Object<'_>) -> Result<FormRequest, ApiError> {
    let default = FormParams::default();
    let blanks = body.list("blanks")?;
    let steps = body.count("steps", ranges::PASSES)?;
    Ok(FormRequest {
        form: body.require("form")?.string()?.to_owned(),
        blanks: blanks.iter().map(blank).collect::<Result<_, _>>()?,
        steps: steps.map_or(default.steps, |steps| steps as u32),
        samples: body
            .count("samples", ranges::PASSES)?
            .unwrap_or(default.samples),
        seed: default.seed,
        canvas: body.count("canvas", ranges::COUNT)?,
    })
}

fn blank(field: &Field<'_>) -> Result<BlankRequest, ApiError> {
    let object = field.object()?;
    let choices = object.get("choices").map(|choices| {
        let choices = choices.list()?;
        let texts = choices.iter().map(|text| text.string().map(str::to_owned));
        texts.collect::<Result<_, _>>()
    });
    Ok(BlankRequest {
        name: object.require("name")?.string()?.to_owned(),
        choices: choices.transpose()?,
        regex: object.string("regex")?.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::capabilities;
    use super::*;
    use serde_json::json;

    fn body() -> Value {
        json!({
            "messages": [{"role": "user", "content": "Where is Oslo?"}], "form": "In ▢, ▢▢.", "seed": 3,
            "blanks": [{"name": "country", "choices": ["Norway", "France"]}, {"name": "city", "regex": "[A-Z][a-z]+"}],
            "samples": 2, "steps": 1,
        })
    }

    fn parsed(body: &Value) -> Result<Work, ApiError> {
        let Value::Object(map) = body else { panic!() };
        read(map, &capabilities())
    }

    #[test]
    fn a_form_is_read() {
        let work = parsed(&body()).unwrap();
        let [Input::Form(form)] = &work.request.inputs[..] else {
            panic!("{work:?}")
        };
        assert!(matches!(&*form.of, Input::Chat(chat) if chat.messages.len() == 1));
        let choices = form.request.blanks[0].choices.as_ref().unwrap();
        assert_eq!(choices.len(), 2);
        assert_eq!(form.request.blanks[1].regex.as_deref(), Some("[A-Z][a-z]+"));
        assert_eq!((form.request.samples, work.request.seed), (2, Some(3)));
        let mut raw = body();
        raw["messages"] = Value::Null;
        raw["prompt"] = json!(["Oslo is ", 5]);
        let work = parsed(&raw).unwrap();
        let [Input::Form(form)] = &work.request.inputs[..] else {
            panic!("{work:?}")
        };
        assert!(matches!(&*form.of, Input::Prompt(pieces) if pieces.len() == 2));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (name, value, param) in [
            ("form", json!(5), "form"),
            ("messages", Value::Null, "messages"),
            ("prompt", json!("a"), "prompt"),
            ("blanks", json!({}), "blanks"),
            ("blanks", json!([{}]), "blanks[0].name"),
            (
                "blanks",
                json!([{"name": "a", "choices": ["x", 5]}]),
                "blanks[0].choices[1]",
            ),
            (
                "blanks",
                json!([{"name": "a", "regex": ["x"]}]),
                "blanks[0].regex",
            ),
            ("steps", json!(0), "steps"),
            ("samples", json!(65), "samples"),
            ("canvas", json!("long"), "canvas"),
            ("n", json!(2), "n"),
            ("max_tokens", json!(5), "max_tokens"),
            ("stop", json!("x"), "stop"),
            ("t_max_predict_ms", json!(5), "t_max_predict_ms"),
            ("diffusion", json!({"max_steps": 5}), "diffusion"),
        ] {
            let mut body = body();
            body[name] = value;
            let error = parsed(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{error:?}");
        }
    }
}
