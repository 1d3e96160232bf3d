//! `/infill` and its relatives.

use std::time::Instant;

use llama_diffusion::{InfillAnswer, InfillStop};
use serde_json::{Value, json};

use crate::process::Server;

/// What llama.vim sends.
fn editor(n_predict: u32) -> Value {
    json!({
        "id_slot": 0, "input_prefix": "fn one() -> u32 {\n", "input_suffix": "\n}\n",
        "input_extra": [{"text": "fn two() -> u32 {\n    2\n}\n", "time": 0, "filename": "two.rs"}],
        "prompt": "    ", "n_predict": n_predict, "n_indent": 4, "stop": [], "top_k": 40, "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"], "stream": false, "cache_prompt": true,
        "t_max_prompt_ms": 500, "t_max_predict_ms": 60_000, "seed": 3,
        "response_fields": [
            "content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms",
            "timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms",
            "timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated", "tokens_cached",
        ],
    })
}

#[test]
fn an_editor_gets_what_it_reads() {
    let server = Server::start("");
    let text = server
        .post("/infill", &editor(12))
        .send()
        .unwrap()
        .text()
        .unwrap();
    assert!(
        text.starts_with('{') && text.contains("\"content\":\""),
        "{text}"
    );
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(
        answer["timings/predicted_n"].as_u64().unwrap() <= 12,
        "{answer}"
    );
    assert_eq!(answer["truncated"], json!(false));
    let again = server.ask("/infill", &editor(12));
    assert_eq!(again["content"], answer["content"], "the seed is the same");
    assert!(again["tokens_cached"].as_u64() > Some(0));
}

#[test]
fn the_tokens_around_a_gap_are_not_counted() {
    let server = Server::start("");
    for limit in [1, 4] {
        let body = json!({"input_prefix": "a", "input_suffix": "b", "n_predict": limit, "seed": 1});
        let answer = server.ask("/infill", &body);
        assert!(
            answer["tokens_predicted"].as_u64() <= Some(limit),
            "{answer}"
        );
        let body = json!({"prompt": "a", "suffix": "b", "max_tokens": limit, "seed": 1});
        let answer = server.ask("/v1/completions", &body);
        assert!(
            answer["usage"]["completion_tokens"].as_u64() <= Some(limit),
            "{answer}"
        );
    }
}

#[test]
fn the_tokens_of_a_gap_spell_its_content() {
    let server = Server::start("");
    let gap =
        |seed: u64| json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "seed": seed});
    let has_text = |body: &Value| server.ask("/infill", body)["content"] != "";
    let mut body = (1..20).map(gap).find(has_text).unwrap();
    assert_eq!(server.ask("/infill", &body)["tokens"], json!([]));
    body["return_tokens"] = true.into();
    let answer = server.ask("/infill", &body);
    assert_ne!(answer["tokens"], json!([]), "{answer}");
    let spelled = server.ask("/detokenize", &json!({"tokens": answer["tokens"]}));
    assert_eq!(spelled["content"], answer["content"]);
    // A stream has them with the text.
    let parts = server.stream("/infill", &body);
    let tokens = parts.iter().filter_map(|part| part["tokens"].as_array());
    let tokens: Vec<_> = tokens.flatten().cloned().collect();
    assert_eq!(json!(tokens), answer["tokens"]);
}

#[test]
fn a_warm_up_only_reads() {
    let server = Server::start("");
    let mut warm = editor(0);
    warm["response_fields"] = json!([""]);
    assert_eq!(server.ask("/infill", &warm), json!({}));
    let mut body = editor(8);
    body["response_fields"] = json!(["timings"]);
    let answer = server.ask("/infill", &body);
    assert!(answer["timings"]["cache_n"].as_u64() > Some(0), "{answer}");
}

#[test]
fn several_answers_have_seeds_that_follow() {
    let server = Server::start("-np 2 -c 2048");
    let body = json!({"input_prefix": "The capital of Norway is ", "input_suffix": ".\n", "n_cmpl": 2,
        "n_predict": 6, "seed": 5});
    let answers = server.ask("/infill", &body);
    let seeds: Vec<_> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["diffusion"]["seed"])
        .collect();
    assert_eq!(seeds, [5, 6]);
    for answer in answers.as_array().unwrap() {
        let alone = json!({"input_prefix": "The capital of Norway is ", "input_suffix": ".\n",
            "n_predict": 6, "seed": answer["diffusion"]["seed"]});
        assert_eq!(server.ask("/infill", &alone)["content"], answer["content"]);
    }
}

/// A gap of the demo model, with other fields.
fn gap(more: Value) -> Value {
    let mut body = json!({"input_prefix": "Mia has a ", "input_suffix": " hat.\n", "seed": 3});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// The library's answer in the one of the server.
fn of_library(answer: &Value) -> InfillAnswer {
    assert_eq!(answer["stop"], true, "{answer}");
    let mut answer = answer.clone();
    answer["stop"] = answer["infill_stop"].take();
    serde_json::from_value(answer).unwrap()
}

#[test]
fn the_length_of_a_gap_is_given_or_refused_by_name() {
    let server = Server::start("");
    for (body, problem) in [
        (
            json!({"infill_tokens": "x"}),
            "infill_tokens: it is neither",
        ),
        (json!({"infill_tokens": -1}), "infill_tokens: it is neither"),
        (
            json!({"infill_tokens": 9, "n_predict": 8}),
            "infill_tokens: is 9, but n_predict is 8: raise it",
        ),
        (
            json!({"infill_tokens": 99_999}),
            "infill_tokens: is 99999, but there is no room",
        ),
        (json!({"infill_lengths": 1}), "infill_lengths: "),
    ] {
        let (status, error) = server.refused("/infill", &gap(body));
        let (field, _) = problem.split_once(':').unwrap();
        assert_eq!((status, &error["param"]), (400, &json!(field)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(problem), "{message}");
    }
    for tokens in [1, 4] {
        let answer = server.ask("/infill", &gap(json!({"infill_tokens": tokens})));
        let found = of_library(&answer);
        assert_eq!(found.tokens_predicted, tokens, "{answer}");
        assert_eq!((found.stop, found.seed), (InfillStop::Complete, 3));
        assert!(found.timings.steps > 0 && found.lengths.is_empty());
    }
    let auto = server.ask("/infill", &gap(json!({"infill_tokens": "auto"})));
    let absent = server.ask("/infill", &gap(json!({})));
    assert_eq!(auto["content"], absent["content"]);
    // A warm-up has the fields of the request after it.
    let warm = gap(json!({"infill_tokens": 4, "n_predict": 0}));
    let warm = server.ask("/infill", &warm);
    assert_eq!(of_library(&warm).stop, InfillStop::Limit);
}

#[test]
fn a_limit_of_the_server_is_one_of_the_length() {
    let server = Server::start("-n 8");
    let (status, error) = server.refused("/infill", &gap(json!({"infill_tokens": 9})));
    assert_eq!((status, &error["param"]), (400, &json!("infill_tokens")));
    let longer = gap(json!({"infill_tokens": 9, "n_predict": 9}));
    assert_eq!(server.ask("/infill", &longer)["tokens_predicted"], 9);
}

#[test]
fn the_lengths_that_were_compared_are_listed_on_request() {
    let server = Server::start("-np 2 -c 2048");
    let asked = gap(json!({"infill_lengths": true, "n_predict": 6}));
    let found = of_library(&server.ask("/infill", &asked));
    assert!(found.lengths.len() > 1, "{found:?}");
    assert_eq!(found.lengths[0].tokens, found.tokens_predicted);
    let logprobs = found.lengths.iter().map(|length| length.logprob);
    assert!(logprobs.is_sorted_by(|a, b| a >= b), "{found:?}");
    let last = server.stream("/infill", &asked).pop().unwrap();
    assert_eq!(of_library(&last).lengths, found.lengths);
    let mut several = asked;
    several["n_cmpl"] = 2.into();
    let answers = server.ask("/infill", &several);
    let answers: Vec<_> = answers.as_array().unwrap().iter().map(of_library).collect();
    assert_eq!(answers[0].content, found.content);
    assert_eq!(answers.iter().map(|it| it.seed).collect::<Vec<_>>(), [3, 4]);
    assert!(answers.iter().all(|answer| !answer.lengths.is_empty()));
    let other = server.ask("/infill", &gap(json!({"n_predict": 6})));
    assert!(other.get("lengths").is_none(), "{other}");
}

#[test]
fn the_time_limit_gives_the_draft() {
    let server = Server::start("");
    let body =
        json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 500, "t_max_predict_ms": 1});
    let start = Instant::now();
    let answer = server.ask("/infill", &body);
    assert_eq!(answer["stop_type"], "limit");
    assert_eq!(answer["infill_stop"], "time");
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn other_protocols_ask_for_the_same() {
    let server = Server::start("");
    let texts = ("The capital of Norway is ", ".\n");
    let own = server.ask(
        "/infill",
        &json!({"input_prefix": texts.0, "input_suffix": texts.1,
        "n_predict": 6, "seed": 1}),
    );
    let body = json!({"prompt": texts.0, "suffix": texts.1, "max_tokens": 6, "seed": 1});
    for path in ["/v1/completions", "/v1/fim/completions"] {
        let answer = server.ask(path, &body);
        assert_eq!(answer["choices"][0]["text"], own["content"], "{path}");
    }
    let marked = format!(
        "<|fim_prefix|>{}<|fim_suffix|>{}<|fim_middle|>",
        texts.0, texts.1
    );
    let answer = server.ask(
        "/completion",
        &json!({"prompt": marked, "n_predict": 6, "seed": 1}),
    );
    assert_eq!(answer["content"], own["content"]);
}

#[test]
fn a_stream_ends_with_the_content() {
    let server = Server::start("");
    let whole = server.ask("/infill", &editor(8));
    let parts = server.stream("/infill", &editor(8));
    let contents = parts.iter().filter_map(|part| part["content"].as_str());
    assert_eq!(json!(contents.collect::<String>()), whole["content"]);
}

#[test]
fn texts_that_are_too_long_are_cut() {
    let server = Server::start("-c 512");
    let body = json!({"input_prefix": "Tom has a red fox.\n".repeat(300), "input_suffix": "\nIt is old.\n".repeat(300),
        "n_predict": 8, "seed": 5});
    let answer = server.ask("/infill", &body);
    assert_eq!(answer["truncated"], json!(true), "{answer}");
    assert!(answer["content"].is_string(), "{answer}");
    assert!(answer["tokens_evaluated"].as_u64() < Some(512), "{answer}");
}
