//! Answers that come piece by piece.

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{QUESTION, Server, chat, endless};

fn delta(event: &Value) -> &Value {
    &event["choices"][0]["delta"]
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let server = Server::start("");
    let story = chat("Tell a story about Grace and a white owl.");
    let whole = server.ask("/v1/chat/completions", &story);
    let mut body = story;
    body["stream_options"] = json!({"include_usage": true});
    let events = server.stream("/v1/chat/completions", &body);
    assert_eq!(
        *delta(&events[0]),
        json!({"role": "assistant", "content": null})
    );
    let texts = events
        .iter()
        .filter_map(|event| delta(event)["content"].as_str());
    let texts: Vec<&str> = texts.collect();
    assert_eq!(texts.concat(), whole["choices"][0]["message"]["content"]);
    assert!(texts.iter().all(|text| !text.is_empty()));
    let [.., end, usage] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!(*delta(end), json!({}));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"]["total_tokens"],
        whole["usage"]["total_tokens"]
    );
    let id = &events[0]["id"];
    assert!(events.iter().all(|event| event["id"] == *id));
    // The raw text ends as OpenAI's does.
    body["stream"] = true.into();
    let raw = server.post("/v1/chat/completions", &body).send().unwrap();
    assert!(raw.text().unwrap().ends_with("data: [DONE]\n\n"));
}

#[test]
fn progress_of_the_prompt() {
    let server = Server::start("");
    let mut body = chat(QUESTION);
    body["return_progress"] = true.into();
    let events = server.stream("/v1/chat/completions", &body);
    let progress: Vec<&Value> = events
        .iter()
        .filter_map(|e| e.get("prompt_progress"))
        .collect();
    assert_eq!(progress[0]["processed"], 0);
    let last = progress.last().unwrap();
    assert_eq!(last["processed"], last["total"]);
}

#[test]
fn each_part_has_its_timings_if_they_are_asked_for() {
    let server = Server::start("");
    let story = "Tell a story about Grace and a white owl.";
    let edit = json!({"text": "Tom takes a red fox.", "instruction": "Rewrite in the past tense"});
    for (path, mut body) in [
        ("/v1/chat/completions", chat(story)),
        (
            "/v1/completions",
            json!({"prompt": story, "max_tokens": 40}),
        ),
        ("/completion", json!({"prompt": story, "n_predict": 40})),
        (
            "/infill",
            json!({"input_prefix": "A fox and", "input_suffix": "went home.", "n_predict": 8}),
        ),
        ("/diffusion/edit", edit),
    ] {
        let is_part = |event: &&Value| {
            let choice = &event["choices"][0];
            let texts = [
                &event["content"],
                &choice["text"],
                &choice["delta"]["content"],
            ];
            let has_text = texts
                .iter()
                .any(|text| text.as_str().is_some_and(|text| !text.is_empty()));
            has_text && event["stop"] != true
        };
        let events = server.stream(path, &body);
        let mut parts = events.iter().filter(is_part);
        assert!(parts.all(|part| part.get("timings").is_none()), "{path}");
        body["timings_per_token"] = true.into();
        let events = server.stream(path, &body);
        let parts: Vec<&Value> = events.iter().filter(is_part).collect();
        let counts = parts.iter().map(|part| {
            let timings = &part["timings"];
            assert!(timings["prompt_ms"].is_number(), "{path}: {part}");
            timings["predicted_n"].as_u64().unwrap()
        });
        let counts: Vec<u64> = counts.collect();
        // The text of a gap may be parts of the tokens around it.
        let has_tokens = counts[0] > 0 || path == "/infill";
        assert!(counts.is_sorted() && has_tokens, "{path}: {counts:?}");
        let end = events.last().unwrap();
        assert!(end["timings"]["predicted_n"].as_u64() >= counts.last().copied());
        assert_eq!(end["diffusion"]["ignored"], json!([]), "{path}");
    }
}

#[test]
fn drafts_come_with_empty_deltas() {
    let server = Server::start("");
    for level in ["text", "tokens", "full"] {
        let mut body = chat(QUESTION);
        let plain = server.stream("/v1/chat/completions", &body);
        assert!(
            plain
                .iter()
                .all(|event| event["diffusion"]["event"] != "draft")
        );
        body["diffusion"] = json!({"drafts": level, "min_interval_ms": 0});
        let events = server.stream("/v1/chat/completions", &body);
        let drafts = events
            .iter()
            .filter(|event| event["diffusion"]["event"] == "draft");
        let drafts: Vec<&Value> = drafts.collect();
        assert!(!drafts.is_empty(), "{level}");
        for draft in &drafts {
            assert_eq!(*delta(draft), json!({}));
            assert_eq!(draft["diffusion"].get("text").is_some(), level == "text");
            assert_eq!(draft["diffusion"].get("canvas").is_some(), level == "full");
        }
        let names = events
            .iter()
            .filter_map(|event| event["diffusion"]["event"].as_str());
        let names: Vec<&str> = names.collect();
        assert_eq!(names.first(), Some(&"start"));
        assert!(names.contains(&"canvas"));
        let text = |events: &[Value]| -> String {
            events
                .iter()
                .filter_map(|event| delta(event)["content"].as_str())
                .collect()
        };
        assert_eq!(text(&events), text(&plain), "{level}");
    }
}

/// As Mercury's clients read it: each content replaces the one before.
#[test]
fn diffusing_repeats_the_whole_text() {
    let server = Server::start("");
    let mut body = chat("Tell a story about Grace and a white owl.");
    let whole = server.ask("/v1/chat/completions", &body);
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let done = |events: &[Value]| -> usize {
        let canvases = events
            .iter()
            .filter(|e| e["diffusion"]["event"] == "canvas");
        canvases.count()
    };
    body["diffusion"] = json!({"drafts": "full", "min_interval_ms": 0});
    let canvases = done(&server.stream("/v1/chat/completions", &body));
    assert!(canvases > 1, "the story needs several canvases");
    body["diffusing"] = true.into();
    let events = server.stream("/v1/chat/completions", &body);
    let contents = events
        .iter()
        .filter_map(|event| delta(event)["content"].as_str());
    let contents: Vec<&str> = contents.collect();
    assert_eq!(*contents.last().unwrap(), whole);
    assert!(contents.len() > canvases, "no drafts: {contents:?}");
    // Finished canvases stay at the beginning: the last drafts begin as the answer does.
    let last = contents[contents.len() - 2];
    let same = last.chars().zip(whole.chars()).take_while(|(a, b)| a == b);
    assert!(same.count() > 8, "{last}");
    assert!(
        events
            .iter()
            .all(|event| event["diffusion"]["event"] != "draft")
    );
}

#[test]
fn a_client_that_hangs_up_frees_its_slot() {
    let server = Server::start("--metrics");
    for stream in [true, false] {
        let mut body = endless();
        body["stream"] = stream.into();
        let request = server.post("/v1/chat/completions", &body);
        match stream {
            true => {
                let mut response = request.send().unwrap();
                let mut first = [0; 16];
                response.read_exact(&mut first).unwrap();
            }
            false => {
                let error = request.timeout(Duration::from_millis(300)).send();
                assert!(error.unwrap_err().is_timeout());
            }
        }
        let waited = server.wait_until_idle();
        assert!(waited < Duration::from_secs(2), "{waited:?}");
    }
    let metrics = server.get("/metrics").send().unwrap().text().unwrap();
    for line in [
        "llama_diffusion_cancelled_total{while=\"running\"} 2",
        "llama_diffusion_requests_total{endpoint=\"chat\",finish=\"cancelled\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}

#[test]
fn an_answer_may_have_a_time_limit() {
    let server = Server::start("");
    let mut body = endless();
    body["t_max_predict_ms"] = 100.into();
    let answer = server.ask("/v1/chat/completions", &body);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}
