//! A running server.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on the demo model. It ends with this value, and a test that fails shows its log.
pub struct Server {
    pub child: Child,
    pub base: String,
    pub client: Client,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on any port, and waits until it answers.
    pub fn start(flags: &str) -> Self {
        let server = Self::start_loading(flags);
        let start = Instant::now();
        while server.get("/health").send().unwrap().status() != StatusCode::OK {
            assert!(start.elapsed() < PATIENCE, "it does not load");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Starts a server, and waits until it listens.
    pub fn start_loading(flags: &str) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("llama-diffusion-server"))
            .args(["--port", "0", "-s", "7", "-t", "1"])
            .args(flags.split_whitespace())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let base = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said}"));
            said = said + &line.unwrap() + "\n";
            if let Some((_, address)) = said.split_once("listening on ") {
                break address.trim().to_owned();
            }
        };
        let log = Arc::new(Mutex::new(said));
        let rest = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *rest.lock().unwrap() += &format!("{line}\n");
            }
        });
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        Self {
            child,
            base,
            client,
            log,
            reader: Some(reader),
        }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.base));
        request.body(body.to_string())
    }

    /// The JSON of a path.
    pub fn json(&self, path: &str) -> Value {
        ok(self.get(path).send().unwrap())
    }

    /// The JSON answer to a body.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        ok(self.post(path, body).send().unwrap())
    }

    /// The status and the error of a body that is refused.
    pub fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).send().unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().unwrap();
        assert_eq!(body["error"]["code"], status, "{body}");
        (status, body["error"].clone())
    }

    /// The events of a stream: the data of each, without `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = self.post(path, &body).send().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = data.filter(|data| *data != "[DONE]");
        data.map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end, and returns its exit status.
    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until no slot is in use and nothing waits; returns how long that took.
    pub fn wait_until_idle(&self) -> Duration {
        let start = Instant::now();
        loop {
            let slots = self.json("/slots");
            let is_busy = |slot: &Value| slot["is_processing"] == true;
            if !slots.as_array().unwrap().iter().any(is_busy) {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "a slot is never free");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
        let _ = self.reader.take().map(JoinHandle::join);
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            eprintln!("the server at {} ({ended:?}):\n{log}", self.base);
        }
    }
}

fn ok(response: Response) -> Value {
    let status = response.status();
    let text = response.text().unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A chat of one message.
pub fn chat(question: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}], "seed": 7})
}

/// A question that the demo model knows, and its answer.
pub const QUESTION: &str = "What is the capital of Norway?";
pub const ANSWER: &str = "Oslo";

/// A body whose answer takes as long as a test needs.
pub fn endless() -> Value {
    let mut body = chat("Tell a story about Grace and a white owl.");
    body["diffusion"] = json!({"confidence_threshold": 0.0, "max_steps": 100_000});
    body
}
