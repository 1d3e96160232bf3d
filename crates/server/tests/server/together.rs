//! Many clients at once.

use std::thread;
use std::time::Duration;

use reqwest::StatusCode;
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
