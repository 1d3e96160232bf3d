//! A second client follows the drafts of an answer.

use std::io::{BufRead as _, BufReader};
use std::thread;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::process::{Server, chat, endless};

const CHAT: &str = "/v1/chat/completions";

/// The events of a stream as they come.
fn events(response: Response) -> impl Iterator<Item = Value> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let lines = BufReader::new(response).lines().map_while(Result::ok);
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
}

/// Begins an answer as a stream, and returns its id and what follows.
fn begin(server: &Server, path: &str, mut body: Value) -> (String, impl Iterator<Item = Value>) {
    body["stream"] = true.into();
    let mut events = events(server.post(path, &body).send().unwrap());
    let first = events.next().unwrap();
    let id = [
        &first["id"],
        &first["response"]["id"],
        &first["message"]["id"],
    ];
    let id = id.into_iter().find_map(Value::as_str).unwrap().to_owned();
    (id, events)
}

fn follow(server: &Server, id: &str, query: &str) -> Response {
    let path = format!("/diffusion/drafts/{id}?{query}");
    server.get(&path).send().unwrap()
}

/// Steps of each canvas of an answer.
const STEPS: u64 = 12;

/// An answer of two canvases.
fn two_canvases() -> Value {
    let mut body = chat("Tell a story about Grace and a white owl.");
    let steps = json!({"confidence_threshold": 0.0, "max_steps": STEPS, "max_canvases": 2});
    body["diffusion"] = steps;
    body
}

/// An answer on a slot, so that others wait until it is dropped.
fn blocker(server: &Server) -> Response {
    let mut body = endless();
    body["stream"] = true.into();
    server.post(CHAT, &body).send().unwrap()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["event"] == kind)
        .collect()
}

/// The last draft of a canvas always comes, and none comes after its canvas.
fn check_last_drafts(events: &[Value], who: &str) {
    let shown = events.iter().filter(|event| event["event"] != "pieces");
    let shown: Vec<_> = shown.collect();
    let pairs = shown.windows(2);
    let pairs = pairs.filter(|pair| pair[1]["event"] == "canvas");
    for (block, pair) in pairs.enumerate() {
        assert_eq!(pair[0]["step"], STEPS - 1, "{who}");
        assert_eq!(pair[0]["block"], block, "{who}");
    }
}

#[test]
fn a_viewer_sees_what_the_client_sees() {
    let server = Server::start("-np 1");
    let blocker = blocker(&server);
    let mut body = two_canvases();
    body["diffusion"]["drafts"] = "full".into();
    body["diffusion"]["min_interval_ms"] = 0.into();
    body["temperature"] = 0.5.into();
    let (id, client) = begin(&server, CHAT, body);
    let viewers = [
        "drafts=full&min_interval_ms=0",
        "",
        "drafts=tokens&every=5&min_interval_ms=0",
    ];
    let viewers = viewers.map(|query| {
        let response = follow(&server, &id, query);
        thread::spawn(move || events(response).collect::<Vec<_>>())
    });
    drop(blocker);
    let client = client.filter_map(|chunk| chunk.get("diffusion").cloned());
    let client: Vec<Value> = client.collect();
    let without_index = |event: &Value| {
        let mut event = event.clone();
        assert_eq!(
            event.as_object_mut().unwrap().remove("index"),
            Some(json!(0))
        );
        event
    };
    check_last_drafts(&client, "client");
    let [full, text, rare] = viewers.map(|viewer| viewer.join().unwrap());
    for (events, level) in [(&full, "full"), (&text, "text"), (&rare, "tokens")] {
        let canvases = of_kind(events, "canvas").into_iter().map(without_index);
        let expected = of_kind(&client, "canvas").into_iter().cloned();
        assert_eq!(
            canvases.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "{level}"
        );
        assert_eq!(without_index(&events[0]), client[0]);
        let mut last = without_index(events.last().unwrap());
        assert_eq!(&last, client.last().unwrap());
        assert_eq!(last["event"].take(), "end");
        assert_eq!(last["ignored"], json!(["temperature"]));
        check_last_drafts(events, level);
        let drafts = of_kind(events, "draft");
        let at = |draft: &Value| (draft["block"].as_u64(), draft["step"].as_u64());
        assert!(
            drafts.windows(2).all(|pair| at(pair[0]) < at(pair[1])),
            "{level}"
        );
        assert_eq!(
            drafts.iter().all(|draft| draft["text"].is_string()),
            level == "text"
        );
        assert_eq!(
            drafts.iter().all(|draft| draft["sampled"].is_array()),
            level == "full"
        );
    }
    let steps = of_kind(&rare, "draft").into_iter();
    let steps: Vec<u64> = steps.map(|draft| draft["step"].as_u64().unwrap()).collect();
    assert!(
        steps.iter().all(|step| [4, 9, STEPS - 1].contains(step)),
        "{steps:?}"
    );
    assert_eq!(follow(&server, &id, "").status(), StatusCode::NOT_FOUND);
}

/// Nobody has asked for drafts, and the protocols have other prefixes.
#[test]
fn answers_of_every_protocol_are_followed_from_their_middle() {
    let server = Server::start("-np 1");
    let input = json!({"input": "Tell a story about Grace and a white owl.", "seed": 7});
    let messages = json!({"messages": endless()["messages"], "seed": 7, "max_tokens": 64});
    for (path, mut body) in [
        (CHAT, endless()),
        ("/v1/responses", input),
        ("/v1/messages", messages),
    ] {
        body["diffusion"] = endless()["diffusion"].clone();
        let (id, client) = begin(&server, path, body);
        while server.json("/slots")[0]["diffusion"]["step"].as_u64() < Some(2) {}
        let mut viewer = events(follow(&server, &id, ""));
        assert_eq!(viewer.next().unwrap()["event"], "start");
        let drafts: Vec<Value> = viewer.by_ref().take(3).collect();
        assert!(
            drafts
                .iter()
                .all(|draft| draft["type"] == "diffusion_frame"),
            "{drafts:?}"
        );
        let (first, last) = (&drafts[0]["step"], &drafts[2]["step"]);
        assert!(
            first.as_u64() > Some(0) && first.as_u64() < last.as_u64(),
            "{path}"
        );
        // Its client hangs up.
        drop(client);
        let last = viewer.last().unwrap();
        assert_eq!(last["error"]["code"], 503, "{last}");
        assert!(
            last["error"]["message"]
                .as_str()
                .unwrap()
                .contains("cancelled"),
            "{last}"
        );
        server.wait_until_idle();
    }
}

#[test]
fn several_answers_are_followed_together() {
    let server = Server::start("-np 2");
    let blockers = [(); 2].map(|()| blocker(&server));
    let mut body = two_canvases();
    body["n"] = 2.into();
    let (id, client) = begin(&server, CHAT, body);
    let viewer = follow(&server, &id, "");
    let viewer = thread::spawn(move || events(viewer).collect::<Vec<_>>());
    drop(blockers);
    assert!(client.count() > 0);
    let events = viewer.join().unwrap();
    for index in [0, 1] {
        let own = events.iter().filter(|event| event["index"] == index);
        let own: Vec<Value> = own.cloned().collect();
        assert_eq!(own[0]["seed"], 7 + index);
        assert_eq!(own.last().unwrap()["event"], "end");
        assert_eq!(of_kind(&own, "canvas").len(), 2);
    }
}

#[test]
fn who_may_follow_what() {
    let server = Server::start("--api-key k");
    let unknown = format!("{}/diffusion/drafts/chatcmpl-0123", server.base);
    let get = |url: &str| server.client.get(url).bearer_auth("k").send().unwrap();
    assert_eq!(
        server.client.get(&unknown).send().unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    let missing = get(&unknown);
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let error: Value = missing.json().unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("'chatcmpl-0123'"), "{message}");
    for (query, param) in [
        ("drafts=off", "drafts"),
        ("drafts=all", "drafts"),
        ("min_interval_ms=-1", "min_interval_ms"),
        ("every=0", "every"),
        ("every=x", "every"),
    ] {
        let refused = get(&format!("{unknown}?{query}"));
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{query}");
        let error: Value = refused.json().unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    let posted = server
        .client
        .post(&unknown)
        .bearer_auth("k")
        .send()
        .unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}
