//! What HTTP costs: answers of the demo model, one after the other, as streams of the server and in this process
//! by a batch of sessions. Both begin with messages, and compute the same answers with one thread.
//!
//! `cargo bench -p llama-diffusion-server --bench overhead`, on an idle machine with two cores or more: one computes,
//! and the other one has the rest of the server and this client.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llama_diffusion::chat::{ChatTemplate, Message, Role};
use llama_diffusion::{
    AnyModel, CancelFlag, DiffusionParams, ModelParams, SamplerOverrides, SessionBatch,
    SessionParams, TextModel,
};
use llama_diffusion_flags::demo;
use serde_json::{Map, Value, json};

const QUESTION: &str = "Tell a story about Grace and a white owl.";
const ROUNDS: usize = 40;
/// Answers of a round, each with a seed of its own.
const ANSWERS: u64 = 10;

fn main() {
    let mut library = Library::load();
    let mut server = Client::start();
    for seed in 0..ANSWERS {
        assert_eq!(
            library.answer(seed),
            server.answer(seed),
            "seed {seed}: the server answers something else"
        );
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let alone = time(|seed| drop(library.answer(seed)));
        // The client reads all of it, but does not parse it.
        let served = time(|seed| drop(server.stream(seed)));
        rounds.push((alone.as_secs_f64() / served.as_secs_f64(), alone, served));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, alone, served) = rounds[ROUNDS / 2];
    let ms = |time: Duration| time.as_secs_f64() * 1e3 / ANSWERS as f64;
    println!(
        "overhead: answers a second over HTTP are {ratio:.3} of those in this process (median of {ROUNDS} rounds; \
         {:.3} to {:.3}); {:.2} and {:.2} ms an answer",
        rounds[0].0,
        rounds[ROUNDS - 1].0,
        ms(served),
        ms(alone)
    );
}

fn time(mut answer: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    (0..ANSWERS).for_each(&mut answer);
    start.elapsed()
}

/// Answers in this process.
struct Library {
    model: TextModel,
    batch: SessionBatch,
    params: DiffusionParams,
    template: ChatTemplate,
}

impl Library {
    fn load() -> Self {
        let params = ModelParams {
            devices: Some(Vec::new()),
            ..ModelParams::default()
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let model = demo::load(&params, true, go_on).unwrap();
        let AnyModel::Canvas(canvas) = model.model() else {
            panic!("the demo model has canvases");
        };
        let params = DiffusionParams::resolve(&SamplerOverrides::default(), &canvas.overrides());
        let session = SessionParams {
            threads: Some(1),
            ..SessionParams::default()
        };
        let session = model.session(&session).unwrap();
        Self {
            template: model.chat_template().unwrap().unwrap(),
            params: params.unwrap(),
            batch: SessionBatch::new(vec![session]).unwrap(),
            model,
        }
    }

    fn answer(&mut self, seed: u64) -> String {
        let params = DiffusionParams {
            seed,
            ..self.params.clone()
        };
        let messages = [Message::new(Role::User, QUESTION)];
        let prompt = self
            .model
            .chat_prompt(&self.template, &messages, Map::new());
        let prompt = prompt.unwrap();
        // It is encoded again, as by the server.
        self.batch.idle(0).unwrap().reset().unwrap();
        let never = CancelFlag::default();
        self.batch.join(&prompt, &params, &never).unwrap();
        loop {
            let finished = self.batch.step(&mut |_, _| ControlFlow::Continue(()));
            if let Some(member) = finished.unwrap().pop() {
                let tokens = member.answer.unwrap().generation.tokens;
                let text = self.model.answer_text(&prompt, &tokens);
                return text.unwrap().text;
            }
        }
    }
}

/// Answers over a connection to the server.
struct Client {
    process: Child,
    connection: BufReader<TcpStream>,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it has nothing to lose
        let _ = self.process.wait();
    }
}

impl Client {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_llama-diffusion-server"))
            .args(["--host", "127.0.0.1", "--port", "0", "-t", "1", "-np", "1"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.trim().to_owned();
            }
        };
        // Nobody waits for the rest, but it must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            process,
            connection: BufReader::new(stream),
        };
        while client.request("GET /health", "").0 != 200 {
            std::thread::sleep(Duration::from_millis(20));
        }
        client
    }

    /// The status and the body of an answer.
    fn request(&mut self, line: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}");
        self.connection
            .get_mut()
            .write_all(request.as_bytes())
            .unwrap();
        let status = self.line()[9..12].parse().unwrap();
        let mut size = None;
        loop {
            let header = self.line().to_lowercase();
            match header.split_once(": ") {
                Some(("content-length", length)) => size = Some(length.parse().unwrap()),
                Some(_) => {}
                None => break,
            }
        }
        let text = match size {
            Some(size) => self.bytes(size),
            None => self.chunks(),
        };
        (status, text)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        line.truncate(line.trim_end().len());
        line
    }

    fn bytes(&mut self, size: usize) -> String {
        let mut bytes = vec![0; size];
        self.connection.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn chunks(&mut self) -> String {
        let mut text = String::new();
        loop {
            let size = usize::from_str_radix(&self.line(), 16).unwrap();
            text += &self.bytes(size);
            self.line();
            if size == 0 {
                return text;
            }
        }
    }

    fn stream(&mut self, seed: u64) -> String {
        let body = json!({
            "messages": [{"role": "user", "content": QUESTION}],
            "seed": seed, "stream": true, "cache_prompt": false,
        });
        let (status, text) = self.request("POST /v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{text}");
        text
    }

    fn answer(&mut self, seed: u64) -> String {
        let text = self.stream(seed);
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut answer = String::new();
        for event in events.filter(|event| *event != "[DONE]") {
            let event: Value = serde_json::from_str(event).unwrap();
            answer += event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default();
        }
        answer
    }
}
