//! Answers that come whole.

use serde_json::{Value, json};

use crate::process::{ANSWER, QUESTION, Server, chat};

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_question_is_answered() {
    let server = Server::start("");
    let answer = server.ask("/v1/chat/completions", &chat(QUESTION));
    assert!(content(&answer).contains(ANSWER), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(
        count("total_tokens"),
        count("prompt_tokens") + count("completion_tokens")
    );
    assert!(answer["timings"]["predicted_n"].as_u64().unwrap() > 0);
    assert!(answer["diffusion"]["steps"].as_u64().unwrap() > 0);
    // The prompt is cached now.
    let again = server.ask("/v1/chat/completions", &chat(QUESTION));
    assert_eq!(content(&again), content(&answer));
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!(cached, Some(count("prompt_tokens")));
    let mut fresh = chat(QUESTION);
    fresh["cache_prompt"] = false.into();
    let fresh = server.ask("/v1/chat/completions", &fresh);
    assert_eq!(content(&fresh), content(&answer));
    assert_eq!(fresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[test]
fn limits_and_stop_strings() {
    let server = Server::start("");
    let full = server.ask("/v1/chat/completions", &chat(QUESTION));
    let mut body = chat(QUESTION);
    body["max_tokens"] = 1.into();
    let cut = server.ask("/v1/chat/completions", &body);
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(cut["usage"]["completion_tokens"], 1);
    assert!(content(&full).starts_with(content(&cut)));
    let mut body = chat(QUESTION);
    body["stop"] = json!([ANSWER]);
    let stopped = server.ask("/v1/chat/completions", &body);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let before = content(&full).split(ANSWER).next().unwrap();
    assert_eq!(
        stopped["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default(),
        before
    );
    let only_read = server.ask("/completion", &json!({"prompt": "Hello", "n_predict": 0}));
    assert_eq!(only_read["content"], "");
    assert_eq!(only_read["tokens_predicted"], 0);
    let constrained = json!({"prompt": "Hello", "n_predict": 0, "json_schema": {"type": "object"}});
    assert_eq!(server.ask("/completion", &constrained)["content"], "");
    // The end token comes after the limit, and does not count.
    let mut body = chat(QUESTION);
    let whole = &full["usage"]["completion_tokens"];
    let text = whole.as_u64().unwrap() - 1;
    body["max_tokens"] = text.into();
    let limited = server.ask("/v1/chat/completions", &body);
    assert_eq!(content(&limited), content(&full));
    assert_eq!(limited["usage"]["completion_tokens"], text);
    assert_eq!(limited["choices"][0]["finish_reason"], "stop");
}

#[test]
fn several_answers_have_seeds_of_their_own() {
    let server = Server::start("-np 3");
    let mut body = chat("Tell a story about Grace and a white owl.");
    body["n"] = 3.into();
    let answer = server.ask("/v1/chat/completions", &body);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let mut alone = body.clone();
        alone["n"] = 1.into();
        alone["seed"] = (7 + index).into();
        let alone = server.ask("/v1/chat/completions", &alone);
        assert_eq!(choice["message"]["content"], content(&alone), "{index}");
    }
    body["n"] = 4.into();
    let (status, error) = server.refused("/v1/chat/completions", &body);
    assert_eq!((status, &error["param"]), (400, &json!("n")));
}

#[test]
fn answers_in_a_format() {
    let server = Server::start("");
    let mut body = chat(QUESTION);
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": false,
    });
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let answer = server.ask("/v1/chat/completions", &body);
    let value: Value = serde_json::from_str(content(&answer)).unwrap();
    assert!(value["city"].is_string(), "{value}");
    body["response_format"]["json_schema"]["schema"] = json!({"type": "nonsense"});
    assert_eq!(server.refused("/v1/chat/completions", &body).0, 400);
}

#[test]
fn log_probabilities() {
    let server = Server::start("");
    let mut body = chat(QUESTION);
    body["logprobs"] = true.into();
    body["top_logprobs"] = 2.into();
    let answer = server.ask("/v1/chat/completions", &body);
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = tokens
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(text, content(&answer));
    for token in tokens {
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn text_completions() {
    let server = Server::start("");
    let prompt = server.ask("/apply-template", &chat(QUESTION))["prompt"].clone();
    // What the chat template makes of it, which does not begin twice.
    let whole = server.ask("/completion", &json!({"prompt": prompt, "seed": 7}));
    let asked = server.ask("/v1/chat/completions/input_tokens", &chat(QUESTION));
    assert_eq!(whole["tokens_evaluated"], asked["input_tokens"]);
    let content = json!({"content": prompt, "add_special": true});
    let tokens = server.ask("/tokenize", &content)["tokens"].clone();
    let openai = server.ask("/v1/completions", &json!({"prompt": tokens, "seed": 7}));
    let text = openai["choices"][0]["text"].as_str().unwrap();
    assert!(text.contains(ANSWER), "{openai}");
    let native = server.ask("/completion", &json!({"prompt": tokens, "seed": 7}));
    assert_eq!(native["content"], text);
    assert_eq!(whole["content"], text);
    assert_eq!(native["stop_type"], "eos");
    let fields =
        json!({"prompt": tokens, "seed": 7, "response_fields": ["content", "timings/prompt_n"]});
    let picked = server.ask("/completion", &fields);
    assert_eq!(picked.as_object().unwrap().len(), 2, "{picked}");
    let list = server.ask(
        "/completion",
        &json!({"prompt": [tokens, "Hi"], "seed": 7, "n_predict": 4}),
    );
    assert_eq!(list.as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_work_is_named() {
    let server = Server::start("");
    for (field, value) in [
        ("diffusion", json!({"t_max": -1})),
        ("diffusion", json!({"max_steps": 0})),
        ("logit_bias", json!({"5": 1})),
        ("seed", json!(-0.5)),
        ("max_tokens", json!(i64::MIN)),
        ("response_format", json!({"type": "xml"})),
    ] {
        let mut body = chat(QUESTION);
        body[field] = value;
        let (status, error) = server.refused("/v1/chat/completions", &body);
        assert_eq!(status, 400, "{field}: {error}");
        let param = error["param"].as_str().unwrap();
        assert!(param.starts_with(field), "{field}: {error}");
    }
}

#[test]
fn a_response_without_an_input() {
    let server = Server::start("");
    for (body, prompt) in [
        (json!({}), "<|turn>model\n"),
        (
            json!({"instructions": QUESTION}),
            "<|turn>system\nWhat is the capital of Norway?<turn|>\n<|turn>model\n",
        ),
    ] {
        let answer = server.ask("/v1/responses", &body);
        assert_eq!(answer["object"], "response", "{body}");
        let tokens = server.ask(
            "/tokenize",
            &json!({"content": prompt, "add_special": true}),
        );
        let read = tokens["tokens"].as_array().unwrap().len();
        assert_eq!(answer["usage"]["input_tokens"], read, "{body}");
    }
}

#[test]
fn responses_and_messages() {
    let server = Server::start("");
    let response = server.ask("/v1/responses", &json!({"input": QUESTION, "seed": 7}));
    assert!(response.to_string().contains(ANSWER), "{response}");
    let body = json!({"max_tokens": 64, "messages": [{"role": "user", "content": QUESTION}]});
    let message = server.ask("/v1/messages", &body);
    let text = message["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(ANSWER), "{message}");
    let events = server.stream("/v1/messages", &body);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], kinds[kinds.len() - 1]),
        ("message_start", "message_stop")
    );
    let count = server.ask("/v1/messages/count_tokens", &body);
    let used = |name: &str| message["usage"][name].as_u64().unwrap_or(0);
    let read = used("input_tokens") + used("cache_read_input_tokens");
    assert_eq!(count["input_tokens"], read);
    let start = &events[0]["message"]["usage"];
    assert_eq!(start["input_tokens"], read);
    let wrong = server
        .post("/v1/messages", &json!({"max_tokens": 1}))
        .send()
        .unwrap();
    assert_eq!(wrong.status(), 400);
    assert_eq!(wrong.json::<Value>().unwrap()["type"], "error");
}
