//! Requests that cannot be honoured.

use serde_json::json;

use crate::process::{ANSWER, QUESTION, Server, chat};

/// The errors of an answer that cannot follow its format come from the engine, which knows no fields.
#[test]
fn a_format_that_cannot_be_kept_is_an_error_of_its_field() {
    let server = Server::start("");
    let long = json!({"const": "a".repeat(60)});
    let function =
        json!({"name": "f", "parameters": {"properties": {"a": long}, "required": ["a"]}});
    let pattern = json!({"type": "regex", "pattern": "a{60}"});
    let named = json!({"type": "json_schema", "json_schema": {"schema": long}});
    let messages = chat(QUESTION)["messages"].clone();
    for (path, mut body, param) in [
        (
            "/v1/chat/completions",
            json!({"response_format": pattern}),
            "response_format.pattern",
        ),
        (
            "/v1/chat/completions",
            json!({"response_format": named}),
            "response_format.json_schema.schema",
        ),
        (
            "/v1/chat/completions",
            json!({"json_schema": long}),
            "json_schema",
        ),
        (
            "/v1/chat/completions",
            json!({"tools": [{"type": "function", "function": function}], "tool_choice": "required"}),
            "tools",
        ),
        (
            "/completion",
            json!({"json_schema": long, "prompt": "Hi"}),
            "json_schema",
        ),
        (
            "/v1/responses",
            json!({"text": {"format": {"type": "json_schema", "schema": long}}, "input": "Hi"}),
            "text.format.schema",
        ),
    ] {
        body["max_tokens"] = 3.into();
        if path.contains("chat") {
            body["messages"] = messages.clone();
        }
        let (status, error) = server.refused(path, &body);
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{param}: ")), "{message}");
        assert!(!message.contains("constraint:"), "{message}");
    }
    // It is an error of one request.
    assert_eq!(
        server.ask("/v1/chat/completions", &chat(QUESTION))["object"],
        "chat.completion"
    );
}

#[test]
fn the_field_that_the_request_has_is_to_blame() {
    let server = Server::start("");
    let form = |name: &str, value: serde_json::Value| {
        let mut body = json!({"prompt": "Hi", "form": "▢"});
        body[name] = value;
        body
    };
    let cold = json!({"t_min": 5});
    for (path, body, param) in [
        ("/diffusion/fill", form("canvas", 7.into()), "canvas"),
        ("/diffusion/fill", form("canvas", 99_999.into()), "canvas"),
        ("/diffusion/fill", form("form", "a".into()), "form"),
        (
            "/completion",
            json!({"prompt": "Hi", "diffusion": cold}),
            "diffusion.t_min",
        ),
        (
            "/diffusion/edit",
            json!({"text": "Hi", "instruction": "a", "diffusion": cold}),
            "diffusion.t_min",
        ),
        (
            "/infill",
            json!({"input_prefix": "a", "input_suffix": "b", "diffusion": cold}),
            "diffusion.t_min",
        ),
        (
            "/completion",
            json!({"prompt": "Hi", "diffusion": {"canvas_length": 7}}),
            "diffusion.canvas_length",
        ),
    ] {
        let (status, error) = server.refused(path, &body);
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{param}: ")), "{message}");
        // Fields have the names of requests.
        assert!(!message.contains('`'), "{message}");
    }
}

/// What is known before the first step is not an event of a stream.
#[test]
fn a_stream_does_not_begin_if_the_answer_cannot() {
    let server = Server::start("");
    let long = json!({"const": "a".repeat(60)});
    let edit = |name: &str, value: serde_json::Value| {
        let mut body = json!({"text": "Tom takes a fox.\nYes.", "instruction": "Shorten it"});
        body[name] = value;
        body
    };
    let gap = |name: &str, value: serde_json::Value| {
        let mut body = json!({"input_prefix": "a", "input_suffix": "b"});
        body[name] = value;
        body
    };
    let short = json!({"canvas_length": 7});
    let contradicted = json!({"text": "Tom.\nYes.", "instruction": "Shorten it",
        "protected": [[2, 2]], "json_schema": {"type": "integer"}});
    let mut read = chat(QUESTION);
    read["diffusion_read_only"] = true.into();
    read["diffusion_canvas_length"] = 7.into();
    let mut seeded = chat(QUESTION);
    seeded["diffusion_seed_canvas"] = json!([1, 2]);
    seeded["diffusion"] = short.clone();
    for (path, mut body, param) in [
        (
            "/infill",
            gap("infill_tokens", 99_999.into()),
            "infill_tokens",
        ),
        (
            "/infill",
            json!({"input_prefix": "a", "input_suffix": "b", "infill_tokens": 99,
                "diffusion": {"max_canvases": 2}}),
            "infill_tokens",
        ),
        (
            "/infill",
            gap("diffusion", short.clone()),
            "diffusion.canvas_length",
        ),
        ("/infill", gap("n_probs", 2.into()), "n_probs"),
        (
            "/infill",
            gap("diffusion", json!({"min_logprob": -1})),
            "diffusion.min_logprob",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a", "suffix": "b", "logprobs": 0}),
            "logprobs",
        ),
        (
            "/v1/fim/completions",
            json!({"prompt": "a", "suffix": "b", "diffusion": short}),
            "diffusion.canvas_length",
        ),
        (
            "/completion",
            json!({"prompt": "Hi", "diffusion": short}),
            "diffusion.canvas_length",
        ),
        (
            "/completion",
            json!({"prompt": "Hi", "json_schema": long, "n_predict": 3}),
            "json_schema",
        ),
        (
            "/diffusion/edit",
            edit("diffusion", short.clone()),
            "diffusion.canvas_length",
        ),
        ("/diffusion/edit", contradicted, "protected"),
        (
            "/diffusion/fill",
            json!({"prompt": "Hi", "form": format!("▢ {}", "word ".repeat(60))}),
            "form",
        ),
        (
            "/diffusion/fill",
            json!({"prompt": "Hi", "form": "▢", "canvas": 99_999}),
            "canvas",
        ),
        ("/v1/chat/completions", read, "diffusion.canvas_length"),
        // Before a canvas of that length is made.
        ("/v1/chat/completions", seeded, "diffusion.canvas_length"),
    ] {
        body["stream"] = true.into();
        let (status, error) = server.refused(path, &body);
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{param}: ")), "{message}");
        assert!(!message.contains('`'), "{message}");
    }
}

#[test]
fn a_template_that_rejects_a_conversation_blames_the_field_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template.jinja");
    std::fs::write(&template, "{{ raise_exception('say more') }}").unwrap();
    let server = Server::start(&format!("--chat-template-file {}", template.display()));
    for (path, body, param) in [
        ("/v1/responses", json!({}), "input"),
        ("/v1/chat/completions", chat(QUESTION), "messages"),
    ] {
        let (status, error) = server.refused(path, &body);
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains("say more"));
    }
}

#[test]
fn a_prompt_that_no_tokens_could_make_fit_is_not_tokenized() {
    let server = Server::start("");
    let text = "word ".repeat(400_000);
    let bytes = text.len();
    for (path, body) in [
        ("/v1/chat/completions", chat(&text)),
        ("/completion", json!({"prompt": text})),
        ("/v1/completions", json!({"prompt": [text]})),
        (
            "/diffusion/edit",
            json!({"text": text, "instruction": "Shorten it"}),
        ),
    ] {
        let (status, error) = server.refused(path, &body);
        assert_eq!(
            (status, &error["type"]),
            (400, &json!("exceed_context_size_error"))
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("bytes, which are at least"),
            "{path}: {message}"
        );
        assert!(
            error["n_prompt_tokens"].as_u64() > error["n_ctx"].as_u64(),
            "{error}"
        );
        // No token of the demo model has more than 48 bytes, but some have more than one.
        let least = error["n_prompt_tokens"].as_u64().unwrap() as usize;
        assert!(
            (bytes / 48..bytes).contains(&least),
            "{path}: {least} of {bytes}"
        );
    }
    // What might fit is counted.
    let (_, error) = server.refused("/completion", &json!({"prompt": "word ".repeat(2500)}));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(" tokens and one canvas"), "{message}");
    // Templates leave out what is around a message.
    let padded = format!("{QUESTION}{}", " ".repeat(1_000_000));
    let answer = server.ask("/v1/chat/completions", &chat(&padded));
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.contains(ANSWER), "{content}");
}
