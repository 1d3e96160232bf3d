//! How the server ends.

use std::thread;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use crate::process::{QUESTION, Server, chat, endless};

#[test]
fn a_signal_ends_it_after_the_answers_in_progress() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start("");
        server.ask("/v1/chat/completions", &chat(QUESTION));
        server.signal(signal);
        assert_eq!(server.wait(), Some(0), "{signal}");
    }
}

#[test]
fn answers_that_take_too_long_end_with_what_they_have() {
    let mut server = Server::start("--drain-timeout 1");
    let mut body = endless();
    body["stream"] = true.into();
    let response = server.post("/v1/chat/completions", &body).send().unwrap();
    let reader = thread::spawn(move || response.text());
    thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    server.signal("-TERM");
    let text = reader.join().unwrap().unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: {"));
    let events = events.map(|rest| serde_json::from_str::<Value>(&format!("{{{rest}")).unwrap());
    let finish = events.filter_map(|event| {
        let reason = event["choices"][0]["finish_reason"].as_str();
        reason.map(str::to_owned)
    });
    assert_eq!(finish.collect::<Vec<_>>(), ["length"]);
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn clients_that_come_while_it_ends_are_told() {
    let mut server = Server::start("--drain-timeout 3");
    let mut body = endless();
    body["stream"] = true.into();
    let response = server.post("/v1/chat/completions", &body).send().unwrap();
    // One that still waits would be refused.
    while server.json("/slots")[0]["is_processing"] != true {}
    server.signal("-TERM");
    // It is healthy until it has received the signal; a client of its own has a connection of its own.
    loop {
        let client = reqwest::blocking::Client::new();
        let health = client.get(format!("{}/health", server.base)).send();
        match health.unwrap().status() {
            StatusCode::SERVICE_UNAVAILABLE => break,
            status => assert_eq!(status, StatusCode::OK),
        }
    }
    let (status, _) = server.refused("/v1/chat/completions", &chat(QUESTION));
    assert_eq!(status, 503);
    assert!(response.text().unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_model_that_does_not_exist_is_an_error() {
    let mut server = Server::start_loading("-m nowhere.gguf");
    assert_eq!(server.wait(), Some(1));
}
