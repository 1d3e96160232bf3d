//! Endpoints that generate nothing.

use serde_json::json;

use crate::process::{QUESTION, Server, chat};

#[test]
fn what_the_server_says_of_itself() {
    let server = Server::start("-a beta,alpha --tags x -np 2 -c 4096 --metrics");
    assert_eq!(server.json("/health"), json!({"status": "ok"}));
    let props = server.json("/props");
    assert_eq!(props["total_slots"], 2);
    assert_eq!(props["model_alias"], "alpha");
    assert_eq!(props["default_generation_settings"]["n_ctx"], 2048);
    assert!(props["model_path"].as_str().unwrap().contains(".gguf"));
    assert!(props["build_info"].as_str().unwrap().starts_with('b'));
    assert_eq!(props["diffusion"]["family"], "canvas");
    assert!(props["chat_template"].as_str().unwrap().contains("{%"));
    let models = server.json("/v1/models");
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["tags"]),
        (&json!("alpha"), &json!(["x"]))
    );
    assert_eq!(model["aliases"], json!(["alpha", "beta"]));
    assert!(model["meta"]["n_params"].as_u64().unwrap() > 1000);
    assert_eq!(server.json("/v1/models/beta"), *model);
    let slots = server.json("/slots");
    assert_eq!(slots.as_array().unwrap().len(), 2);
    assert_eq!(slots[1]["id"], 1);
    server.ask("/v1/chat/completions", &chat(QUESTION));
    let metrics = server.get("/metrics").send().unwrap();
    assert!(metrics.headers().contains_key("process-start-time-unix"));
    let text = metrics.text().unwrap();
    for line in [
        "llama_diffusion_requests_total{endpoint=\"chat\",finish=\"stop\"} 1",
        "llamacpp:requests_processing 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(!text.contains("llamacpp:n_decode_total 0\n"), "{text}");
}

#[test]
fn models_have_the_form_of_the_clients_protocol() {
    let server = Server::start("-a beta,alpha");
    let asked = |path: &str| {
        let request = server.get(path).header("anthropic-version", "2023-06-01");
        let response = request.send().unwrap();
        let status = response.status().as_u16();
        (status, response.json::<serde_json::Value>().unwrap())
    };
    let (_, models) = asked("/v1/models?limit=1");
    let model = &models["data"][0];
    assert_eq!(
        [&model["type"], &model["id"], &model["display_name"]],
        ["model", "alpha", "alpha"]
    );
    assert_eq!(model["created_at"], "1970-01-01T00:00:00Z");
    assert_eq!(
        (&models["first_id"], &models["last_id"], &models["has_more"]),
        (&json!("alpha"), &json!("alpha"), &json!(false))
    );
    assert_eq!(asked("/v1/models/beta"), (200, model.clone()));
    let (_, next) = asked("/v1/models?after_id=alpha");
    assert_eq!(
        next,
        json!({"data": [], "has_more": false, "first_id": null, "last_id": null})
    );
    for (path, status, kind) in [
        ("/v1/models?limit=0", 400, "invalid_request_error"),
        ("/v1/models/gamma", 404, "not_found_error"),
    ] {
        let (found, error) = asked(path);
        assert_eq!((found, &error["type"]), (status, &json!("error")), "{path}");
        assert_eq!(error["error"]["type"], kind, "{path}");
    }
    assert_eq!(server.json("/v1/models")["object"], "list");
    assert_eq!(server.json("/v1/models/beta")["object"], "model");
}

#[test]
fn texts_and_tokens() {
    let server = Server::start("");
    let tokens = server.ask("/tokenize", &json!({"content": "Hello <|turn>"}));
    let content = server.ask("/detokenize", &tokens);
    assert_eq!(content["content"], "Hello <|turn>");
    let pieces = server.ask("/tokenize", &json!({"content": "Hé", "with_pieces": true}));
    let bytes = pieces["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|token| match token["piece"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => serde_json::from_value(token["piece"].clone()).unwrap(),
        });
    assert_eq!(String::from_utf8(bytes.collect()).unwrap(), "Hé");
    let prompt = server.ask("/apply-template", &chat("Hi"));
    assert!(prompt["prompt"].as_str().unwrap().contains("Hi"));
    let count = server.ask("/v1/chat/completions/input_tokens", &chat("Hi"));
    assert!(count["input_tokens"].as_u64().unwrap() > 1);
    let (status, _) = server.refused("/detokenize", &json!({"tokens": [1_000_000]}));
    assert_eq!(status, 400);
}

#[test]
fn errors_are_json_whatever_is_wrong() {
    let server = Server::start("--max-body 1 --no-slots");
    let missing = server.get("/nowhere").send().unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(
        missing.json::<serde_json::Value>().unwrap()["error"]["type"],
        "not_found_error"
    );
    let method = server.get("/v1/chat/completions").send().unwrap();
    assert_eq!(method.status(), 405);
    assert!(method.headers()["allow"].to_str().unwrap().contains("POST"));
    let large = "x".repeat(2 << 20);
    let (status, _) = server.refused("/tokenize", &json!({"content": large}));
    assert_eq!(status, 413);
    for (path, body, status) in [
        ("/v1/chat/completions", json!({}), 400),
        ("/v1/chat/completions", json!({"messages": "x"}), 400),
        ("/v1/responses", json!({"input": []}), 400),
        ("/v1/responses/input_tokens", json!({"input": 5}), 400),
        ("/v1/embeddings", json!({"input": "x"}), 501),
        ("/lora-adapters", json!([]), 501),
        (
            "/v1/chat/completions/control",
            json!({"id": "x", "action": "reasoning_end"}),
            501,
        ),
        ("/infill", json!({"input_prefix": "a"}), 400),
        (
            "/infill",
            json!({"input_prefix": "a", "input_suffix": "b", "n_probs": 2}),
            400,
        ),
        ("/slots/0?action=save", json!({"filename": "x"}), 501),
        ("/slots/9?action=erase", json!({}), 400),
    ] {
        assert_eq!(server.refused(path, &body).0, status, "{path} {body}");
    }
    assert_eq!(server.json("/lora-adapters"), json!([]));
    let anthropic = server.post("/v1/messages/count_tokens", &json!({"messages": 1}));
    let error: serde_json::Value = anthropic.send().unwrap().json().unwrap();
    assert_eq!(error["type"], "error", "{error}");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let text = server
        .client
        .post(format!("{}/completion", server.base))
        .body("{");
    assert_eq!(text.send().unwrap().status(), 400);
    let (status, error) = server.refused("/completion", &json!({"prompt": "a ".repeat(20_000)}));
    assert_eq!(
        (status, &error["type"]),
        (400, &json!("exceed_context_size_error"))
    );
    assert!(error["n_prompt_tokens"].as_u64() > error["n_ctx"].as_u64());
    let off = server.get("/slots").send().unwrap();
    assert_eq!(off.status(), 501);
    assert_eq!(server.get("/metrics").send().unwrap().status(), 501);
}

#[test]
fn paths_may_have_a_prefix() {
    let server = Server::start_loading("--api-prefix /llm/");
    assert_eq!(server.get("/health").send().unwrap().status(), 404);
    let start = std::time::Instant::now();
    while server.get("/llm/health").send().unwrap().status() != 200 {
        assert!(start.elapsed().as_secs() < 60);
    }
}

#[test]
fn the_page_is_part_of_the_program() {
    let server = Server::start("");
    let page = server.get("/").send().unwrap();
    assert_eq!(page.status(), 200);
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    assert!(header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(header("x-content-type-options"), "nosniff");
    let head = server.client.head(format!("{}/", server.base));
    assert_eq!(head.send().unwrap().status(), 200);
    let tag = header("etag");
    let again = server.get("/").header("if-none-match", tag).send().unwrap();
    assert_eq!(again.status(), 304);
    let plain = server.get("/main.js").send().unwrap();
    assert!(!plain.headers().contains_key("content-encoding"));
    let packed = server.get("/main.js").header("accept-encoding", "gzip");
    let packed = packed.send().unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept-encoding");
    assert_ne!(packed.headers()["etag"], plain.headers()["etag"]);
    assert!(packed.bytes().unwrap().len() < plain.bytes().unwrap().len());
    let head = server.client.head(format!("{}/", server.base)).send();
    assert_eq!(head.unwrap().status(), 200);
    for outside in [
        "/../Cargo.toml",
        "/%2e%2e/Cargo.toml",
        "/..%5cCargo.toml",
        "/index.html%00",
        "/v1/models/%ff",
    ] {
        let answer = server.get(outside).send().unwrap();
        assert_eq!(answer.status(), 404, "{outside}");
        let body: serde_json::Value = answer.json().unwrap();
        assert_eq!(body["error"]["type"], "not_found_error", "{outside}");
    }
    let without = Server::start("--no-ui");
    assert_eq!(without.get("/").send().unwrap().status(), 404);
}
