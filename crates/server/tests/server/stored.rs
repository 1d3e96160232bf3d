//! Stored responses, and requests that build on them.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{QUESTION, Server};

const PATH: &str = "/v1/responses";
const NEXT: &str = "Tell a story about Grace and a white owl.";

/// The status and the body of an answer without a request body.
fn asked(request: reqwest::blocking::RequestBuilder) -> (u16, Value) {
    let response = request.send().unwrap();
    let status = response.status().as_u16();
    (status, response.json().unwrap())
}

fn of(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().unwrap())
}

fn delete(server: &Server, path: &str) -> (u16, Value) {
    asked(server.client.delete(format!("{}{path}", server.base)))
}

fn text(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

/// The body of a second turn, and one that has the same conversation as its input. Their prompts are not
/// cached, as two answers are the same only if their prompts are encoded in the same passes.
fn second_turn(first: &Value) -> [Value; 2] {
    let question = json!({"role": "user", "content": QUESTION});
    let answer = first["output"][0].clone();
    let whole = json!([question, answer, {"role": "user", "content": NEXT}]);
    let built = json!({"previous_response_id": first["id"], "input": NEXT, "seed": 7,
        "cache_prompt": false});
    let whole = json!({"input": whole, "seed": 7, "store": false, "cache_prompt": false});
    [built, whole]
}

#[test]
fn a_second_turn_is_answered_as_the_whole_conversation() {
    let server = Server::start("");
    // The instructions of a turn are its own.
    let first = json!({"input": QUESTION, "seed": 7, "instructions": "Be brief."});
    let first = server.ask(PATH, &first);
    assert_ne!(text(&first), "");
    let [built, whole] = second_turn(&first);
    let [second, expected] = [&built, &whole].map(|body| server.ask(PATH, body));
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(
        (&second["store"], &expected["store"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(text(&second), text(&expected));
    for count in ["input_tokens", "output_tokens"] {
        assert_eq!(second["usage"][count], expected["usage"][count]);
    }
    let counted = |body| server.ask("/v1/responses/input_tokens", body);
    assert_eq!(counted(&built), counted(&whole));
    // The same as a stream, which the third turn builds on.
    let events = server.stream(PATH, &built);
    let streamed = &events.last().unwrap()["response"];
    assert_eq!(text(streamed), text(&second));
    assert_eq!(streamed["previous_response_id"], first["id"]);
    let third = json!({"previous_response_id": streamed["id"], "input": QUESTION, "seed": 7});
    let third = server.ask("/responses", &third);
    assert!(third["usage"]["input_tokens"].as_u64() > second["usage"]["input_tokens"].as_u64());
    assert_eq!(server.json(&of(streamed)), *streamed);
    let events = server.get(&format!("{}?stream=true", of(streamed)));
    let events = events.send().unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let all = events.text().unwrap();
    assert!(all.starts_with("event: response.created\ndata: {"), "{all}");
    assert!(all.contains(&streamed.to_string()), "{all}");
}

#[test]
fn responses_are_shown_listed_and_deleted() {
    let server = Server::start("--metrics");
    let first = server.ask(PATH, &json!({"input": QUESTION, "seed": 7}));
    let [built, _] = second_turn(&first);
    let second = server.ask(PATH, &built);
    assert_eq!(server.json(&of(&first)), first);
    assert_eq!(server.json(&of(&second)[3..]), second);
    let items = server.json(&format!("{}/input_items?order=asc", of(&second)));
    let data = items["data"].as_array().unwrap();
    let texts: Vec<&Value> = data
        .iter()
        .map(|item| &item["content"][0]["text"])
        .collect();
    assert_eq!(texts, [&json!(QUESTION), text(&first), &json!(NEXT)]);
    assert_eq!(data[1]["id"], first["output"][0]["id"]);
    let page = server.json(&format!("{}/input_items?limit=1", of(&second)));
    assert_eq!(
        (&page["data"][0], &page["has_more"]),
        (&data[2], &json!(true))
    );
    let last = page["last_id"].as_str().unwrap();
    let page = server.json(&format!("{}/input_items?after={last}", of(&second)));
    assert_eq!(page["data"], json!([data[1], data[0]]));
    let metrics = server.get("/metrics").send().unwrap().text().unwrap();
    assert!(
        metrics.contains("llama_diffusion_responses_kept 2\n"),
        "{metrics}"
    );
    for (path, param) in [
        ("?stream=perhaps", "stream"),
        ("?stream=true&starting_after=3", "starting_after"),
        ("/input_items?limit=0", "limit"),
        ("/input_items?limit=101", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=x", "after"),
    ] {
        let (status, error) = asked(server.get(&format!("{}{path}", of(&second))));
        assert_eq!(
            (status, &error["error"]["param"]),
            (400, &json!(param)),
            "{path}"
        );
    }
    let (status, error) = server.refused(&format!("{}/cancel", of(&first)), &json!({}));
    assert_eq!(
        (status, &error["type"]),
        (400, &json!("invalid_request_error"))
    );
    let (status, deleted) = delete(&server, &of(&first));
    let expected = json!({"id": first["id"], "object": "response", "deleted": true});
    assert_eq!((status, deleted), (200, expected));
    assert_eq!(delete(&server, &of(&first)).0, 404);
    for path in ["", "/input_items"] {
        let (status, error) = asked(server.get(&format!("{}{path}", of(&first))));
        assert_eq!(
            (status, &error["error"]["code"]),
            (404, &json!(404)),
            "{path}"
        );
    }
    assert_eq!(
        server
            .refused(&format!("{}/cancel", of(&first)), &json!({}))
            .0,
        404
    );
    let (status, error) = asked(server.post(PATH, &built));
    let error = &error["error"];
    assert_eq!(
        (status, &error["code"]),
        (400, &json!("previous_response_not_found"))
    );
    assert_eq!(error["param"], "previous_response_id");
    // The second one has its conversation still.
    let third = json!({"previous_response_id": second["id"], "input": QUESTION});
    server.ask(PATH, &third);
}

#[test]
fn pages_of_items_with_one_id_end() {
    let server = Server::start("");
    let message = json!({"role": "user", "content": "Hi", "id": "mine"});
    let body = json!({"input": [message, message, message], "max_output_tokens": 1});
    let path = format!("{}/input_items?limit=1", of(&server.ask(PATH, &body)));
    let mut ids: Vec<String> = Vec::new();
    loop {
        let after = ids.last().map(|id| format!("&after={id}"));
        let page = server.json(&format!("{path}{}", after.unwrap_or_default()));
        ids.push(page["last_id"].as_str().unwrap().to_owned());
        assert!(ids.len() <= 3, "{ids:?}");
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!((ids.len(), ids[2].as_str()), (3, "mine"));
}

#[test]
fn what_is_not_stored_is_not_there() {
    let server = Server::start("--responses-kept 1");
    let unstored = server.ask(PATH, &json!({"input": QUESTION, "store": false}));
    assert_eq!(unstored["store"], false);
    let first = server.ask(PATH, &json!({"input": QUESTION}));
    let second = server.ask(PATH, &json!({"input": QUESTION}));
    for (response, expected) in [(&unstored, 404), (&first, 404), (&second, 200)] {
        let status = server.get(&of(response)).send().unwrap().status();
        assert_eq!(status, expected);
    }
    let off = Server::start("--responses-kept 0");
    let first = off.ask(PATH, &json!({"input": QUESTION}));
    assert_eq!(first["store"], false);
    let (status, error) = off.refused(PATH, &second_turn(&first)[0]);
    assert_eq!(
        (status, &error["param"]),
        (400, &json!("previous_response_id"))
    );
    let (status, error) = asked(off.get(&of(&first)));
    assert_eq!(status, 501);
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("--responses-kept"), "{message}");
}

#[test]
fn another_key_sees_nothing() {
    let server = Server::start("--api-key one,two");
    let with = |request: reqwest::blocking::RequestBuilder, key| asked(request.bearer_auth(key));
    let (_, first) = with(server.post(PATH, &json!({"input": QUESTION})), "one");
    let path = of(&first);
    let built = second_turn(&first)[0].clone();
    let delete = || server.client.delete(format!("{}{path}", server.base));
    for path in [path.clone(), format!("{path}/input_items")] {
        assert_eq!(with(server.get(&path), "two").0, 404);
        assert_eq!(asked(server.get(&path)).0, 401);
    }
    assert_eq!(with(delete(), "two").0, 404);
    let (status, error) = with(server.post(PATH, &built), "two");
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("previous_response_not_found"))
    );
    let counted = server.post("/v1/responses/input_tokens", &built);
    assert_eq!(with(counted, "two").0, 400);
    assert_eq!(with(server.post(PATH, &built), "one").0, 200);
    assert_eq!(with(delete(), "one").0, 200);
}

/// Who hangs up has seen the id, and may ask what became of the response.
#[test]
fn a_stream_whose_client_hangs_up_is_cancelled() {
    let server = Server::start("");
    let body = json!({"input": NEXT, "stream": true,
        "diffusion": {"confidence_threshold": 0.0, "max_steps": 100_000}});
    let mut response = server.post(PATH, &body).send().unwrap();
    let mut begin = [0; 400];
    response.read_exact(&mut begin).unwrap();
    let begin = String::from_utf8_lossy(&begin).into_owned();
    let (_, rest) = begin.split_once("\"id\":\"").unwrap();
    let path = format!("{PATH}/{}", rest.split('"').next().unwrap());
    assert_eq!(asked(server.get(&path)).0, 404);
    drop(response);
    let start = Instant::now();
    let stored = loop {
        let (status, stored) = asked(server.get(&path));
        if status == 200 {
            break stored;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{stored}");
    };
    assert_eq!(
        (&stored["status"], &stored["usage"]),
        (&json!("cancelled"), &Value::Null)
    );
    let events = server.get(&format!("{path}?stream=true")).send().unwrap();
    let events = events.text().unwrap();
    let (_, last) = events.rsplit_once("event: ").unwrap();
    assert!(last.starts_with("response.incomplete\n"), "{last}");
    assert!(last.contains(&stored.to_string()), "{last}");
}
