//! OpenAI's text completions, and the fill-in-the-middle endpoint of Mistral and Inception.

use llama_diffusion::InfillRequest;
use serde_json::{Map, Value};

use super::assemble::{Assembly, ThoughtFormat};
use super::error::ApiError;
use super::fields::{self, FIM, TEXT, Table};
use super::reply::{Options, Protocol, Reply, Work};
use super::request::{Capabilities, Input, Request};
use super::value::{Field, Object};
use super::{language, prompt, ranges, sampling};

/// Reads a request to `/v1/completions`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let field = body.require("prompt")?;
    let inputs = match body.string("suffix")? {
        Some(suffix) if !suffix.is_empty() => vec![gap(&field, suffix)?],
        _ => prompt::read(&field, capabilities.vocabulary)?,
    };
    let mut work = work(&body, TEXT, inputs, Protocol::Text, capabilities)?;
    work.request.logprobs = body.count("logprobs", ranges::LOGPROBS)?;
    sampling::check_logprobs(&work.request, &body, "logprobs", capabilities)?;
    work.reply.options.logprobs = work.request.logprobs.is_some();
    if let Some(best_of) = body.get("best_of")
        && best_of.count(ranges::COUNT)? > work.request.choices
    {
        return Err(best_of.error("is more than n: all answers are returned, so set it to n"));
    }
    Ok(work)
}

/// Reads a request to `/v1/fim/completions`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read_fim(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let suffix = body.string("suffix")?.unwrap_or_default();
    let inputs = vec![gap(&body.require("prompt")?, suffix)?];
    work(&body, FIM, inputs, Protocol::Fim, capabilities)
}

/// A gap between a prompt and a suffix.
fn gap(prompt: &Field<'_>, suffix: &str) -> Result<Input, ApiError> {
    Ok(Input::Infill(InfillRequest {
        input_prefix: prompt.string()?.to_owned(),
        input_suffix: suffix.to_owned(),
        ..InfillRequest::default()
    }))
}

/// What all completions of plain text have in common.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn work(
    body: &Object<'_>,
    table: Table,
    inputs: Vec<Input>,
    protocol: Protocol,
    capabilities: &Capabilities,
) -> Result<Work, ApiError> {
    let ignored = fields::check(body, table, capabilities.family)?;
    let mut request = Request::new(inputs);
    sampling::read(&mut request, body, capabilities)?;
    request.constraint = language::read(body)?;
    let assembly = Assembly {
        stop: request.stop.clone(),
        thoughts: ThoughtFormat::Inline,
        ..Assembly::default()
    };
    let options = Options::read(body, &request, &protocol, ignored)?;
    Ok(Work {
        request,
        reply: Reply {
            protocol,
            assembly,
            options,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::Piece;
    use super::super::tests::capabilities;
    use super::*;
    use serde_json::json;

    fn completion(body: Value) -> Result<Work, ApiError> {
        let Value::Object(map) = &body else { panic!() };
        read(map, &capabilities())
    }

    fn param(body: Value) -> String {
        completion(body).unwrap_err().param.unwrap()
    }

    #[test]
    fn each_prompt_has_its_answers() {
        let work =
            completion(json!({"prompt": ["a", "b", [1]], "n": 2, "temperature": 0})).unwrap();
        assert_eq!(
            (work.request.inputs.len(), work.reply.options.answers),
            (3, 6)
        );
        assert_eq!(work.reply.options.ignored, ["temperature"]);
        let empty = completion(json!({"prompt": "a", "suffix": ""})).unwrap();
        assert_eq!(
            empty.request.inputs,
            [Input::Prompt(vec![Piece::Text("a".into())])]
        );
    }

    #[test]
    fn a_suffix_makes_a_gap() {
        let expected = Input::Infill(InfillRequest {
            input_prefix: "a".into(),
            input_suffix: "b".into(),
            ..InfillRequest::default()
        });
        let body = json!({"prompt": "a", "suffix": "b"});
        let Value::Object(map) = &body else { panic!() };
        let read_one = read(map, &capabilities()).unwrap().request.inputs;
        assert_eq!(read_one.first(), Some(&expected));
        assert_eq!(
            read_fim(map, &capabilities()).unwrap().request.inputs,
            [expected]
        );
        assert_eq!(param(json!({"prompt": [1], "suffix": "b"})), "prompt");
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(param(json!({})), "prompt");
        assert_eq!(param(json!({"prompt": "a", "logprobs": true})), "logprobs");
        assert_eq!(param(json!({"prompt": "a", "logprobs": 21})), "logprobs");
        assert_eq!(param(json!({"prompt": "a", "best_of": 2})), "best_of");
        assert_eq!(param(json!({"prompt": "a", "echo": true})), "echo");
        assert!(
            completion(json!({"prompt": "a", "best_of": 1, "echo": false, "logprobs": 2})).is_ok()
        );
    }
}
