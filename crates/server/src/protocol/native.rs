//! llama-server's own completions, and its gaps for editors.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::fields::{INFILL, NATIVE};
use super::reply::{Protocol, Work};
use super::request::{Capabilities, Input, Request, TokenLimit};
use super::sampling::{self, texts};
use super::text::work;
use super::value::Object;
use super::{prompt, ranges};

/// What an answer repeats of its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echo {
    /// The prompt, as the client wrote it.
    pub prompt: Value,
    /// The settings.
    pub settings: Map<String, Value>,
    /// The fields to show, if not all.
    pub fields: Option<Vec<String>>,
}

/// Reads a request to `/completion`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read(body: &Map<String, Value>, capabilities: &Capabilities) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let field = body.require("prompt")?;
    let inputs = prompt::read(&field, capabilities.vocabulary)?;
    let protocol = Protocol::Native(Box::default());
    let work = work(&body, NATIVE, inputs, protocol, capabilities)?;
    finished(work, &body, field.value.clone(), capabilities)
}

/// Reads a request to `/infill`.
///
/// # Errors
/// 400 with the field that is wrong or not supported.
pub fn read_infill(
    body: &Map<String, Value>,
    capabilities: &Capabilities,
) -> Result<Work, ApiError> {
    let body = Object::root(body);
    let gap = prompt::infill(&body)?;
    let prompt = gap.before().into();
    let protocol = Protocol::Native(Box::default());
    let work = work(
        &body,
        INFILL,
        vec![Input::Infill(gap)],
        protocol,
        capabilities,
    )?;
    finished(work, &body, prompt, capabilities)
}

fn finished(
    mut work: Work,
    body: &Object<'_>,
    prompt: Value,
    capabilities: &Capabilities,
) -> Result<Work, ApiError> {
    let probabilities = body.count("n_probs", ranges::LOGPROBS)?;
    work.request.logprobs = probabilities.filter(|count| *count > 0);
    sampling::check_logprobs(&work.request, body, "n_probs", capabilities)?;
    let options = &mut work.reply.options;
    options.logprobs = work.request.logprobs.is_some();
    options.tokens |= options.stream;
    let fields = body
        .get("response_fields")
        .map(|field| texts(&field))
        .transpose()?;
    work.reply.protocol = Protocol::Native(Box::new(Echo {
        prompt,
        settings: settings(&work.request, options.stream),
        fields,
    }));
    Ok(work)
}

/// `generation_settings`, as far as they are known before the answer.
fn settings(request: &Request, stream: bool) -> Map<String, Value> {
    let limit = match request.tokens {
        TokenLimit::Tokens(count) => json!(count),
        TokenLimit::Default | TokenLimit::Unlimited => json!(-1),
    };
    let canvas = &request.sampler.canvas;
    let settings = json!({
        "n_predict": limit,
        "max_tokens": limit,
        "seed": request.seed,
        "stop": request.stop,
        "stream": stream,
        "n_probs": request.logprobs.unwrap_or(0),
        "samplers": [],
        "diffusion": {
            "max_steps": canvas.max_steps,
            "t_min": canvas.t_min,
            "t_max": canvas.t_max,
            "entropy_bound": canvas.entropy_bound,
            "stability_threshold": canvas.stability_threshold,
            "confidence_threshold": canvas.confidence_threshold,
        },
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::capabilities;
    use super::*;
    use std::time::Duration;

    fn completion(body: Value) -> Result<Work, ApiError> {
        let Value::Object(map) = &body else { panic!() };
        read(map, &capabilities())
    }

    fn echo(work: &Work) -> &Echo {
        match &work.reply.protocol {
            Protocol::Native(echo) => echo,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_an_answer_repeats() {
        let work = completion(json!({
            "prompt": "a", "n_predict": 5, "seed": 42, "stop": ["x"], "response_fields": ["content", "timings/prompt_n"],
        }))
        .unwrap();
        let echo = echo(&work);
        assert_eq!(echo.prompt, "a");
        assert_eq!(
            (&echo.settings["n_predict"], &echo.settings["seed"]),
            (&json!(5), &json!(42))
        );
        assert_eq!(
            echo.fields.as_deref(),
            Some(&["content".to_owned(), "timings/prompt_n".into()][..])
        );
        let problem = completion(json!({"prompt": "a", "response_fields": "content"})).unwrap_err();
        assert_eq!(problem.param.as_deref(), Some("response_fields"));
    }

    #[test]
    fn the_request_of_an_editor() {
        // The fields that llama.vim sends.
        let body = json!({
            "id_slot": 0, "input_prefix": "a\n", "input_suffix": "\nb", "prompt": "c", "n_predict": 128,
            "input_extra": [{"text": "t", "time": [1, 2], "filename": "f"}], "n_indent": 0, "stop": ["\n"],
            "top_k": 40, "top_p": 0.9, "samplers": ["top_k", "top_p", "infill"], "stream": false,
            "cache_prompt": true, "t_max_prompt_ms": 500, "t_max_predict_ms": 250, "model": "",
            "response_fields": ["content", "timings/prompt_n", "truncated", "tokens_cached"],
        });
        let Value::Object(map) = &body else { panic!() };
        let work = read_infill(map, &capabilities()).unwrap();
        assert_eq!(work.request.slot, Some(0));
        assert_eq!(work.request.time, Some(Duration::from_millis(250)));
        assert!(matches!(&work.request.inputs[..], [Input::Infill(gap)] if gap.before() == "a\nc"));
        assert_eq!(work.reply.options.ignored.len(), 5);
        // Its warm-up.
        let mut map = map.clone();
        map.insert("n_predict".into(), 0.into());
        map.insert("response_fields".into(), json!([""]));
        let warm = read_infill(&map, &capabilities()).unwrap();
        assert_eq!(warm.request.tokens, TokenLimit::Tokens(0));
    }

    #[test]
    fn probabilities_are_for_scored_canvases() {
        let work = completion(json!({"prompt": "a", "n_probs": 3})).unwrap();
        assert_eq!(work.request.logprobs, Some(3));
        let body = json!({"prompt": "a", "n_probs": 3});
        let Value::Object(map) = &body else { panic!() };
        let without = Capabilities {
            scores: false,
            ..capabilities()
        };
        assert_eq!(
            read(map, &without).unwrap_err().param.as_deref(),
            Some("n_probs")
        );
    }
}
