//! Every field that an endpoint knows, and what becomes of it. All others are ignored.

use serde_json::Value;

use super::error::ApiError;
use super::ranges;
use super::request::Family;
use super::value::Object;

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It is honoured, or refused with its reason.
    Used,
    /// It is accepted without effect, and listed in the answer's `diffusion.ignored`.
    Ignored(Shape),
    /// It would change the answer and is refused, unless it asks for nothing.
    Refused(&'static str),
}

/// What a field without effect must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything.
    Any,
    /// A number.
    Number,
    /// A whole number from -1.
    Count,
}

/// Fields of one class.
pub type Group = (Class, &'static [&'static str]);

/// The fields of an endpoint.
pub type Table = &'static [&'static [Group]];

/// Fields of all endpoints that generate.
pub const COMMON: &[Group] = &[
    (
        Class::Used,
        &[
            "model",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "n_predict",
            "stop",
            "seed",
            "n",
            "n_cmpl",
            "cache_prompt",
            "id_slot",
            "return_tokens",
            "return_progress",
            "timings_per_token",
            "t_max_predict_ms",
            "diffusion",
            "diffusing",
            "sse_ping_interval",
        ],
    ),
    (
        Class::Ignored(Shape::Number),
        &[
            "temperature",
            "top_p",
            "min_p",
            "top_n_sigma",
            "typical_p",
            "dynatemp_range",
            "dynatemp_exponent",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
            "dry_multiplier",
            "dry_base",
            "xtc_probability",
            "xtc_threshold",
            "mirostat_tau",
            "mirostat_eta",
        ],
    ),
    (
        Class::Ignored(Shape::Count),
        &[
            "top_k",
            "repeat_last_n",
            "dry_allowed_length",
            "dry_penalty_last_n",
            "mirostat",
            "min_keep",
            "n_keep",
            "n_discard",
            "n_cache_reuse",
            "t_max_prompt_ms",
        ],
    ),
    (
        Class::Ignored(Shape::Any),
        &[
            "verbose",
            "samplers",
            "dry_sequence_breakers",
            "post_sampling_probs",
            "backend_sampling",
            "user",
            "metadata",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "prediction",
            "verbosity",
        ],
    ),
    (
        Class::Refused("text diffusion draws all tokens together: remove it"),
        &["logit_bias", "ignore_eos"],
    ),
    (
        Class::Refused("grammars of llama.cpp are not supported: use response_format"),
        &["grammar", "grammar_lazy", "grammar_triggers"],
    ),
    (
        Class::Refused("adapters are not supported: remove it"),
        &["lora"],
    ),
];

/// vLLM's fields, where they are not read.
const OF_VLLM: &[Group] = &[(
    Class::Refused("is read by /v1/chat/completions: use that, or the object diffusion"),
    &[
        "diffusion_seed_canvas",
        "diffusion_pinned",
        "diffusion_max_steps",
        "diffusion_read_only",
        "diffusion_constrained",
        "diffusion_canvas_length",
        "logprob_token_ids",
        "vllm_xargs",
    ],
)];

/// Constraints, which no gap follows.
const OF_GAPS: Group = (
    Class::Refused("a gap follows the texts around it alone: remove it"),
    &["json_schema", "response_format"],
);

/// Fields of chat requests.
pub const CHAT: Table = &[
    COMMON,
    &[
        (
            Class::Used,
            &[
                "messages",
                "tools",
                "tool_choice",
                "parallel_tool_calls",
                "json_schema",
                "response_format",
                "logprobs",
                "top_logprobs",
                "n_probs",
                "chat_template_kwargs",
                "reasoning_effort",
                "reasoning_format",
                "thinking_budget_tokens",
                "add_generation_prompt",
                "continue_final_message",
                "modalities",
                "diffusion_seed_canvas",
                "diffusion_pinned",
                "diffusion_max_steps",
                "diffusion_read_only",
                "diffusion_constrained",
                "diffusion_canvas_length",
                "logprob_token_ids",
                "return_tokens_as_token_ids",
                "vllm_xargs",
            ],
        ),
        (Class::Ignored(Shape::Any), &["store"]),
        (
            Class::Refused("this model reads and writes only text: remove it"),
            &["audio"],
        ),
        (
            Class::Refused("the server searches nothing: remove it"),
            &["web_search_options"],
        ),
        (
            Class::Refused("is of an earlier version of the protocol: use tools and tool_choice"),
            &["functions", "function_call"],
        ),
    ],
];

/// Fields of Responses.
pub const RESPONSES: Table = &[
    COMMON,
    OF_VLLM,
    &[
        (
            Class::Used,
            &[
                "input",
                "instructions",
                "tools",
                "tool_choice",
                "parallel_tool_calls",
                "max_output_tokens",
                "reasoning",
                "text",
                "include",
                "top_logprobs",
                "store",
                "previous_response_id",
            ],
        ),
        (
            Class::Ignored(Shape::Any),
            &["max_tool_calls", "truncation"],
        ),
        (
            Class::Refused("the server keeps no conversations: use previous_response_id"),
            &["conversation"],
        ),
        (
            Class::Refused("has another name here: use text.format"),
            &["json_schema", "response_format"],
        ),
        (
            Class::Refused("no answer is computed in the background: wait for it, or stream it"),
            &["background"],
        ),
        (
            Class::Refused("the server keeps no prompts: send the text as input"),
            &["prompt"],
        ),
    ],
];

/// Fields of Anthropic's messages.
pub const ANTHROPIC: Table = &[
    COMMON,
    OF_VLLM,
    &[
        (
            Class::Used,
            &[
                "messages",
                "system",
                "stop_sequences",
                "tools",
                "tool_choice",
                "thinking",
                "output_config",
                "output_format",
            ],
        ),
        (
            Class::Ignored(Shape::Any),
            &["inference_geo", "context_management", "container"],
        ),
        (
            Class::Refused("the server runs no tools: remove it"),
            &["mcp_servers"],
        ),
        (
            Class::Refused("has another name here: use output_config.format"),
            &["json_schema", "response_format"],
        ),
    ],
];

/// Fields of text completions.
pub const TEXT: Table = &[
    COMMON,
    OF_VLLM,
    &[
        (
            Class::Used,
            &[
                "prompt",
                "suffix",
                "logprobs",
                "best_of",
                "json_schema",
                "response_format",
            ],
        ),
        (
            Class::Refused("the answer does not repeat the prompt: remove it"),
            &["echo"],
        ),
    ],
];

/// Fields of the fill-in-the-middle endpoint.
pub const FIM: Table = &[
    COMMON,
    OF_VLLM,
    &[(Class::Used, &["prompt", "suffix"]), OF_GAPS],
];

/// Fields of llama-server's own completions.
pub const NATIVE: Table = &[
    COMMON,
    OF_VLLM,
    &[(
        Class::Used,
        &[
            "prompt",
            "n_probs",
            "response_fields",
            "json_schema",
            "response_format",
        ],
    )],
];

/// Fields of `/infill` that [`InfillRequest`](llama_diffusion::InfillRequest) reads. Those of all endpoints that
/// generate have more names and other defaults here.
pub const OF_INFILL_REQUEST: &[&str] = &[
    "input_prefix",
    "input_suffix",
    "input_extra",
    "prompt",
    "infill_tokens",
    "infill_lengths",
];

/// Fields of gaps for editors.
pub const INFILL: Table = &[
    COMMON,
    OF_VLLM,
    &[
        (Class::Used, OF_INFILL_REQUEST),
        (Class::Used, &["n_probs", "response_fields"]),
        (Class::Ignored(Shape::Count), &["n_indent"]),
        OF_GAPS,
    ],
];

/// Fields of edits.
pub const EDIT: Table = &[
    COMMON,
    OF_VLLM,
    &[(
        Class::Used,
        &[
            "text",
            "instruction",
            "strength",
            "protected",
            "json_schema",
            "response_format",
        ],
    )],
];

/// Fields of forms.
pub const FORM: Table = &[
    COMMON,
    OF_VLLM,
    &[
        (
            Class::Used,
            &[
                "messages",
                "prompt",
                "chat_template_kwargs",
                "reasoning_effort",
                "add_generation_prompt",
                "continue_final_message",
                "form",
                "blanks",
                "steps",
                "samples",
                "canvas",
            ],
        ),
        (
            Class::Refused("a form follows its text alone: remove it"),
            &["json_schema", "response_format"],
        ),
    ],
];

/// Checks the fields of a body that have no effect or are refused, and returns the names of those
/// without effect.
///
/// # Errors
/// 400 with the first field that is wrong or refused.
pub fn check(body: &Object<'_>, table: Table, family: Family) -> Result<Vec<String>, ApiError> {
    let mut ignored = Vec::new();
    for (class, names) in table.iter().copied().flatten() {
        for name in names.iter().copied() {
            let Some(field) = body.get(name) else {
                continue;
            };
            match class {
                Class::Used => {}
                Class::Refused(_) if asks_for_nothing(name, field.value) => {}
                Class::Refused(reason) => return Err(field.error(reason)),
                Class::Ignored(shape) => {
                    match shape {
                        Shape::Any => {}
                        Shape::Number => drop(field.number(ranges::SINGLE)?),
                        Shape::Count => drop(field.integer(ranges::COUNT_OR_ANY)?),
                    }
                    if family == Family::Canvas || !MASKED.contains(&name) {
                        ignored.push(name.to_owned());
                    }
                }
            }
        }
    }
    Ok(ignored)
}

/// Fields without effect on canvases that masked models honour.
pub const MASKED: [&str; 3] = ["temperature", "top_k", "top_p"];

/// Whether a field that is refused changes nothing: its value says nothing, or what its protocol has for that.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    let is_zero = |bias: &Value| bias.as_f64() == Some(0.0);
    match (name, value) {
        // Tokens with their biases.
        ("logit_bias", Value::Object(biases)) => biases.values().all(is_zero),
        ("logit_bias", Value::Array(biases)) => {
            biases.iter().all(|bias| bias.get(1).is_some_and(is_zero))
        }
        // A search with the usual options.
        ("web_search_options", Value::Object(_)) => false,
        ("function_call", Value::String(choice)) => choice == "none",
        _ => says_nothing(value),
    }
}

/// Whether a value is null, false, 0 or empty.
pub fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(body: Value, family: Family) -> Result<Vec<String>, String> {
        let Value::Object(map) = &body else { panic!() };
        check(&Object::root(map), CHAT, family).map_err(|error| error.message)
    }

    #[test]
    fn what_has_no_effect_is_listed() {
        let body =
            json!({"temperature": 0.7, "user": "me", "top_k": null, "nonsense": 1, "model": "x"});
        assert_eq!(
            checked(body.clone(), Family::Canvas),
            Ok(vec!["temperature".into(), "user".into()])
        );
        assert_eq!(checked(body, Family::Masked), Ok(vec!["user".into()]));
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        let message = |body| checked(body, Family::Canvas).unwrap_err();
        assert!(message(json!({"logit_bias": {"5": 1}})).starts_with("logit_bias: "));
        assert!(message(json!({"grammar": "root ::= x"})).contains("use response_format"));
        assert_eq!(
            message(json!({"n_discard": -2})),
            "n_discard: is -2, but must be a whole number of -1 or more"
        );
        assert!(message(json!({"temperature": "NaN"})).starts_with("temperature: is a string"));
        let steps = json!({"diffusion_max_steps": 4});
        let problem = check(
            &Object::root(steps.as_object().unwrap()),
            TEXT,
            Family::Canvas,
        );
        assert!(
            problem
                .unwrap_err()
                .message
                .contains("the object diffusion")
        );
        assert!(message(json!({"logit_bias": {"5": 0, "6": false}})).starts_with("logit_bias: "));
        assert!(message(json!({"logit_bias": [[5, 0], [6, 1]]})).starts_with("logit_bias: "));
        assert!(message(json!({"web_search_options": {}})).contains("searches nothing"));
        assert!(message(json!({"function_call": "auto"})).contains("use tools"));
        for neutral in [
            json!({"logit_bias": {}, "grammar": "", "lora": [], "ignore_eos": false}),
            json!({"logit_bias": {"5": 0, "6": 0.0}, "function_call": "none", "functions": []}),
            json!({"logit_bias": [[5, 0], ["text", 0.0]], "web_search_options": null}),
        ] {
            assert_eq!(checked(neutral, Family::Canvas), Ok(vec![]));
        }
    }

    /// The fields of a group of tables, as the documentation lists them.
    fn listed(groups: &[Group]) -> String {
        let mut text = String::from("| fields | what becomes of them |\n|---|---|\n");
        for (class, names) in groups {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let class = match class {
                Class::Used => "used".to_owned(),
                Class::Ignored(_) => "no effect".to_owned(),
                Class::Refused(reason) => format!("refused: {reason}"),
            };
            text += &format!("| {} | {class} |\n", names.join(", "));
        }
        text
    }

    #[test]
    fn the_documentation_lists_every_field() {
        let mut expected = format!("\n### All endpoints that generate\n\n{}", listed(COMMON));
        for (path, table) in super::super::TABLES {
            expected += &format!("\n### {path}\n\n{}", listed(&table[1..].concat()));
        }
        let families = ["all models", "canvas models", "masked models"];
        expected += "\n### The object `diffusion`\n\n| fields | for |\n|---|---|\n";
        for (names, models) in super::super::sampling::DIFFUSION.iter().zip(families) {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            expected += &format!("| {} | {models} |\n", names.join(", "));
        }
        expected += "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server-requests.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once("fields.rs -->\n").unwrap();
        let (found, after) = rest.split_once("<!-- end of fields -->").unwrap();
        if std::env::var_os("LLAMA_DIFFUSION_WRITE_DOCS").is_some() {
            let text = format!("{before}fields.rs -->\n{expected}<!-- end of fields -->{after}");
            std::fs::write(path, text).unwrap();
            return;
        }
        assert_eq!(
            found, expected,
            "set LLAMA_DIFFUSION_WRITE_DOCS=1 to write them"
        );
    }

    #[test]
    fn no_field_has_two_classes() {
        for table in super::super::TABLES {
            let groups = table.1.iter().copied().flatten();
            let mut names: Vec<_> = groups.flat_map(|(_, names)| names.iter()).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", table.0);
        }
    }
}
