//! Many clients at once.

use std::thread;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::process::{Server, chat, endless};

const QUESTIONS: [&str; 4] = [
    "What is the capital of Norway?",
    "What is the capital of France?",
    "Tell a story about Grace and a white owl.",
    "Count from 3 to 9.",
];

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].to_string()
}

/// Eight clients, some of which hang up: every answer is that of the same question alone.
#[test]
fn answers_are_those_of_each_question_alone() {
    let server = Server::start("-np 4");
    let ask = |question: &str, seed: u64| {
        let mut body = chat(question);
        body["seed"] = seed.into();
        body
    };
    let alone = |question, seed| content(&server.ask("/v1/chat/completions", &ask(question, seed)));
    let expected: Vec<String> = (0..8).map(|n| alone(QUESTIONS[n % 4], n as u64)).collect();
    thread::scope(|scope| {
        for client in 0..8 {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                for round in 0..4 {
                    let n = (client + round) % 8;
                    let body = ask(QUESTIONS[n % 4], n as u64);
                    if client == 7 {
                        let request = server.post("/v1/chat/completions", &endless());
                        let _ = request.timeout(Duration::from_millis(50)).send();
                        continue;
                    }
                    let answer = server.ask("/v1/chat/completions", &body);
                    assert_eq!(content(&answer), expected[n], "{n}");
                }
            });
        }
    });
    server.wait_until_idle();
}

#[test]
fn a_full_queue_refuses_at_once() {
    let server = Server::start("-np 1 --queue 1 --metrics");
    thread::scope(|scope| {
        let busy: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let request = server.post("/v1/chat/completions", &endless());
                    request.timeout(Duration::from_secs(2)).send()
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        let refused = server
            .post("/v1/chat/completions", &chat("Hi"))
            .send()
            .unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let seconds: u32 = refused.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=30).contains(&seconds));
        for client in busy {
            assert!(client.join().unwrap().unwrap_err().is_timeout());
        }
    });
    server.wait_until_idle();
    server.ask("/v1/chat/completions", &chat("Hi"));
    let metrics = server.get("/metrics").send().unwrap().text().unwrap();
    assert!(
        metrics.contains("rejections_total{reason=\"queue\"} 1"),
        "{metrics}"
    );
}

/// A stream that goes on until it is dropped.
fn busy(server: &Server, key: &str) -> Response {
    let mut body = endless();
    body["stream"] = true.into();
    let request = server.post("/v1/chat/completions", &body);
    let response = request.bearer_auth(key).send().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response
}

#[test]
fn a_key_has_a_share_of_the_server() {
    let server = Server::start_loading("-np 2 --api-key one,two --max-per-key 1");
    let ask = |key: &str| {
        let request = server.post("/v1/chat/completions", &chat("Hi"));
        request.bearer_auth(key).send().unwrap()
    };
    while ask("one").status() != StatusCode::OK {}
    let running = busy(&server, "one");
    let refused = ask("one");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    assert_eq!(ask("two").status(), StatusCode::OK);
    drop(running);
    while ask("one").status() != StatusCode::OK {}
}

#[test]
fn prompts_that_wait_have_a_number_of_tokens() {
    let server = Server::start("-np 1 --queue 8 --queue-tokens 1");
    let running = busy(&server, "");
    while server.json("/slots")[0]["is_processing"] != true {}
    let waiting = busy(&server, ""); // although it has more than one token: none waits before it
    let refused = server.post("/v1/chat/completions", &chat("Hi")).send();
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().unwrap();
    assert!(error.to_string().contains("too many tokens"), "{error}");
    drop((running, waiting));
    server.wait_until_idle();
    server.ask("/v1/chat/completions", &chat("Hi"));
}

/// Long runs of one kind, which tokenizers and templates of others did not survive.
#[test]
fn hostile_texts() {
    let server = Server::start("");
    for letter in ["a", " ", "\n", "é", "🦙", "<", "{{"] {
        let text = letter.repeat((1 << 18) / letter.len());
        let tokens = server.ask("/tokenize", &json!({"content": text}));
        assert!(
            !tokens["tokens"].as_array().unwrap().is_empty(),
            "{letter:?}"
        );
    }
    let deep = "[".repeat(100_000);
    let request = server
        .client
        .post(format!("{}/completion", server.base))
        .body(deep);
    assert_eq!(request.send().unwrap().status(), 400);
    server.ask("/v1/chat/completions", &chat("Hi"));
}
