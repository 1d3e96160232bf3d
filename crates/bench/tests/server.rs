//! `--server` from outside, against a server that answers by a script.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use assert_cmd::Command;
use serde_json::{Value, json};

/// A request to the scripted server.
#[derive(Clone, Debug)]
struct Asked {
    key: Option<String>,
    body: Value,
}

/// What the scripted server does with chats.
#[derive(Clone, Copy, PartialEq)]
enum Script {
    /// Answers with the seed; answers without an end last until the client hangs up.
    Answers,
    /// The same, but has no place for the first two.
    IsFull,
    /// Fails in the middle of an answer.
    Fails,
    /// Wants a key.
    IsLocked,
}

/// How many looks at the slots find one in use after its client has hung up.
const LOOKS: usize = 10;

struct Scripted {
    address: String,
    chats: Arc<Mutex<Vec<Asked>>>,
}

/// What the connections of a server share.
#[derive(Default)]
struct Shared {
    chats: Arc<Mutex<Vec<Asked>>>,
    /// Connections that are not answered.
    open: AtomicUsize,
    /// Looks at the slots that will find one in use.
    looks: AtomicUsize,
}

impl Scripted {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared: Arc<Shared> = Arc::default();
        let chats = Arc::clone(&shared.chats);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Before any connection that comes later.
                shared.open.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    serve(stream.unwrap(), script, &shared);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, chats }
    }

    fn chats(&self) -> Vec<Asked> {
        self.chats.lock().unwrap().clone()
    }

    fn measure(&self, args: &[&str]) -> Output {
        bench(&[&["--server", &self.address], args].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.measure(&[&["-o", "json"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Answers one request of a connection.
fn serve(stream: TcpStream, script: Script, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let (mut length, mut key) = (0, None);
    loop {
        let mut line = String::new();
        // An error ends the head, and then the body is missing.
        let _ = reader.read_line(&mut line);
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => key = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return; // the client has hung up
    }
    let answer = match first.split(' ').nth(1).unwrap() {
        "/v1/models" => ok(&json!({"data": [{"id": "scripted"}]}).to_string()),
        "/slots" => {
            let less = |looks: usize| looks.checked_sub(1);
            let looks = shared
                .looks
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            let is_busy = shared.open.load(Ordering::SeqCst) > 1 || looks.is_ok();
            ok(&json!([{"is_processing": false}, {"is_processing": is_busy}]).to_string())
        }
        _ => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let index = {
                let mut chats = shared.chats.lock().unwrap();
                chats.push(Asked {
                    key,
                    body: body.clone(),
                });
                chats.len() - 1
            };
            match script {
                Script::IsFull if index < 2 => {
                    error(503, "Retry-After: 0\r\n", "the queue is full")
                }
                Script::IsLocked => error(401, "", "a key is needed"),
                Script::Fails => ok("data: {\"error\":{\"message\":\"a step failed\"}}\n\n"),
                _ if is_endless(&body) => {
                    // The end of the connection.
                    let _ = reader.read(&mut [0]);
                    shared.looks.store(LOOKS, Ordering::SeqCst);
                    return;
                }
                _ => ok(&events(&body)),
            }
        }
    };
    // The client may be gone.
    let _ = reader.get_mut().write_all(answer.as_bytes());
}

fn is_endless(body: &Value) -> bool {
    body["diffusion"]["max_steps"] == 100_000
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn error(status: u16, headers: &str, message: &str) -> String {
    let body = json!({"error": {"message": message}}).to_string();
    format!(
        "HTTP/1.1 {status} No\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer of 10 tokens in 4 steps, of which drafts show 3.
fn events(body: &Value) -> String {
    let mut events = Vec::new();
    let drafts = body["diffusion"].get("drafts").is_some();
    if drafts {
        let draft = json!({"choices": [{"delta": {}}], "diffusion": {"event": "draft"}});
        events.extend([draft.clone(), draft.clone(), draft]);
    }
    let answer = format!("the seed is {}", body["seed"]);
    events.push(json!({"choices": [{"delta": {"content": answer}}]}));
    events.push(json!({"choices": [{"delta": {}}], "diffusion": {
        "event": "end", "steps": 4, "prefill_ms": 1.0, "denoise_ms": 8.0, "commit_ms": 0.0,
        "queue_ms": 0.5, "batch_mean": 2.0,
    }}));
    events.push(json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 10}}));
    let events = events.iter().map(|event| format!("data: {event}\n\n"));
    events.chain(["data: [DONE]\n\n".into()]).collect()
}

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-bench"));
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_combination_is_a_test() {
    let server = Scripted::start(Script::Answers);
    let args = "--parallel 1,3 --drafts off,tokens --requests 5 -r 2 -n 10 --steps 4 --no-warmup";
    let report = server.json(&args.split(' ').collect::<Vec<_>>());
    let rows = report["loads"].as_array().unwrap();
    let tests: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {} {}", row["drafts"], row["n_streams"], row["n_gen"]))
        .collect();
    let expected = [
        "\"off\" 1 10",
        "\"off\" 3 10",
        "\"tokens\" 1 10",
        "\"tokens\" 3 10",
    ];
    assert_eq!(tests, expected);
    for row in rows {
        assert_eq!(
            (&row["n_requests"], &row["n_refused"]),
            (&json!(10), &json!(0))
        );
        assert_eq!(
            (&row["answer_tokens"], &row["prompt_tokens"]),
            (&json!(100), &json!(90))
        );
        assert_eq!(
            (&row["step_ms"], &row["tokens_per_step"]),
            (&json!(2.0), &json!(2.5))
        );
        assert_eq!(
            (&row["canvases_per_step"], &row["model"]),
            (&json!(2.0), &json!("scripted"))
        );
        assert_eq!(row["n_differing"], 0);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0, "{row}");
        let fairness = row["fairness"].as_f64().unwrap();
        assert!((1.0 / 3.0..=1.0).contains(&fairness), "{row}");
        let dropped = match row["drafts"] == "off" {
            true => (json!(0), Value::Null),
            false => (json!(30), json!(10)),
        };
        assert_eq!(
            (
                row["drafts_received"].clone(),
                row["drafts_dropped"].clone()
            ),
            dropped
        );
    }
    assert_eq!(rows[0]["ratio"], 1.0);
    for row in report["latencies"].as_array().unwrap() {
        assert_eq!(row["count"], 10, "{row}");
        let [p50, p95, p99, max] =
            ["p50", "p95", "p99", "max"].map(|key| row[key].as_f64().unwrap());
        assert!(p50 <= p95 && p95 <= p99 && p99 <= max, "{row}");
    }
    let what: Vec<_> = report["latencies"].as_array().unwrap()[..4]
        .iter()
        .map(|row| row["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        what,
        ["first canvas", "answer", "queue", "outside the engine"]
    );
    // Each request is the same in all tests and repetitions.
    let chats = server.chats();
    assert_eq!(chats.len(), 40);
    for chat in chats {
        let body = chat.body;
        assert_eq!(
            (&body["max_tokens"], &body["stream"]),
            (&json!(10), &json!(true))
        );
        assert_eq!(body["diffusion"]["max_steps"], 4);
        assert_eq!(
            body["diffusion"]["confidence_threshold"], 0,
            "all steps are taken"
        );
        assert_eq!(body["cache_prompt"], false);
        assert!(body["seed"].as_u64().unwrap() < 5);
    }
}

#[test]
fn streams_take_keys_and_questions_in_turn() {
    let server = Scripted::start(Script::Answers);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("questions.txt");
    std::fs::write(&file, "first\n\nsecond\n").unwrap();
    let args = [
        "--parallel",
        "2",
        "--api-key",
        "a,b",
        "--requests",
        "4",
        "-r",
        "1",
    ];
    let prompts = ["--prompts", file.to_str().unwrap(), "--cache-prompt"];
    server.json(&[&args[..], &prompts].concat());
    let chats = server.chats();
    // The warm-up has a request for each stream.
    assert_eq!(chats.len(), 2 + 4);
    assert!(
        chats
            .iter()
            .all(|chat| ["a", "b"].contains(&chat.key.as_deref().unwrap()))
    );
    for Asked { body, .. } in chats {
        let expected = ["first", "second"][body["seed"].as_u64().unwrap() as usize % 2];
        assert_eq!(body["messages"][0]["content"], expected);
        assert_eq!(body["cache_prompt"], true);
        assert!(body.get("diffusion").is_none() && body.get("max_tokens").is_none());
    }
}

#[test]
fn refused_requests_are_sent_again() {
    let server = Scripted::start(Script::IsFull);
    let args = [
        "--parallel",
        "2",
        "--requests",
        "3",
        "-r",
        "1",
        "--no-warmup",
    ];
    let report = server.json(&args);
    let row = &report["loads"][0];
    assert_eq!(
        (&row["n_requests"], &row["n_refused"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(server.chats().len(), 5);
    let latencies = report["latencies"].as_array().unwrap();
    let refusals = latencies
        .iter()
        .find(|row| row["what"] == "refusal")
        .unwrap();
    assert_eq!(refusals["count"], 2);
}

#[test]
fn slots_are_watched_after_clients_have_hung_up() {
    let server = Scripted::start(Script::Answers);
    let args = "--parallel 2 --requests 2 -r 1 --no-warmup --cancels 8";
    let report = server.json(&args.split(' ').collect::<Vec<_>>());
    let latencies = report["latencies"].as_array().unwrap();
    let free = latencies
        .iter()
        .find(|row| row["what"] == "slots free")
        .unwrap();
    assert_eq!(free["count"], 8);
    // A millisecond between looks. Some clients hang up before the server knows them.
    assert!(free["max"].as_f64().unwrap() >= LOOKS as f64, "{free}");
    let endless = |chat: &Asked| is_endless(&chat.body);
    let chats = server.chats();
    assert!(chats.iter().any(endless));
    assert_eq!(chats.iter().filter(|chat| !endless(chat)).count(), 2);
}

#[test]
fn tables_of_a_server() {
    let server = Scripted::start(Script::Answers);
    let args = [
        "--parallel",
        "1,2",
        "--requests",
        "2",
        "-r",
        "1",
        "--no-warmup",
    ];
    let measured = |format: &str| {
        let output = server.measure(&[&args[..], &["-o", format]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let tables = measured("md");
    let columns: Vec<usize> = tables.lines().map(|row| row.matches('|').count()).collect();
    let expected = [&[18; 4][..], &[0], &[10; 10]].concat();
    assert_eq!(columns, expected, "{tables}");
    assert!(tables.starts_with("| model "), "{tables}");
    let csv = measured("csv");
    let tables: Vec<&str> = csv.split("\n\n").collect();
    for (table, (rows, column)) in tables.iter().zip([(2, "fairness"), (8, "p99")]) {
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        assert!(reader.headers().unwrap().iter().any(|head| head == column));
        assert_eq!(
            reader.records().filter_map(Result::ok).count(),
            rows,
            "{table}"
        );
    }
    let kinds: Vec<Value> = measured("jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone())
        .collect();
    assert_eq!(kinds, [&["loads"; 2][..], &["latencies"; 8]].concat());
}

#[test]
fn errors_name_the_server_and_what_to_do() {
    // A free port of the dynamic range could become that of another server meanwhile.
    let nobody = "http://127.0.0.1:1";
    let locked = Scripted::start(Script::IsLocked).address;
    let failing = Scripted::start(Script::Fails).address;
    for (url, more, parts) in [
        (
            nobody,
            &[][..],
            &[nobody, "start llama-diffusion-server", "--server"][..],
        ),
        (
            &locked,
            &[],
            &[locked.as_str(), "401", "a key is needed", "--api-key"],
        ),
        (&failing, &[], &[failing.as_str(), "a step failed"]),
        ("localhost:8080", &[], &["localhost:8080", "http://"]),
        ("https://localhost", &[], &["https://localhost", "no TLS"]),
        ("http://", &[], &["give the address with http://"]),
        (&failing, &["-t", "2"], &["--threads", "--server"]),
        (
            &failing,
            &["--synthetic", "tiny:f16"],
            &["--synthetic", "--server"],
        ),
        (&failing, &["-ngl", "1"], &["--gpu-layers", "--server"]),
        (&failing, &["--prompts", "no/such"], &["no/such"]),
        (&failing, &["--drafts", "some"], &["'some'", "tokens"]),
        (&failing, &["--parallel", "0"], &["from 1 to 256"]),
    ] {
        let output = bench(&[&["--server", url], more].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url} {more:?}: {message}");
        assert_eq!(text(&output.stdout), "", "{url} {more:?}");
        for part in parts {
            assert!(
                message.contains(part),
                "{url} {more:?}: {part:?} is not in {message:?}"
            );
        }
    }
    let output = bench(&["--synthetic", "tiny:f16", "--cancels", "1"]);
    assert!(
        text(&output.stderr).contains("--server"),
        "{}",
        text(&output.stderr)
    );
}
