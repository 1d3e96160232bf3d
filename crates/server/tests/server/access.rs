//! Who may use the server.

use serde_json::{Value, json};

use crate::process::Server;

#[test]
fn keys() {
    let server = Server::start_loading("--api-key one,two");
    let status = |request: reqwest::blocking::RequestBuilder| request.send().unwrap().status();
    while status(server.get("/health")) != 200 {}
    assert_eq!(status(server.get("/v1/models")), 200);
    for path in ["/props", "/slots", "/nowhere"] {
        assert_eq!(status(server.get(path)), 401, "{path}");
        assert_eq!(status(server.get(path).bearer_auth("three")), 401, "{path}");
    }
    let tokens = json!({"content": "a"});
    assert_eq!(status(server.post("/tokenize", &tokens)), 401);
    assert_eq!(
        status(server.post("/tokenize", &tokens).bearer_auth("two")),
        200
    );
    assert_eq!(
        status(server.post("/tokenize", &tokens).header("x-api-key", "one")),
        200
    );
    let body = server.get("/props").send().unwrap().text().unwrap();
    assert!(body.contains("authentication_error"), "{body}");
    // Anthropic's clients read errors of another form.
    let message = json!({"messages": []});
    for (request, expected) in [
        (server.post("/v1/messages", &message), 401),
        (server.get("/v1/messages").bearer_auth("one"), 405),
    ] {
        let refused = request.send().unwrap();
        assert_eq!(refused.status(), expected);
        let body: Value = refused.json().unwrap();
        assert_eq!(
            (&body["type"], body["error"].is_object()),
            (&json!("error"), true)
        );
    }
}

#[test]
fn pages_of_other_origins() {
    let server = Server::start("--cors-origins localhost,https://a.org");
    let from = |origin: &str| {
        server
            .get("/props")
            .header("origin", origin)
            .send()
            .unwrap()
    };
    for origin in ["http://localhost:3000", "https://a.org"] {
        let response = from(origin);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["access-control-allow-origin"], origin);
    }
    let foreign = from("https://b.org");
    assert_eq!(foreign.status(), 403);
    assert!(
        !foreign
            .headers()
            .contains_key("access-control-allow-origin")
    );
    let rebound = server
        .get("/props")
        .header("host", "evil.org")
        .send()
        .unwrap();
    assert_eq!(rebound.status(), 403);
    let preflight = server
        .client
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/v1/chat/completions", server.base),
        )
        .header("origin", "https://a.org")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type")
        .send()
        .unwrap();
    assert_eq!(preflight.status(), 200);
    assert_eq!(
        preflight.headers()["access-control-allow-headers"],
        "content-type"
    );
}
