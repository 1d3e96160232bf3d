//! vLLM's fields for a canvas of which something is known, and for reading it instead of an answer. They
//! stand in the body, or in its object `vllm_xargs`.

use llama_diffusion::Token;
use serde_json::Value;

use super::error::ApiError;
use super::prompt::token;
use super::ranges;
use super::request::{Capabilities, Family, KnownCanvas, ReadCanvas, Request};
use super::value::{Field, Object};

/// The fields.
const NAMES: [&str; 6] = [
    "diffusion_seed_canvas",
    "diffusion_pinned",
    "diffusion_max_steps",
    "diffusion_read_only",
    "diffusion_constrained",
    "diffusion_canvas_length",
];

/// Maximum number of tokens whose log-probabilities are asked for.
const MAX_TOKENS: usize = 128;

/// Where the fields stand.
struct Fields<'a> {
    body: &'a Object<'a>,
    arguments: Option<Object<'a>>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<Field<'a>> {
        let argument = self.arguments.as_ref().and_then(|given| given.get(name));
        argument.or_else(|| self.body.get(name))
    }

    fn flag(&self, name: &str) -> Result<Option<Field<'a>>, ApiError> {
        match self.get(name) {
            Some(field) => Ok(field.boolean()?.then_some(field)),
            None => Ok(None),
        }
    }

    fn count(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let count = self.get(name).map(|field| field.count(ranges::COUNT));
        count.transpose()
    }

    fn list(&self, name: &str) -> Result<Vec<Field<'a>>, ApiError> {
        self.get(name).map_or(Ok(Vec::new()), |field| field.list())
    }
}

/// Sets what a body says about its first canvas. What else it says about answers is read already.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn read(
    request: &mut Request,
    body: &Object<'_>,
    capabilities: &Capabilities,
) -> Result<(), ApiError> {
    let arguments = body.object("vllm_xargs")?;
    let fields = Fields { body, arguments };
    let given = NAMES.iter().find_map(|name| fields.get(name));
    let wanted = body.get("logprob_token_ids");
    if let Some(field) = given.as_ref().or(wanted.as_ref())
        && capabilities.family == Family::Masked
    {
        return Err(field.error("is for canvas models, and this is a masked model: remove it"));
    }
    let canvas = &mut request.sampler;
    let length = fields.count("diffusion_canvas_length")?;
    canvas.canvas_length = length.or(canvas.canvas_length);
    let steps = fields.count("diffusion_max_steps")?;
    canvas.canvas.max_steps = steps.map(|steps| steps as u32).or(canvas.canvas.max_steps);
    let seed = fields.list("diffusion_seed_canvas")?;
    let seed = seed.iter().map(|id| token(id, capabilities.vocabulary));
    let seed = seed.collect::<Result<Vec<Token>, _>>()?;
    let pinned = pinned(&fields, seed.len())?;
    let read = read_only(&fields, request, capabilities)?;
    if !seed.is_empty() || read.is_some() {
        request.known = Some(KnownCanvas { seed, pinned, read });
    }
    Ok(())
}

fn pinned(fields: &Fields<'_>, seed: usize) -> Result<Vec<usize>, ApiError> {
    let pinned = fields.list("diffusion_pinned")?;
    let position = |field: &Field<'_>| {
        let position = field.count(ranges::COUNT_FROM_0)?;
        match position < seed {
            true => Ok(position),
            false => Err(field.error(format!(
                "is {position}, but diffusion_seed_canvas has {seed} tokens"
            ))),
        }
    };
    pinned.iter().map(position).collect()
}

fn read_only(
    fields: &Fields<'_>,
    request: &Request,
    capabilities: &Capabilities,
) -> Result<Option<ReadCanvas>, ApiError> {
    let constrained = fields.flag("diffusion_constrained")?;
    let wanted = fields.get("logprob_token_ids");
    let Some(read) = fields.flag("diffusion_read_only")? else {
        let needs = constrained.or(wanted.filter(|ids| *ids.value != Value::Array(Vec::new())));
        return match needs {
            Some(field) => Err(field.error("needs diffusion_read_only: set it to true")),
            None => Ok(None),
        };
    };
    let ids = wanted.map_or(Ok(Vec::new()), |ids| ids.list())?;
    if ids.len() > MAX_TOKENS {
        return Err(fields.body.error(
            "logprob_token_ids",
            format!("has {} tokens: give at most {MAX_TOKENS}", ids.len()),
        ));
    }
    let tokens = ids.iter().map(|id| token(id, capabilities.vocabulary));
    let tokens = tokens.collect::<Result<Vec<Token>, _>>()?;
    if let Some(field) = constrained.as_ref().filter(|_| tokens.is_empty()) {
        return Err(field.error("needs logprob_token_ids: the tokens to choose from"));
    }
    let others = [
        ("response_format", request.constraint.is_some()),
        ("stop", !request.stop.is_empty()),
        ("t_max_predict_ms", request.time.is_some()),
        ("diffusion.drafts", request.drafts.is_some()),
    ];
    match others.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(read.error(format!("a canvas is read at once: remove {name}"))),
        None => Ok(Some(ReadCanvas {
            tokens,
            constrained: constrained.is_some(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat;
    use super::super::reply::Work;
    use super::super::tests::capabilities;
    use super::*;
    use serde_json::json;

    fn parsed(fields: Value) -> Result<Work, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        chat::read(body.as_object().unwrap(), &capabilities())
    }

    #[test]
    fn a_read_as_its_clients_send_it() {
        let work = parsed(json!({
            "max_tokens": 3, "temperature": 1.0, "logprobs": true, "top_logprobs": 2,
            "logprob_token_ids": [7, 9], "return_tokens_as_token_ids": true,
            "chat_template_kwargs": {"enable_thinking": false},
            "vllm_xargs": {"diffusion_seed_canvas": vec![5; 16], "diffusion_canvas_length": 16,
                "diffusion_max_steps": 1, "diffusion_read_only": true, "diffusion_pinned": [0, 15]},
        }))
        .unwrap();
        let known = work.request.known.unwrap();
        assert_eq!((known.seed, known.pinned), (vec![5; 16], vec![0, 15]));
        let read = known.read.unwrap();
        assert_eq!((read.tokens, read.constrained), (vec![7, 9], false));
        assert_eq!(work.request.sampler.canvas_length, Some(16));
        assert_eq!(work.request.sampler.canvas.max_steps, Some(1));
        assert!(work.reply.options.token_ids);
    }

    #[test]
    fn the_fields_may_stand_in_the_body() {
        let work = parsed(json!({"diffusion_seed_canvas": [1, 2], "diffusion_max_steps": 3}));
        let work = work.unwrap();
        assert_eq!(work.request.known.unwrap().seed, [1, 2]);
        assert_eq!(work.request.sampler.canvas.max_steps, Some(3));
        assert_eq!(
            parsed(json!({"vllm_xargs": {}})).unwrap().request.known,
            None
        );
    }

    #[test]
    fn wrong_fields_are_named() {
        for (fields, param) in [
            (json!({"vllm_xargs": 5}), "vllm_xargs"),
            (
                json!({"vllm_xargs": {"diffusion_seed_canvas": [5, "a"]}}),
                "vllm_xargs.diffusion_seed_canvas[1]",
            ),
            (json!({"diffusion_pinned": [0]}), "diffusion_pinned[0]"),
            (json!({"diffusion_read_only": 1}), "diffusion_read_only"),
            (
                json!({"diffusion_constrained": true}),
                "diffusion_constrained",
            ),
            (
                json!({"diffusion_read_only": true, "diffusion_constrained": true}),
                "diffusion_constrained",
            ),
            (json!({"logprob_token_ids": [5]}), "logprob_token_ids"),
            (
                json!({"diffusion_read_only": true, "logprob_token_ids": vec![5; 129]}),
                "logprob_token_ids",
            ),
            (
                json!({"diffusion_read_only": true, "stop": "x"}),
                "diffusion_read_only",
            ),
            (json!({"diffusion_max_steps": 0}), "diffusion_max_steps"),
        ] {
            let error = parsed(fields.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{fields}: {error:?}");
        }
    }
}
